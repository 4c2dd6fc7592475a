//! What the system knows about one entry of a tree, and the mode bits of the wire.

use rustix::fs::Stat;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// A point in time as file systems keep it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds since 1970; may be negative.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

impl Time {
    /// Nanoseconds since 1970, at the limits of 64 bits where it lies beyond.
    pub fn nanos(self) -> i64 {
        self.sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(self.nsec))
    }

    /// The time this many nanoseconds after 1970.
    pub fn from_nanos(nanos: i64) -> Self {
        Self {
            sec: nanos.div_euclid(1_000_000_000),
            nsec: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }

    /// The form that `utimensat` takes.
    pub fn timespec(self) -> rustix::fs::Timespec {
        rustix::fs::Timespec {
            tv_sec: self.sec,
            tv_nsec: i64::from(self.nsec),
        }
    }
}

/// The number of a device node; zero for anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Device {
    /// The driver.
    pub major: u32,
    /// The device of that driver.
    pub minor: u32,
}

impl Device {
    /// The packed number that mknod takes.
    pub fn packed(self) -> u64 {
        rustix::fs::makedev(self.major, self.minor)
    }
}

/// The result of an lstat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Type and permission bits as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size as reported; a directory's means nothing.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last access.
    pub atime: Time,
    /// File system the entry lives on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// How many names the inode has, those in other trees included.
    pub nlink: u64,
    /// Numbers of a device node.
    pub rdev: Device,
}

const TYPE: u32 = 0o170_000;
const DIR: u32 = 0o040_000;
const SYMLINK: u32 = 0o120_000;
const CHAR: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;
const SOCKET: u32 = 0o140_000;
const FILE: u32 = 0o100_000;

impl Meta {
    /// What the entry is.
    pub fn kind(&self) -> Kind {
        match self.mode & TYPE {
            DIR => Kind::Dir,
            SYMLINK => Kind::Symlink,
            CHAR => Kind::CharDevice,
            BLOCK => Kind::BlockDevice,
            FIFO => Kind::Fifo,
            SOCKET => Kind::Socket,
            _ => Kind::File,
        }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == Kind::Dir
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind() == Kind::File
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        self.kind() == Kind::Symlink
    }

    /// Permission bits with setuid, setgid and sticky.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// The mode field of the wire.
    pub fn go_mode(&self) -> u32 {
        go_mode(self.mode)
    }

    /// What identifies the inode on this machine.
    pub fn inode(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

impl From<&Stat> for Meta {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion)] // field types differ between architectures
    fn from(stat: &Stat) -> Self {
        let mode = u32::from(stat.st_mode);
        let device = matches!(mode & TYPE, CHAR | BLOCK);
        let rdev = if device {
            Device {
                major: rustix::fs::major(stat.st_rdev),
                minor: rustix::fs::minor(stat.st_rdev),
            }
        } else {
            Device::default()
        };
        let time = |sec: i64, nsec: u64| Time {
            sec,
            nsec: u32::try_from(nsec).unwrap_or(0),
        };
        Self {
            mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            atime: time(stat.st_atime as i64, stat.st_atime_nsec as u64),
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            nlink: stat.st_nlink as u64,
            rdev,
        }
    }
}

const GO_DIR: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_FIFO: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_CHAR: u32 = 1 << 21;
const GO_FLAGS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

/// The wire's mode bits for an `st_mode`.
pub fn go_mode(unix_mode: u32) -> u32 {
    let kind = match unix_mode & TYPE {
        DIR => GO_DIR,
        SYMLINK => GO_SYMLINK,
        CHAR => GO_DEVICE | GO_CHAR,
        BLOCK => GO_DEVICE,
        FIFO => GO_FIFO,
        SOCKET => GO_SOCKET,
        _ => 0,
    };
    GO_FLAGS
        .iter()
        .filter(|(unix, _)| unix_mode & unix != 0)
        .fold(kind | unix_mode & 0o777, |mode, (_, go)| mode | go)
}

/// The `st_mode` for the wire's mode bits.
pub fn unix_mode(go_mode: u32) -> u32 {
    let kind = if go_mode & GO_DIR != 0 {
        DIR
    } else if go_mode & GO_SYMLINK != 0 {
        SYMLINK
    } else if go_mode & GO_DEVICE != 0 {
        if go_mode & GO_CHAR != 0 { CHAR } else { BLOCK }
    } else if go_mode & GO_FIFO != 0 {
        FIFO
    } else if go_mode & GO_SOCKET != 0 {
        SOCKET
    } else {
        FILE
    };
    GO_FLAGS
        .iter()
        .filter(|(_, go)| go_mode & go != 0)
        .fold(kind | go_mode & 0o777, |mode, (unix, _)| mode | unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_survive_the_way_over_the_wire() {
        for kind in [DIR, SYMLINK, CHAR, BLOCK, FIFO, SOCKET, FILE] {
            for bits in [0, 0o644, 0o7777, 0o4755, 0o2000, 0o1777] {
                assert_eq!(unix_mode(go_mode(kind | bits)), kind | bits);
            }
        }
    }

    #[test]
    fn a_sticky_directory_has_the_bits_of_the_wire() {
        assert_eq!(go_mode(0o041_777), 1 << 31 | 1 << 20 | 0o777);
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let time = Time::from_nanos(-1);
        assert_eq!((time.sec, time.nsec), (-1, 999_999_999));
        assert_eq!(time.nanos(), -1);
    }
}
