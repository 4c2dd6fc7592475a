//! Registries as one meets them: that fail now and then, and that are only reached through a proxy.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use e2e::{Daemon, context, is_ours, skipped_unless};
use rand::Rng as _;
use tempfile::TempDir;
use testkit::fixture::list;
use testkit::frail::{Fault, Frail, Habits};
use testkit::registry::Registry;
use testkit::require;
use testkit::web::{Request, Response, Web};

/// Bytes of the file in the layer; nothing makes it smaller.
const SIZE: usize = 600_000;

/// A context with a Dockerfile and a file of noise.
fn noisy(dockerfile: &str) -> TempDir {
    let dir = context(&format!("//- Dockerfile\n{dockerfile}\n"));
    let mut noise = vec![0; SIZE];
    rand::rng().fill_bytes(&mut noise);
    std::fs::write(dir.path().join("noise"), noise).expect("written");
    dir
}

fn moves_much(request: &Request) -> bool {
    let upload =
        request.path.contains("/blobs/uploads/u") && request.header("content-length").len() >= 5;
    let download = request.method == "GET" && request.path.contains("/blobs/sha256:");
    upload || download
}

#[test]
fn builds_go_on_where_a_registry_breaks_off() {
    require!(root, busybox);
    if skipped_unless(is_ours(), "upstream sends all of a broken upload again") {
        return;
    }
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let registry = Frail::start(Habits::default(), move |request| {
        let upload = request.method != "GET";
        if !moves_much(request) || count.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            return None;
        }
        Some(match upload {
            true => Fault::CutBody(SIZE / 5),
            false => Fault::CutAnswer(SIZE / 5),
        })
    });
    let name = format!("{}/some/image:v1", registry.host());
    let made = noisy("FROM scratch\nCOPY noise /");
    let push = format!("--output=type=image,name={name},push=true");
    let daemon = Daemon::start();
    let built = daemon.build(made.path(), &[&push]).ok();
    assert!(built.text.contains("retrying in 1s"), "{}", built.text);
    let uploaded = registry.received();
    assert!(
        uploaded < (SIZE + SIZE / 2) as u64,
        "{uploaded} bytes went there"
    );
    let next = context(&format!(
        "//- Dockerfile\nFROM {name}\nCOPY y /y\n//- y\n12"
    ));
    let out = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", out.path().display());
    Daemon::start().build(next.path(), &[&output]).ok();
    assert_eq!(
        list(out.path()).expect("listed"),
        format!("noise 0644 {SIZE}\ny 0644 3")
    );
    let (sent, there) = (
        std::fs::read(made.path().join("noise")).expect("a file"),
        std::fs::read(out.path().join("noise")).expect("a file"),
    );
    assert!(sent == there);
}

#[test]
fn a_damaged_layer_is_refused_and_a_sound_one_taken_afterwards() {
    require!(root, busybox);
    let damaged = Arc::new(AtomicUsize::new(0));
    let damage = damaged.clone();
    let registry = Frail::start(Habits::default(), move |request| {
        let layer = request.method == "GET" && request.path.contains("/blobs/sha256:");
        (layer && damage.load(Ordering::Relaxed) > 0 && request.header("accept").contains("tar"))
            .then(|| Fault::Replace(vec![7; SIZE]))
    });
    let name = format!("{}/some/image:v1", registry.host());
    let push = format!("--output=type=image,name={name},push=true");
    Daemon::start()
        .build(noisy("FROM scratch\nCOPY noise /").path(), &[&push])
        .ok();
    let daemon = Daemon::start();
    let next = context(&format!(
        "//- Dockerfile\nFROM {name}\nCOPY y /y\n//- y\n12"
    ));
    let out = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", out.path().display());
    damaged.store(1, Ordering::Relaxed);
    daemon.build(next.path(), &[&output]).fails_with("sha256:");
    damaged.store(0, Ordering::Relaxed);
    daemon.build(next.path(), &[&output]).ok();
    assert_eq!(
        list(out.path()).expect("listed"),
        format!("noise 0644 {SIZE}\ny 0644 3")
    );
}

