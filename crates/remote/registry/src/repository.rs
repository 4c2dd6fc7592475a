//! One repository and the way to speak to it: for caches, whose documents and layers go there one by one.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use content::{Provider, Store};
use http::{Method, StatusCode};
use oci::{Descriptor, Digest, Reference};
use progress::Progress;
use tasks::Cx;

use crate::fetch::Fetch;
use crate::resolve::others;
use crate::wire::{Access, Request};
use crate::{Client, Credentials, Error, Origin, Standing, push, resolve};

/// A repository as a place to get blobs from and to put them.
#[derive(Clone)]
pub struct Repository {
    pub(crate) client: Client,
    pub(crate) who: Arc<dyn Credentials>,
    pub(crate) reference: Reference,
    pub(crate) insecure: bool,
}

impl Client {
    /// The repository of `reference`. `insecure`: accept any certificate, or none.
    pub fn repository(
        &self,
        who: Arc<dyn Credentials>,
        reference: &Reference,
        insecure: bool,
    ) -> Repository {
        Repository {
            client: self.clone(),
            who,
            reference: reference.clone(),
            insecure,
        }
    }
}

impl Repository {
    fn access<'a>(&'a self, cx: &'a Cx) -> Access<'a> {
        let (domain, path) = (self.reference.domain(), self.reference.path());
        let mut access = Access::pull(&self.client.0, cx, &*self.who, domain, path);
        access.purpose.insecure = self.insecure;
        access
    }

    /// What the name stands for at this moment, even if it was asked for a moment ago.
    pub async fn resolve(&self, cx: &Cx) -> Result<Descriptor, Error> {
        let reference = self.reference.with_default_tag();
        let hosts = &self.client.0.hosts;
        let hosts = hosts.pull_from(reference.domain(), self.insecure).await?;
        let access = self.access(cx);
        cx.run(resolve::resolve(&access, &hosts, &reference))
            .await?
    }

    /// Makes a blob present in the store.
    pub async fn fetch(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), Error> {
        let inner = &self.client.0;
        let (domain, path) = (self.reference.domain(), self.reference.path());
        let fetch = Fetch {
            access: &self.access(cx),
            hosts: &inner.hosts.pull_from(domain, self.insecure).await?,
            gate: &inner.limits.of(domain),
            blob,
            store,
            progress,
            backoff: inner.hosts.config().backoff,
        };
        fetch.run().await?;
        inner.known.add(domain, path, &blob.digest);
        Ok(())
    }

    /// Whether a blob may be there: no host denies it.
    pub async fn may_have(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error> {
        let inner = &self.client.0;
        let domain = self.reference.domain();
        let hosts = inner.hosts.pull_from(domain, self.insecure).await?;
        let gate = inner.limits.of(domain);
        let _permit = gate.enter(cx, "").await?;
        let access = self.access(cx);
        let place = format!("blobs/{blob}");
        let request = Request::new(Method::HEAD, &place).accept("*/*");
        for (index, host) in hosts.iter().enumerate() {
            let sent = access.send(host, &request, others(index, hosts.len()));
            match sent.await {
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {}
                Err(err @ Error::Cancelled(_)) => return Err(err),
                // Whoever fetches it hears what is wrong.
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// A small document, from the store if it is there, else fetched into it.
    pub async fn read(&self, cx: &Cx, blob: &Descriptor, store: &Store) -> Result<Bytes, Error> {
        if !store.contains(&blob.digest) {
            self.fetch(cx, blob, store, &Progress::none()).await?;
        }
        let (store, digest) = (store.clone(), blob.digest.clone());
        Ok(tasks::blocking(move || store.read(&digest)).await?)
    }

    fn target(&self, store: &Store, progress: &Progress) -> push::Target {
        push::Target {
            client: self.client.clone(),
            who: self.who.clone(),
            reference: self.reference.clone(),
            insecure: self.insecure,
            store: store.clone(),
            progress: progress.clone(),
        }
    }

    /// Pushes a blob unless it is there.
    pub async fn push(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        origin: &Origin,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), Error> {
        self.target(store, progress).blob(cx, blob, origin).await
    }

    /// Pushes a manifest that is in the store, under the tag of the reference if it means that manifest. What it lists must be there already.
    pub async fn push_manifest(
        &self,
        cx: &Cx,
        manifest: &Descriptor,
        standing: Standing,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), Error> {
        // Compat: a name with a digest means that manifest alone; any other is pushed without a tag.
        let is_meant = self
            .reference
            .digest()
            .is_none_or(|it| *it == manifest.digest);
        let name = match self.reference.tag() {
            Some(tag) if is_meant => tag,
            None if self.reference.digest().is_none() => "latest",
            _ => manifest.digest.as_str(),
        };
        self.target(store, progress)
            .manifest(cx, manifest, name, standing)
            .await
    }
}

#[async_trait]
impl Provider for Repository {
    async fn fetch(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), content::Error> {
        let fetched = Self::fetch(self, cx, blob, store, progress);
        fetched.await.map_err(|err| match err {
            Error::Content(err) => err,
            Error::Cancelled(err) => err.into(),
            other => content::Error::provider(&other),
        })
    }
}
