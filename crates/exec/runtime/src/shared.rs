//! Writable overlays that several containers use at once.
//!
//! The kernel must not mount the same upper directory twice. So the first container that needs such a mount makes it,
//! attached nowhere, and the others get clones, for as long as anybody has one. Kernels that cannot clone such mounts
//! get them attached on the host.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use executor::overlays::{Overlay, Overlays};
use parking_lot::Mutex;

use crate::mounts::{clone_fd, clone_path};

/// From this version on, kernels clone mounts that are attached nowhere.
const CLONES_DETACHED: (u32, u32) = (6, 15);

/// Overlays in use.
#[derive(Debug)]
pub(crate) enum SharedOverlays {
    /// By upper directory.
    Detached(Mutex<HashMap<PathBuf, Weak<OwnedFd>>>),
    Attached(Overlays),
}

/// Keeps an overlay alive.
#[derive(Debug)]
#[allow(dead_code, reason = "held for their drop")]
pub(crate) enum Held {
    Detached(Arc<OwnedFd>),
    Attached(Arc<Overlay>),
}

impl SharedOverlays {
    /// `place` is a directory for mounts, should the kernel need one.
    pub(crate) fn new(kernel: (u32, u32), place: PathBuf) -> Self {
        if kernel < CLONES_DETACHED {
            return Self::Attached(Overlays::new(place));
        }
        Self::Detached(Mutex::default())
    }

    /// Makes sure the writable overlays among these mounts exist, for as long as the result lives.
    pub(crate) fn hold<'a>(
        &self,
        mounts: impl Iterator<Item = &'a mount::Mount>,
    ) -> io::Result<Vec<Held>> {
        mounts
            .filter_map(|mount| match mount {
                mount::Mount::Overlay {
                    upper: Some(upper), ..
                } => Some((mount, upper)),
                _ => None,
            })
            .map(|(mount, upper)| match self {
                Self::Attached(overlays) => overlays.attach(mount).map(Held::Attached),
                Self::Detached(mounted) => {
                    // Invariant: held while mounting, so that nobody mounts the same directory meanwhile.
                    let mut mounted = mounted.lock();
                    mounted.retain(|_, overlay| overlay.strong_count() > 0);
                    if let Some(overlay) = mounted.get(&upper.dir).and_then(Weak::upgrade) {
                        return Ok(Held::Detached(overlay));
                    }
                    let overlay = Arc::new(mount.movable()?);
                    mounted.insert(upper.dir.clone(), Arc::downgrade(&overlay));
                    Ok(Held::Detached(overlay))
                }
            })
            .collect()
    }

    /// A mount of an overlay that is held.
    pub(crate) fn tree(&self, mount: &mount::Mount) -> io::Result<OwnedFd> {
        let mount::Mount::Overlay {
            upper: Some(upper), ..
        } = mount
        else {
            return mount.movable();
        };
        match self {
            Self::Attached(overlays) => clone_path(overlays.attach(mount)?.path(), false),
            Self::Detached(mounted) => {
                let overlay = mounted.lock().get(&upper.dir).and_then(Weak::upgrade);
                overlay.map_or_else(
                    || mount.movable(),
                    |overlay| clone_fd(overlay.as_fd(), false),
                )
            }
        }
    }
}
