//! Images as sources: `docker-image://`.
//!
//! An image is known by its manifest and config; its layers become a lazy tree, fetched and unpacked when a step looks
//! inside. How a registry is spoken to is `registry`'s job, unpacking `cache`'s.

mod attrs;
mod error;
mod image;
mod instance;
mod key;

use std::sync::Arc;

use async_trait::async_trait;
use cache::Cache;
use oci::{Descriptor, Digest, Platform, Reference};
use progress::Progress;
use registry::{Client, Credentials, Sessions};
use session::Group;
use source::{Identifier, ImageResolver, Instance, ResolveImage, ResolvedImage, Source};
use tasks::{Cx, OnceMap};

pub use error::Error;

use attrs::Attrs;
use image::Image;

/// Images of registries, as sources of builds and as answers to frontends. Clones share everything.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    client: Client,
    cache: Cache,
    /// Names being resolved: asked for once, however many stages start from the same image.
    resolving: OnceMap<(Vec<String>, Reference), Descriptor>,
}

impl Images {
    /// Images that `client` pulls into `cache` and its store.
    pub fn new(client: Client, cache: Cache) -> Self {
        Self(Arc::new(Inner {
            client,
            cache,
            resolving: OnceMap::default(),
        }))
    }

    /// What `reference` stands for, without a request when its digest was seen in that repository before.
    async fn root(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        reference: &Reference,
    ) -> Result<Descriptor, Error> {
        if let Some(digest) = reference.digest()
            && self.0.client.has_seen(reference, digest)
            && let Some(known) = self.stored(digest).await
        {
            return Ok(known);
        }
        let key = (who.holders().to_vec(), reference.clone());
        let work = || self.0.client.resolve(cx, who, reference);
        let found = self.0.resolving.get_or_try(&key, work).await;
        // How long an answer is good for is the client's business.
        self.0.resolving.forget(&key);
        Ok(found?)
    }

    /// A manifest that is here already.
    async fn stored(&self, digest: &Digest) -> Option<Descriptor> {
        let (store, name) = (self.0.cache.content().clone(), digest.clone());
        let bytes = tasks::blocking(move || store.read(&name)).await.ok()?;
        let media_type = image::media_type(&bytes)?;
        let size = i64::try_from(bytes.len()).ok()?;
        Some(Descriptor::new(&media_type, digest.clone(), size))
    }

    /// Manifest and config of the best image for `platform`.
    async fn image(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<Image, Error> {
        let root = self.root(cx, who, reference).await?;
        let reader = image::Reader {
            cx,
            client: &self.0.client,
            who,
            reference,
            store: self.0.cache.content(),
        };
        reader.image(root, platform).await
    }
}

impl Source for Images {
    fn schemes(&self) -> &'static [&'static str] {
        &["docker-image"]
    }

    fn instance(&self, id: Identifier) -> Result<Arc<dyn Instance>, source::Error> {
        let attrs = Attrs::parse(&id).map_err(|err| source::Error::new(&err))?;
        let instance = instance::ImageInstance::new(self.clone(), attrs, id.platform);
        Ok(Arc::new(instance))
    }
}

#[async_trait]
impl ImageResolver for Images {
    async fn resolve(
        &self,
        cx: &Cx,
        sessions: &Group,
        _progress: &Progress,
        name: &str,
        wanted: &ResolveImage,
    ) -> Result<ResolvedImage, source::Error> {
        attrs::check_mode(&wanted.mode).map_err(|err| source::Error::new(&err))?;
        let reference = Reference::parse(name).map_err(|err| source::Error::new(&err))?;
        let reference = reference.with_default_tag();
        let platform = wanted.platform.clone().unwrap_or_else(Platform::host);
        let who = Sessions::credentials(sessions);
        let found = self.image(cx, &who, &reference, &platform).await;
        let image = found.map_err(|err| source::Error::new(&err))?;
        Ok(ResolvedImage {
            reference: reference.to_string(),
            digest: image.root.digest,
            config: image.config.to_vec(),
        })
    }
}
