//! What cache mounts hold, as blobs beside a cache.
//!
//! A mount is a list of its files (a *tree*) and the bytes of all of them one after the other, cut into *chunks* where
//! the content says so: a small change changes one or two chunks, a new time of a file none. A *list* names the mounts
//! with the digests of their parts; the document of the cache names the list, and its manifest all of the blobs, so that
//! no registry takes them for garbage. Whoever does not know of this sees a cache as any other.
//!
//! What is written here is no part of a build's results, so a mount that cannot be read, or was written to meanwhile, is
//! left out rather than fail anything.

mod chunks;
mod pack;
mod spool;
mod tree;
mod unpack;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use content::Store;
use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use crate::layers::{Blob, Origin, Whence};
use crate::{Error, Work};

pub use pack::{Packed, Place, pack};
pub use spool::Spool;

/// The media type of a list of mounts.
const LIST: &str = "application/vnd.kiln.cachemounts.v1+json";
/// The media type of the files of a mount.
const TREE: &str = "application/vnd.kiln.cachemounts.tree.v1+zstd";
/// The media type of a piece of what is in them.
const CHUNK: &str = "application/vnd.kiln.cachemounts.chunk.v1+zstd";

/// A blob that belongs to mounts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Part {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: i64,
}

impl Part {
    fn of(bytes: &[u8]) -> Self {
        Self {
            digest: Digest::of(bytes),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
        }
    }

    fn descriptor(&self, media_type: &str) -> Descriptor {
        Descriptor::new(media_type, self.digest.clone(), self.size)
    }
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its id, as steps have it.
    pub id: String,
    /// The checksum of the tree it stands on, if it stands on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// Its files.
    pub tree: Part,
    /// What is in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<Part>,
}

impl Listed {
    /// Bytes of all its blobs.
    pub fn size(&self) -> u64 {
        let parts = self.chunks.iter().chain([&self.tree]);
        parts
            .map(|part| u64::try_from(part.size).unwrap_or(0))
            .sum()
    }

    fn descriptors(&self) -> impl Iterator<Item = Descriptor> {
        let chunks = self.chunks.iter().map(|chunk| chunk.descriptor(CHUNK));
        std::iter::once(self.tree.descriptor(TREE)).chain(chunks)
    }
}

/// All mounts of a cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// By id.
    pub mounts: Vec<Listed>,
}

/// Mounts that go out with a cache.
pub struct Outgoing {
    list: Part,
    blobs: Vec<Blob>,
    spool: Arc<Spool>,
}

impl Outgoing {
    /// These mounts, whose blobs are in the spool or where they came from. `None`: there are none.
    pub fn new(spool: Arc<Spool>, mounts: Vec<(Listed, Whence)>) -> Result<Option<Self>, Error> {
        if mounts.is_empty() {
            return Ok(None);
        }
        let mut seen = BTreeSet::new();
        let mut blobs = Vec::new();
        let mut add = |descriptor: Descriptor, whence: Whence| {
            if seen.insert(descriptor.digest.clone()) {
                blobs.push(Blob {
                    diff_id: descriptor.digest.clone(),
                    descriptor,
                    created: None,
                    description: String::new(),
                    whence,
                });
            }
        };
        let mut list = List::default();
        for (mount, whence) in &mounts {
            mount
                .descriptors()
                .for_each(|part| add(part, whence.clone()));
            list.mounts.push(mount.clone());
        }
        let order = |mount: &Listed| (mount.id.clone(), mount.base.clone());
        list.mounts.sort_by_key(order);
        let bytes = oci::json::compact(&list).map_err(Error::json("list of cache mounts"))?;
        let list = Part::of(&bytes);
        spool.store().put(&bytes)?;
        add(list.descriptor(LIST), Whence::Here);
        Ok(Some(Self { list, blobs, spool }))
    }

    /// What the document says.
    pub fn list(&self) -> &Part {
        &self.list
    }

    /// Everything that is to be sent, each blob once.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// How they are sent: not from the daemon's store, where nobody would ever remove them.
    pub fn work(&self, work: &Work) -> Work {
        Work {
            progress: progress::Progress::none(),
            store: self.spool.store().clone(),
            ..work.clone()
        }
    }
}

/// Mounts that came with a cache.
#[derive(Clone)]
pub struct Incoming {
    list: Part,
    origin: Arc<dyn Origin>,
}

impl Incoming {
    /// What a document says, and where its blobs are.
    pub(crate) fn new(list: &Part, origin: &Arc<dyn Origin>) -> Self {
        Self {
            list: list.clone(),
            origin: origin.clone(),
        }
    }

    /// Where the blobs are.
    pub fn whence(&self) -> Whence {
        Whence::Origin(self.origin.clone())
    }

    /// Which mounts there are. The store of `work` is the one to fetch into.
    pub async fn list(&self, work: &Work) -> Result<List, Error> {
        let bytes = self.fetch(work, &self.list.descriptor(LIST)).await?;
        serde_json::from_slice(&bytes).map_err(Error::json("list of cache mounts"))
    }

    /// Puts the files of a mount into a directory.
    pub async fn restore(
        &self,
        work: &Work,
        mount: &Listed,
        into: fstree::Root,
    ) -> Result<(), Error> {
        let tree = self.fetch(work, &mount.tree.descriptor(TREE)).await?;
        let provider = self.origin.provider(&work.sessions);
        let chunks = mount.chunks.iter().map(|part| part.descriptor(CHUNK));
        unpack::unpack(work, provider, tree, chunks.collect(), into).await
    }

    async fn fetch(&self, work: &Work, what: &Descriptor) -> Result<Bytes, Error> {
        let provider = self.origin.provider(&work.sessions);
        let Work {
            cx,
            store,
            progress,
            ..
        } = work;
        provider.fetch(cx, what, store, progress).await?;
        read(store, &what.digest).await
    }
}

async fn read(store: &Store, digest: &Digest) -> Result<Bytes, Error> {
    let (store, digest) = (store.clone(), digest.clone());
    Ok(tasks::blocking(move || store.read(&digest)).await?)
}

#[cfg(test)]
mod tests;
