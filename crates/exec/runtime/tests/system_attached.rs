//! Processes somebody talks to, and further processes in their containers: the embedded runtime and runc alike.

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use common::Sandbox;
use executor::runc::Runc;
use executor::{Attach, Error, ExecProcess, Executor, Request, Step, WinSize};
use runtime::Runtime;
use tasks::Cx;
use tokio::sync::{mpsc, oneshot};

/// The test's ends of a process's wires.
struct Wires {
    stdin: Option<std::fs::File>,
    stdout: std::fs::File,
    stderr: std::fs::File,
    started: oneshot::Receiver<()>,
    requests: mpsc::UnboundedSender<Request>,
}

fn wires() -> (Attach, Wires) {
    let pipe = || executor::attach::pipe().expect("pipes are to be had");
    let ((stdin_end, stdin), (stdout, stdout_end), (stderr, stderr_end)) = (pipe(), pipe(), pipe());
    let (start, started) = oneshot::channel();
    let (requests, receiver) = mpsc::unbounded_channel();
    let attach = Attach {
        stdin: Some(stdin_end),
        stdout: Some(stdout_end),
        stderr: Some(stderr_end),
        started: Some(start),
        requests: Some(receiver),
    };
    let file = |fd: OwnedFd| std::fs::File::from(fd);
    let wires = Wires {
        stdin: Some(file(stdin)),
        stdout: file(stdout),
        stderr: file(stderr),
        started,
        requests,
    };
    (attach, wires)
}

async fn text(mut file: std::fs::File) -> String {
    tasks::blocking(move || {
        let mut text = String::new();
        file.read_to_string(&mut text).expect("readable text");
        text
    })
    .await
}

