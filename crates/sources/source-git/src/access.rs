//! How a remote may be entered: tokens, agents, known hosts.
//!
//! A host that nobody vouched for is entered, as upstream does it, and its key noted: for the rest of the build it must
//! show the same one. Upstream notes it while it reads the Dockerfile, by a connection of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{getegid, geteuid};
use session::ssh::{self, Forward, SocketOptions};
use session::{Secret, secrets};
use tempfile::TempDir;
use url::Url;

use crate::attrs::Attrs;
use crate::{Call, Error};

/// Credentials for one call; sockets and files are gone when it is dropped.
#[derive(Default)]
pub(crate) struct Access {
    authorization: Option<(String, Secret)>,
    agent: Option<Forward>,
    ssh_command: String,
    _dir: Option<TempDir>,
    _seen: Option<Arc<Seen>>,
}

/// The keys that hosts showed to one build, in a file that ssh reads and adds to.
struct Seen(TempDir);

impl Seen {
    async fn of(call: &Call<'_>) -> Result<Arc<Self>, Error> {
        let work = || async { Ok(Self(folder("git-hosts-")?)) };
        call.memo.get_or_try("git hosts", work).await
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("known_hosts")
    }
}

fn folder(prefix: &str) -> Result<TempDir, Error> {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir();
    dir.map_err(Error::file("make a folder"))
}

/// ssh without the settings of whoever runs the daemon. Lists of the machine itself (`/etc/ssh`) count.
fn ssh_command(known_hosts: &Path, more: &str) -> String {
    let file = known_hosts.display();
    format!("ssh -F /dev/null -o UserKnownHostsFile={file}{more}")
}

impl Access {
    /// Asks the client for what the source names.
    pub(crate) async fn new(attrs: &Attrs, call: &Call<'_>) -> Result<Self, Error> {
        let mut access = Self {
            authorization: authorization(attrs, call).await,
            ..Self::default()
        };
        let noted = attrs.known_hosts.is_empty();
        if noted {
            let seen = Seen::of(call).await?;
            // That a key was noted is no news for users.
            let more = " -o StrictHostKeyChecking=accept-new -o LogLevel=ERROR";
            access.ssh_command = ssh_command(&seen.file(), more);
            access._seen = Some(seen);
        }
        if noted && attrs.ssh_socket.is_empty() {
            return Ok(access);
        }
        let dir = folder("git-access-")?;
        if !attrs.ssh_socket.is_empty() {
            let id = &attrs.ssh_socket;
            let session = ssh::check(call.cx, call.sessions, id).await?;
            let owner = SocketOptions {
                uid: geteuid().as_raw(),
                gid: getegid().as_raw(),
                mode: 0o700,
            };
            let path = dir.path().join("agent");
            access.agent = Some(ssh::forward(call.cx, session, id, &path, owner)?);
        }
        if !noted {
            let path = dir.path().join("known_hosts");
            std::fs::write(&path, &attrs.known_hosts)
                .map_err(Error::file("write the known hosts"))?;
            access.ssh_command = ssh_command(&path, "");
        }
        access._dir = Some(dir);
        Ok(access)
    }

    pub(crate) fn ssh_command(&self) -> &str {
        &self.ssh_command
    }

    pub(crate) fn ssh_socket(&self) -> Option<&Path> {
        self.agent.as_ref().map(Forward::path)
    }

    /// The setting that sends the credentials to the remote they are for.
    pub(crate) fn authorization(&self) -> Option<(&str, String)> {
        let (key, header) = self.authorization.as_ref()?;
        Some((key, format!("Authorization: {}", header.reveal_text())))
    }
}

/// The first secret there is, of those for the host and those for all. A client that has none may still be let in.
async fn authorization(attrs: &Attrs, call: &Call<'_>) -> Option<(String, Secret)> {
    let url = Url::parse(&attrs.remote).ok()?;
    if call.sessions.is_empty() || !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let host = match (url.host_str()?, url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let (header, token) = (&attrs.header_secret, &attrs.token_secret);
    let names = [
        (header, format!("{header}.{host}"), false),
        (token, format!("{token}.{host}"), true),
        (header, header.clone(), false),
        (token, token.clone(), true),
    ];
    for (given, name, is_token) in names {
        if given.is_empty() {
            continue;
        }
        let Ok(secret) = secrets::fetch(call.cx, call.sessions, &name).await else {
            continue;
        };
        let header = if is_token {
            let login = format!("x-access-token:{}", secret.reveal_text());
            Secret::new(format!("basic {}", STANDARD.encode(login)))
        } else {
            secret
        };
        let key = format!("http.{}.extraheader", scope(&attrs.remote));
        return Some((key, header));
    }
    None
}

/// A token is for its remote alone, but for the one host where all repositories, submodules above all, share tokens.
fn scope(remote: &str) -> &str {
    let shared = ["https://github.com/", "https://www.github.com/"];
    let host = shared.into_iter().find(|host| remote.starts_with(host));
    host.unwrap_or(remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_for_one_remote() {
        assert_eq!(scope("https://github.com/a/b.git"), "https://github.com/");
        assert_eq!(scope("https://example.com/a/b"), "https://example.com/a/b");
    }
}
