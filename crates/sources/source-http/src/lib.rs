//! Files behind URLs: `http://` and `https://`.
//!
//! A file is downloaded to know its key, which is made of its content. Once here it is asked for with its entity tag,
//! so that it travels only when it changed. URLs of the host `buildkit-session` are uploads of the client.

mod attrs;
mod body;
mod client;
mod error;
mod facts;
mod key;
mod known;
mod name;

use std::sync::Arc;

use async_trait::async_trait;
use cache::Cache;
use oci::Digest;
use progress::Progress;
use session::Group;
use source::{Asked, Facts, HttpFacts, Identifier, Index, Instance, Key, Memo, Source};
use tasks::Cx;

pub use error::Error;

use attrs::Attrs;
use client::{Answer, Client};
use known::Known;

/// The source of files behind URLs. Clones share everything.
#[derive(Clone)]
pub struct Http(Arc<Inner>);

struct Inner {
    client: Client,
    cache: Cache,
    index: Index,
}

impl Http {
    /// Files go into `cache`; servers see `agent` as who asks.
    pub fn new(cache: Cache, agent: &str) -> Self {
        Self(Arc::new(Inner {
            client: Client::new(agent),
            index: Index::new(cache.clone(), known::TABLE),
            cache,
        }))
    }
}

impl Source for Http {
    fn schemes(&self) -> &'static [&'static str] {
        &["http", "https"]
    }

    fn instance(
        &self,
        id: Identifier,
        memo: &Arc<Memo>,
    ) -> Result<Arc<dyn Instance>, source::Error> {
        let attrs = Attrs::parse(&id)?;
        Ok(Arc::new(HttpInstance {
            memo_key: format!("http {}", attrs.url_key()),
            http: self.clone(),
            attrs,
            memo: memo.clone(),
        }))
    }
}

/// What a server said, and what it sent.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) digest: Digest,
    pub(crate) filename: String,
    /// Seconds since the epoch.
    pub(crate) modified: Option<i64>,
    pub(crate) tree: cache::Ref,
}

struct HttpInstance {
    http: Http,
    attrs: Attrs,
    memo: Arc<Memo>,
    memo_key: String,
}

impl HttpInstance {
    async fn resolved(&self, cx: &Cx, sessions: &Group) -> Result<Arc<Resolved>, Error> {
        let work = || async {
            let resolved = cx.run(self.http.resolve(cx, &self.attrs, sessions)).await;
            resolved?
        };
        self.memo.get_or_try(&self.memo_key, work).await
    }

    /// The file with the digest that is wanted.
    async fn pinned(
        &self,
        cx: &Cx,
        sessions: &Group,
        wanted: &Digest,
    ) -> Result<cache::Ref, Error> {
        if let Some(resolved) = self.memo.known::<Resolved>(&self.memo_key) {
            if resolved.digest == *wanted {
                return Ok(resolved.tree.clone());
            }
            return Err(Error::Changed {
                url: self.attrs.shown_url(),
                actual: resolved.digest.clone(),
                expected: wanted.clone(),
            });
        }
        let fetched = async {
            let known = self.http.known(&self.attrs.url_key());
            if let Some(known) = known.into_iter().find(|known| known.digest == *wanted) {
                return Ok(known.tree);
            }
            let answer = self.http.get(cx, &self.attrs, sessions, &[]).await?;
            let resolved = self.http.save(cx, &self.attrs, answer).await?;
            if resolved.digest != *wanted {
                return Err(Error::Mismatch {
                    actual: resolved.digest,
                    expected: wanted.clone(),
                });
            }
            Ok(resolved.tree)
        };
        cx.run(fetched).await?
    }
}

#[async_trait]
impl Instance for HttpInstance {
    async fn key(
        &self,
        cx: &Cx,
        sessions: &Group,
        _: &Progress,
        _: usize,
    ) -> Result<Key, source::Error> {
        let text = match &self.attrs.checksum {
            Some(digest) => {
                let filename = name::of(&self.attrs, None);
                key::text(&self.attrs, &filename, digest, None)
            }
            None => {
                let resolved = self.resolved(cx, sessions).await;
                let resolved = resolved.map_err(|err| source::Error::new(&err))?;
                let Resolved {
                    filename,
                    digest,
                    modified,
                    ..
                } = &*resolved;
                key::text(&self.attrs, filename, digest, *modified)
            }
        };
        Ok(Key { text, done: true })
    }

