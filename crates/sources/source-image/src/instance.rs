//! One image source of one build, resolved once.

use std::sync::Arc;

use async_trait::async_trait;
use cache::RecordType;
use oci::Platform;
use progress::Progress;
use session::Group;
use source::{Asked, Facts, Instance, Key, Memo};
use tasks::Cx;
use tokio::sync::OnceCell;

use crate::attrs::Attrs;
use crate::image::Image;
use crate::offline::Build;
use crate::place::Place;
use crate::{Error, Images, key};

/// An image that a build starts from.
pub(crate) struct ImageInstance {
    images: Images,
    attrs: Attrs,
    platform: Platform,
    memo: Arc<Memo>,
    resolved: OnceCell<Resolved>,
}

/// What became of the name.
struct Resolved {
    image: Image,
    root_key: String,
    layers_key: Option<String>,
}

impl ImageInstance {
    pub(crate) fn new(images: Images, attrs: Attrs, platform: Platform, memo: Arc<Memo>) -> Self {
        Self {
            images,
            attrs,
            platform,
            memo,
            resolved: OnceCell::new(),
        }
    }

    /// Where the image is, for the sessions of now: those that resolved the name may be gone.
    fn place(&self, sessions: &Group) -> Place {
        Place::new(&self.attrs.name, &self.images.0.client, sessions)
    }

    /// Who is told what users should know.
    fn build<'a>(&'a self, progress: &'a Progress) -> Build<'a> {
        let memo = &self.memo;
        Build { memo, progress }
    }

    async fn resolved(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
    ) -> Result<&Resolved, Error> {
        let resolve = || self.resolve(cx, sessions, progress);
        self.resolved.get_or_try_init(resolve).await
    }

    async fn resolve(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
    ) -> Result<Resolved, Error> {
        let place = self.place(sessions);
        let _status = progress.status(&format!("resolve {place}"), "");
        let found = self.images.image(
            cx,
            &place,
            self.attrs.mode,
            &self.platform,
            self.build(progress),
        );
        let image = found.await?;
        if let Some(expected) = &self.attrs.checksum
            && *expected != image.root.digest
        {
            return Err(Error::Checksum {
                actual: image.root.digest,
                expected: expected.clone(),
                name: place.to_string(),
            });
        }
        // Refused here rather than when somebody looks inside.
        let limit = self.attrs.limit;
        image.layers(&place, limit)?;
        Ok(Resolved {
            root_key: key::of_root(&image.root.digest, &self.platform, limit),
            layers_key: key::of_config(&image.config, limit)?,
            image,
        })
    }
}

#[async_trait]
impl Instance for ImageInstance {
    async fn key(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
        index: usize,
    ) -> Result<Key, source::Error> {
        let resolved = self.resolved(cx, sessions, progress).await;
        let resolved = resolved.map_err(|err| source::Error::new(&err))?;
        let text = match &resolved.layers_key {
            Some(layers) if index > 0 => layers,
            _ => &resolved.root_key,
        };
        Ok(Key {
            text: text.clone(),
            done: index > 0,
        })
    }

    async fn snapshot(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
    ) -> Result<Option<cache::Ref>, source::Error> {
        let tree = async {
            let resolved = self.resolved(cx, sessions, progress).await?;
            let layers = resolved
                .image
                .layers(&self.place(sessions), self.attrs.limit)?;
            let cache = self.images.0.cache.clone();
            let wanted = self.attrs.record_type;
            tasks::blocking(move || {
                let tree = cache.image(layers)?;
                if let Some(tree) = &tree
                    && wanted != RecordType::Regular
                    && tree.record_type() == RecordType::Regular
                {
                    tree.set_record_type(wanted)?;
                }
                Ok::<_, Error>(tree)
            })
            .await
        };
        tree.await.map_err(|err| source::Error::new(&err))
    }

    async fn facts(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
        asked: &Asked,
    ) -> Result<Facts, source::Error> {
        // What the build used counts, whatever the name has come to mean since.
        if let Some(resolved) = self.resolved.get()
            && asked.no_config
            && asked.attestations.is_none()
        {
            return Ok(Facts::Image {
                digest: resolved.image.root.digest.clone(),
                config: bytes::Bytes::new(),
                attested: None,
            });
        }
        let facts = async {
            let place = self.place(sessions);
            let reader = self.images.reader(cx, &place);
            let root = self
                .images
                .root(cx, &place, self.attrs.mode, self.build(progress))
                .await?;
            let attested = match &asked.attestations {
                Some(wanted) => Some(reader.attested(&root, &self.platform, wanted).await?),
                None => None,
            };
            let digest = root.digest.clone();
            let config = match asked.no_config {
                true => bytes::Bytes::new(),
                false => reader.image(root, &self.platform).await?.into_config()?,
            };
            Ok::<_, Error>(Facts::Image {
                digest,
                config,
                attested,
            })
        };
        facts.await.map_err(|err| source::Error::new(&err))
    }
}
