//! A real registry server on a loopback port, with its data in a scratch folder.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A running registry; stopped when dropped.
pub struct Registry {
    server: Child,
    port: u16,
    dir: TempDir,
}

/// How long a server may take to answer, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

impl Registry {
    /// Starts a server. Panics when there is none: ask with `require!(registry)` first.
    pub fn start() -> Self {
        let binary = crate::registry_binary().expect("a registry server; see require!(registry)");
        // Somebody else may take the port before the server does.
        (0..10)
            .find_map(|_| Self::start_at(&binary, free_port(), None))
            .expect("the registry comes up")
    }

    /// The same with this certificate and key: it speaks encrypted only.
    pub fn encrypted(certificate: &Path, key: &Path) -> Self {
        let binary = crate::registry_binary().expect("a registry server; see require!(registry)");
        let keys = Some((certificate, key));
        (0..10)
            .find_map(|_| Self::start_at(&binary, free_port(), keys))
            .expect("the registry comes up")
    }

    fn start_at(binary: &Path, port: u16, keys: Option<(&Path, &Path)>) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mark = dir.path().display().to_string();
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n  headers:\n    X-Mark: [{mark}]\n",
            dir.path().join("data").display()
        );
        if let Some((certificate, key)) = keys {
            config += &format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            );
        }
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).expect("a config file");
        let server = Command::new(binary)
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let mut registry = Self { server, port, dir };
        let start = Instant::now();
        loop {
            // Another server would not know the mark, or would not want encryption.
            let own = |answer: String| match keys {
                None => answer.contains(&mark),
                Some(_) => answer.contains("HTTP request to an HTTPS server"),
            };
            if registry.answer("/v2/", "*/*").is_some_and(own) {
                return Some(registry);
            }
            if registry.server.try_wait().expect("ours").is_some() {
                return None;
            }
            assert!(start.elapsed() < PATIENCE, "the registry did not come up");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Throws away the bytes of a blob in all repositories.
    pub fn remove_blob(&self, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        std::fs::remove_file(self.data().join(path)).expect("a blob");
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its data lie.
    pub fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// The body of a GET, for looking at what was pushed.
    pub fn get(&self, path: &str, accept: &str) -> String {
        let answer = self.answer(path, accept).expect("the registry answers");
        answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default()
    }

    /// Everything that comes back for a GET.
    fn answer(&self, path: &str, accept: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n",
            self.host()
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A port nobody listens on at this moment, and that is given out once.
///
/// It lies below those that the kernel chooses from: neither a connection somewhere nor a listener without a port of
/// its own can take it.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Programs that run at the same time begin at different places.
    let begin = std::process::id().wrapping_mul(101);
    loop {
        let next = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + next % COUNT).expect("the last one is below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
