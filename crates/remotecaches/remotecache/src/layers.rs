//! The layers that results are made of, each with the one below it, and what is known of their blobs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use cache::{ImageLayer, LayerBlob};
use content::{Provider, Store};
use oci::{Descriptor, Digest, Timestamp};
use progress::Progress;
use session::Group;
use tasks::{Cx, Scope};
use tokio::sync::mpsc;

use crate::{Error, Work};

/// The annotation with the digest of the uncompressed tar.
pub(crate) const DIFF_ID: &str = "containerd.io/uncompressed";
/// The annotation with the time a layer was made.
pub(crate) const CREATED: &str = "buildkit/createdat";
/// The annotation with what users see.
pub(crate) const DESCRIPTION: &str = "buildkit/description";

/// A layer on top of certain others. The same blob on top of others is another layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub(crate) usize);

/// Where blobs of a cache can be had, for whichever sessions ask.
#[async_trait]
pub trait Origin: Send + Sync {
    /// Brings blobs on behalf of these sessions.
    fn provider(&self, sessions: &Group) -> Arc<dyn Provider>;

    /// Whether it is gone when the client is.
    fn ends_with_client(&self) -> bool {
        false
    }

    /// Whether a blob can still be had, where that is cheap to find out.
    async fn has(&self, cx: &Cx, sessions: &Group, blob: &Digest) -> bool {
        let _ = (cx, sessions, blob);
        true
    }
}

/// The sessions that can be asked now; those of a moment ago may be gone.
pub type Now = Arc<dyn Fn() -> Group + Send + Sync>;

/// Brings blobs on behalf of whoever is there when they are needed.
struct Late {
    origin: Arc<dyn Origin>,
    sessions: Now,
}

#[async_trait]
impl Provider for Late {
    async fn fetch(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), content::Error> {
        let provider = self.origin.provider(&(self.sessions)());
        provider.fetch(cx, blob, store, progress).await
    }
}

/// Where a blob is.
#[derive(Clone)]
pub enum Whence {
    /// In the daemon's store, or nowhere.
    Here,
    /// Somebody brings it.
    Provider(Arc<dyn Provider>),
    /// The cache that was imported brings it.
    Origin(Arc<dyn Origin>),
}

/// A blob that is a layer.
#[derive(Clone)]
pub struct Blob {
    /// As a manifest lists it.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// What users see.
    pub description: String,
    /// Where it is.
    pub whence: Whence,
}

impl Blob {
    /// From the descriptor of an imported cache; `None` when that does not say what is needed.
    pub fn imported(mut descriptor: Descriptor, origin: &Arc<dyn Origin>) -> Option<Self> {
        // They are for caches only: an image made of the layer must not have them.
        let mut annotation = |key| descriptor.annotations.remove(key);
        let diff_id = annotation(DIFF_ID)?.parse().ok()?;
        let created = annotation(CREATED).and_then(|text| text.parse::<Timestamp>().ok());
        let described = annotation(DESCRIPTION);
        let description = described.unwrap_or_else(|| format!("imported {}", descriptor.digest));
        Some(Self {
            diff_id,
            created: created.map(SystemTime::from),
            description,
            whence: Whence::Origin(origin.clone()),
            descriptor,
        })
    }

    /// What can bring the blob when it is not in the store.
    pub fn provider(&self, sessions: &Group) -> Option<Arc<dyn Provider>> {
        match &self.whence {
            Whence::Here => None,
            Whence::Provider(provider) => Some(provider.clone()),
            Whence::Origin(origin) => Some(origin.provider(sessions)),
        }
    }
}

impl From<LayerBlob> for Blob {
    fn from(layer: LayerBlob) -> Self {
        Self {
            descriptor: layer.descriptor,
            diff_id: layer.diff_id,
            created: layer.created,
            description: layer.description,
            whence: layer.provider.map_or(Whence::Here, Whence::Provider),
        }
    }
}

/// All layers of a cache.
#[derive(Default)]
pub struct Layers {
    entries: Vec<Entry>,
    index: HashMap<(Digest, Option<LayerId>), LayerId>,
    blobs: BTreeMap<Digest, Blob>,
}

struct Entry {
    blob: Digest,
    parent: Option<LayerId>,
    /// How many layers there are up to this one.
    height: usize,
}

impl Layers {
    /// The layer that `blob` makes on top of `parent`.
    pub fn add(&mut self, blob: Blob, parent: Option<LayerId>) -> LayerId {
        let digest = blob.descriptor.digest.clone();
        self.blobs.entry(digest.clone()).or_insert(blob);
        self.place(&digest, parent)
    }

