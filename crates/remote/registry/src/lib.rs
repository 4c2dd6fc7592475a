//! Registries: resolving names, pulling and pushing blobs, logging in.
//!
//! [`Client`] is what a daemon has one of. It knows mirrors, certificates and limits per host from its [`Config`], keeps
//! connections and tokens, and asks [`Credentials`] only when a registry answers that it wants some.
//! What an image is made of is not decided here: manifests are read only to find what must be pushed with them.

mod again;
mod auth;
mod config;
mod credentials;
mod error;
mod fetch;
mod hosts;
mod known;
mod limit;
mod push;
mod referrers;
mod repository;
mod resolve;
mod retry;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use content::{Provider, Store};
use oci::{Descriptor, Digest, Reference};
use progress::Progress;
use tasks::{Cx, OnceMap};

use auth::Keys;
use hosts::Hosts;
use known::{Known, Names};
use limit::Limits;
use wire::Access;

pub use config::{Config, HostConfig, KeyPair};
pub use credentials::{Anonymous, Credentials, Login, Sessions};
pub use error::{Broken, Error, Refusal, Status, UnexpectedStatus};
pub use push::Standing;
pub use repository::Repository;
pub use wire::unanswered;

/// A client of all registries. Clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    hosts: Hosts,
    keys: Keys,
    limits: Limits,
    known: Known,
    names: Names,
    /// Blobs on their way to a repository, as domain, path and digest.
    uploads: OnceMap<(String, String, Digest), ()>,
}

/// What to push and where.
#[derive(Clone)]
pub struct Push<'a> {
    /// The repository, and the tag the root gets (`latest` when there is neither tag nor digest).
    pub reference: &'a Reference,
    /// The root gets no tag, only its digest. `reference` must not have a tag then.
    pub by_digest: bool,
    /// Accept any certificate, or none (`registry.insecure`).
    pub insecure: bool,
    /// A manifest or an index. It, its children and their configs are in the store.
    pub root: &'a Descriptor,
    /// What is known of blobs that may be missing in the store, or that need not be uploaded.
    pub origins: &'a BTreeMap<Digest, Origin>,
}

/// Where a blob comes from.
#[derive(Clone, Default)]
pub struct Origin {
    /// Brings it when it is not in the store.
    pub provider: Option<Arc<dyn Provider>>,
    /// `(host, repository)` where it is known to be: `("docker.io", "library/busybox")`. Such blobs are mounted.
    pub repositories: Vec<(String, String)>,
}

impl Client {
    /// A client for this configuration. Nothing is read or connected yet.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Inner {
            limits: Limits::new(config.concurrency),
            hosts: Hosts::new(config),
            keys: Keys::new(),
            known: Known::default(),
            names: Names::default(),
            uploads: OnceMap::default(),
        }))
    }

    /// What a name stands for now. The descriptor has media type, digest and size. A build that asked a moment ago is
    /// answered from memory.
    pub async fn resolve(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        reference: &Reference,
    ) -> Result<Descriptor, Error> {
        let reference = reference.with_default_tag();
        if let Some(found) = self.0.names.get(&**who, &reference) {
            return Ok(found);
        }
        let (domain, path) = (reference.domain(), reference.path());
        let access = Access::pull(&self.0, cx, &**who, domain, path);
        let hosts = self.0.hosts.pull_from(domain, false).await?;
        let found = cx
            .run(resolve::resolve(&access, &hosts, &reference))
            .await??;
        self.0.names.set(&**who, &reference, &found);
        Ok(found)
    }

    /// What refers to a manifest of the repository of `reference`: signatures of it and the like. The descriptors say
    /// what each is.
    pub async fn referrers(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        reference: &Reference,
        manifest: &Digest,
    ) -> Result<Vec<Descriptor>, Error> {
        let (domain, path) = (reference.domain(), reference.path());
        let access = Access::pull(&self.0, cx, &**who, domain, path);
        let hosts = self.0.hosts.pull_from(domain, false).await?;
        cx.run(referrers::referrers(&access, &hosts, manifest))
            .await?
    }

    /// A small document (manifest, config) of the repository of `reference`, from the store if it is there, else
    /// fetched into it.
    pub async fn read(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        reference: &Reference,
        blob: &Descriptor,
        store: &Store,
    ) -> Result<Bytes, Error> {
        if !store.contains(&blob.digest) {
            let progress = Progress::none();
            self.fetch(cx, who, reference, blob, store, &progress)
                .await?;
        }
        self.0
            .known
            .add(reference.domain(), reference.path(), &blob.digest);
        let (store, digest) = (store.clone(), blob.digest.clone());
        Ok(tasks::blocking(move || store.read(&digest)).await?)
    }

    /// Makes a blob of the repository of `reference` present in the store.
    pub async fn fetch(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        reference: &Reference,
        blob: &Descriptor,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), Error> {
        let repository = self.repository(who.clone(), reference, false);
        repository.fetch(cx, blob, store, progress).await
    }

    /// What can [`fetch`](Self::fetch) blobs of the repository of `reference` later.
    pub fn provider(&self, who: Arc<dyn Credentials>, reference: &Reference) -> Arc<dyn Provider> {
        Arc::new(self.repository(who, reference, false))
    }

    /// Whether this blob came from, or went to, the repository of `reference` since the daemon started. Then it need
    /// not be asked for again when the store still has it.
    pub fn has_seen(&self, reference: &Reference, blob: &Digest) -> bool {
        let known = self.0.known.repositories(reference.domain(), blob);
        known.contains(reference.path())
    }

    /// Pushes a manifest or index and all below it: blobs beside each other, then manifests, the root last.
    pub async fn push(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        push: &Push<'_>,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), Error> {
        push::push(self, cx, who, push, store, progress).await
    }
}

/// The annotation under which a descriptor tells the repositories of a registry that have the blob.
const SOURCE: &str = "containerd.io/distribution.source.";

impl Origin {
    /// What the annotations of a layer's descriptor tell.
    pub fn of(blob: &Descriptor, provider: Option<Arc<dyn Provider>>) -> Self {
        let told = blob
            .annotations
            .iter()
            .filter_map(|(name, value)| Some((name.strip_prefix(SOURCE)?, value)));
        let repositories = told
            .flat_map(|(host, value)| {
                let each = value.split(',').filter(|one| !one.is_empty());
                each.map(move |one| (host.to_owned(), one.to_owned()))
            })
            .collect();
        Self {
            provider,
            repositories,
        }
    }

    /// Notes in `blob` that the repository of `reference` has it.
    pub fn note(blob: &mut Descriptor, reference: &Reference) {
        let name = format!("{SOURCE}{}", reference.domain());
        blob.annotations.insert(name, reference.path().to_owned());
    }
}
