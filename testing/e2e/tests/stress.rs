//! Many builds at a time that share stages, are cancelled, lose their clients and are pruned under their feet.
//!
//! `E2E_STRESS` says how many seconds (the long run is 600) and `E2E_BUILDS` how many builds at a time (40 then). No
//! wait may pass 30 seconds: then the daemon is asked what its builds wait for, and the test fails with the answer.
//! Without `E2E_STRESS` it is the short run of CI, whose machine may have much else to do: there a wait may take longer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use e2e::{Daemon, context};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use testkit::require;

/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same beside other tests.
const PATIENCE_BESIDE_OTHERS: Duration = Duration::from_secs(120);
/// Contexts that exist at a time.
const CONTEXTS: usize = 6;

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok().and_then(|text| text.parse().ok());
    given.unwrap_or(default)
}

fn patience() -> Duration {
    match std::env::var_os("E2E_STRESS") {
        Some(_) => PATIENCE,
        None => PATIENCE_BESIDE_OTHERS,
    }
}

/// How long the longest wait of each kind took.
#[derive(Default)]
struct Waits(Mutex<BTreeMap<&'static str, Duration>>);

impl Waits {
    fn note(&self, what: &'static str, took: Duration) {
        let mut longest = self.0.lock().expect("nobody panics with it");
        let known = longest.entry(what).or_default();
        *known = took.max(*known);
    }
}

/// A Dockerfile of four stages, two of which all contexts share. `out` is two lines of `a` and one of the shared stage.
fn dockerfile(variant: u64) -> String {
    format!(
        "{base}FROM base AS shared\nRUN echo shared > /s && sleep 0.0{variant}\n\
         FROM base AS one\nCOPY a /a\nRUN cat /a /a > /out\n\
         FROM base AS two\nCOPY --from=one /out /out\nCOPY --from=shared /s /s\nRUN cat /s >> /out\n\
         FROM scratch\nCOPY --from=two /out /\n",
        base = e2e::BASE,
        variant = variant % 3,
    )
}

struct Run<'a> {
    daemon: &'a Daemon,
    contexts: &'a [tempfile::TempDir],
    until: Instant,
    /// Something is wrong: everybody stops.
    stop: &'a AtomicBool,
    builds: &'a AtomicU32,
    cancelled: &'a AtomicU32,
    pruned: &'a AtomicU32,
    waits: &'a Waits,
}

