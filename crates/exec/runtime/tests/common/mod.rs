//! A root file system with busybox, and steps run in it.

#![allow(dead_code, reason = "not every test uses everything")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use executor::{Error, Executor, Process, Settings, Step};
use progress::Stream;
use tasks::Cx;

/// The longest that anything may take, on a machine that has much else to do.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbob:x:1234:3000:Bob:/home/bob:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwheel:x:10:root\ng1:x:3000:\ng2:x:3001:bob\ng3:x:3002:bob,root\n";

/// A scratch directory with a root file system in it.
pub struct Sandbox {
    pub dir: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sandbox = Self { dir };
        let root = sandbox.root();
        for path in ["bin", "etc", "root", "home/bob", "tmp"] {
            std::fs::create_dir_all(root.join(path)).expect("writable");
        }
        std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))
            .expect("ours");
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox is there");
        let list = std::process::Command::new("/bin/busybox")
            .arg("--list")
            .output()
            .expect("busybox runs");
        for applet in String::from_utf8_lossy(&list.stdout)
            .lines()
            .filter(|name| *name != "busybox")
        {
            symlink("busybox", root.join("bin").join(applet)).expect("writable");
        }
        std::fs::write(root.join("etc/passwd"), PASSWD).expect("writable");
        std::fs::write(root.join("etc/group"), GROUP).expect("writable");
        sandbox
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn settings(&self, name: &str) -> Settings {
        Settings {
            root: self.dir.path().join(name),
            ..Settings::default()
        }
    }

    /// A step running a shell script.
    pub fn shell(&self, script: &str) -> Step {
        self.step(&["/bin/sh", "-c", script])
    }

    pub fn step(&self, args: &[&str]) -> Step {
        step(self.root(), args)
    }
}

/// A step in this root.
pub fn step(root: PathBuf, args: &[&str]) -> Step {
    Step {
        id: identity::new_id(),
        root: mount::Mount::writable(root),
        root_readonly: false,
        usage: None,
        mounts: Vec::new(),
        process: Process {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: vec![PATH.to_owned()],
            cwd: "/".to_owned(),
            remove_stubs_recursive: true,
            ..Process::default()
        },
    }
}

/// What a step wrote, and how it ended.
#[derive(Debug)]
pub struct Ran {
    pub result: Result<(), Error>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// 0 or the code of the error.
    pub fn code(&self) -> i32 {
        self.result.as_ref().map_or_else(Error::exit_code, |()| 0)
    }

    /// Standard output of a step that must have succeeded.
    pub fn ok(self) -> String {
        assert!(self.result.is_ok(), "{self:?}");
        self.stdout
    }
}

pub async fn run(executor: &dyn Executor, step: Step) -> Ran {
    run_in(executor, &Cx::root(), step).await
}

pub async fn run_in(executor: &dyn Executor, cx: &Cx, step: Step) -> Ran {
    run_telling(executor, cx, step, |_| {}).await
}

/// Runs a step and cancels it as soon as it has written `word`.
pub async fn run_until(executor: &dyn Executor, word: &'static str, step: Step) -> Ran {
    let cx = Cx::root();
    let stop = cx.clone();
    let tell = move |stdout: &[u8]| {
        if stdout.ends_with(word.as_bytes()) {
            stop.cancel("context canceled");
        }
    };
    run_telling(executor, &cx, step, tell).await
}

/// Runs a step and lets go of it as soon as it has written `word`.
pub async fn abandon_after(executor: &dyn Executor, word: &'static str, step: Step) {
    let said = Arc::new(tokio::sync::Notify::new());
    let saying = said.clone();
    let tell = move |stdout: &[u8]| {
        if stdout.ends_with(word.as_bytes()) {
            saying.notify_one();
        }
    };
    let cx = Cx::root();
    tokio::select! {
        ran = run_telling(executor, &cx, step, tell) => panic!("it ended: {ran:?}"),
        () = said.notified() => {}
    }
}

/// Waits until nobody makes this file any more, and it is gone.
pub async fn until_nobody_makes(file: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Whoever made it may have ended already.
        let _ = std::fs::remove_file(file);
        tokio::time::sleep(Duration::from_millis(300)).await;
        if !file.exists() {
            return;
        }
        assert!(Instant::now() < deadline, "the step lives on");
    }
}

async fn run_telling(
    executor: &dyn Executor,
    cx: &Cx,
    step: Step,
    tell: impl Fn(&[u8]) + Send + Sync + 'static,
) -> Ran {
    let written = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let into = written.clone();
    let output = Arc::new(move |stream, data: bytes::Bytes| {
        let mut into = into.lock().expect("no panic inside");
        match stream {
            Stream::Stdout => {
                into.0.extend_from_slice(&data);
                tell(&into.0);
            }
            Stream::Stderr => into.1.extend_from_slice(&data),
        }
    });
    let result = executor.run(cx, step, output).await;
    let written = written.lock().expect("no panic inside");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        result,
        stdout: text(&written.0),
        stderr: text(&written.1),
    }
}

/// All paths below a directory.
pub fn tree(dir: &Path) -> Vec<String> {
    fn walk(base: &Path, dir: &Path, into: &mut Vec<String>) {
        // A folder may be removed at this moment.
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            into.push(
                path.strip_prefix(base)
                    .expect("below")
                    .display()
                    .to_string(),
            );
            if path.is_dir() && !path.is_symlink() {
                walk(base, &path, into);
            }
        }
    }
    let mut list = Vec::new();
    walk(dir, dir, &mut list);
    list.sort();
    list
}
