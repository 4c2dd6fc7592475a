//! Ways to a daemon: sockets and their owners, TLS, standard input and output, a daemon of one's own.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use e2e::{Build, Daemon, on_base};
use tempfile::TempDir;
use testkit::certificates::certificates;
use testkit::registry::free_port;
use testkit::require;

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A daemon that also listens on TCP with TLS, and asks for certificates when `mutual`.
fn tls_daemon(certificates: &Path, mutual: bool) -> (Daemon, String) {
    let file = |name: &str| certificates.join(name).display().to_string();
    let address = format!("tcp://127.0.0.1:{}", free_port());
    let mut args = vec![
        "--addr".to_owned(),
        address.clone(),
        "--tlscert".to_owned(),
        file("server.pem"),
        "--tlskey".to_owned(),
        file("server-key.pem"),
    ];
    if mutual {
        args.extend(["--tlscacert".to_owned(), file("ca.pem")]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    (Daemon::with(&args), address)
}

fn workers(dir: &Path, address: &str, flags: &str) -> Output {
    Command::new(e2e::buildctl())
        .current_dir(dir)
        .args(["--addr", address, "--timeout", "3"])
        .args(flags.split_whitespace())
        .args(["debug", "workers"])
        .output()
        .expect("the client runs")
}

#[test]
fn mutual_tls_lets_in_who_has_a_certificate() {
    require!(root, busybox, openssl);
    let dir = certificates("IP:127.0.0.1");
    let (_daemon, address) = tls_daemon(dir.path(), true);
    let with = "--tlscacert ca.pem --tlscert client.pem --tlskey client-key.pem";
    let output = workers(dir.path(), &address, with);
    assert!(text(&output).contains("linux/"), "{}", text(&output));
    let without = workers(dir.path(), &address, "--tlscacert ca.pem");
    assert!(!without.status.success(), "{}", text(&without));
    let plain = workers(dir.path(), &address, "");
    assert!(!plain.status.success(), "{}", text(&plain));
}

#[test]
fn a_directory_may_hold_the_client_certificate() {
    require!(root, busybox, openssl);
    let dir = certificates("IP:127.0.0.1");
    let (_daemon, address) = tls_daemon(dir.path(), true);
    for (from, to) in [("client.pem", "cert.pem"), ("client-key.pem", "key.pem")] {
        std::fs::copy(dir.path().join(from), dir.path().join(to)).expect("copied");
    }
    let output = workers(dir.path(), &address, "--tlsdir .");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_server_certificate_must_be_of_the_authority() {
    require!(root, busybox, openssl);
    let dir = certificates("IP:127.0.0.1");
    let (_daemon, address) = tls_daemon(dir.path(), false);
    let output = workers(dir.path(), &address, "--tlscacert ca.pem");
    assert!(output.status.success(), "{}", text(&output));
    let other = certificates("IP:127.0.0.1");
    let output = workers(other.path(), &address, "--tlscacert ca.pem");
    assert!(!output.status.success(), "{}", text(&output));
    let flags = "--tlscacert ca.pem --tlsservername other.example";
    let output = workers(dir.path(), &address, flags);
    assert!(!output.status.success(), "{}", text(&output));
}

#[test]
fn builds_go_through_tls() {
    require!(root, busybox, openssl);
    let dir = certificates("IP:127.0.0.1");
    let (_daemon, address) = tls_daemon(dir.path(), false);
    let context = on_base("RUN echo 1 > /x", "");
    let output = Command::new(e2e::buildctl())
        .current_dir(dir.path())
        .args(["--addr", &address, "--tlscacert", "ca.pem", "build"])
        .args(["--progress=plain", "--frontend=dockerfile.v0"])
        .arg(format!("--local=context={}", context.path().display()))
        .arg(format!("--local=dockerfile={}", context.path().display()))
        .output()
        .expect("the client runs");
    Build::of(output).ok();
}

#[test]
fn the_socket_belongs_to_the_group_named() {
    require!(root, busybox);
    let daemon = Daemon::with(&["--group", "4321"]);
    let meta = std::fs::metadata(daemon.socket()).expect("a socket");
    assert_eq!(meta.gid(), 4321);
    assert_eq!(meta.permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_wrong_configuration_file_is_refused_by_name() {
    require!(root, busybox);
    let dir = temp();
    let path = dir.path().join("buildkitd.toml");
    for wrong in [
        "debug = false\n[worker.oci\n",
        "debug = false\n[worker.oci]\nmax-parallelism = \"many\"\n",
    ] {
        std::fs::write(&path, wrong).expect("written");
        let output = Command::new(e2e::buildkitd())
            .arg("--config")
            .arg(&path)
            .arg("--root")
            .arg(dir.path().join("root"))
            .arg("--addr")
            .arg(format!("unix://{}", dir.path().join("sock").display()))
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        if e2e::is_ours() {
            assert!(
                text(&output).contains("buildkitd.toml"),
                "{}",
                text(&output)
            );
            assert!(text(&output).contains("line "), "{}", text(&output));
        }
    }
}

#[test]
fn standard_input_and_output_lead_to_the_daemon() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let mut client = daemon
        .client(&["dial-stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the client runs");
    let mut input = client.stdin.take().expect("piped");
    // The opening of an HTTP/2 connection, and its empty SETTINGS frame.
    input
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .expect("written");
    let mut output = client.stdout.take().expect("piped");
    let mut frame = [0; 9];
    output.read_exact(&mut frame).expect("an answer");
    assert_eq!(frame[3], 4, "not a SETTINGS frame: {frame:?}");
    // Nothing more from us: the daemon ends the connection, and the client ends.
    drop(input);
    output.read_to_end(&mut Vec::new()).expect("read");
    assert!(client.wait().expect("it ends").success());
}

#[test]
fn without_a_daemon_a_build_starts_one_for_itself() {
    require!(root, busybox);
    let usual = Path::new("/run/buildkit/buildkitd.sock");
    let used = std::os::unix::net::UnixStream::connect(usual).is_ok();
    let apt = e2e::is_ours() && e2e::is_our_client() && !used;
    if e2e::skipped_unless(apt, "for our client alone, where no daemon runs") {
        return;
    }
    let state = temp();
    let context = on_base("RUN echo 1 > /x", "");
    let build = || {
        let output = Command::new(e2e::buildctl())
            .env_remove("BUILDKIT_HOST")
            .env("BUILDKIT_ROOT", state.path())
            .args(["build", "--progress=plain", "--frontend=dockerfile.v0"])
            .arg(format!("--local=context={}", context.path().display()))
            .arg(format!("--local=dockerfile={}", context.path().display()))
            .output()
            .expect("the client runs");
        Build::of(output).ok()
    };
    assert_eq!(build().cached(), 0);
    let again = build();
    assert_eq!(again.cached(), 3, "{}", again.text);
    assert!(!usual.exists() || !used);
}
