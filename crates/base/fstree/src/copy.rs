//! Copies entries of trees without copying bytes where the file system can share them.
//!
//! [`content`] fills one file from another. A [`Batch`] takes [`Task`]s, one per entry that is no directory, and runs
//! them on several threads, and [`Links`], files of a directory that all get one more name; who walks the source makes the directories and, when all tasks are done, sets their times.
//! [`tree`] does all of that for a whole tree.
//!
//! Invariant: a task never writes to an inode it did not make itself. What stands in the way is removed, so an inode
//! shared with another tree stays as it is.

mod batch;
mod linked;
mod links;
mod task;
mod tree;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::io::Errno;

pub use batch::Batch;
pub use linked::LinkedFiles;
pub use links::Links;
pub use task::{Attributes, Existing, Outcome, Task, copy_xattrs};
pub use tree::tree;

/// The most that is asked of the kernel at once.
const RANGE: usize = 1 << 30;
/// Buffer of the copy by hand.
const BUFFER: usize = 256 << 10;
/// Below this size one read and one write cost less than asking for shared extents.
const SMALL: u64 = 16 << 10;

/// How content came to its new place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The extents are shared.
    Shared,
    /// The kernel copied.
    Range,
    /// We copied.
    Buffer,
}

/// Fills the empty file `target` with the content of `source`, both at offset zero. `size` is what stat said.
///
/// Tries to share extents, then `copy_file_range`, then reads and writes.
pub fn content(source: &File, target: &File, size: u64) -> io::Result<How> {
    if size > SMALL {
        if rustix::fs::ioctl_ficlone(target, source).is_ok() {
            return Ok(How::Shared);
        }
        match ranges(source, target) {
            Ok(true) => return Ok(How::Range),
            Ok(false) => {}
            Err(err) => return Err(err),
        }
    }
    by_hand(source, target, size)?;
    Ok(How::Buffer)
}

/// Whether the kernel copied everything; `false` when it could not even begin.
fn ranges(source: impl AsFd, target: impl AsFd) -> io::Result<bool> {
    let mut begun = false;
    loop {
        match rustix::fs::copy_file_range(&source, None, &target, None, RANGE) {
            Ok(0) => return Ok(begun),
            Ok(_) => begun = true,
            Err(Errno::INTR) => {}
            Err(
                Errno::NOSYS
                | Errno::XDEV
                | Errno::PERM
                | Errno::IO
                | Errno::OPNOTSUPP
                | Errno::INVAL,
            ) if !begun => return Ok(false),
            Err(err) => return Err(err.into()),
        }
    }
}

fn by_hand(mut source: &File, mut target: &File, size: u64) -> io::Result<()> {
    let room = usize::try_from(size).unwrap_or(BUFFER).saturating_add(1);
    let mut buffer = vec![0; room.min(BUFFER)];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => target.write_all(&buffer[..len])?,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(size: usize) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        std::fs::write(&from, &bytes).expect("write");
        let source = File::open(&from).expect("open");
        let target = File::create(&to).expect("create");
        content(&source, &target, size as u64).expect("copy");
        assert_eq!(std::fs::read(&to).expect("read"), bytes);
    }

    #[test]
    fn content_of_every_size_arrives() {
        for size in [0, 1, 4096, SMALL as usize, SMALL as usize + 1, 3 << 20] {
            check(size);
        }
    }

    #[test]
    fn a_file_that_claims_no_size_is_read_to_its_end() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let source = File::open("/proc/self/status").expect("open");
        let to = dir.path().join("to");
        let target = File::create(&to).expect("create");
        content(&source, &target, 0).expect("copy");
        assert!(!std::fs::read(&to).expect("read").is_empty());
    }
}
