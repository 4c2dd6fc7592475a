//! Results as images: into the content store and a registry (`image`), or as an archive for the client (`oci`,
//! `docker`).
//!
//! 1. [`compose`] makes the documents (config, manifest, index) of layers and metadata. Pure.
//! 2. [`commit`] gets the layers, composes, and puts the documents into the store. The same for all kinds.
//! 3. [`archive`] lists the members of an archive and writes it; [`image`] pushes.
//!
//! How blobs come to be is not known here (`cache`, `layer`), nor how they travel (`registry`, `filesync`).

mod annotations;
mod archive;
mod attest;
mod commit;
mod compose;
mod directory;
mod image;
mod layout;
mod options;
mod supplement;

use std::collections::BTreeMap;
use std::sync::Arc;

use content::Store;
use export::{Error, Exporter, Instance};

use image::Image;
use layout::Layout;
use options::{ArchiveOptions, CommitOptions, ImageOptions};

/// The exporters `image`, `oci` and `docker`.
#[derive(Clone)]
pub struct ImageExporter {
    content: Store,
    registry: registry::Client,
}

impl std::fmt::Debug for ImageExporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageExporter").finish_non_exhaustive()
    }
}

impl ImageExporter {
    /// Exporters that keep documents in `content`, where the layers are, and push with `registry`.
    pub fn new(content: Store, registry: registry::Client) -> Self {
        Self { content, registry }
    }
}

/// What kind of image is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Oci,
    Docker,
}

impl Exporter for ImageExporter {
    fn kinds(&self) -> &'static [&'static str] {
        &["image", "oci", "docker"]
    }

    fn resolve(
        &self,
        kind: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Arc<dyn Instance>, Error> {
        let kind = match kind {
            "oci" => Kind::Oci,
            "docker" => Kind::Docker,
            _ => Kind::Image,
        };
        let (commit, rest) = CommitOptions::parse(kind, attrs)?;
        Ok(match kind {
            Kind::Image => Arc::new(Image {
                content: self.content.clone(),
                registry: self.registry.clone(),
                options: ImageOptions::parse(&rest)?,
                commit,
            }),
            Kind::Oci | Kind::Docker => Arc::new(Layout {
                content: self.content.clone(),
                options: ArchiveOptions::parse(&rest)?,
                commit,
                kind,
            }),
        })
    }
}
