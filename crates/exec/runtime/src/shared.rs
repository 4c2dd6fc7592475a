//! Writable overlays that several containers use at once.
//!
//! The kernel must not mount the same upper directory twice. So the first container that needs such a mount makes it,
//! and the others get clones, for as long as anybody has one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::mounts::{clone_fd, clone_path};

/// From this version on, kernels clone mounts that are attached nowhere.
const CLONES_DETACHED: (u32, u32) = (6, 15);

/// Overlays in use, by upper directory.
#[derive(Debug)]
pub(crate) struct SharedOverlays {
    mounted: Mutex<HashMap<PathBuf, Weak<Overlay>>>,
    /// Where overlays are attached on older kernels; absent: nowhere.
    place: Option<PathBuf>,
    next: AtomicU64,
}

/// A mounted overlay.
#[derive(Debug)]
pub(crate) enum Overlay {
    Detached(OwnedFd),
    Attached(mount::Attached),
}

/// Keeps overlays of one container alive.
pub(crate) type Held = Vec<Arc<Overlay>>;

impl SharedOverlays {
    /// `place` is a directory for mounts, should the kernel need one.
    pub(crate) fn new(kernel: (u32, u32), place: PathBuf) -> Self {
        Self {
            mounted: Mutex::default(),
            place: (kernel < CLONES_DETACHED).then_some(place),
            next: AtomicU64::new(0),
        }
    }

    /// Makes sure the writable overlays among these mounts exist, for as long as the result lives.
    pub(crate) fn hold<'a>(
        &self,
        mounts: impl Iterator<Item = &'a mount::Mount>,
    ) -> io::Result<Held> {
        let mut held = Vec::new();
        for mount in mounts {
            let mount::Mount::Overlay {
                upper: Some(upper), ..
            } = mount
            else {
                continue;
            };
            // Invariant: held while mounting, so that nobody mounts the same directory meanwhile.
            let mut mounted = self.mounted.lock();
            mounted.retain(|_, overlay| overlay.strong_count() > 0);
            let known = mounted.get(&upper.dir).and_then(Weak::upgrade);
            let overlay = match known {
                Some(overlay) => overlay,
                None => {
                    let overlay = Arc::new(self.make(mount)?);
                    mounted.insert(upper.dir.clone(), Arc::downgrade(&overlay));
                    overlay
                }
            };
            held.push(overlay);
        }
        Ok(held)
    }

    fn make(&self, mount: &mount::Mount) -> io::Result<Overlay> {
        let Some(place) = &self.place else {
            return mount.movable().map(Overlay::Detached);
        };
        let target = place.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&target)?;
        mount.attach(&target).map(Overlay::Attached)
    }

    /// A mount of an overlay that is held.
    pub(crate) fn tree(&self, mount: &mount::Mount) -> io::Result<OwnedFd> {
        let mount::Mount::Overlay {
            upper: Some(upper), ..
        } = mount
        else {
            return mount.movable();
        };
        let overlay = self.mounted.lock().get(&upper.dir).and_then(Weak::upgrade);
        match overlay.as_deref() {
            Some(Overlay::Detached(fd)) => clone_fd(fd.as_fd(), false),
            Some(Overlay::Attached(attached)) => clone_path(attached.path(), false),
            None => mount.movable(),
        }
    }
}
