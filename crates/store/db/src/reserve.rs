//! Room set aside on the disk: a full one can still be told what is to be removed.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::FallocateFlags;

/// Enough for the removal of some thousand records.
const SIZE: u64 = 1 << 20;

/// A file of blocks nobody uses. Where the filesystem cannot set blocks aside, there is none.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    /// Sets the room aside, or finds it set aside.
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut reserve = Self { path, held: false };
        reserve.fill();
        reserve
    }

    /// Sets the room aside again, if there is any.
    pub(crate) fn fill(&mut self) {
        if self.held {
            return;
        }
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path);
        let filled = file.is_ok_and(|file| {
            rustix::fs::fallocate(file, FallocateFlags::empty(), 0, SIZE).is_ok()
        });
        self.held = true;
        if !filled {
            self.spend();
        }
    }

    /// Gives the room to whoever needs it now; whether there was any.
    pub(crate) fn spend(&mut self) -> bool {
        std::mem::take(&mut self.held) && std::fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn what_is_set_aside_can_be_spent_once_and_be_filled_again() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("reserve");
        let mut reserve = Reserve::new(path.clone());
        let held = std::fs::metadata(&path).expect("made").blocks() * 512;
        assert!(held >= SIZE, "{held} bytes");
        assert!(reserve.spend());
        assert!(!path.exists());
        assert!(!reserve.spend());
        reserve.fill();
        assert!(path.exists());
    }
}
