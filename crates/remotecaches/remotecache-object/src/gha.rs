//! `gha`: the cache service of GitHub's actions.

mod options;
mod service;
mod signing;
mod token;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use content::Store;
use futures::future::try_join_all;
use oci::{Descriptor, Digest};
use parking_lot::Mutex;
use remotecache::Error;
use reqwest::{Response, StatusCode};
use tasks::Cx;
use tokio::sync::OnceCell;
use url::Url;

use crate::attrs::Attrs;
use crate::http::{self, Body, accepted};
use crate::objects::Objects;

pub use signing::Signing;

use options::Options;
use service::{Saved, Service};

/// In front of the digests of blobs.
const BLOBS: &str = "buildkit-blob-1-";
/// How long to wait before looking whether the next index, whose name somebody has taken, is there.
const LOOK: Duration = Duration::from_secs(2);
/// Whoever is not done after so many looks is taken for dead.
const LOOKS: u32 = 8;

/// The entries of a service that belong to a cache.
pub(crate) struct Entries {
    service: Service,
    options: Options,
    /// Where blobs are that were looked up.
    places: Mutex<BTreeMap<Digest, Url>>,
    /// All keys of blobs, if the service's REST interface may be asked.
    known: OnceCell<Option<BTreeSet<String>>>,
    look: Duration,
    signing: Signing,
}

impl Entries {
    /// The newest index of a scope.
    async fn index(&self, cx: &Cx, scope: &str) -> Result<Option<Bytes>, Error> {
        let key = self.index_key(scope);
        // Names of indexes go on with a number; without the sign others that begin alike would be found.
        let Some(entry) = self.service.find(cx, &format!("{key}#")).await? else {
            return Ok(None);
        };
        let what = format!("failed to read cache index {}", entry.key);
        let answer = self.service.read(cx, &entry.url, 0).await?;
        let answer = accepted(&what, answer).await?;
        Ok(Some(cx.run(http::read(&what, answer)).await??))
    }

    /// Writes the index that is to be found from now on. An entry never changes, so each is a new one, numbered.
    async fn save_index(&self, cx: &Cx, key: &str, document: Bytes) -> Result<(), Error> {
        let body = Body::Bytes(document);
        let mut looked = 0;
        loop {
            let newest = self.service.find(cx, &format!("{key}#")).await?;
            let mut number = newest.map_or(Ok(0), |entry| number(&entry.key))?;
            loop {
                number += 1;
                let name = format!("{key}#{number}");
                match self.service.save(cx, &name, &body).await? {
                    Saved::New => return Ok(()),
                    // Somebody died in there: on to the next.
                    Saved::Taken if looked >= LOOKS => {}
                    Saved::Taken => break,
                }
            }
            tracing::debug!(key, "cache index is being written by somebody else");
            cx.run(tokio::time::sleep(self.look)).await?;
            looked += 1;
        }
    }

    /// What names of a scope's indexes begin with. Signed caches are apart from others.
    fn index_key(&self, scope: &str) -> String {
        self.options.index_key(scope) + self.signing.suffix()
    }

    fn not_found(blob: &Digest) -> Error {
        Error::Place {
            text: format!("blob {blob}: not found"),
            class: fault::Class::NotFound,
        }
    }

    async fn place(&self, cx: &Cx, blob: &Digest) -> Result<Option<Url>, Error> {
        let found = self.service.find(cx, &format!("{BLOBS}{blob}")).await?;
        let Some(entry) = found else {
            return Ok(None);
        };
        self.places.lock().insert(blob.clone(), entry.url.clone());
        Ok(Some(entry.url))
    }
}

/// The number of an index.
fn number(key: &str) -> Result<u64, Error> {
    let number = key.rsplit_once('#').and_then(|(_, text)| text.parse().ok());
    number.ok_or_else(|| Error::Place {
        text: format!("failed to parse {key} index"),
        class: fault::Class::Internal,
    })
}

#[async_trait]
impl Objects for Entries {
    const KIND: &'static str = "gha";
    const EXPORT: &'static str = "exporting to GitHub Actions Cache";

    fn configured(attrs: &Attrs<'_>) -> Result<Self, Error> {
        let options = Options::parse(attrs)?;
        Ok(Self {
            service: Service::new(http::client()?, &options),
            options,
            places: Mutex::default(),
            known: OnceCell::new(),
            look: LOOK,
            signing: attrs.signing.clone(),
        })
    }

    async fn documents(&self, cx: &Cx) -> Result<Vec<Bytes>, Error> {
        self.signing.check()?;
        let scopes = self.options.token.scopes.iter();
        let indexes = scopes.map(|scope| self.index(cx, &scope.scope));
        let documents = try_join_all(indexes).await?;
        Ok(documents.into_iter().flatten().collect())
    }

    async fn publish(&self, cx: &Cx, document: Bytes) -> Result<(), Error> {
        // First the signature: an index that is there without it would be refused.
        if let Some(signature) = self.signing.sign(cx, &document).await? {
            let key = format!("{BLOBS}{}-sig", Digest::of(&document));
            let body = Body::Bytes(signature);
            self.service.save(cx, &key, &body).await?;
        }
        let key = self.index_key(self.options.token.writable());
        self.save_index(cx, &key, document).await
    }

    async fn has(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error> {
        let known = self
            .known
            .get_or_try_init(|| self.service.all_keys(cx, &self.options, BLOBS));
        if let Some(keys) = known.await? {
            return Ok(keys.contains(&format!("{BLOBS}{blob}")));
        }
        Ok(self.place(cx, blob).await?.is_some())
    }

    async fn send(&self, cx: &Cx, blob: &Descriptor, store: &Store) -> Result<(), Error> {
        let body = Body::blob(store, &blob.digest)?;
        let key = format!("{BLOBS}{}", blob.digest);
        // If somebody else has taken the name, the blob is there or will be.
        self.service.save(cx, &key, &body).await.map(drop)
    }

    async fn open(&self, cx: &Cx, blob: &Digest, start: u64) -> Result<Response, Error> {
        let known = self.places.lock().get(blob).cloned();
        if let Some(url) = known {
            let answer = self.service.read(cx, &url, start).await?;
            if !matches!(
                answer.status(),
                StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND
            ) {
                return accepted("failed to read layer blob", answer).await;
            }
            // Addresses are good for some time only.
        }
        let url = self.place(cx, blob).await?;
        let url = url.ok_or_else(|| Self::not_found(blob))?;
        let answer = self.service.read(cx, &url, start).await?;
        accepted("failed to read layer blob", answer).await
    }
}

#[cfg(test)]
mod tests;
