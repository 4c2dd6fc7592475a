//! Registries as one meets them: that fail now and then, and that are only reached through a proxy.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use e2e::{Build, Daemon, context, is_ours, skipped_unless};
use rand::Rng as _;
use tempfile::TempDir;
use testkit::certificates::certificates;
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
    if line.starts_with("CONNECT ") {
        let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
    } else {
        // One request only: the next one may be for another server.
        let head = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        let _ = other.write_all(head.as_bytes());
    }
    let (Ok(mut from), Ok(mut to)) = (stream.try_clone(), other.try_clone()) else {
        return;
    };
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut other, &mut stream);
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("mode set");
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
    write_program(&script, &text);
    script
}

#[test]
fn an_encrypted_registry_is_reached_through_a_tunnel() {
    require!(root, busybox, registry, openssl);
    let keys = certificates("DNS:secure.test");
    let at = |name: &str| keys.path().join(name);
    let registry = Registry::encrypted(&at("server.pem"), &at("server-key.pem"));
    let proxy = Proxy::start(&["secure.test:443"], vec![registry.host()]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let variables = format!("HTTPS_PROXY=http://127.0.0.1:{}", proxy.port);
    let config = format!(
        "[registry.\"secure.test\"]\nca = [\"{}\"]\n",
        at("ca.pem").display()
    );
    let daemon = || Daemon::other(&with_variables(&dir, &variables, &config));
    let push = "--output=type=image,name=secure.test/some/image:v1,push=true";
    let made = noisy("FROM scratch\nCOPY noise /");
    daemon().build(made.path(), &[push]).ok();
    let next = context("//- Dockerfile\nFROM secure.test/some/image:v1\n");
    let out = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", out.path().display());
    daemon().build(next.path(), &[&output]).ok();
    let tree = list(out.path()).expect("listed");
    assert_eq!(tree, format!("noise 0644 {SIZE}"));
    // The proxy sees no more than whom the tunnels lead to.
    let lines = proxy.lines();
    assert!(!lines.is_empty());
    let tunnels = lines
        .iter()
        .all(|line| line.starts_with("CONNECT secure.test:443 "));
    assert!(tunnels, "{lines:?}");
}

/// What a user's helper knows, how the registry asks for it, and where the configuration names the helper.
struct Knowledge {
    secret: &'static str,
    challenge: &'static str,
    config: &'static str,
}

const STORE: &str = r#"{"credsStore":"e2e"}"#;
const HELPERS: &str = r#"{"credsStore":"none","credHelpers":{"HOST":"e2e"}}"#;
const USER: &str = r#"{"Username":"user","Secret":"pass"}"#;
const BEARER: &str = r#"Bearer realm="TOKENS/token",service="e2e""#;

/// Pushes and pulls as a user with a helper that knows this of the registry, if `known`.
fn with_helper(knowledge: &Knowledge, known: bool) -> [Build; 2] {
    let tokens = Web::start(|request| {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let lets_in = request.header("authorization") == "Basic dXNlcjpwYXNz"
            || form.contains("username=user") && form.contains("password=pass")
            || form.contains("refresh_token=fresh");
        match lets_in {
            true => Response::file(r#"{"token":"t","access_token":"t"}"#),
            false => Response::status(401),
        }
    });
    let challenge = knowledge.challenge.replace("TOKENS", &tokens.url());
    let registry = Frail::start(Habits::default(), move |request| {
        let shown = request.header("authorization");
        let answer = Response::status(401).with("WWW-Authenticate", &challenge);
        (shown != "Bearer t" && shown != "Basic dXNlcjpwYXNz").then_some(Fault::Answer(answer))
    });
    let dir = tempfile::tempdir().expect("a temporary directory");
    let host = registry.host();
    let config = knowledge.config.replace("HOST", &host);
    std::fs::write(dir.path().join("config.json"), config).expect("written");
    let asked = if known { &host } else { "elsewhere" };
    let text = format!(
        "#!/bin/sh\nread host\nif [ \"$1 $host\" != \"get {asked}\" ]; then\n\
         echo credentials not found in native keychain\nexit 1\nfi\necho '{}'\n",
        knowledge.secret
    );
    write_program(&dir.path().join("docker-credential-e2e"), &text);
    let path = std::env::var("PATH").unwrap_or_default();
    let daemon = Daemon::start();
    let name = format!("{host}/some/image:v1");
    let made = noisy("FROM scratch\nCOPY noise /");
    let next = context(&format!("//- Dockerfile\nFROM {name}\n"));
    let push = format!("--output=type=image,name={name},push=true");
    let out = tempfile::tempdir().expect("a temporary directory");
    let pull = format!("--output=type=local,dest={}", out.path().display());
    [(&made, push), (&next, pull)].map(|(context, output)| {
        let mut client = daemon.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            client.arg(format!("--local={name}={}", context.path().display()));
        }
        client
            .arg(output)
            .env("DOCKER_CONFIG", dir.path())
            .env("PATH", format!("{}:{path}", dir.path().display()));
        Build::of(client.output().expect("the client runs"))
    })
}

#[test]
fn a_helper_of_the_user_opens_registries() {
    require!(root, busybox);
    let basic = r#"Basic realm="e2e""#;
    let token = r#"{"Username":"<token>","Secret":"fresh"}"#;
    for (secret, challenge, config) in [
        (USER, basic, STORE),
        (USER, BEARER, HELPERS),
        (token, BEARER, STORE),
    ] {
        let knowledge = Knowledge {
            secret,
            challenge,
            config,
        };
        for build in with_helper(&knowledge, true) {
            build.ok();
        }
        for build in with_helper(&knowledge, false) {
            build.fails_with("401 Unauthorized");
        }
    }
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
