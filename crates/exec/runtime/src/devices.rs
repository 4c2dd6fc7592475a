//! Device nodes and links below a container's /dev.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use executor::rootfs::{Make, Root};
use executor::spec::Device;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::mounts;

/// What every container has: name, major, minor.
const STANDARD: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("random", 1, 8),
    ("full", 1, 7),
    ("tty", 5, 0),
    ("zero", 1, 5),
    ("urandom", 1, 9),
];

/// Links every container has: name and target.
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

const ANYBODY: u32 = 0o666;

/// A device of the host, to be bound at its place in a container.
#[derive(Debug)]
pub(crate) struct Bound {
    place: PathBuf,
    tree: OwnedFd,
}

/// The host's own nodes of the standard devices and these, for daemons that may not make any.
pub(crate) fn of_host(more: &[Device]) -> io::Result<Vec<Bound>> {
    let standard = STANDARD
        .iter()
        .map(|(name, ..)| Path::new("/dev").join(name));
    let places = standard.chain(more.iter().map(|device| PathBuf::from(&device.path)));
    let bound = |place: PathBuf| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match open_tree(CWD, &place, flags) {
            Ok(tree) => Some(Ok(Bound { place, tree })),
            // Compat: what the host does not have is left out.
            Err(Errno::NOENT) => None,
            Err(errno) => Some(Err(io::Error::from(errno))),
        }
    };
    places.filter_map(bound).collect()
}

/// Puts the host's devices at their places.
pub(crate) fn bind(root: &Root, devices: &[Bound]) -> io::Result<()> {
    devices.iter().try_for_each(|device| {
        let target = mounts::mount_point(root, &device.place, Make::File)?;
        mounts::attach(&device.tree, target.as_fd())
    })
}

/// Makes the standard devices and these. The thread's umask must be 0.
pub(crate) fn make(root: &Root, more: &[Device]) -> io::Result<()> {
    let dev = directory(root)?;
    // First, so that a standard device can be had with other numbers or rights.
    more.iter().try_for_each(|device| one(root, device))?;
    for (name, major, minor) in STANDARD {
        let made = rustix::fs::mknodat(
            &dev,
            name,
            FileType::CharacterDevice,
            Mode::from_raw_mode(ANYBODY),
            makedev(major, minor),
        );
        unless_there(made)?;
    }
    Ok(())
}

fn directory(root: &Root) -> io::Result<OwnedFd> {
    root.walk(Path::new("/dev"))?
        .complete(Make::Dir, Mode::from_raw_mode(0o755), None)
}

/// Makes the links below /dev; `kcore` tells whether there is something behind /proc/kcore.
pub(crate) fn link(root: &Root, kcore: bool) -> io::Result<()> {
    let dev = directory(root)?;
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &dev, name) {
            Err(Errno::EXIST) if name == "ptmx" => {
                // A device node would open the host's terminals.
                rustix::fs::unlinkat(&dev, name, AtFlags::empty())?;
                rustix::fs::symlinkat(target, &dev, name)?;
            }
            made => unless_there(made)?,
        }
    }
    if kcore {
        unless_there(rustix::fs::symlinkat("/proc/kcore", &dev, "core"))?;
    }
    Ok(())
}

fn one(root: &Root, device: &Device) -> io::Result<()> {
    let path = Path::new(&device.path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let dir = root
        .walk(parent)?
        .complete(Make::Dir, Mode::from_raw_mode(0o755), None)?;
    let dir = rustix::fs::openat(
        &dir,
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let kind = match device.kind {
        'b' => FileType::BlockDevice,
        'p' => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(ANYBODY));
    unless_there(rustix::fs::mknodat(
        &dir,
        name,
        kind,
        mode,
        makedev(device.major, device.minor),
    ))?;
    if device.uid.is_some() || device.gid.is_some() {
        let uid = device.uid.map(Uid::from_raw);
        let gid = device.gid.map(Gid::from_raw);
        rustix::fs::chownat(&dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn unless_there(made: Result<(), Errno>) -> io::Result<()> {
    match made {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
