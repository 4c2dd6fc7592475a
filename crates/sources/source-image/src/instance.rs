//! One image source of one build, resolved once.

use async_trait::async_trait;
use cache::RecordType;
use oci::{Platform, Reference};
use progress::Progress;
use registry::Sessions;
use session::Group;
use source::{Instance, Key};
use tasks::Cx;
use tokio::sync::OnceCell;

use crate::attrs::Attrs;
use crate::image::Image;
use crate::{Error, Images, key};

/// An image that a build starts from.
pub(crate) struct ImageInstance {
    images: Images,
    attrs: Attrs,
    platform: Platform,
    resolved: OnceCell<Resolved>,
}

/// What became of the name.
struct Resolved {
    image: Image,
    root_key: String,
    layers_key: Option<String>,
}

impl ImageInstance {
    pub(crate) fn new(images: Images, attrs: Attrs, platform: Platform) -> Self {
        Self {
            images,
            attrs,
            platform,
            resolved: OnceCell::new(),
        }
    }

    fn reference(&self) -> &Reference {
        &self.attrs.reference
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
        let reference = self.reference();
        let _status = progress.status(&format!("resolve {reference}"), "");
        let who = Sessions::credentials(sessions);
        let found = self.images.image(cx, &who, reference, &self.platform);
        let image = found.await?;
        if let Some(expected) = &self.attrs.checksum
            && *expected != image.root.digest
        {
            return Err(Error::Checksum {
                actual: image.root.digest,
                expected: expected.clone(),
                name: reference.to_string(),
            });
        }
        // Refused here rather than when somebody looks inside.
        let provider = self.images.0.client.provider(who, reference);
        let limit = self.attrs.limit;
        image.layers(reference, &provider, limit)?;
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
            // The sessions of now: those that resolved the name may be gone.
            let who = Sessions::credentials(sessions);
            let provider = self.images.0.client.provider(who, self.reference());
            let layers = resolved
                .image
                .layers(self.reference(), &provider, self.attrs.limit)?;
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
}
