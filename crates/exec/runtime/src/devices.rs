//! Device nodes and links below a container's /dev.

use std::io;
use std::path::Path;

use executor::rootfs::{Make, Root};
use executor::spec::Device;
use rustix::fs::{FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

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

/// Makes the standard devices and these; `kcore` tells whether there is something behind /proc/kcore. The thread's umask
/// must be 0.
pub(crate) fn make(root: &Root, more: &[Device], kcore: bool) -> io::Result<()> {
    let dev =
        root.walk(Path::new("/dev"))?
            .complete(Make::Dir, Mode::from_raw_mode(0o755), None)?;
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
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &dev, name) {
            Err(Errno::EXIST) if name == "ptmx" => {
                // A device node would open the host's terminals.
                rustix::fs::unlinkat(&dev, name, rustix::fs::AtFlags::empty())?;
                rustix::fs::symlinkat(target, &dev, name)?;
            }
            made => unless_there(made)?,
        }
    }
    if kcore {
        unless_there(rustix::fs::symlinkat("/proc/kcore", &dev, "core"))?;
    }
    more.iter().try_for_each(|device| one(root, device))
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
    let kind = if device.kind == 'b' {
        FileType::BlockDevice
    } else {
        FileType::CharacterDevice
    };
    let mode = Mode::from_raw_mode(device.file_mode.unwrap_or(ANYBODY));
    unless_there(rustix::fs::mknodat(
        &dir,
        name,
        kind,
        mode,
        makedev(device.major, device.minor),
    ))
}

fn unless_there(made: Result<(), Errno>) -> io::Result<()> {
    match made {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
