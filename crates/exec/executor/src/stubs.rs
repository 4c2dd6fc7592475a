//! Mount points a runtime has to make inside a root, and taking them away again.
//!
//! A step's layer must not show where something was mounted. Before the run the missing ones are written down; after
//! it those still empty are removed, and the directory they were in keeps its times.

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use crate::rootfs::{Root, set_times};

/// Mount points that did not exist before the run, in the order they are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stubs {
    paths: Vec<PathBuf>,
}

impl Stubs {
    /// Looks which of these destinations do not exist. With `recursive`, directories missing on the way count too.
    pub fn note<'a>(
        root: &Root,
        destinations: impl Iterator<Item = &'a str>,
        recursive: bool,
    ) -> Self {
        let mut paths = Vec::new();
        for destination in ["/etc/resolv.conf", "/etc/hosts"]
            .into_iter()
            .chain(destinations)
        {
            // What cannot be resolved cannot be mounted on either; the mount will say so.
            let Ok(walk) = root.walk(Path::new(destination)) else {
                continue;
            };
            let mut path = walk.path();
            let levels = if recursive {
                walk.missing().len()
            } else {
                walk.missing().len().min(1)
            };
            // A directory that several of them need is tried after each: it is empty when the last one is gone.
            for _ in 0..levels {
                paths.push(path.clone());
                path.pop();
            }
        }
        Self { paths }
    }

    /// Removes those that are still empty.
    pub fn remove(&self, root: &Root) {
        for path in &self.paths {
            if let Err(err) = remove_one(root, path) {
                tracing::warn!(path = %path.display(), error = %err, "mount stub stays behind");
            }
        }
    }
}

fn remove_one(root: &Root, path: &Path) -> std::io::Result<()> {
    let walk = root.walk(path)?;
    let Some((parent, name)) = walk.parent().filter(|_| walk.exists()) else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(walk.at())?;
    let flags = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => AtFlags::REMOVEDIR,
        _ if stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(()),
    };
    if flags == AtFlags::REMOVEDIR && !is_empty(walk.at())? {
        return Ok(());
    }
    let before = rustix::fs::fstat(parent)?;
    rustix::fs::unlinkat(parent, name, flags)?;
    set_times(parent, &before)
}

fn is_empty(dir: std::os::fd::BorrowedFd<'_>) -> std::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOATIME;
    let fd = match rustix::fs::openat(dir, ".", flags, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => {
            rustix::fs::openat(dir, ".", flags.difference(OFlags::NOATIME), Mode::empty())?
        }
        other => other?,
    };
    for entry in rustix::fs::Dir::new(fd)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::Make;

    fn case(recursive: bool, destinations: &[&str], fill: &[&str]) -> Vec<String> {
        let dir = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(dir.path().join("etc/old")).expect("writable");
        let root = Root::open(dir.path()).expect("just made");
        let stubs = Stubs::note(&root, destinations.iter().copied(), recursive);
        for path in destinations
            .iter()
            .chain(&["/etc/hosts", "/etc/resolv.conf"])
        {
            let make = if path.starts_with("/etc/") {
                Make::File
            } else {
                Make::Dir
            };
            let walk = root.walk(Path::new(path)).expect("resolves");
            walk.complete(make, Mode::from_raw_mode(0o755), None)
                .expect("writable");
        }
        for path in fill {
            std::fs::write(dir.path().join(path), "x").expect("writable");
        }
        stubs.remove(&root);
        let mut left = Vec::new();
        list(dir.path(), dir.path(), &mut left);
        left.sort();
        left
    }

    fn list(base: &Path, dir: &Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("readable").flatten() {
            let path = entry.path();
            into.push(
                path.strip_prefix(base)
                    .expect("below")
                    .display()
                    .to_string(),
            );
            if path.is_dir() {
                list(base, &path, into);
            }
        }
    }

    #[test]
    fn nothing_is_left_of_a_deep_mount_point_in_recursive_mode() {
        assert_eq!(
            case(true, &["/mnt/a/b", "/c1/c2", "/etc/newf"], &[]),
            ["etc", "etc/old"]
        );
    }

    #[test]
    fn only_the_mount_point_itself_goes_without() {
        assert_eq!(
            case(false, &["/mnt/a/b"], &[]),
            ["etc", "etc/old", "mnt", "mnt/a"]
        );
    }

    #[test]
    fn a_directory_made_for_two_files_goes_with_the_second() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(dir.path()).expect("just made");
        let stubs = Stubs::note(&root, ["/a/b", "/a/c"].into_iter(), true);
        for path in ["etc/hosts", "etc/resolv.conf", "a/b", "a/c"] {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below")).expect("writable");
            std::fs::write(path, "").expect("writable");
        }
        stubs.remove(&root);
        let mut left = Vec::new();
        list(dir.path(), dir.path(), &mut left);
        assert_eq!(left, Vec::<String>::new());
    }

    #[test]
    fn what_was_filled_or_existed_before_stays() {
        assert_eq!(
            case(true, &["/mnt/a", "/etc/old"], &["mnt/a/file", "etc/hosts"]),
            ["etc", "etc/hosts", "etc/old", "mnt", "mnt/a", "mnt/a/file"]
        );
    }

    #[test]
    fn the_directory_around_keeps_its_times() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(dir.path()).expect("just made");
        let stubs = Stubs::note(&root, ["/new"].into_iter(), true);
        std::fs::create_dir(dir.path().join("new")).expect("writable");
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(7);
        std::fs::File::open(dir.path())
            .and_then(|file| file.set_modified(old))
            .expect("ours");
        stubs.remove(&root);
        assert!(!dir.path().join("new").exists());
        let time = std::fs::metadata(dir.path())
            .and_then(|meta| meta.modified())
            .expect("there");
        assert_eq!(time, old);
    }
}
