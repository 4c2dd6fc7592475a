//! Which daemon to talk to, and a private one where there is none.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use client::{Client, ConnectOptions, TlsOptions};
use tempfile::TempDir;

use crate::args::{Global, given};

const DEFAULT: &str = "unix:///run/buildkit/buildkitd.sock";
/// How long a private daemon may take to come up.
const START: Duration = Duration::from_secs(20);

/// A connection, and the daemon behind it when it is ours.
pub(crate) struct Connection {
    pub client: Client,
    _private: Option<Private>,
}

/// A daemon for this run only; its state stays for the next.
struct Private {
    process: Child,
    _dir: TempDir,
}

impl Drop for Private {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.process);
        // It may have died already; then there is nothing to stop.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.process.wait();
    }
}

/// Connects as the flags say.
pub(crate) async fn connect(global: &Global) -> Result<Connection> {
    let options = ConnectOptions {
        tls: tls(global)?,
        timeout: u64::try_from(global.timeout)
            .ok()
            .filter(|s| *s > 0)
            .map(Duration::from_secs),
    };
    let address = global
        .addr
        .as_deref()
        .filter(|address| !address.is_empty())
        .unwrap_or(DEFAULT);
    if global.wait {
        loop {
            if let Ok(client) = Client::connect(address, &options).await {
                client.wait().await?;
                return Ok(Connection {
                    client,
                    _private: None,
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let client = Client::connect(address, &options).await?;
    Ok(Connection {
        client,
        _private: None,
    })
}

/// Connects; when no daemon is named and none listens at the usual place, starts one for this run.
pub(crate) async fn connect_or_start(global: &Global) -> Result<Connection> {
    let named = global
        .addr
        .as_deref()
        .is_some_and(|address| !address.is_empty());
    let socket = Path::new(DEFAULT.trim_start_matches("unix://"));
    if named || global.wait || std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return connect(global).await;
    }
    let binary = beside_us()?;
    let dir = tempfile::Builder::new().prefix("buildkit-").tempdir()?;
    let path = dir.path().join("buildkitd.sock");
    let address = format!("unix://{}", path.display());
    eprintln!(
        "no daemon at {DEFAULT}, starting {} for this build",
        binary.display()
    );
    let log = dir.path().join("log");
    let output = std::fs::File::create(&log)?;
    let mut command = Command::new(&binary);
    command
        .arg("--addr")
        .arg(&address)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    if let Some(root) = std::env::var_os("BUILDKIT_ROOT") {
        command.arg("--root").arg(root);
    }
    let process = command
        .spawn()
        .with_context(|| format!("failed to start {}", binary.display()))?;
    let mut private = Private { process, _dir: dir };
    let start = Instant::now();
    loop {
        if let Ok(client) = Client::connect(&address, &ConnectOptions::default()).await {
            return Ok(Connection {
                client,
                _private: Some(private),
            });
        }
        if let Some(status) = private.process.try_wait()? {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            bail!(
                "{} ended with {status}:\n{}",
                binary.display(),
                text.trim_end()
            );
        }
        if start.elapsed() > START {
            bail!(
                "{} did not come up in {} s",
                binary.display(),
                START.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The daemon that was installed with this client.
fn beside_us() -> Result<PathBuf> {
    let own = std::env::current_exe().context("failed to find out where buildctl is")?;
    let beside = own.with_file_name("buildkitd");
    if beside.is_file() {
        return Ok(beside);
    }
    bail!(
        "no daemon at {DEFAULT} and no buildkitd beside {}: start one, or name one with --addr or BUILDKIT_HOST",
        own.display()
    )
}

fn tls(global: &Global) -> Result<TlsOptions> {
    let mut tls = TlsOptions {
        server_name: global.tlsservername.clone().filter(|it| !it.is_empty()),
        ca: given(global.tlscacert.as_ref()).map(Path::to_owned),
        cert: given(global.tlscert.as_ref()).map(Path::to_owned),
        key: given(global.tlskey.as_ref()).map(Path::to_owned),
    };
    if let Some(dir) = given(global.tlsdir.as_ref()) {
        if tls.ca.is_some() || tls.cert.is_some() || tls.key.is_some() {
            bail!("cannot specify tlsdir and tlscacert/tlscert/tlskey at the same time");
        }
        tls.ca = Some(one_of(dir, "ca.pem", "ca.crt")?);
        tls.cert = Some(one_of(dir, "cert.pem", "tls.crt")?);
        tls.key = Some(one_of(dir, "key.pem", "tls.key")?);
    }
    for (path, what) in [
        (&tls.ca, "ca certificate"),
        (&tls.cert, "certificate/key"),
        (&tls.key, "certificate/key"),
    ] {
        if let Some(path) = path {
            std::fs::File::open(path)
                .map_err(|err| fstree::Error::new("open", path, err))
                .with_context(|| format!("could not read {what}"))?;
        }
    }
    Ok(tls)
}

fn one_of(dir: &Path, either: &str, or: &str) -> Result<PathBuf> {
    [either, or]
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("directory did not contain one of the needed files: {either} or {or}")
        })
}