    async fn snapshot(
        &self,
        cx: &Cx,
        sessions: &Group,
        _: &Progress,
    ) -> Result<Option<cache::Ref>, source::Error> {
        let tree = match &self.attrs.checksum {
            Some(wanted) => self.pinned(cx, sessions, wanted).await,
            None => {
                let resolved = self.resolved(cx, sessions).await;
                resolved.map(|resolved| resolved.tree.clone())
            }
        };
        tree.map(Some).map_err(|err| source::Error::new(&err))
    }

    async fn facts(
        &self,
        cx: &Cx,
        sessions: &Group,
        _: &Progress,
        asked: &Asked,
    ) -> Result<Facts, source::Error> {
        let facts = async {
            if let (Some(digest), None) = (&self.attrs.checksum, &asked.http_checksum) {
                return Ok(HttpFacts {
                    digest: digest.clone(),
                    filename: name::of(&self.attrs, None),
                    last_modified: None,
                    checksum: None,
                });
            }
            let resolved = self.resolved(cx, sessions).await?;
            if let Some(expected) = &self.attrs.checksum
                && *expected != resolved.digest
            {
                return Err(Error::Changed {
                    url: self.attrs.shown_url(),
                    actual: resolved.digest.clone(),
                    expected: expected.clone(),
                });
            }
            let checksum = match &asked.http_checksum {
                Some(asked) => Some(facts::checksum(cx, &resolved, asked).await?),
                None => None,
            };
            Ok(HttpFacts {
                digest: resolved.digest.clone(),
                filename: resolved.filename.clone(),
                last_modified: resolved.modified,
                checksum,
            })
        };
        match facts.await {
            Ok(facts) => Ok(Facts::Http(facts)),
            Err(err) => Err(source::Error::new(&err)),
        }
    }
}

impl Http {
    /// Asks the server, with the tags of what is here already.
    async fn resolve(&self, cx: &Cx, attrs: &Attrs, sessions: &Group) -> Result<Resolved, Error> {
        let known = if attrs.is_upload() {
            Vec::new()
        } else {
            self.known(&attrs.url_key())
        };
        if !known.is_empty()
            && let Some(resolved) = self.probe(cx, attrs, sessions, &known).await
        {
            return Ok(resolved);
        }
        let answer = self.get(cx, attrs, sessions, &known).await?;
        if answer.is_not_modified() {
            let tag = answer.tag(&known).unwrap_or_default();
            let same = known::find(known, &tag);
            let same = same.ok_or(Error::NotModified { tag })?;
            return Ok(same.resolved(name::of(attrs, answer.headers())));
        }
        self.save(cx, attrs, answer).await
    }

    /// Asks for the tag alone: there are servers that send tags but do not look at those they get.
    async fn probe(
        &self,
        cx: &Cx,
        attrs: &Attrs,
        sessions: &Group,
        known: &[Known],
    ) -> Option<Resolved> {
        let answer = self.head(cx, attrs, sessions, known).await.ok()?;
        let tag = answer.tag(known)?;
        let same = known.iter().find(|known| known.tag == tag)?;
        Some(same.clone().resolved(name::of(attrs, answer.headers())))
    }

    async fn head(
        &self,
        cx: &Cx,
        attrs: &Attrs,
        sessions: &Group,
        known: &[Known],
    ) -> Result<Answer, Error> {
        let client = &self.0.client;
        client.head(cx, attrs, sessions, &known::tags(known)).await
    }

    async fn get(
        &self,
        cx: &Cx,
        attrs: &Attrs,
        sessions: &Group,
        known: &[Known],
    ) -> Result<Answer, Error> {
        let client = &self.0.client;
        client.get(cx, attrs, sessions, &known::tags(known)).await
    }
}
