//! Remote caches: what one daemon knows of its results, written down so that another finds them.
//!
//! The contract of a family: a [`Kind`] of cache (`registry`, `local`, …) makes [`Importer`]s and [`Exporter`]s. What all
//! kinds share is here, and none of it knows where blobs go:
//!
//! * [`Graph`] is a cache in memory: records, the links between them, and chains of layers as their results.
//! * [`document`] is that graph as upstream's format has it, byte for byte; [`manifest`] and [`inline`] say where in
//!   an image, an index or an image's config such a document stands.
//! * [`mounts`] are what cache mounts hold: they may travel beside a cache.
//! * [`collect`] makes a graph of what a build knows, [`Imported`] lets the solver look things up in one.
//!
//! The rules are those of upstream, so that either side's caches hit on the other. Everything walks without recursion
//! and takes time in proportion to the graph.

mod available;
mod backlinks;
mod chains;
mod collect;
pub mod document;
mod error;
mod graph;
pub mod inline;
mod layers;
pub mod manifest;
pub mod mounts;
mod order;
mod parse;
mod read;
mod store;
mod walk;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use content::Store;
use progress::Progress;
use session::Group;
use tasks::Cx;

pub use collect::{Collect, Mode, Results, Root, collect};
pub use error::Error;
pub use graph::{Alternative, Graph, ItemId, Placed};
pub use layers::{Blob, LayerId, Layers, Now, Origin, Whence};
pub use parse::parse;
pub use read::{Documents, read};
pub use store::{Found, Imported};
pub use write::write;

/// What an import or an export works with.
#[derive(Clone)]
pub struct Work {
    /// Cancellation.
    pub cx: Cx,
    /// Its vertex.
    pub progress: Progress,
    /// The sessions of the build.
    pub sessions: Group,
    /// The daemon's blobs.
    pub store: Store,
}

/// A kind of remote cache.
pub trait Kind: Send + Sync {
    /// `registry`, `local`, …
    fn name(&self) -> &'static str;

    /// Checks the options of an import. `None`: this kind cannot be imported.
    fn importer(
        &self,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Option<Arc<dyn Importer>>, Error>;

    /// Checks the options of an export.
    fn exporter(&self, attrs: &BTreeMap<String, String>) -> Result<Arc<dyn Exporter>, Error>;
}

/// A cache to read.
#[async_trait]
pub trait Importer: Send + Sync {
    /// Reads what there is. No layer is fetched.
    async fn import(&self, work: &Work) -> Result<Graph, Error>;
}

/// A cache to write.
#[async_trait]
pub trait Exporter: Send + Sync {
    /// Vertex name, `exporting cache to registry` and the like.
    fn name(&self) -> &'static str;

    /// What new layers should be like.
    fn layers(&self) -> layer::Options;

    /// Whether the cache goes into the images that the build exports instead.
    fn is_inline(&self) -> bool {
        false
    }

    /// Writes it. The answer goes to the client.
    async fn export(&self, work: &Work, graph: &Graph) -> Result<BTreeMap<String, String>, Error>;
}
