//! Calls of the runtime binary.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::{Child, Command};

/// How long killing or deleting may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A runtime binary and the log it writes.
#[derive(Debug, Clone)]
pub(super) struct Runtime {
    binary: PathBuf,
    log: PathBuf,
}

impl Runtime {
    pub(super) fn new(binary: PathBuf, log: PathBuf) -> Self {
        Self { binary, log }
    }

    fn command(&self, arguments: impl IntoIterator<Item = OsString>) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args([
                OsString::from("--log"),
                self.log.clone().into(),
                "--log-format".into(),
                "json".into(),
            ])
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts a container.
    pub(super) fn run(&self, bundle: &Path, id: &str) -> io::Result<Child> {
        self.command(run_arguments(bundle, id))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }

    /// Starts a container with these standard streams.
    pub(super) fn run_attached(
        &self,
        bundle: &Path,
        id: &str,
        stdio: [Stdio; 3],
    ) -> io::Result<Child> {
        spawn(self.command(run_arguments(bundle, id)), stdio)
    }

    /// Starts one more process in a container. Its process id goes into a file.
    pub(super) fn exec(
        &self,
        process: &Path,
        pid_file: &Path,
        id: &str,
        stdio: [Stdio; 3],
    ) -> io::Result<Child> {
        let arguments: [OsString; 6] = [
            "exec".into(),
            "--process".into(),
            process.into(),
            "--pid-file".into(),
            pid_file.into(),
            id.into(),
        ];
        spawn(self.command(arguments), stdio)
    }

    /// What the runtime says of a container: `running`, `stopped`, …; nothing when it does not know it.
    pub(super) async fn status(&self, id: &str) -> Option<String> {
        let output = self
            .command(["state".into(), id.into()])
            .output()
            .await
            .ok()?;
        let state: State = serde_json::from_slice(&output.stdout).ok()?;
        Some(state.status)
    }

    /// Kills a container's first process.
    pub(super) async fn kill(&self, id: &str) {
        self.call(["kill".into(), id.into(), "9".into()], "kill")
            .await;
    }

    /// Removes what the runtime kept of a container.
    pub(super) async fn delete(&self, id: &str) {
        self.call(["delete".into(), id.into()], "delete").await;
    }

    /// Kills a container and removes what the runtime kept of it. Blocking.
    pub(super) fn delete_by_force(&self, id: &str) {
        let mut command = std::process::Command::new(&self.binary);
        command.args(["delete", "--force", id]).stdin(Stdio::null());
        match command.output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                tracing::warn!(
                    id,
                    error = said,
                    "runtime cannot delete an abandoned container"
                );
            }
            Err(err) => tracing::warn!(id, error = %err, "runtime did not start"),
        }
    }

    async fn call(&self, arguments: impl IntoIterator<Item = OsString>, what: &'static str) {
        let output = self.command(arguments).output();
        match tokio::time::timeout(PATIENCE, output).await {
            Ok(Ok(output)) if output.status.success() => {}
            Ok(Ok(output)) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let why = if said.is_empty() {
                    self.last_error()
                } else {
                    said
                };
                tracing::debug!(what, error = why, "runtime refused");
            }
            Ok(Err(err)) => tracing::warn!(what, error = %err, "runtime did not start"),
            Err(_) => tracing::warn!(what, "runtime did not answer in time"),
        }
    }

    /// What the runtime logged last as an error.
    fn last_error(&self) -> String {
        std::fs::read_to_string(&self.log).map_or_else(|_| String::new(), |log| last_error(&log))
    }
}

fn spawn(mut command: Command, stdio: [Stdio; 3]) -> io::Result<Child> {
    let [stdin, stdout, stderr] = stdio;
    command.stdin(stdin).stdout(stdout).stderr(stderr).spawn()
}

#[derive(Deserialize)]
struct State {
    status: String,
}

#[derive(Deserialize)]
struct Line {
    level: String,
    msg: String,
}

fn last_error(log: &str) -> String {
    log.lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .find(|line| line.level == "error")
        .map_or_else(String::new, |line| line.msg)
}

fn run_arguments(bundle: &Path, id: &str) -> [OsString; 5] {
    [
        "run".into(),
        "--bundle".into(),
        bundle.into(),
        "--keep".into(),
        id.into(),
    ]
}

/// The exit code of a runtime, which hands on that of the container.
pub(super) fn code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => super::NO_CODE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_is_called_as_recorded() {
        let text = include_str!("../../../../../testing/vectors/exec/spec-plain.json");
        let vector: serde_json::Value = serde_json::from_str(text).expect("vector is JSON");
        let runtime = Runtime::new("runc".into(), "<EXECUTOR_ROOT>/runc-log.json".into());
        let id = "<CONTAINER_ID>";
        let command = runtime.command(run_arguments(
            Path::new("<EXECUTOR_ROOT>/<CONTAINER_ID>"),
            id,
        ));
        let arguments: Vec<_> = command
            .as_std()
            .get_args()
            .map(|arg| arg.to_string_lossy())
            .collect();
        assert_eq!(serde_json::json!(arguments), vector["runtime_arguments"]);
    }

    #[test]
    fn the_last_error_of_a_log_is_found_among_other_lines() {
        let log = "{\"level\":\"error\",\"msg\":\"one\",\"time\":\"x\"}\nnoise\n{\"level\":\"warning\",\"msg\":\"two\"}\n";
        assert_eq!(last_error(log), "one");
        assert_eq!(last_error(""), "");
    }
}
