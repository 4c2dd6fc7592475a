//! A daemon and a client as black boxes: whichever binaries the environment names.
//!
//! `E2E_BUILDKITD` and `E2E_BUILDCTL` choose others than ours, so that a case is first shown to hold against the stock
//! daemon; `KILN_BIN` is the folder ours are in.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where a binary of ours is.
fn ours(name: &str) -> PathBuf {
    if let Some(dir) = std::env::var_os("KILN_BIN") {
        return Path::new(&dir).join(name);
    }
    let test = std::env::current_exe().expect("the test has a path");
    let dir = test
        .ancestors()
        .nth(2)
        .expect("tests lie in deps/ below the binaries");
    dir.join(name)
}

/// The daemon under test.
pub fn buildkitd() -> PathBuf {
    std::env::var_os("E2E_BUILDKITD").map_or_else(|| ours("buildkitd"), PathBuf::from)
}

/// The client under test.
pub fn buildctl() -> PathBuf {
    std::env::var_os("E2E_BUILDCTL").map_or_else(|| ours("buildctl"), PathBuf::from)
}

/// Another daemon to exchange things with: `buildkitd` in the folder that `E2E_STOCK` names.
pub fn stock() -> Option<PathBuf> {
    let dir = std::env::var_os("E2E_STOCK")?;
    Some(Path::new(&dir).join("buildkitd"))
}

/// Whether the daemon under test is ours.
pub fn is_ours() -> bool {
    std::env::var_os("E2E_BUILDKITD").is_none()
}

/// The longest that a daemon may take to start or to stop, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(90);

fn ends(process: &mut Child, within: Duration) -> bool {
    let start = Instant::now();
    while process.try_wait().expect("a child").is_none() {
        if start.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

/// Whether the client under test is ours.
pub fn is_our_client() -> bool {
    std::env::var_os("E2E_BUILDCTL").is_none()
}

/// Whether a case is to be left out since `holds` does not; says so.
pub fn skipped_unless(holds: bool, why: &str) -> bool {
    if !holds {
        eprintln!("SKIPPED: {why}");
    }
    !holds
}

/// A running daemon with a state directory of its own.
pub struct Daemon {
    process: Option<Child>,
    dir: TempDir,
    root: PathBuf,
    args: Vec<String>,
    binary: PathBuf,
}

impl Daemon {
    /// Starts one.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further arguments.
    pub fn with(args: &[&str]) -> Self {
        Self::of(None, args, buildkitd())
    }

    /// Starts another daemon than the one under test.
    pub fn other(binary: &Path) -> Self {
        Self::other_with(binary, &[])
    }

    /// The same with further arguments.
    pub fn other_with(binary: &Path, args: &[&str]) -> Self {
        Self::of(None, args, binary.to_owned())
    }

    /// Starts one whose state lies in `root`.
    pub fn at(root: &Path) -> Self {
        Self::of(Some(root.to_owned()), &[], buildkitd())
    }

    fn of(root: Option<PathBuf>, args: &[&str], binary: PathBuf) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut daemon = Self {
            process: None,
            root: root.unwrap_or_else(|| dir.path().join("root")),
            dir,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            binary,
        };
        daemon.run();
        daemon
    }

    /// Starts the process again on the same state; after [`Daemon::kill`].
    pub fn run(&mut self) {
        // A step that a killed daemon was about to start holds its sockets for some moments: whoever connects to them is
        // not connected to the new one.
        let _ = std::fs::remove_file(self.socket());
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .expect("a log file");
        // What a daemon needs beside it lies beside it.
        let beside = self.binary.parent().map(Path::to_owned).into_iter();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(beside.chain(std::env::split_paths(&path)));
        let process = Command::new(&self.binary)
            .env("PATH", path.expect("folders without colons"))
            .arg("--root")
            .arg(self.root())
            .arg("--addr")
            .arg(self.address())
            .args(["--oci-worker=true", "--containerd-worker=false"])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file again"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|err| panic!("{}: {err}", self.binary.display()));
        let process = self.process.insert(process);
        let start = Instant::now();
        let socket = self.dir.path().join("sock");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let ended = process.try_wait().expect("a child");
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "the daemon did not come up ({ended:?}): {}",
                std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its state directory.
    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// Its address.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The socket of that address.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().map_or(0, Child::id)
    }

    /// What it printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it can be waited for");
        }
    }

    /// SIGTERM, and waits. One that does not end says what it waits for.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let pid = rustix::process::Pid::from_child(&process);
        let signal = |signal| {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(pid, signal);
        };
        signal(rustix::process::Signal::TERM);
        if ends(&mut process, PATIENCE) {
            return;
        }
        if is_ours() {
            signal(rustix::process::Signal::USR1);
            std::thread::sleep(Duration::from_secs(1));
        }
        // Two panics at a time would say nothing at all.
        process.kill().expect("it can be killed");
        process.wait().expect("it can be waited for");
        assert!(
            std::thread::panicking(),
            "the daemon did not stop: {}",
            self.log()
        );
    }

    /// Restarts it in an orderly way.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// A client of it.
    pub fn client<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(buildctl());
        command
            .arg("--addr")
            .arg(self.address())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Builds a folder's Dockerfile.
    pub fn build(&self, context: &Path, args: &[&str]) -> Build {
        let mut command = self.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            command.arg(format!("--local={name}={}", context.display()));
        }
        Build::of(command.args(args).output().expect("the client runs"))
    }

    /// Builds an encoded definition, or what is none.
    pub fn build_llb(&self, definition: &[u8], args: &[&str]) -> Build {
        let mut client = self.client(&["build", "--progress=plain"]);
        client
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = client.spawn().expect("the client runs");
        let mut stdin = child.stdin.take().expect("piped");
        // A client that refuses the input does not read to the end.
        let _ = stdin.write_all(definition);
        drop(stdin);
        Build::of(child.wait_with_output().expect("it ends"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How a build ended.
#[derive(Debug)]
pub struct Build {
    /// Exit code.
    pub code: i32,
    /// Progress and errors.
    pub text: String,
}

impl Build {
    /// What a finished client says.
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            text: String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout),
        }
    }

    /// Fails the test unless the build succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "the build failed:\n{}", self.text);
        self
    }

    /// Fails the test unless the build failed with exit code 1 and said `text`.
    #[track_caller]
    pub fn fails_with(self, text: &str) -> Self {
        assert_eq!(self.code, 1, "the build did not fail:\n{}", self.text);
        assert!(
            self.text.contains(text),
            "expected {text:?} in:\n{}",
            self.text
        );
        self
    }

    /// How many steps came from the cache.
    pub fn cached(&self) -> usize {
        self.text
            .lines()
            .filter(|line| line.ends_with(" CACHED"))
            .count()
    }
}

