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
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};

use crate::mounts::filesystem;
use crate::options::Options;
use crate::sys;

/// An almost empty mount namespace.
#[derive(Debug)]
pub(crate) struct Template {
    namespace: OwnedFd,
}

impl Template {
    /// Makes one. `place` is an empty directory; on the host nothing gets mounted there.
    pub(crate) fn new(place: &Path) -> io::Result<Self> {
        let place = place.to_owned();
        let made = std::thread::Builder::new()
            .name("template".to_owned())
            .spawn(move || make(&place))?;
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
fn make(place: &Path) -> io::Result<OwnedFd> {
    sys::unshare(libc::CLONE_NEWNS)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = rustix::fs::open("/proc/thread-self/ns/mnt", flags, Mode::empty())?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let data = vec![
        ("mode".to_owned(), Some("555".to_owned())),
        ("ro".to_owned(), None),
    ];
    let empty = filesystem(
        "tmpfs",
        "tmpfs",
        &Options {
            set: libc::MOUNT_ATTR_RDONLY,
            data,
            ..Options::default()
        },
    )?;
    move_mount(
        &empty,
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
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
