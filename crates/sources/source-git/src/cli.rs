//! Running git.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use progress::{Progress, Stream};
use tasks::Cx;
use tasks::child::{self, Output};

use crate::access::Access;
use crate::remote::is_commit;
use crate::{Call, Error};

/// Settings of every command, whatever the repository says.
const CONFIG: [(&str, &str); 7] = [
    // No repository of this machine comes in as a submodule.
    ("protocol.file.allow", "user"),
    // Nothing in a repository is run.
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    // What was fetched is there as a whole or not at all: loose objects come one by one.
    ("fetch.unpackLimit", "1"),
    // Nothing goes on behind our back.
    ("gc.autoDetach", "false"),
    ("maintenance.autoDetach", "false"),
    ("init.defaultBranch", "master"),
];

const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// Whether users see the output of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Yes,
    No,
}

/// git, for one call of a build. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cli {
    cx: Cx,
    progress: Progress,
    access: Arc<Access>,
    git_dir: Option<PathBuf>,
    work_tree: Option<PathBuf>,
}

impl Cli {
    pub(crate) fn new(call: &Call<'_>, access: Access) -> Self {
        Self {
            cx: call.cx.clone(),
            progress: call.progress.clone(),
            access: Arc::new(access),
            git_dir: None,
            work_tree: None,
        }
    }

    pub(crate) fn cx(&self) -> &Cx {
        &self.cx
    }

    /// The same with this repository.
    pub(crate) fn at(&self, git_dir: impl Into<PathBuf>) -> Self {
        Self {
            git_dir: Some(git_dir.into()),
            ..self.clone()
        }
    }

    /// The same with this checkout.
    pub(crate) fn in_tree(&self, work_tree: &Path) -> Self {
        Self {
            work_tree: Some(work_tree.to_owned()),
            ..self.clone()
        }
    }

    /// Runs a command; its output is shown, and given back.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<String, Error> {
        let output = self.retry(args, Shown::Yes).await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Runs a command that is our own business: users see nothing of it.
    pub(crate) async fn quiet(&self, args: &[&str]) -> Result<String, Error> {
        let output = self.retry(args, Shown::No).await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// The same for output that is no text.
    pub(crate) async fn bytes(&self, args: &[&str]) -> Result<Bytes, Error> {
        Ok(self.retry(args, Shown::No).await?.into())
    }

    async fn retry(&self, args: &[&str], shown: Shown) -> Result<Vec<u8>, Error> {
        let mut args = args.to_vec();
        loop {
            match self.once(&args, shown).await {
                Ok(output) => return Ok(output),
                Err(err) => match plainer(&args, err.stderr()) {
                    Some(plainer) => args = plainer,
                    None => return Err(err),
                },
            }
        }
    }

    async fn once(&self, args: &[&str], shown: Shown) -> Result<Vec<u8>, Error> {
        let command = self.command(args);
        let show = |from, bytes: &[u8]| {
            if shown == Shown::No {
                return;
            }
            let stream = match from {
                Output::Stdout => Stream::Stdout,
                Output::Stderr => Stream::Stderr,
            };
            self.progress.log(stream, Bytes::copy_from_slice(bytes));
        };
        let done = child::run(&self.cx, command, show).await;
        let done = done.map_err(Error::Start)?;
        if done.status.success() && done.cancelled.is_none() {
            return Ok(done.stdout);
        }
        let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
        match done.cancelled {
            Some(reason) => Err(Error::Stopped { stderr, reason }),
            None => Err(Error::Git {
                stderr,
                code: done.status.code().unwrap_or(255),
            }),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        if let Some(dir) = &self.work_tree {
            command.current_dir(dir).arg("--work-tree").arg(dir);
        } else if let Some(dir) = &self.git_dir {
            command.current_dir(dir);
        } else {
            command.current_dir("/");
        }
        if let Some(dir) = &self.git_dir {
            command.arg("--git-dir").arg(dir);
        }
        command.args(args).env_clear();
        let path = std::env::var_os("PATH").unwrap_or_default();
        command
            .env("PATH", path)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", self.access.ssh_command())
            .env("LC_ALL", "C")
            .env("HOME", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        for name in PROXIES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(socket) = self.access.ssh_socket() {
            command.env("SSH_AUTH_SOCK", socket);
        }
        // Settings come by the environment: a command line with a token in it could be read by everybody.
        let fixed = CONFIG
            .iter()
            .map(|(key, value)| (*key, (*value).to_owned()));
        let authorization = self.access.authorization();
        let settings: Vec<(&str, String)> = fixed.chain(authorization).collect();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        command
    }
}

/// The same command for servers that can do less: not shallow, or by name only.
fn plainer<'a>(args: &[&'a str], stderr: &str) -> Option<Vec<&'a str>> {
    if stderr.contains("--depth") || stderr.contains("shallow") {
        let deep: Vec<&str> = args
            .iter()
            .copied()
            .filter(|arg| *arg != "--depth=1")
            .collect();
        if deep.len() < args.len() {
            return Some(deep);
        }
    }
    let unnamed = stderr.contains("not our ref") || stderr.contains("unadvertised object");
    if unnamed
        && args.len() > 2
        && args.first() == Some(&"fetch")
        && let Some((last, before)) = args.split_last()
        && is_commit(last)
    {
        return Some(before.to_vec());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_can_do_less_are_asked_for_less() {
        let commit = "a".repeat(40);
        let args = ["fetch", "--depth=1", "origin", &commit];
        let shallow = plainer(
            &args,
            "fatal: dumb http transport does not support shallow capabilities",
        );
        assert_eq!(shallow, Some(vec!["fetch", "origin", &commit]));
        let named = plainer(&args, "fatal: remote error: upload-pack: not our ref aaaa");
        assert_eq!(named, Some(vec!["fetch", "--depth=1", "origin"]));
        assert_eq!(plainer(&["fetch", "origin", "main"], "not our ref"), None);
        assert_eq!(plainer(&args, "fatal: no"), None);
    }
}
