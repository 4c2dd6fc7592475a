//! Files of one directory that get further names in another, without a look at each.

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::AtFlags;

use super::task::{Attributes, Existing, Outcome, Task};
use crate::error::Error;
use crate::meta::Meta;
use crate::path;

/// Regular files that get the same names in another directory, as [`Task::share`] would do with each: their attributes
/// are the wanted ones, and nobody will write to them in place.
#[derive(Debug)]
pub struct Links {
    /// Directory of the source.
    pub from_dir: Arc<OwnedFd>,
    /// Directory of the copies; may be `O_PATH`.
    pub to_dir: Arc<OwnedFd>,
    /// Where that is, for messages.
    pub at: PathBuf,
    /// What may stand in their way.
    pub existing: Existing,
    /// Each ends with a zero.
    names: Vec<u8>,
    len: usize,
}

impl Links {
    /// None yet.
    pub fn new(
        from_dir: Arc<OwnedFd>,
        to_dir: Arc<OwnedFd>,
        at: PathBuf,
        existing: Existing,
    ) -> Self {
        Self {
            from_dir,
            to_dir,
            at,
            existing,
            names: Vec::new(),
            len: 0,
        }
    }

    /// One more.
    pub fn add(&mut self, name: &CStr) {
        self.names.extend_from_slice(name.to_bytes_with_nul());
        self.len += 1;
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &CStr> {
        let names = self.names.split_inclusive(|byte| *byte == 0);
        names.filter_map(|name| CStr::from_bytes_with_nul(name).ok())
    }

    /// Gives them their names; copies what cannot be shared, and tells so.
    pub fn run(&self) -> Result<Outcome, Error> {
        let mut outcome = Outcome::Linked;
        for name in self.names() {
            let none = AtFlags::empty();
            if rustix::fs::linkat(&self.from_dir, name, &self.to_dir, name, none).is_err()
                && self.copy(name)? == Outcome::Copied
            {
                outcome = Outcome::Copied;
            }
        }
        Ok(outcome)
    }

    /// Something is in the way, or the inode cannot have another name.
    fn copy(&self, name: &CStr) -> Result<Outcome, Error> {
        let at = path::join(&self.at, name.to_bytes());
        let stat = rustix::fs::statat(&self.from_dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|err| Error::new("lstat", path::rooted(&at), err))?;
        let meta = Meta::from(&stat);
        let task = Task {
            from_dir: self.from_dir.clone(),
            from_name: name.to_owned(),
            meta,
            to_dir: self.to_dir.clone(),
            to_name: name.to_owned(),
            at,
            attributes: Attributes::of(&meta),
            existing: self.existing,
            share: Some((self.from_dir.clone(), name.to_owned())),
        };
        task.run()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::root::Root;

    #[test]
    fn files_get_their_names_whatever_is_in_the_way() {
        let (from, to) = (
            tempfile::tempdir().expect("a scratch folder"),
            tempfile::tempdir().expect("a scratch folder"),
        );
        for name in ["a", "b"] {
            std::fs::write(from.path().join(name), name).expect("write");
        }
        std::fs::write(to.path().join("b"), "old").expect("write");
        let open = |at: &std::path::Path| {
            let root = Root::open(at).expect("open");
            Arc::new(rustix::io::dup(root.fd()).expect("dup"))
        };
        let mut links = Links::new(
            open(from.path()),
            open(to.path()),
            PathBuf::new(),
            Existing::Replace,
        );
        assert!(links.is_empty());
        links.add(c"a");
        links.add(c"b");
        assert_eq!(links.len(), 2);
        assert_eq!(links.run().expect("linked"), Outcome::Linked);
        let inode =
            |dir: &tempfile::TempDir, name| std::fs::metadata(dir.path().join(name)).expect("stat");
        for name in ["a", "b"] {
            assert_eq!(inode(&from, name).ino(), inode(&to, name).ino(), "{name}");
        }

        std::fs::create_dir(to.path().join("c")).expect("mkdir");
        std::fs::write(from.path().join("c"), "c").expect("write");
        links.add(c"c");
        let err = links.run().expect_err("a directory stays");
        assert_eq!((err.op, err.path), ("remove", PathBuf::from("/c")));
    }
}
