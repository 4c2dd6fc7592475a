//! Listening addresses: unix sockets, TCP with and without TLS, sockets handed over by systemd.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::net::{TcpListener, UnixListener};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// A socket that is bound and waits for the services.
pub(crate) enum Listener {
    /// A unix socket. Removed when the daemon ends, unless somebody else made it.
    Unix(UnixListener, Option<PathBuf>),
    /// TCP, with TLS when configured.
    Tcp(TcpListener, Option<Box<ServerTlsConfig>>),
}

/// Who owns unix sockets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Owner {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// TLS for TCP sockets.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsFiles {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub ca: Option<PathBuf>,
}

impl TlsFiles {
    fn load(&self) -> anyhow::Result<Option<ServerTlsConfig>> {
        let (cert, key) = match (&self.cert, &self.key) {
            (None, None) => {
                if self.ca.is_some() {
                    bail!(
                        "a CA for client certificates needs a server certificate and key as well"
                    );
                }
                return Ok(None);
            }
            (Some(cert), Some(key)) => (read(cert)?, read(key)?),
            _ => bail!("server TLS needs both a certificate and a key: set --tlscert and --tlskey"),
        };
        let mut config = ServerTlsConfig::new().identity(Identity::from_pem(cert, key));
        if let Some(ca) = &self.ca {
            config = config.client_ca_root(Certificate::from_pem(read(ca)?));
        }
        Ok(Some(config))
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))
}

/// Binds an address.
pub(crate) async fn bind(address: &str, owner: Owner, tls: &TlsFiles) -> anyhow::Result<Listener> {
    let Some((scheme, rest)) = address.split_once("://") else {
        bail!("invalid address {address:?}: expected unix://PATH, tcp://HOST:PORT or fd://");
    };
    if scheme != "tcp" && (tls.cert.is_some() || tls.ca.is_some()) {
        tracing::warn!(address, "TLS is disabled for this address");
    }
    match scheme {
        "unix" => unix(Path::new(rest), owner),
        "tcp" => tcp(rest, tls).await,
        "fd" => inherited(),
        other => bail!("addr {other} not supported: expected unix://, tcp:// or fd://"),
    }
}

fn unix(path: &Path, owner: Owner) -> anyhow::Result<Listener> {
    let named = || format!("failed to listen on {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(named)?;
    }
    // What a killed daemon left behind. A living one holds the lock of its state directory, not this file.
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            return Err(err).with_context(named);
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(named)?;
    std::os::unix::fs::chown(path, owner.uid, owner.gid).with_context(named)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).with_context(named)?;
    Ok(Listener::Unix(listener, Some(path.to_owned())))
}

async fn tcp(address: &str, tls: &TlsFiles) -> anyhow::Result<Listener> {
    let config = tls.load()?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}"))?;
    if config.is_none() {
        tracing::warn!(
            address,
            "TLS is not enabled for this address: anybody who can reach it can run builds"
        );
    }
    Ok(Listener::Tcp(listener, config.map(Box::new)))
}

/// The first socket systemd handed over.
fn inherited() -> anyhow::Result<Listener> {
    let mut handed = listenfd::ListenFd::from_env();
    if let Ok(Some(listener)) = handed.take_unix_listener(0) {
        listener.set_nonblocking(true)?;
        return Ok(Listener::Unix(UnixListener::from_std(listener)?, None));
    }
    if let Ok(Some(listener)) = handed.take_tcp_listener(0) {
        listener.set_nonblocking(true)?;
        return Ok(Listener::Tcp(TcpListener::from_std(listener)?, None));
    }
    bail!("no sockets found via socket activation: make sure the service was started by systemd")
}

/// The id of a group given by name or number.
pub(crate) fn group_id(group: &str) -> anyhow::Result<u32> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = std::fs::read_to_string("/etc/group").context("failed to read /etc/group")?;
    find_group(&groups, group).with_context(|| format!("group {group} not found"))
}

fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\nwheel:x:10:root\n";
        assert_eq!(find_group(groups, "wheel"), Some(10));
        assert_eq!(find_group(groups, "nobody"), None);
    }

    #[test]
    fn half_of_a_key_pair_is_refused() {
        let half = TlsFiles {
            cert: Some("/c".into()),
            ..TlsFiles::default()
        };
        assert!(half.load().is_err());
    }
}
