//! Repositories behind ssh, entered with keys and agents of whoever builds. Skipped where there is no ssh server.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::{Daemon, context};
use llb::build::{Defaults, Git, Options};
use prost::Message as _;
use tempfile::TempDir;
use testkit::require;

fn run(program: &Path, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap_or_else(|err| panic!("{}: {err}", program.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
}

/// An ssh server with one repository, one host key and one user key.
struct Server {
    process: Child,
    dir: TempDir,
    port: u16,
}

impl Server {
    fn start() -> Self {
        let program = |name| testkit::on_path(name).expect("required");
        let (sshd, keygen, git) = (program("sshd"), program("ssh-keygen"), program("git"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["host", "user", "other"] {
            run(
                &keygen,
                &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &at(name)],
            );
        }
        std::fs::copy(at("user.pub"), at("authorized")).expect("a copy");
        let (work, bare) = (at("work"), at("bare.git"));
        run(&git, &["init", "-q", "-b", "master", &work]);
        std::fs::write(dir.path().join("work/f"), "behind ssh\n").expect("a file");
        let who = ["-c", "user.name=a", "-c", "user.email=a@b", "-C", &work];
        run(&git, &[&who[..], &["add", "."]].concat());
        run(&git, &[&who[..], &["commit", "-q", "-m", "one"]].concat());
        run(&git, &["clone", "-q", "--bare", &work, &bare]);

        let port = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = port.local_addr().expect("an address").port();
        let settings = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nUsePAM no\nPidFile none\n",
            at("host"),
            at("authorized"),
        );
        std::fs::write(at("settings"), settings).expect("settings");
        // Where the server keeps its unprivileged part.
        std::fs::create_dir_all("/run/sshd").expect("a folder");
        let process = Command::new(sshd)
            .args(["-D", "-e", "-f", &at("settings")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let server = Self { process, dir, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "no ssh server");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// The repository as it is reached by another port.
    fn url_at(&self, port: u16) -> String {
        let path = self.path("bare.git");
        format!("ssh://root@127.0.0.1:{port}{}", path.display())
    }

    /// A line of known hosts that says the server has this key.
    fn known_as(&self, key: &str) -> String {
        let key = std::fs::read_to_string(self.path(key)).expect("a key");
        format!("[127.0.0.1]:{} {}", self.port, key.trim())
    }
}

/// A port whose first connection leads to the first server, and all later ones to the second.
fn port_that_moves(servers: [u16; 2]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for (index, inside) in listener.incoming().enumerate() {
            let inside = inside.expect("a connection");
            let outside = TcpStream::connect(("127.0.0.1", servers[index.min(1)]));
            let outside = outside.expect("the server listens");
            for (from, to) in [(&inside, &outside), (&outside, &inside)] {
                let mut from = from.try_clone().expect("one more handle");
                let mut to = to.try_clone().expect("one more handle");
                std::thread::spawn(move || {
                    // Either side may hang up whenever it likes.
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    port
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn keys_in_a_file_open_a_repository() {
    require!(root, git, sshd);
    let server = Server::start();
    let daemon = Daemon::start();
    let files = context(&format!(
        "//- Dockerfile\nFROM scratch\nADD {} /r\n",
        server.url()
    ));
    let out = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", out.path().display());
    let with = |key: &str| format!("--ssh=default={}", server.path(key).display());
    daemon.build(files.path(), &[&with("user"), &output]).ok();
    let text = std::fs::read_to_string(out.path().join("r/f")).expect("the file");
    assert_eq!(text, "behind ssh\n");

    let other = daemon.build(files.path(), &[&with("other"), "--no-cache"]);
    other.fails_with("Permission denied");
    let public = daemon.build(files.path(), &[&with("user.pub")]);
    public.fails_with("ssh: no key found");
}

#[test]
fn a_host_with_another_key_than_the_known_one_is_not_entered() {
    require!(root, git, sshd);
    let server = Server::start();
    let daemon = Daemon::start();
    let build = |known: &str| {
        let url = server.url();
        let git = Git {
            location: url.split_once('@').map_or("", |(_, rest)| rest).to_owned(),
            url: url.clone(),
            ssh: Some(server.known_as(known)),
            ..Git::default()
        };
        let state = git.state(Options::named("repository"));
        let definition = state.marshal(&Defaults::default()).expect("complete");
        let ssh = format!("--ssh=default={}", server.path("user").display());
        daemon.build_llb(&definition.encode_to_vec(), &["--no-cache", &ssh])
    };
    build("other.pub").fails_with("Host key verification failed");
    build("host.pub").ok();
}

#[test]
fn a_host_nobody_vouched_for_must_stay_the_same_during_a_build() {
    require!(root, git, sshd);
    let (first, second) = (Server::start(), Server::start());
    let daemon = Daemon::start();
    let build = |servers: [u16; 2]| {
        let url = first.url_at(port_that_moves(servers));
        let files = context(&format!(
            "//- Dockerfile\nFROM scratch\nADD {url}#master /r\n"
        ));
        let ssh = format!("--ssh=default={}", first.path("user").display());
        daemon.build(files.path(), &[&ssh, "--progress=plain"])
    };
    build([first.port, second.port]).fails_with("Host key verification failed");
    let same = build([first.port, first.port]).ok();
    assert!(!same.text.contains("known hosts"), "{}", same.text);
}
