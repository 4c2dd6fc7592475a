//! When a file may get one more name instead of being copied, and which inode that is.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use fstree::copy::LinkedFiles;
use fstree::{Meta, Root, path};
use rustix::fs::{AtFlags, Mode, OFlags};

/// What a copy needs to know to share inodes. See the crate's documentation for the promises behind it.
///
/// When the target is an overlay, new directories are filled in its upper directory directly. The mount that `target`
/// was read through may not notice: look at the result through a new one.
#[derive(Debug)]
pub struct Sharing<'a> {
    /// The real directories behind the source, nearest first; the source itself if it is no overlay.
    pub source_layers: &'a [Root],
    /// The real directory that takes what is written to the target: the upper directory of an overlay, or the target.
    pub target_layer: &'a Root,
    /// What is shared into the target and the trees below it already; grows.
    pub used: &'a mut SharedInodes,
    /// Which names the copy made; none when one of its sources may have replaced files of another.
    pub linked: &'a mut Vec<LinkedFiles>,
}

/// The inodes that were shared into a tree, as (device, inode), in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedInodes(Vec<(u64, u64)>);

impl SharedInodes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this inode has a name in the tree.
    pub fn contains(&self, inode: (u64, u64)) -> bool {
        self.0.binary_search(&inode).is_ok()
    }

    /// Adds those of another tree.
    pub fn join(&mut self, other: Self) {
        self.add(other.0);
    }

    /// Adds all of `inodes`.
    pub(crate) fn add(&mut self, inodes: Vec<(u64, u64)>) {
        if self.0.is_empty() {
            self.0 = inodes;
        } else {
            self.0.extend(inodes);
        }
        self.0.sort_unstable();
        self.0.dedup();
    }

    /// For keeping: 16 bytes per inode, sorted.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * 16);
        for (dev, ino) in &self.0 {
            bytes.extend_from_slice(&dev.to_le_bytes());
            bytes.extend_from_slice(&ino.to_le_bytes());
        }
        bytes
    }

    /// What [`SharedInodes::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if !bytes.len().is_multiple_of(16) {
            return None;
        }
        let word = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
        let pairs = bytes.chunks_exact(16);
        let inodes = pairs.map(|pair| Some((word(&pair[..8])?, word(&pair[8..])?)));
        let mut found = Self::new();
        found.add(inodes.collect::<Option<_>>()?);
        Some(found)
    }
}

/// A source directory in its tree and in the layers behind it.
#[derive(Debug, Clone)]
pub(crate) struct From {
    pub dir: Arc<OwnedFd>,
    /// Its resolved path.
    pub at: Arc<Path>,
    layers: Vec<Arc<OwnedFd>>,
    /// The tree is its own only layer.
    pub plain: bool,
}

/// A real inode that may get another name.
pub(crate) type Candidate = ((u64, u64), Arc<OwnedFd>);

impl From {
    /// The directory at a resolved path of the source.
    pub fn open(source: &Root, at: &Path, layers: Option<&[Root]>) -> std::io::Result<Self> {
        let dir = source.open_with(at, DIR | OFlags::NOFOLLOW, Mode::empty())?;
        let layers = layers.unwrap_or_default();
        let plain = matches!(layers, [only] if same_dir(only, source));
        let open = |layer: &Root| layer.open_with(at, DIR | OFlags::NOFOLLOW, Mode::empty());
        Ok(Self {
            dir: Arc::new(dir),
            at: at.into(),
            layers: if plain {
                Vec::new()
            } else {
                layers
                    .iter()
                    .filter_map(|layer| open(layer).ok())
                    .map(Arc::new)
                    .collect()
            },
            plain,
        })
    }

    /// A directory in this one.
    pub fn enter(&self, name: &CStr) -> rustix::io::Result<Self> {
        let open = |dir: &OwnedFd| {
            rustix::fs::openat(dir, name, DIR | OFlags::NOFOLLOW, Mode::empty()).map(Arc::new)
        };
        Ok(Self {
            dir: open(&self.dir)?,
            at: path::join(&self.at, name.to_bytes()).into(),
            layers: (self.layers.iter())
                .filter_map(|layer| open(layer).ok())
                .collect(),
            plain: self.plain,
        })
    }

    /// The inode behind a regular file, if it can be told.
    pub fn candidate(&self, name: &CStr, meta: &Meta) -> Option<Candidate> {
        if self.plain {
            return Some((meta.inode(), self.dir.clone()));
        }
        for layer in &self.layers {
            let Ok(stat) = rustix::fs::statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let real = Meta::from(&stat);
            // An overlay shows the inode numbers of its layers when they share a file system.
            let same = real.is_file()
                && real.ino == meta.ino
                && (real.size, real.mtime, real.mode) == (meta.size, meta.mtime, meta.mode);
            return same.then(|| (real.inode(), layer.clone()));
        }
        None
    }
}

const DIR: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Whether two roots are the same directory of the same mount's file system.
pub(crate) fn same_dir(left: &Root, right: &Root) -> bool {
    let inode = |root: &Root| {
        let stat = rustix::fs::fstat(root.fd().as_fd()).ok()?;
        Some(Meta::from(&stat).inode())
    };
    inode(left).is_some() && inode(left) == inode(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shared_survives_being_stored() {
        let mut used = SharedInodes::new();
        used.add(vec![(u64::MAX, 0), (1, 2)]);
        used.add(vec![(1, 3), (1, 2)]);
        assert_eq!(used.to_bytes().len(), 3 * 16);
        assert!(used.contains((1, 3)) && !used.contains((2, 1)));
        assert_eq!(SharedInodes::from_bytes(&used.to_bytes()), Some(used));
        assert_eq!(SharedInodes::from_bytes(b"x"), None);
    }
}