#[test]
fn refusals_of_registries_are_told() {
    require!(root, busybox);
    let from = |registry: &Frail| {
        let name = format!("{}/some/image:v1", registry.host());
        context(&format!("//- Dockerfile\nFROM {name}\n"))
    };
    let daemon = Daemon::start();
    for (status, text) in [
        (401, "401"),
        (403, "403 Forbidden"),
        (404, "not found"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
    ] {
        let registry = Frail::start(Habits::default(), move |_| {
            let answer = Response::status(status).with("Retry-After", "0");
            Some(Fault::Answer(answer))
        });
        daemon.build(from(&registry).path(), &[]).fails_with(text);
        let name = format!("{}/some/image:v1", registry.host());
        let push = format!("--output=type=image,name={name},push=true");
        let pushed = daemon.build(noisy("FROM scratch\nCOPY noise /").path(), &[&push]);
        assert_eq!(pushed.code, 1, "{}", pushed.text);
        assert!(pushed.text.contains("failed to push"), "{}", pushed.text);
    }
    let habits = Habits {
        oci: false,
        ..Habits::default()
    };
    let registry = Frail::start(habits, |_| None);
    let push = |more: &str| {
        let name = format!("{}/some/image:v1", registry.host());
        let push = format!("--output=type=image,name={name},push=true{more}");
        daemon.build(noisy("FROM scratch\nCOPY noise /").path(), &[&push])
    };
    push("").fails_with("manifest invalid");
    push(",oci-mediatypes=false").ok();
}

/// A proxy that knows where names lead.
struct Proxy {
    port: u16,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(names: &'static [&'static str], to: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = lines.clone();
        let leads = move |line: &str| {
            let place = names.iter().position(|name| line.contains(name))?;
            to.get(place).cloned()
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, leads) = (seen.clone(), leads.clone());
                std::thread::spawn(move || carry(stream, &seen, &leads));
            }
        });
        Self { port, lines }
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("no panic").clone()
    }
}

/// Reads what one request is for, and joins the two connections.
fn carry(mut stream: TcpStream, seen: &Mutex<Vec<String>>, leads: &dyn Fn(&str) -> Option<String>) {
    let (mut head, mut byte) = (Vec::new(), [0; 1]);
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    seen.lock().expect("no panic").push(line.clone());
    let Some(mut other) = leads(&line).and_then(|to| TcpStream::connect(to).ok()) else {
        let _ = stream.write_all(b"HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n");
        return;
    };
    // One request only: the next one may be for another server.
    let head = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    let _ = other.write_all(head.as_bytes());
    let (Ok(mut from), Ok(mut to)) = (stream.try_clone(), other.try_clone()) else {
        return;
    };
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut other, &mut stream);
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// A program that starts the daemon with these variables and this configuration.
fn with_variables(dir: &TempDir, variables: &str, config: &str) -> PathBuf {
    let (script, file) = (dir.path().join("daemon"), dir.path().join("daemon.toml"));
    std::fs::write(&file, config).expect("written");
    let binary = e2e::buildkitd();
    let beside = binary.parent().expect("a folder").display();
    let text = format!(
        "#!/bin/sh\nexport PATH={beside}:$PATH {variables}\nexec {} --config {} \"$@\"\n",
        binary.display(),
        file.display()
    );
    std::fs::write(&script, text).expect("written");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&script, mode).expect("mode set");
    script
}

#[test]
fn a_daemon_behind_a_proxy_reaches_everything_through_it() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let files = Web::start(|_| Response::file("a file"));
    let web = files.url().replace("http://", "");
    let proxy = Proxy::start(
        &["registry.test", "files.test"],
        vec![registry.host(), web.clone()],
    );
    let dir = tempfile::tempdir().expect("a temporary directory");
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let variables = format!(
        "HTTP_PROXY={address} HTTPS_PROXY={address} http_proxy={address} https_proxy={address} \
         NO_PROXY=direct.test no_proxy=direct.test"
    );
    let config = "[registry.\"registry.test\"]\nhttp = true\n";
    let daemon = Daemon::other(&with_variables(&dir, &variables, config));
    let push = "--output=type=image,name=registry.test/some/image:v1,push=true";
    daemon
        .build(noisy("FROM scratch\nCOPY noise /").path(), &[push])
        .ok();
    let next = "FROM registry.test/some/image:v1\nADD http://files.test/f /f";
    let next = context(&format!("//- Dockerfile\n{next}\n"));
    let out = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", out.path().display());
    daemon.build(next.path(), &[&output]).ok();
    let tree = list(out.path()).expect("listed");
    assert_eq!(tree, format!("f 0600 6\nnoise 0644 {SIZE}"));
    let seen = |text: &str| proxy.lines().iter().any(|line| line.contains(text));
    assert!(seen("PUT http://registry.test/"), "{:?}", proxy.lines());
    assert!(seen("GET http://registry.test/") || seen("HEAD http://registry.test/"));
    assert!(seen("GET http://files.test/f"), "{:?}", proxy.lines());
    // Encrypted ones go through a tunnel; these end at the proxy.
    let try_from = |text: &str| {
        let files = context(&format!("//- Dockerfile\n{text}\n"));
        assert_eq!(daemon.build(files.path(), &[]).code, 1);
    };
    try_from("FROM encrypted.test/some/image");
    try_from("FROM scratch\nADD https://encrypted-files.test/f /f");
    assert!(seen("CONNECT encrypted.test:443"), "{:?}", proxy.lines());
    assert!(
        seen("CONNECT encrypted-files.test:443"),
        "{:?}",
        proxy.lines()
    );
    // Neither this machine nor what is named goes through it.
    try_from("FROM direct.test/some/image");
    try_from(&format!("FROM {}/no/image", registry.host()));
    assert!(!seen("direct.test"), "{:?}", proxy.lines());
    assert!(!seen(&registry.host()), "{:?}", proxy.lines());
}
