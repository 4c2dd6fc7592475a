//! How much room a directory takes.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::Error;

/// How much room a directory takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the blocks that are its own. A file with names in several trees counts in each for its share of
    /// names, so that all trees together count it once.
    pub bytes: u64,
    /// The part of it that is such shares, and changes when names elsewhere come or go.
    pub shared: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Adds up a directory with everything below it on the same filesystem. What disappears meanwhile does not count.
pub fn usage(path: &Path) -> Result<Usage, Error> {
    let fail = |err: Errno| Error::io("measure", path)(err.into());
    let mut total = Usage::default();
    // Names seen of files that have several.
    let mut linked: HashMap<(u64, u64), Linked> = HashMap::new();
    let mut pending = match open(CWD, path) {
        Ok(directory) => vec![directory],
        Err(Errno::NOENT) => return Ok(total),
        Err(err) => return Err(fail(err)),
    };
    let mut device = None;
    while let Some(directory) = pending.pop() {
        let stat = rustix::fs::fstat(&directory).map_err(fail)?;
        if *device.get_or_insert(stat.st_dev) != stat.st_dev {
            continue;
        }
        total.bytes += blocks(&stat);
        total.inodes += 1;
        for entry in Dir::read_from(&directory).map_err(fail)? {
            let entry = match entry {
                Ok(entry) => entry,
                // What a directory that was removed says.
                Err(Errno::NOENT) => break,
                Err(err) => return Err(fail(err)),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                match open(&directory, CString::from(name)) {
                    Ok(found) => pending.push(found),
                    Err(Errno::NOENT) => {}
                    Err(err) => return Err(fail(err)),
                }
                continue;
            }
            match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if stat.st_nlink > 1 => {
                    let seen = linked.entry((stat.st_dev, stat.st_ino)).or_insert(Linked {
                        bytes: blocks(&stat),
                        // Its width differs between machines.
                        #[allow(clippy::useless_conversion)]
                        names: u64::from(stat.st_nlink),
                        seen: 0,
                    });
                    seen.seen += 1;
                }
                Ok(stat) => {
                    total.bytes += blocks(&stat);
                    total.inodes += 1;
                }
                Err(Errno::NOENT) => {}
                Err(err) => return Err(fail(err)),
            }
        }
    }
    for file in linked.values() {
        let share = file.bytes * file.seen.min(file.names) / file.names;
        total.bytes += share;
        if file.seen < file.names {
            total.shared += share;
        }
        total.inodes += 1;
    }
    Ok(total)
}

struct Linked {
    bytes: u64,
    names: u64,
    seen: u64,
}

fn open(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn blocks(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_gone_takes_no_room() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let gone = usage(&dir.path().join("gone")).expect("measured");
        assert_eq!(gone, Usage::default());
    }

    #[test]
    fn a_file_with_two_names_in_two_trees_counts_half_in_each() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&a).expect("made");
        std::fs::create_dir(&b).expect("made");
        let empty = usage(&a).expect("measured");
        std::fs::write(a.join("file"), vec![1; 1 << 20]).expect("written");
        let whole = usage(&a).expect("measured").bytes - empty.bytes;
        assert!(whole >= 1 << 20, "{whole}");
        std::fs::hard_link(a.join("file"), b.join("file")).expect("linked");
        let halves: Vec<u64> = [&a, &b]
            .iter()
            .map(|path| usage(path).expect("measured").bytes - empty.bytes)
            .collect();
        assert_eq!(halves, [whole / 2, whole / 2]);
        assert_eq!(usage(&a).expect("measured").shared, whole / 2);
        std::fs::hard_link(a.join("file"), a.join("again")).expect("linked");
        assert_eq!(
            usage(&a).expect("measured").bytes - empty.bytes,
            whole * 2 / 3
        );
    }
}