    /// The layer of a blob that is known.
    pub(crate) fn place(&mut self, blob: &Digest, parent: Option<LayerId>) -> LayerId {
        let key = (blob.clone(), parent);
        if let Some(known) = self.index.get(&key) {
            return *known;
        }
        let id = LayerId(self.entries.len());
        let height = parent.map_or(0, |parent| self.height(parent)) + 1;
        self.entries.push(Entry {
            blob: blob.clone(),
            parent,
            height,
        });
        self.index.insert(key, id);
        id
    }

    /// Notes a blob.
    pub(crate) fn know(&mut self, blob: Blob) {
        let digest = blob.descriptor.digest.clone();
        self.blobs.entry(digest).or_insert(blob);
    }

    /// Changes what is known of every blob.
    pub fn edit(&mut self, mut change: impl FnMut(&mut Blob)) {
        self.blobs.values_mut().for_each(&mut change);
    }

    /// A blob by its digest.
    pub fn blob(&self, digest: &Digest) -> Option<&Blob> {
        self.blobs.get(digest)
    }

    /// The digest of a layer's blob.
    pub fn digest(&self, layer: LayerId) -> &Digest {
        &self.entries[layer.0].blob
    }

    /// The layer below.
    pub fn parent(&self, layer: LayerId) -> Option<LayerId> {
        self.entries[layer.0].parent
    }

    /// How many layers there are up to this one.
    pub fn height(&self, layer: LayerId) -> usize {
        self.entries[layer.0].height
    }

    /// The layers up to this one, the lowest first.
    pub fn chain(&self, layer: LayerId) -> Vec<LayerId> {
        let mut chain = self.downwards(layer).collect::<Vec<_>>();
        chain.reverse();
        chain
    }

    /// This layer and those below, the lowest last.
    pub(crate) fn downwards(&self, layer: LayerId) -> impl Iterator<Item = LayerId> {
        std::iter::successors(Some(layer), |at| self.parent(*at))
    }

    /// The layers of these results and all below them, in the order they were met.
    pub(crate) fn reached(&self, tops: impl Iterator<Item = LayerId>) -> Vec<LayerId> {
        let mut seen = HashSet::new();
        let mut order = Vec::new();
        for top in tops {
            let start = order.len();
            order.extend(self.downwards(top).take_while(|layer| seen.insert(*layer)));
            order[start..].reverse();
        }
        order
    }

    /// All blobs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.blobs.values()
    }

    /// The blobs of the layers up to this one.
    pub(crate) fn blobs_below(&self, layer: LayerId) -> impl Iterator<Item = &Blob> {
        let layers = self.downwards(layer);
        layers.filter_map(|layer| self.blob(self.digest(layer)))
    }

    /// A result as the cache takes it.
    pub(crate) fn image(&self, layer: LayerId, sessions: &Now) -> Option<Vec<ImageLayer>> {
        let mut layers = Vec::with_capacity(self.height(layer));
        for id in self.chain(layer) {
            let blob = self.blob(self.digest(id))?;
            layers.push(ImageLayer {
                descriptor: blob.descriptor.clone(),
                diff_id: blob.diff_id.clone(),
                provider: match &blob.whence {
                    Whence::Here => return None,
                    Whence::Provider(provider) => provider.clone(),
                    Whence::Origin(origin) => Arc::new(Late {
                        origin: origin.clone(),
                        sessions: sessions.clone(),
                    }),
                },
                created: blob.created,
                description: blob.description.clone(),
            });
        }
        Some(layers)
    }
}

/// Those of these blobs that some cache was to bring and cannot.
pub(crate) async fn missing(
    work: &Work,
    blobs: impl Iterator<Item = &Blob>,
) -> Result<HashSet<Digest>, Error> {
    let mut scope: Scope<Error> = Scope::new(&work.cx, "look for blobs");
    let (told, mut hear) = mpsc::unbounded_channel();
    for blob in blobs {
        let digest = &blob.descriptor.digest;
        let Whence::Origin(origin) = &blob.whence else {
            continue;
        };
        // What has addresses of its own need not be where the cache is.
        if work.store.contains(digest) || !blob.descriptor.urls.is_empty() {
            continue;
        }
        let (cx, sessions, told) = (scope.cx().clone(), work.sessions.clone(), told.clone());
        let (origin, digest) = (origin.clone(), digest.clone());
        scope.spawn("look for blob", async move {
            if !origin.has(&cx, &sessions, &digest).await {
                // The receiver lives until all tasks have ended.
                let _ = told.send(digest);
            }
            Ok(())
        });
    }
    drop(told);
    scope.join().await?;
    let mut missing = HashSet::new();
    while let Some(digest) = hear.recv().await {
        missing.insert(digest);
    }
    Ok(missing)
}
