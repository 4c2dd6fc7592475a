//! Docker's configuration file, as far as it holds credentials.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::Secret;
use crate::auth::Credentials;

/// The name under which Docker Hub's credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";
/// What a helper says when it knows nothing.
const UNKNOWN: &str = "credentials not found in native keychain";
/// The user name a helper gives with a refresh token.
const TOKEN_USER: &str = "<token>";

/// Credentials of one user: a file, and programs that keep secrets.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    dir: PathBuf,
    file: File,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct File {
    auths: HashMap<String, Entry>,
    #[serde(rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(rename = "credsStore")]
    store: String,
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("File")
            .field("hosts", &self.auths.keys())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// What a host's entry says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub credentials: Credentials,
    /// A bearer token to be used as it is.
    pub token: Option<Secret>,
}

/// Why credentials could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("failed to parse {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A helper could not be run.
    #[error("failed to run {program}")]
    Run {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A helper failed or answered nonsense.
    #[error("error getting credentials from {program}: {message}")]
    Helper {
        /// Its name.
        program: String,
        /// What it said.
        message: String,
    },
}

impl DockerConfig {
    /// The configuration in `dir`; a file that is not there is empty.
    pub fn load(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("config.json");
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let file =
            serde_json::from_slice(&text).map_err(|source| ConfigError::Parse { path, source })?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
        })
    }

    /// The folder it is in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The entry of a registry host; an empty one when there is none.
    pub(crate) async fn lookup(&self, host: &str) -> Result<Found, ConfigError> {
        let host = if host == "registry-1.docker.io" {
            HUB
        } else {
            host
        };
        let entry = self.entry(host);
        let helper = self.file.helpers.get(host).or_else(|| {
            let store = &self.file.store;
            (!store.is_empty()).then_some(store)
        });
        let token = entry
            .map(|entry| entry.registrytoken.clone())
            .filter(|token| !token.is_empty());
        let mut credentials = match helper {
            Some(helper) => ask(helper, host).await?,
            None => Credentials::default(),
        };
        if credentials.secret.is_empty()
            && let Some(entry) = entry
        {
            credentials = entry.credentials();
        }
        Ok(Found {
            credentials,
            token: token.map(Secret::new),
        })
    }

    fn entry(&self, host: &str) -> Option<&Entry> {
        self.file.auths.get(host).or_else(|| {
            let mut auths = self.file.auths.iter();
            let (_, entry) = auths.find(|(name, _)| bare(name) == bare(host))?;
            Some(entry)
        })
    }
}

/// Host and port of a name that may be a URL.
fn bare(name: &str) -> &str {
    let name = name.strip_prefix("https://").unwrap_or(name);
    let name = name.strip_prefix("http://").unwrap_or(name);
    name.split('/').next().unwrap_or(name)
}

impl Entry {
    fn credentials(&self) -> Credentials {
        if !self.identitytoken.is_empty() {
            return Credentials {
                username: String::new(),
                secret: Secret::new(self.identitytoken.clone()),
            };
        }
        let decoded = STANDARD.decode(self.auth.trim()).unwrap_or_default();
        let decoded = String::from_utf8_lossy(&decoded);
        let (username, password) = match decoded.split_once(':') {
            Some((username, password)) => (username, password.trim_end_matches('\0')),
            None => (self.username.as_str(), self.password.as_str()),
        };
        Credentials {
            username: username.to_owned(),
            secret: Secret::new(password.to_owned()),
        }
    }
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Asks a credential helper; one that knows nothing gives nothing.
async fn ask(helper: &str, host: &str) -> Result<Credentials, ConfigError> {
    let program = format!("docker-credential-{helper}");
    let run = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(host.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = run.await.map_err(|source| ConfigError::Run {
        program: program.clone(),
        source,
    })?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        if said.contains(UNKNOWN) {
            return Ok(Credentials::default());
        }
        return Err(ConfigError::Helper {
            program,
            message: said,
        });
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|err| ConfigError::Helper {
            program,
            message: err.to_string(),
        })?;
    Ok(Credentials {
        username: if answer.username == TOKEN_USER {
            String::new()
        } else {
            answer.username
        },
        secret: Secret::new(answer.secret),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lookup(config: &str, host: &str) -> (String, String) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        std::fs::write(dir.path().join("config.json"), config).expect("write");
        let config = DockerConfig::load(dir.path()).expect("load");
        let found = config.lookup(host).await.expect("lookup").credentials;
        (found.username.clone(), found.secret.reveal_text())
    }

    #[tokio::test]
    async fn hub_is_found_under_its_old_name() {
        let config = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#;
        let found = lookup(config, "registry-1.docker.io").await;
        assert_eq!(found, ("u".to_owned(), "p".to_owned()));
    }

    #[tokio::test]
    async fn a_host_is_found_under_a_url() {
        let config = r#"{"auths":{"https://r.example:5000/v2/":{"auth":"dTpwOnE="}}}"#;
        let found = lookup(config, "r.example:5000").await;
        assert_eq!(found, ("u".to_owned(), "p:q".to_owned()));
    }

    #[tokio::test]
    async fn an_identity_token_has_no_user() {
        let config = r#"{"auths":{"r":{"auth":"dTpw","identitytoken":"t"}}}"#;
        assert_eq!(lookup(config, "r").await, (String::new(), "t".to_owned()));
    }

    #[tokio::test]
    async fn nothing_is_anonymous() {
        assert_eq!(lookup("{}", "r").await, (String::new(), String::new()));
    }

    #[test]
    fn a_missing_file_is_an_empty_one() {
        assert!(DockerConfig::load(Path::new("/nonexistent/folder")).is_ok());
    }
}
