//! Images as sources: `docker-image://` of registries, `oci-layout://` of stores that clients offer, and single blobs of
//! either (`+blob`).
//!
//! An image is known by its manifest and config; its layers become a lazy tree, fetched and unpacked when a step looks
//! inside. How a registry is spoken to is `registry`'s job, unpacking `cache`'s.

mod attested;
mod attrs;
mod blob;
mod error;
mod image;
mod instance;
mod key;
mod names;
mod offline;
mod place;

use std::sync::Arc;

use cache::Cache;
use oci::{Descriptor, Digest, Platform, Reference};
use registry::{Client, Credentials};
use source::{Identifier, Instance, Memo, Source};
use tasks::{Cx, OnceMap};

pub use blob::Blobs;
pub use error::Error;
pub use offline::Offline;

use attrs::{Attrs, Mode};
use image::Image;
use names::Names;
use offline::Build;
use place::Place;

/// Images as sources of builds. Clones share everything.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

struct Inner {
    client: Client,
    cache: Cache,
    names: Names,
    offline: Offline,
    /// Names being resolved: asked for once, however many stages start from the same image.
    resolving: OnceMap<(Vec<String>, Reference), Descriptor>,
}

impl Images {
    /// Images that `client` pulls into `cache` and its store.
    pub fn new(client: Client, cache: Cache, offline: Offline) -> Self {
        Self(Arc::new(Inner {
            client,
            names: Names::new(cache.clone()),
            cache,
            offline,
            resolving: OnceMap::default(),
        }))
    }

    /// What a name stands for.
    async fn root(
        &self,
        cx: &Cx,
        place: &Place,
        mode: Mode,
        build: Build<'_>,
    ) -> Result<Descriptor, Error> {
        let (who, reference) = match place {
            Place::Registry { who, reference, .. } => (who, reference),
            Place::Layout { layout, store } => {
                return place::root(cx, layout, store, self.0.cache.content()).await;
            }
        };
        // Without a request when its digest was seen in that repository before.
        if let Some(digest) = reference.digest()
            && self.0.client.has_seen(reference, digest)
            && let Some(known) = self.stored(digest).await
        {
            return Ok(known);
        }
        // Better than upstream, which has no store of images and asks the registry in any case.
        if mode == Mode::Local
            && let Some(known) = self.known(reference)
        {
            build
                .warn(offline::Why::Local, reference, &known.digest)
                .await;
            return Ok(known);
        }
        match self.ask(cx, who, reference).await {
            Ok(found) => {
                self.0.names.set(reference, &found);
                Ok(found)
            }
            // Better than upstream, which fails: a registry that is down stops nobody who has the image.
            Err(Error::Registry(err)) if mode == Mode::Default && err.is_unreachable() => {
                let known = self.known(reference).ok_or(err)?;
                build
                    .warn(offline::Why::Unreachable, reference, &known.digest)
                    .await;
                Ok(known)
            }
            Err(err) => Err(err),
        }
    }

    /// What the name stood for, where that counts.
    fn known(&self, reference: &Reference) -> Option<Descriptor> {
        match self.0.offline {
            Offline::Warn => self.0.names.find(reference),
            Offline::Fail => None,
        }
    }

    async fn ask(
        &self,
        cx: &Cx,
        who: &Arc<dyn Credentials>,
        reference: &Reference,
    ) -> Result<Descriptor, Error> {
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

    fn reader<'a>(&'a self, cx: &'a Cx, place: &'a Place) -> image::Reader<'a> {
        image::Reader {
            cx,
            place,
            store: self.0.cache.content(),
        }
    }

    /// Manifest and config of the best image for `platform`.
    async fn image(
        &self,
        cx: &Cx,
        place: &Place,
        mode: Mode,
        platform: &Platform,
        build: Build<'_>,
    ) -> Result<Image, Error> {
        let root = self.root(cx, place, mode, build).await?;
        self.reader(cx, place).image(root, platform).await
    }
}

impl Source for Images {
    fn schemes(&self) -> &'static [&'static str] {
        &["docker-image", "oci-layout"]
    }

    fn instance(
        &self,
        id: Identifier,
        memo: &Arc<Memo>,
    ) -> Result<Arc<dyn Instance>, source::Error> {
        let attrs = Attrs::parse(&id).map_err(|err| source::Error::new(&err))?;
        let instance = instance::ImageInstance::new(self.clone(), attrs, id.platform, memo.clone());
        Ok(Arc::new(instance))
    }
}
