//! The mount namespace containers' namespaces are copied from: an empty directory in memory, and nothing else.
//!
//! Copying this one instead of the daemon's saves copying and throwing away all mounts of the host for every
//! container. Throwing away is the expensive part, for the kernel waits until no processor looks at them any more.
//! And nothing of the host is ever in reach: a container's root covers the empty directory, which in turn covers what
//! the kernel itself started from.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use executor::rootfs::Root;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};

use crate::mounts::{attach, filesystem};
use crate::options::Options;
use crate::sys::{self, MountAttr};

/// An almost empty mount namespace.
#[derive(Debug)]
pub(crate) struct Template {
    namespace: OwnedFd,
}

impl Template {
    /// Makes one. `place` is an empty directory; on the host nothing gets mounted there.
    ///
    /// In a user namespace the kernel lets only those mount a /proc who see one already. There the template has the
    /// daemon's own, covered like everything else in it.
    pub(crate) fn new(place: &Path, in_user_namespace: bool) -> io::Result<Self> {
        let place = place.to_owned();
        let made = std::thread::Builder::new()
            .name("template".to_owned())
            .spawn(move || make(&place, in_user_namespace))?;
        let namespace = made.join().map_err(|_| io::Error::other("thread died"))??;
        Ok(Self { namespace })
    }

    /// Takes this thread, which must not share its root with others, into a copy of the namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        sys::setns(self.namespace.as_fd(), libc::CLONE_NEWNS)?;
        sys::unshare(libc::CLONE_NEWNS)
    }
}

/// Runs in a thread of its own, which ends in the new namespace.
fn make(place: &Path, with_proc: bool) -> io::Result<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNS)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty())?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let data = vec![("mode".to_owned(), Some("555".to_owned()))];
    let options = Options {
        data,
        ..Options::default()
    };
    let empty = filesystem("tmpfs", "tmpfs", &options)?;
    move_mount(
        &empty,
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    if with_proc {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let proc = open_tree(CWD, "/proc", flags)?;
        rustix::fs::mkdirat(&empty, "proc", Mode::from_raw_mode(0o555))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = rustix::fs::openat(&empty, "proc", flags, Mode::empty())?;
        attach(&proc, target.as_fd())?;
    }
    let closed = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    sys::mount_setattr(empty.as_fd(), false, &closed)?;
    rustix::process::fchdir(&empty)?;
    match rustix::process::pivot_root(".", ".") {
        // The old root is on top of the new one now, at the same place.
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The host runs from what the kernel started with, which cannot be put aside, only covered.
        Err(rustix::io::Errno::INVAL) => rustix::mount::mount_move(".", "/")?,
        Err(errno) => return Err(errno.into()),
    }
    Ok(namespace)
}

/// Covers the root of this thread's namespace with `root`, and makes that the thread's own.
pub(crate) fn take_root(root: &Root) -> io::Result<()> {
    move_mount(
        root.fd(),
        "",
        CWD,
        "/",
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    rustix::process::fchdir(root.fd())?;
    rustix::process::chroot(".")?;
    Ok(())
}