fn executors(sandbox: &Sandbox) -> [(&'static str, Arc<dyn Executor>); 2] {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let embedded = Runtime::new(sandbox.settings("embedded")).expect("starts");
    let runc = Runc::new(sandbox.settings("runc"), None, &path).expect("runc is installed");
    [("embedded", Arc::new(embedded)), ("runc", Arc::new(runc))]
}

type Running = tasks::Task<Result<(), Error>>;

fn start(executor: &Arc<dyn Executor>, cx: &Cx, step: Step) -> (Running, Wires) {
    let (attach, wires) = wires();
    let (executor, cx) = (executor.clone(), cx.clone());
    let running = tasks::spawn("container", async move {
        executor.run_attached(&cx, step, attach).await
    });
    (running, wires)
}

fn more(executor: &Arc<dyn Executor>, id: &str, process: ExecProcess) -> (Running, Wires) {
    let (attach, wires) = wires();
    let (executor, id) = (executor.clone(), id.to_owned());
    let running = tasks::spawn("process", async move {
        executor.exec(&Cx::root(), &id, process, attach).await
    });
    (running, wires)
}

fn shell(script: &str) -> ExecProcess {
    ExecProcess {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        ..ExecProcess::default()
    }
}

fn code(result: &Result<(), Error>) -> i32 {
    result.as_ref().map_or_else(Error::exit_code, |()| 0)
}

#[tokio::test]
async fn what_is_written_to_a_process_comes_back_through_it() {
    testkit::require!(root, runc);
    let sandbox = Sandbox::new();
    for (name, executor) in executors(&sandbox) {
        let step = sandbox.shell("cat; echo done >&2; exit 3");
        let (running, mut wires) = start(&executor, &Cx::root(), step);
        let mut stdin = wires.stdin.take().expect("ours");
        stdin.write_all(b"hello\n").expect("somebody reads");
        drop(stdin);
        let result = running.await;
        assert_eq!(code(&result), 3, "{name}");
        assert_eq!(text(wires.stdout).await, "hello\n", "{name}");
        assert_eq!(text(wires.stderr).await, "done\n", "{name}");
    }
}

#[tokio::test]
async fn further_processes_share_everything_with_the_first() {
    testkit::require!(root, runc);
    let sandbox = Sandbox::new();
    for (name, executor) in executors(&sandbox) {
        let cx = Cx::root();
        let mut step = sandbox.shell("echo first > /tmp/x; hostname; exec sleep 100");
        step.process.hostname = "one".to_owned();
        step.process.env.push("A=first".to_owned());
        let id = step.id.clone();
        let (running, wires) = start(&executor, &cx, step);
        wires.started.await.expect("it starts");
        let script = "until [ -f /tmp/x ]; do sleep 0.01; done; cat /tmp/x; hostname; echo $A; \
                      test $$ -ne 1 && echo other; id -u; pwd; grep -c . /proc/self/cgroup >/dev/null && echo grouped";
        let (second, inner) = more(&executor, &id, shell(script));
        let result = second.await;
        assert!(result.is_ok(), "{name}: {result:?}");
        let said = text(inner.stdout).await;
        assert_eq!(
            said,
            "first\none\nfirst\nother\n0\n/\ngrouped\n",
            "{name}: {}",
            text(inner.stderr).await
        );
        let process = ExecProcess {
            user: "bob".to_owned(),
            cwd: "/tmp".to_owned(),
            env: vec!["B=2".to_owned(), common::PATH.to_owned()],
            ..shell(
                "id -u; id -g; pwd; echo $A$B; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status",
            )
        };
        let (second, inner) = more(&executor, &id, process);
        second.await.expect("it works");
        assert_eq!(
            text(inner.stdout).await,
            "1234\n3000\n/tmp\n2\nCapEff:\t0000000000000000\nSeccomp:\t2\n",
            "{name}"
        );
        let (third, inner) = more(&executor, &id, shell("exit 7"));
        let result = third.await;
        assert_eq!(code(&result), 7, "{name}");
        drop(inner);
        let (left, inner) = more(&executor, &id, shell("echo here; sleep 100"));
        inner.started.await.expect("it starts");
        cx.cancel("enough");
        let result = running.await;
        assert_eq!(code(&result), 137, "{name}");
        assert_ne!(code(&left.await), 0, "{name}");
        let (late, _) = more(&executor, &id, shell("true"));
        let err = late.await.expect_err("it is over");
        assert_eq!(err.to_string(), format!("container {id} not found"));
    }
}

#[tokio::test]
async fn a_terminal_has_the_size_it_is_given() {
    testkit::require!(root, runc);
    let sandbox = Sandbox::new();
    for (name, executor) in executors(&sandbox) {
        let script = "trap 'stty size; exit 5' WINCH; test -t 0 && tty; echo ready; \
                      while :; do read line && echo got $line; done";
        let mut step = sandbox.shell(script);
        step.process.tty = true;
        let id = step.id.clone();
        let (running, mut wires) = start(&executor, &Cx::root(), step);
        wires.started.await.expect("it starts");
        let mut seen = String::new();
        let wait_for = |seen: String, what: &'static str, stdout: std::fs::File| {
            tasks::blocking(move || {
                let (mut seen, mut stdout) = (seen, stdout);
                let mut buffer = [0; 256];
                while !seen.contains(what) {
                    let read = stdout.read(&mut buffer).expect("readable");
                    assert!(read > 0, "ended without {what}: {seen}");
                    seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
                (seen, stdout)
            })
        };
        let stdout;
        (seen, stdout) = wait_for(seen, "ready\r\n", wires.stdout).await;
        assert!(seen.starts_with("/dev/"), "{name}: {seen}");
        let stdin = wires.stdin.as_mut().expect("ours");
        stdin.write_all(b"me\n").expect("somebody reads");
        let (_, stdout) = wait_for(seen, "got me\r\n", stdout).await;
        // A further process has a terminal of its own.
        let process = ExecProcess {
            tty: true,
            ..shell("test -t 1 && echo yes")
        };
        let (second, inner) = more(&executor, &id, process);
        second.await.expect("it works");
        assert_eq!(text(inner.stdout).await, "yes\r\n", "{name}");
        let size = WinSize {
            rows: 33,
            columns: 77,
        };
        let asked = wires.requests.send(Request::Resize(size));
        asked.expect("it runs");
        let (_, stdout) = wait_for(String::new(), "33 77\r\n", stdout).await;
        let result = running.await;
        assert_eq!(code(&result), 5, "{name}");
        drop(stdout);
    }
}

#[tokio::test]
async fn signals_reach_the_process() {
    testkit::require!(root, runc);
    let sandbox = Sandbox::new();
    for (name, executor) in executors(&sandbox) {
        let script = "trap 'echo caught; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
        let (running, wires) = start(&executor, &Cx::root(), sandbox.shell(script));
        let mut stdout = wires.stdout;
        let stdout = tasks::blocking(move || {
            let mut word = [0; 6];
            stdout.read_exact(&mut word).expect("it says so");
            stdout
        })
        .await;
        wires
            .requests
            .send(Request::Signal(libc::SIGUSR1))
            .expect("it runs");
        assert_eq!(code(&running.await), 9, "{name}");
        assert_eq!(text(stdout).await, "caught\n", "{name}");
    }
}

#[tokio::test]
async fn what_cannot_start_is_said_where_errors_go() {
    testkit::require!(root, runc);
    let sandbox = Sandbox::new();
    for (name, executor) in executors(&sandbox) {
        let (running, wires) = start(&executor, &Cx::root(), sandbox.step(&["/nope"]));
        let result = running.await;
        assert_ne!(code(&result), 0, "{name}");
        let said = text(wires.stderr).await;
        assert!(said.contains("/nope"), "{name}: {said}");
        let step = sandbox.shell("exec sleep 100");
        let (id, cx) = (step.id.clone(), Cx::root());
        let (running, wires) = start(&executor, &cx, step);
        wires.started.await.expect("it starts");
        let process = ExecProcess {
            args: vec!["/nope".to_owned()],
            ..ExecProcess::default()
        };
        let (second, inner) = more(&executor, &id, process);
        assert_eq!(code(&second.await), 255, "{name}");
        let said = text(inner.stderr).await;
        assert!(said.contains("/nope"), "{name}: {said}");
        cx.cancel("enough");
        assert_eq!(code(&running.await), 137, "{name}");
    }
}
