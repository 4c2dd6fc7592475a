//! The three test rings: every test program of the workspace, one after another, watched.
//!
//! A program that prints nothing for long hangs: what its threads wait for is printed, and it is killed. One that
//! failed is run once more when all others have ended, by itself. Passing then does not make it good, so the last
//! lines say so; but one rare race must not hide what the rest of a run tells.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// How long a test program may print nothing. libtest speaks of slow tests after a minute.
const SILENCE: Duration = Duration::from_secs(300);
/// How long output may still come after a program has ended: others may hold its pipe.
const LATE_OUTPUT: Duration = Duration::from_secs(2);

/// A test program.
struct Program {
    name: String,
    command: Box<dyn Fn() -> Command>,
}

/// What a run of a program came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    passed: usize,
    failed: Vec<String>,
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.failed.is_empty()
    }
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    manifest_path: PathBuf,
    #[serde(default)]
    target: Option<Target>,
    #[serde(default)]
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds and runs all of them with `env`, and prints the count.
pub(crate) fn run(root: &Path, env: &[(&str, &str)]) -> Result<()> {
    let env = owned(env);
    let programs = programs(root, &env)?;
    let mut passed = 0;
    let mut again = Vec::new();
    for program in &programs {
        let outcome = watch(program)?;
        passed += outcome.passed;
        if !outcome.is_good() {
            again.push((program, outcome));
        }
    }
    let mut failed = Vec::new();
    let mut unsteady = Vec::new();
    for (program, first) in again {
        println!("==> once more, by itself: {}", program.name);
        let second = watch(program)?;
        if second.is_good() {
            passed += second.passed.saturating_sub(first.passed);
            unsteady.extend(first.failed);
        } else {
            failed.extend(second.failed);
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    for name in &unsteady {
        println!("unsteady: passed only when run again, a race to find: {name}");
    }
    let (no, rare) = (failed.len(), unsteady.len());
    println!("{passed} passed, {no} failed, {rare} unsteady");
    if no > 0 {
        bail!("{no} tests failed");
    }
    Ok(())
}

fn owned(env: &[(&str, &str)]) -> Vec<(String, String)> {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    env.iter().map(pair).collect()
}

/// Builds the test programs and lists them in the order they are to run.
fn programs(root: &Path, env: &[(String, String)]) -> Result<Vec<Program>> {
    let arguments = ["test", "--locked", "--workspace"];
    println!("==> cargo {} --no-run", arguments.join(" "));
    let output = cargo(root)
        .args(arguments)
        .args([
            "--no-run",
            "--quiet",
            "--message-format=json-render-diagnostics",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("failed to run cargo")?;
    if !output.status.success() {
        bail!("the tests do not build");
    }
    let mut programs = built(&String::from_utf8_lossy(&output.stdout), env)?;
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    let (root, env) = (root.to_owned(), env.to_vec());
    programs.push(Program {
        name: "documentation".to_owned(),
        command: Box::new(move || {
            let mut command = cargo(&root);
            command
                .args(["test", "--locked", "--workspace", "--doc", "--quiet"])
                .envs(env.iter().map(|(name, value)| (name, value)));
            command
        }),
    });
    Ok(programs)
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// The test programs among what cargo says it built.
fn built(messages: &str, env: &[(String, String)]) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("cargo speaks otherwise")?;
        let (Some(target), Some(executable)) = (message.target, message.executable) else {
            continue;
        };
        // The binaries that integration tests start are built too; only test programs have a hash in their names.
        if message.reason != "compiler-artifact" || !executable.to_string_lossy().contains("/deps/")
        {
            continue;
        }
        let folder = message.manifest_path.parent().map(Path::to_owned);
        let folder = folder.context("a manifest has a folder")?;
        let package = folder.file_name().unwrap_or_default().to_string_lossy();
        let package = package.into_owned();
        let name = format!("{package}/{}", target.name);
        let env = env.to_vec();
        let command = move || {
            let mut command = Command::new(&executable);
            command
                .arg("--quiet")
                .current_dir(&folder)
                .env("CARGO_MANIFEST_DIR", &folder)
                .env("CARGO_PKG_NAME", &package)
                .envs(env.iter().map(|(name, value)| (name, value)));
            command
        };
        programs.push(Program {
            name,
            command: Box::new(command),
        });
    }
    Ok(programs)
}

/// Runs one program to its end, or to ours.
fn watch(program: &Program) -> Result<Outcome> {
    println!("==> {}", program.name);
    let start = Instant::now();
    let mut child = (program.command)()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to run {}", program.name))?;
    let mut pipe = child.stdout.take().context("its output is ours")?;
    let (sender, chunks) = channel();
    // Not joined: what the program left behind may keep the pipe open.
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let mut said = Vec::new();
    let mut heard = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        match chunks.recv_timeout(Duration::from_millis(50)) {
            Ok(chunk) => {
                heard = Instant::now();
                show(&chunk, &mut said);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(Duration::from_millis(10)),
        }
        if heard.elapsed() > SILENCE {
            stop(child.id());
            child.wait()?;
            break None;
        }
    };
    drain(&chunks, &mut said);
    let outcome = judge(&program.name, status, &String::from_utf8_lossy(&said));
    println!("==> {} s", start.elapsed().as_secs());
    Ok(outcome)
}

fn show(chunk: &[u8], said: &mut Vec<u8>) {
    said.extend_from_slice(chunk);
    let mut out = std::io::stdout().lock();
    // Whoever closed our output wants to see no more of it.
    let _ = out.write_all(chunk).and_then(|()| out.flush());
}

fn drain(chunks: &Receiver<Vec<u8>>, said: &mut Vec<u8>) {
    let end = Instant::now() + LATE_OUTPUT;
    while let Ok(chunk) = chunks.recv_timeout(end.saturating_duration_since(Instant::now())) {
        show(&chunk, said);
    }
}

/// Reads libtest's words. A program that did not end as one that passes has failed, whatever it said.
fn judge(name: &str, status: Option<ExitStatus>, said: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in said.lines() {
        let counts = line.strip_prefix("test result: ").unwrap_or_default();
        let words: Vec<_> = counts.split_whitespace().collect();
        for pair in words.windows(2) {
            if let [count, "passed;"] = pair {
                outcome.passed += count.parse::<usize>().unwrap_or_default();
            }
        }
    }
    // The last list of that name holds the names alone.
    if let Some((_, list)) = said.rsplit_once("\nfailures:\n") {
        let names = list.lines().take_while(|line| line.starts_with("    "));
        let full = names.map(|test| format!("{name}: {}", test.trim()));
        outcome.failed.extend(full);
    }
    match status {
        None => outcome
            .failed
            .push(format!("{name}: hangs: {}", slow(said))),
        Some(status) if !status.success() && outcome.failed.is_empty() => {
            outcome.failed.push(format!("{name}: {status}"));
        }
        Some(_) => {}
    }
    outcome
}

/// The tests that libtest called slow.
fn slow(said: &str) -> String {
    let names = said.lines().filter_map(|line| {
        let (before, _) = line.split_once(" has been running for over ")?;
        before.rsplit_once("test ").map(|(_, name)| name)
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Says what a program and all it started wait for, and kills them.
fn stop(process: u32) {
    println!("\nnothing said for {} s", SILENCE.as_secs());
    let family = family(process);
    for id in &family {
        let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let command = read(format!("/proc/{id}/cmdline")).replace('\0', " ");
        println!("{id} {command}");
        let threads = std::fs::read_dir(format!("/proc/{id}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let thread = thread.path().display().to_string();
            let name = read(format!("{thread}/comm"));
            let waits = read(format!("{thread}/wchan"));
            let call = read(format!("{thread}/syscall"));
            println!("    {:16} {waits} {}", name.trim(), call.trim());
        }
    }
    let ids = family.iter().rev().map(u32::to_string);
    // Some may be gone by now.
    let _ = Command::new("kill").arg("-KILL").args(ids).status();
}

/// A process and all that descend from it.
fn family(process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(id) = found.get(next) {
        next += 1;
        let threads = std::fs::read_dir(format!("/proc/{id}/task"));
        let lists = threads.into_iter().flatten().flatten();
        let children: Vec<u32> = lists
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
            .flat_map(|list| {
                list.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter_map(|id| id.parse().ok())
            .collect();
        found.extend(children);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    const GOOD: &str = "\nrunning 3 tests\n...\ntest result: ok. 3 passed; 0 failed; 0 ignored\n";
    const BAD: &str = "\nrunning 3 tests\n.F.\nfailures:\n\n---- a::b stdout ----\nboom\n\n\nfailures:\n    a::b\n\n\
                       test result: FAILED. 2 passed; 1 failed; 0 ignored\n";

    fn ended(code: i32) -> Option<ExitStatus> {
        Some(ExitStatus::from_raw(code << 8))
    }

    #[test]
    fn what_passed_is_counted() {
        let outcome = judge("x", ended(0), &GOOD.repeat(2));
        assert_eq!((outcome.passed, outcome.is_good()), (6, true));
    }

    #[test]
    fn what_failed_is_named() {
        let outcome = judge("x", ended(101), BAD);
        assert_eq!(outcome.passed, 2);
        assert_eq!(outcome.failed, ["x: a::b"]);
    }

    #[test]
    fn a_program_that_dies_has_failed() {
        let outcome = judge("x", ended(1), GOOD);
        assert_eq!(outcome.failed, ["x: exit status: 1"]);
    }

    #[test]
    fn a_program_that_hangs_names_its_slow_tests() {
        let said = "running 5 tests\n....test signals has been running for over 60 seconds\n";
        let outcome = judge("x", None, said);
        assert_eq!(outcome.failed, ["x: hangs: signals"]);
    }

    #[test]
    fn what_a_program_started_belongs_to_it() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 100 & wait"])
            .spawn()
            .expect("it starts");
        let second = loop {
            if let [_, second] = family(child.id())[..] {
                break second;
            }
        };
        stop(child.id());
        let status = child.wait().expect("it ends");
        assert_eq!(status.signal(), Some(9));
        let state = format!("/proc/{second}/stat");
        while std::fs::read_to_string(&state).is_ok_and(|state| !state.contains(") Z ")) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