/// A folder with the files of a fixture, and busybox as `busybox`.
pub fn context(files: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    testkit::fixture::write(dir.path(), files).expect("the fixture can be written");
    std::fs::copy("/bin/busybox", dir.path().join("busybox")).expect("busybox can be copied");
    dir
}

/// The first lines of a Dockerfile whose stage `base` has a shell and the usual commands.
pub const BASE: &str = r#"FROM scratch AS base
COPY --chmod=755 busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
"#;

/// A fixture whose Dockerfile begins with [`BASE`].
pub fn on_base(dockerfile: &str, files: &str) -> TempDir {
    context(&format!("//- Dockerfile\n{BASE}{dockerfile}\n{files}"))
}

/// Mounts at or below `root`.
pub fn mounts_below(root: &Path) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("a mount table");
    let root = root.display().to_string();
    table
        .lines()
        .filter(|line| line.contains(&root))
        .map(str::to_owned)
        .collect()
}

/// Processes that have something below `root` open or as their root.
pub fn processes_below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")
        .expect("a process table")
        .flatten()
    {
        let pid = entry.file_name().to_string_lossy().into_owned();
        if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let link = std::fs::read_link(entry.path().join("root"));
        if link.is_ok_and(|link| link.starts_with(root)) {
            found.push(pid);
        }
    }
    found
}

/// All steps but those that load sources must have come from the cache; `text` is what the client printed.
#[track_caller]
pub fn check_all_cached(name: &str, text: &str) {
    let step = |line: &str| {
        let rest = line.strip_prefix('#')?;
        let (number, rest) = rest.split_once(' ')?;
        let own = rest.starts_with('[') && !rest.starts_with("[internal]");
        own.then(|| number.to_owned())
    };
    let steps: BTreeSet<_> = text.lines().filter_map(step).collect();
    assert!(!steps.is_empty(), "{name}: no steps:\n{text}");
    for number in steps {
        let cached = format!("#{number} CACHED");
        let from = text
            .lines()
            .any(|line| line.starts_with(&format!("#{number} [")) && line.contains(" FROM "));
        assert!(
            from || text.lines().any(|line| line == cached),
            "{name}: step {number} was not cached:\n{text}"
        );
    }
}