impl Run<'_> {
    fn work(&self, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        while Instant::now() < self.until && !self.stop.load(Ordering::Relaxed) {
            let context = self.contexts[random.random_range(0..CONTEXTS)].path();
            match random.random_range(0..20_u32) {
                0 => self.prune(random.random_bool(0.3)),
                1..5 => self.cancel(context, Duration::from_millis(random.random_range(0..400))),
                5..8 => {
                    let text = format!("{}\n", random.random_range(0..1_000_000_u32));
                    self.build(context, Some(&text));
                }
                _ => self.build(context, None),
            }
        }
    }

    fn client(&self, context: &Path, out: &Path) -> Child {
        let path = context.display();
        let log = std::fs::File::create(out.join("log")).expect("a log");
        self.daemon
            .client(&[
                "build".to_owned(),
                "--progress=plain".to_owned(),
                "--frontend=dockerfile.v0".to_owned(),
                format!("--local=context={path}"),
                format!("--local=dockerfile={path}"),
                format!("--output=type=local,dest={}", out.join("tree").display()),
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the client runs")
    }

    /// Builds; with `text`, a context of its own with this as the content of `a`, which nobody else changes.
    fn build(&self, context: &Path, text: Option<&str>) {
        let out = tempfile::tempdir().expect("a temporary directory");
        let own = text.map(|text| {
            let own = e2e::context(&format!(
                "//- Dockerfile\n{}//- a\n{}",
                dockerfile(0),
                text.trim_end()
            ));
            std::fs::write(own.path().join("a"), text).expect("written");
            own
        });
        let context = own.as_ref().map_or(context, tempfile::TempDir::path);
        let mut client = self.client(context, out.path());
        let code = self.wait(&mut client, "a build");
        let log = || std::fs::read_to_string(out.path().join("log")).unwrap_or_default();
        if code != Some(0) {
            self.fail(&format!("a build failed: {}", log()));
        }
        let a = std::fs::read_to_string(context.join("a")).expect("there");
        let wanted = format!("{a}{a}shared\n");
        let found = std::fs::read_to_string(out.path().join("tree/out")).unwrap_or_default();
        if found != wanted {
            self.fail(&format!("wrong result {found:?} for {wanted:?}: {}", log()));
        }
        self.builds.fetch_add(1, Ordering::Relaxed);
    }

    /// A client that is killed, or asked to stop, after a while.
    fn cancel(&self, context: &Path, after: Duration) {
        let out = tempfile::tempdir().expect("a temporary directory");
        let mut client = self.client(context, out.path());
        std::thread::sleep(after);
        if after.as_millis().is_multiple_of(2) {
            // It may have ended.
            let _ = client.kill();
        } else {
            let pid = rustix::process::Pid::from_child(&client);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        }
        self.wait(&mut client, "a client that was told to stop");
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    fn prune(&self, all: bool) {
        let mut args = vec!["prune"];
        if all {
            args.push("--all");
        }
        let client = self.daemon.client(&args).stdout(Stdio::null()).spawn();
        let mut client = client.expect("the client runs");
        if self.wait(&mut client, "a prune") != Some(0) {
            self.fail("a prune failed");
        }
        self.pruned.fetch_add(1, Ordering::Relaxed);
    }

    fn wait(&self, client: &mut Child, what: &'static str) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = client.try_wait().expect("a child") {
                self.waits.note(what, start.elapsed());
                return status.code();
            }
            if start.elapsed() > patience() {
                // The daemon logs what its builds wait for.
                let pid = i32::try_from(self.daemon.pid()).ok();
                if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::USR1);
                }
                std::thread::sleep(Duration::from_secs(1));
                let _ = client.kill();
                self.fail(&format!("{what} took longer than {:?}", patience()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn fail(&self, why: &str) -> ! {
        self.stop.store(true, Ordering::Relaxed);
        panic!("{why}\nthe daemon: {}", self.daemon.log());
    }
}

fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("open files");
    let links = entries
        .flatten()
        .map(|entry| std::fs::read_link(entry.path()));
    links.filter_map(Result::ok).collect()
}

/// Waits until `wanted` holds: what ends in the background needs a moment.
fn settles(what: &str, wanted: impl Fn() -> bool) {
    let start = Instant::now();
    while !wanted() {
        assert!(start.elapsed() < patience(), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn builds_that_share_stages_survive_cancels_lost_clients_and_prunes() {
    require!(root, busybox);
    let seed = setting("E2E_SEED", rand::random::<u32>().into());
    let (seconds, at_a_time) = (setting("E2E_STRESS", 40), setting("E2E_BUILDS", 8));
    eprintln!("E2E_SEED={seed} E2E_STRESS={seconds} E2E_BUILDS={at_a_time}");
    let mut daemon = Daemon::start();
    let contexts: Vec<_> = (0..CONTEXTS as u64)
        .map(|index| {
            context(&format!(
                "//- Dockerfile\n{}//- a\n{index}",
                dockerfile(index)
            ))
        })
        .collect();
    daemon.build(contexts[0].path(), &[]).ok();
    let files = open_files(daemon.pid()).len();
    let [builds, cancelled, pruned] = std::array::from_fn(|_| AtomicU32::new(0));
    let (stop, waits) = (AtomicBool::new(false), Waits::default());
    std::thread::scope(|scope| {
        for worker in 0..at_a_time {
            let run = Run {
                daemon: &daemon,
                contexts: &contexts,
                until: Instant::now() + Duration::from_secs(seconds),
                stop: &stop,
                builds: &builds,
                cancelled: &cancelled,
                pruned: &pruned,
                waits: &waits,
            };
            scope.spawn(move || run.work(seed.wrapping_mul(1000) + worker));
        }
    });
    eprintln!(
        "{} builds, {} cancelled, {} prunes",
        builds.load(Ordering::Relaxed),
        cancelled.load(Ordering::Relaxed),
        pruned.load(Ordering::Relaxed)
    );
    eprintln!("longest waits: {:?}", waits.0.lock().expect("whole"));
    assert!(builds.load(Ordering::Relaxed) > 0);

    // Nothing of all that is left.
    let root = daemon.root();
    settles("processes were left behind", || {
        e2e::processes_below(&root).is_empty()
    });
    settles("files were left open", || {
        open_files(daemon.pid()).len() <= files + 16
    });
    daemon.build(contexts[1].path(), &[]).ok();
    let pruned = daemon.client(&["prune", "--all"]).output();
    assert!(pruned.expect("the client runs").status.success());
    settles("records were still in use when everything was over", || {
        let left = daemon.client(&["du", "--format={{json .}}"]).output();
        let left = left.expect("the client runs").stdout;
        let left: serde_json::Value = serde_json::from_slice(&left).unwrap_or_default();
        left.as_array().is_none_or(Vec::is_empty)
    });
    daemon.stop();
    assert_eq!(e2e::mounts_below(&root), Vec::<String>::new());
}
