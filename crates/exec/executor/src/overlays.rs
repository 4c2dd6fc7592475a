//! Writable overlays that several containers use at once, mounted on the host.
//!
//! The kernel must not mount the same upper directory twice. So the first container that needs such a mount makes it
//! at a place of its own, and all bind from there, for as long as anybody does.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use mount::{Attached, Mount};
use parking_lot::Mutex;

/// Overlays in use, by upper directory.
#[derive(Debug)]
pub struct Overlays {
    place: PathBuf,
    next: AtomicU64,
    mounted: Mutex<HashMap<PathBuf, Weak<Overlay>>>,
}

/// A mounted overlay. The last user's drop unmounts it.
#[derive(Debug)]
pub struct Overlay {
    path: PathBuf,
    attached: Option<Attached>,
}

impl Overlay {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.attached = None;
        if let Err(err) = std::fs::remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %err, "place of an overlay stays behind");
        }
    }
}

impl Overlays {
    /// Overlays at numbered places below `place`.
    pub fn new(place: PathBuf) -> Self {
        Self {
            place,
            next: AtomicU64::new(0),
            mounted: Mutex::default(),
        }
    }

    /// The overlay, mounted unless it is already. One that cannot be written is never shared.
    pub fn attach(&self, mount: &Mount) -> io::Result<Arc<Overlay>> {
        let Mount::Overlay {
            upper: Some(upper), ..
        } = mount
        else {
            return self.make(mount).map(Arc::new);
        };
        // Invariant: held while mounting, so that nobody mounts the same directory meanwhile.
        let mut mounted = self.mounted.lock();
        mounted.retain(|_, overlay| overlay.strong_count() > 0);
        if let Some(overlay) = mounted.get(&upper.dir).and_then(Weak::upgrade) {
            return Ok(overlay);
        }
        let overlay = Arc::new(self.make(mount)?);
        mounted.insert(upper.dir.clone(), Arc::downgrade(&overlay));
        Ok(overlay)
    }

    fn make(&self, mount: &Mount) -> io::Result<Overlay> {
        let path = self
            .place
            .join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&path)?;
        let mut overlay = Overlay {
            path,
            attached: None,
        };
        overlay.attached = Some(mount.attach(&overlay.path)?);
        Ok(overlay)
    }
}

/// Unmounts and removes what an earlier daemon left below `place`.
pub fn sweep(place: &Path) {
    for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
        let path = entry.path();
        // Not mounted after a restart of the machine; then this fails and does not matter.
        let _ = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
        if let Err(err) = std::fs::remove_dir(&path) {
            tracing::warn!(path = %path.display(), error = %err, "place of an overlay stays behind");
        }
    }
}
