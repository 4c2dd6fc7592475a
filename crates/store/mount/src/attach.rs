//! Mounts at a path, with a guard; bind mounts and memory.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

/// A mount at a path. Dropping it unmounts; whoever still has files open there keeps them.
#[derive(Debug)]
#[must_use = "dropping the guard unmounts"]
pub struct Attached {
    target: Option<PathBuf>,
}

impl Attached {
    pub(crate) fn new(target: &Path) -> Self {
        Self {
            target: Some(target.to_owned()),
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.target.as_deref().unwrap_or(Path::new(""))
    }

    /// Unmounts and tells whether it worked.
    pub fn unmount(mut self) -> io::Result<()> {
        match self.target.take() {
            Some(target) => Ok(rustix::mount::unmount(&target, DETACH)?),
            None => Ok(()),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(target) = self.target.take()
            && let Err(err) = rustix::mount::unmount(&target, DETACH)
        {
            tracing::warn!(target = %target.display(), error = %err, "mount left behind");
        }
    }
}

const DETACH: UnmountFlags = UnmountFlags::DETACH.union(UnmountFlags::NOFOLLOW);

/// Mounts the directory or file `source`, with what is mounted below it, at `target`.
///
/// Both paths are used as they are; a path inside a tree is to be opened there and given as `/proc/self/fd/N`.
pub fn bind(source: &Path, target: &Path, readonly: bool) -> io::Result<Attached> {
    match clone_tree(source, readonly) {
        Ok(tree) => {
            place(&tree, target)?;
            Ok(Attached::new(target))
        }
        Err(err) if err.raw_os_error() == Some(libc::ENOSYS) => {
            rustix::mount::mount_bind_recursive(source, target)?;
            let attached = Attached::new(target);
            if readonly {
                rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")?;
            }
            Ok(attached)
        }
        Err(err) => Err(err),
    }
}

/// A filesystem in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tmpfs {
    /// Bytes; 0: the kernel's default of half the memory.
    pub size: u64,
    /// Mode of the root directory, e.g. 0o1777; absent: the kernel's default.
    pub mode: Option<u32>,
    /// `nosuid`, `nodev`, `noexec` are mount flags; anything else goes to the filesystem as `key` or `key=value`.
    pub options: Vec<String>,
}

impl Tmpfs {
    /// The mount, attached nowhere yet.
    pub fn movable(&self) -> io::Result<OwnedFd> {
        let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", "tmpfs")?;
        if self.size > 0 {
            rustix::mount::fsconfig_set_string(context.as_fd(), "size", self.size.to_string())?;
        }
        if let Some(mode) = self.mode {
            rustix::mount::fsconfig_set_string(context.as_fd(), "mode", format!("{mode:o}"))?;
        }
        let mut flags = MountAttrFlags::empty();
        for option in &self.options {
            match option.as_str() {
                "nosuid" => flags |= MountAttrFlags::MOUNT_ATTR_NOSUID,
                "nodev" => flags |= MountAttrFlags::MOUNT_ATTR_NODEV,
                "noexec" => flags |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "ro" => flags |= MountAttrFlags::MOUNT_ATTR_RDONLY,
                "rw" => {}
                other => match other.split_once('=') {
                    Some((key, value)) => {
                        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
                    }
                    None => rustix::mount::fsconfig_set_flag(context.as_fd(), other)?,
                },
            }
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        Ok(rustix::mount::fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            flags,
        )?)
    }

    /// Mounts at `target` until the guard is dropped.
    pub fn attach(&self, target: &Path) -> io::Result<Attached> {
        place(&self.movable()?, target)?;
        Ok(Attached::new(target))
    }
}

/// A detached copy of what an open directory or file shows, with what is mounted below it; private, read-only if asked
/// for. For places inside a tree: the caller resolves the path there and hands in the descriptor.
///
/// Places in a detached mount can be copied since Linux 6.15; before, the mount must be attached somewhere.
pub fn movable_at(place: BorrowedFd<'_>, readonly: bool) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(place, c"", flags)?;
    set_attributes(&tree, readonly)?;
    Ok(tree)
}

/// A detached copy of the mount at `source`, with what is mounted below it; private, read-only if asked for.
pub(crate) fn clone_tree(source: &Path, readonly: bool) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, source, flags)?;
    set_attributes(&tree, readonly)?;
    Ok(tree)
}

/// Attaches a detached mount at `target` until the guard is dropped.
pub fn attach(mount: &OwnedFd, target: &Path) -> io::Result<Attached> {
    place(mount, target)?;
    Ok(Attached::new(target))
}

/// Moves a detached mount to its place.
pub(crate) fn place(mount: &OwnedFd, target: &Path) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    Ok(rustix::mount::move_mount(mount, c"", CWD, target, flags)?)
}

/// Makes a detached mount private and, if asked for, read-only, with everything below.
fn set_attributes(mount: &OwnedFd, readonly: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: if readonly { libc::MOUNT_ATTR_RDONLY } else { 0 },
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the descriptor is open for the whole call, the path is a constant C string, and `attr` is a live
    // `mount_attr` of exactly the size that is passed; the kernel only reads it.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
