//! What most tests of this crate start with.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use content::Store;
use oci::{Descriptor, Digest, Reference, media_type};
use registry::{Anonymous, Client, Config, Credentials, HostConfig, Login};
use session::Secret;
use tasks::Cx;
use tempfile::TempDir;

/// A client and a store.
pub struct World {
    pub cx: Cx,
    pub client: Client,
    pub store: Store,
    _dir: TempDir,
}

impl World {
    pub fn new() -> Self {
        Self::with(Config::default())
    }

    pub fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config {
            backoff: Duration::from_millis(5),
            ..config
        };
        Self {
            cx: Cx::root(),
            client: Client::new(config),
            store: Store::open(dir.path()).expect("a store"),
            _dir: dir,
        }
    }

    /// One whose client asks `mirror` before `host`.
    pub fn mirrored(host: String, mirror: &str) -> Self {
        let mut config = Config::default();
        let mirrors = HostConfig {
            mirrors: vec![mirror.to_owned()],
            ..HostConfig::default()
        };
        config.hosts.insert(host, mirrors);
        Self::with(config)
    }

    pub async fn resolve(
        &self,
        who: &Arc<dyn Credentials>,
        name: &str,
    ) -> Result<Descriptor, String> {
        let found = self.client.resolve(&self.cx, who, &reference(name)).await;
        found.map_err(|err| fault::chain(&err))
    }

    /// Why the name cannot be resolved, and whether that is because nobody could be reached.
    pub async fn unreachable(&self, name: &str) -> (bool, String) {
        let (who, reference) = (nobody(), reference(name));
        let found = self.client.resolve(&self.cx, &who, &reference).await;
        let err = found.expect_err("no such name");
        (err.is_unreachable(), fault::chain(&err))
    }

    pub async fn fetch(&self, name: &str, blob: &Descriptor) -> Result<(), String> {
        let progress = progress::Progress::none();
        let fetched = self
            .client
            .fetch(
                &self.cx,
                &nobody(),
                &reference(name),
                blob,
                &self.store,
                &progress,
            )
            .await;
        fetched.map_err(|err| fault::chain(&err))
    }
}

pub fn reference(name: &str) -> Reference {
    Reference::parse(name).expect("a reference")
}

pub fn nobody() -> Arc<dyn Credentials> {
    Arc::new(Anonymous)
}

pub fn layer(bytes: &[u8]) -> Descriptor {
    let size = i64::try_from(bytes.len()).expect("small");
    Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(bytes), size)
}

/// Somebody with a name and a password.
pub struct Somebody {
    pub session: Vec<String>,
    pub login: Login,
}

impl Somebody {
    pub fn with(session: &str, username: &str, secret: &str) -> Arc<dyn Credentials> {
        Arc::new(Self {
            session: vec![session.to_owned()],
            login: Login {
                username: username.to_owned(),
                secret: Secret::new(secret.to_owned()),
            },
        })
    }
}

#[async_trait]
impl Credentials for Somebody {
    fn holders(&self) -> &[String] {
        &self.session
    }

    async fn login(&self, _: &Cx, _: &str) -> Result<Option<(String, Login)>, session::Error> {
        Ok(Some((self.session[0].clone(), self.login.clone())))
    }
}
