//! Unpacks archives into a directory of the target, which for them is the root of everything.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use fstree::{Device, Kind, Meta, Parent, Root, Time, path, xattr};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use tar::EntryType;
use tasks::Cx;

use crate::copy::Copy;
use crate::decompress;
use crate::error::on;
use crate::simple::{make_dirs, make_own, set_times};
use crate::{Error, Owner};

const BUFFER: usize = 128 << 10;

/// Unpacks the source if it is an archive. Tells whether it was.
pub(crate) fn unpack(
    cx: &Cx,
    source: &Root,
    found: &Path,
    target: &Root,
    action: &Copy,
) -> Result<bool, Error> {
    let from = source
        .resolve(path::relative(found))
        .map_err(on("lstat", found))?;
    if !is_archive(source, &from) {
        return Ok(false);
    }
    let at = target
        .resolve(path::relative(&action.dest))
        .map_err(on("lstat", &action.dest))?;
    make_dirs(target, &at, 0o755, action.owner, action.timestamp)?;
    let base = target.open_dir(&at).map_err(on("open", &at))?;
    let file = source.open_file(&from).map_err(on("open", &from))?;
    let content = decompress::reader(file).map_err(|source| Error::Archive { source })?;
    Unpacker {
        cx,
        base,
        owner: action.owner,
        made: HashSet::new(),
        dirs: Vec::new(),
    }
    .run(content)?;
    Ok(true)
}

/// Whether this is a regular file with the header of a first archive entry in it.
fn is_archive(root: &Root, at: &Path) -> bool {
    if !root.symlink_meta(at).is_ok_and(|meta| meta.is_file()) {
        return false;
    }
    let Ok(content) = root.open_file(at).and_then(decompress::reader) else {
        return false;
    };
    match tar::Archive::new(content).entries() {
        Ok(mut entries) => matches!(entries.next(), Some(Ok(_))),
        Err(_) => false,
    }
}

struct Unpacker<'a> {
    cx: &'a Cx,
    base: Root,
    owner: Option<Owner>,
    /// Inodes this archive made; others that have several names may be shared with other trees.
    made: HashSet<(u64, u64)>,
    /// Directories with the times they get at the end.
    dirs: Vec<(PathBuf, Times)>,
}

#[derive(Debug, Clone, Copy)]
struct Times {
    atime: Time,
    mtime: Time,
}

/// What an entry's headers say.
struct Head {
    kind: EntryType,
    at: PathBuf,
    link: PathBuf,
    uid: u32,
    gid: u32,
    mode: u32,
    rdev: Device,
    times: Times,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Unpacker<'_> {
    fn run(&mut self, content: Box<dyn Read>) -> Result<(), Error> {
        let broken = |source| Error::Archive { source };
        let mut archive = tar::Archive::new(content);
        for entry in archive.entries().map_err(broken)? {
            self.cx.check()?;
            let mut entry = entry.map_err(broken)?;
            if entry.header().entry_type().is_pax_global_extensions() {
                continue;
            }
            let name = path::clean(&entry.path_bytes());
            if name == b"." {
                continue;
            }
            let head = Head::read(&mut entry, &name).map_err(broken)?;
            self.entry(&head, &mut entry)?;
        }
        for (at, times) in std::mem::take(&mut self.dirs) {
            let parent = self.base.parent(&at).map_err(on("utimes", &at))?;
            set_times(&parent.dir, parent.name(), times.atime, times.mtime)
                .map_err(on("utimes", &at))?;
        }
        Ok(())
    }

    fn entry(&mut self, head: &Head, content: &mut impl Read) -> Result<(), Error> {
        let at = &head.at;
        let is_root = at.as_os_str().is_empty();
        if is_root && !head.kind.is_dir() {
            return Ok(());
        }
        let parent = self.parent(at)?;
        if let Ok(existing) = parent.meta()
            && !(existing.is_dir() && head.kind.is_dir())
        {
            parent.remove_all().map_err(on("unlinkat", at))?;
        }
        self.create(head, &parent, content)?;
        self.dress(head, &parent)
    }

    /// The directory an entry goes to, made with ordinary permissions if the archive does not mention it.
    fn parent(&self, at: &Path) -> Result<Parent, Error> {
        match self.base.parent(at) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                let above = at.parent().unwrap_or(Path::new(""));
                self.base
                    .mkdir_all(above, 0o755)
                    .map_err(on("mkdir", above))?;
                self.base.parent(at).map_err(on("open", at))
            }
            parent => parent.map_err(on("open", at)),
        }
    }

    fn create(
        &mut self,
        head: &Head,
        parent: &Parent,
        content: &mut impl Read,
    ) -> Result<(), Error> {
        let (at, dir, name) = (&head.at, &parent.dir, parent.name());
        match head.kind {
            EntryType::Directory => {
                self.dirs.push((at.clone(), head.times));
                match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => Ok(()),
                    Err(err) => Err(on("mkdir", at)(err)),
                }
            }
            EntryType::Regular | EntryType::GNUSparse => {
                self.made
                    .insert(write_file(dir, name, content).map_err(on("open", at))?);
                Ok(())
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match head.kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(dir, name, kind, mode, head.rdev.packed())
                    .map_err(on("mknod", at))
            }
            EntryType::Link => self.hard_link(head, dir, name),
            EntryType::Symlink => {
                rustix::fs::symlinkat(&head.link, dir, name).map_err(on("symlink", at))
            }
            other => Err(Error::UnknownEntry {
                kind: other.as_byte(),
            }),
        }
    }

    fn hard_link(&mut self, head: &Head, dir: &OwnedFd, name: &CStr) -> Result<(), Error> {
        let shown = format!(
            "{} {}",
            path::rooted(&head.link).display(),
            path::rooted(&head.at).display()
        );
        let failed = || {
            let shown = shown.clone();
            move |err: io::Error| Error::File(fstree::Error::new("link", shown, err))
        };
        let target = self.base.parent(&head.link).map_err(failed())?;
        let meta = target.meta().map_err(failed())?;
        if meta.is_file() && meta.nlink > 1 && !self.made.contains(&meta.inode()) {
            // Owner, mode and times are set through the new name; another tree must not see that.
            make_own(&target.dir, target.name()).map_err(failed())?;
            self.made.insert(target.meta().map_err(failed())?.inode());
        }
        rustix::fs::linkat(&target.dir, target.name(), dir, name, AtFlags::empty())
            .map_err(|err| failed()(err.into()))
    }

    /// Owner, attributes, mode and times.
    fn dress(&self, head: &Head, parent: &Parent) -> Result<(), Error> {
        let (at, dir, name) = (&head.at, &parent.dir, parent.name());
        let (uid, gid) = match self.owner {
            Some(owner) => (owner.uid, owner.gid),
            None => (head.uid, head.gid),
        };
        let (owner, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(
            dir,
            name,
            Some(owner),
            Some(group),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(on("lchown", at))?;
        for (attribute, value) in &head.xattrs {
            match xattr::set_of_entry(dir, name.to_bytes(), attribute, value) {
                Ok(()) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                    ) =>
                {
                    tracing::debug!(%error, path = %at.display(), "attribute of archive ignored");
                }
                Err(err) => return Err(on("setxattr", at)(err)),
            }
        }
        // A link to a symbolic link is one too.
        let meta = parent.meta().map_err(on("lstat", at))?;
        if meta.kind() != Kind::Symlink {
            rustix::fs::chmodat(dir, name, Mode::from_raw_mode(head.mode), AtFlags::empty())
                .map_err(on("chmod", at))?;
        }
        set_times(dir, name, head.times.atime, head.times.mtime).map_err(on("utimes", at))
    }
}

fn write_file(dir: &OwnedFd, name: &CStr, content: &mut impl Read) -> io::Result<(u64, u64)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::from_raw_mode(0o600),
    )?);
    io::copy(&mut BufReader::with_capacity(BUFFER, content), &mut file)?;
    Ok(Meta::from(&rustix::fs::fstat(&file)?).inode())
}

impl Head {
    fn read<R: Read>(entry: &mut tar::Entry<'_, R>, name: &[u8]) -> io::Result<Self> {
        let link = entry.link_name_bytes().unwrap_or_default().into_owned();
        let header = entry.header();
        let mut kind = header.entry_type();
        if kind == EntryType::Regular && header.as_bytes()[156] == 0 {
            // The oldest archives have no type for directories.
            if entry.path_bytes().ends_with(b"/") {
                kind = EntryType::Directory;
            }
        }
        let time = |seconds: u64| Time {
            sec: i64::try_from(seconds).unwrap_or(0),
            nsec: 0,
        };
        // Fields that many writers leave blank count as zero.
        let mut head = Self {
            kind,
            at: path::relative(path::from_bytes(name)),
            link: path::from_bytes(&link).to_owned(),
            uid: header.uid().map_or(0, narrow),
            gid: header.gid().map_or(0, narrow),
            mode: header.mode().unwrap_or(0) & 0o7777,
            rdev: Device {
                major: header.device_major().ok().flatten().unwrap_or(0),
                minor: header.device_minor().ok().flatten().unwrap_or(0),
            },
            times: Times {
                atime: Time::default(),
                mtime: time(header.mtime().unwrap_or(0)),
            },
            xattrs: Vec::new(),
        };
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            head.extend(record.key_bytes(), record.value_bytes());
        }
        head.times.mtime = bounded(head.times.mtime);
        head.times.atime = bounded(head.times.atime.max(head.times.mtime));
        Ok(head)
    }

    fn extend(&mut self, key: &[u8], value: &[u8]) {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match key {
            b"uid" => self.uid = text.parse().map_or(self.uid, narrow),
            b"gid" => self.gid = text.parse().map_or(self.gid, narrow),
            b"mtime" => self.times.mtime = pax_time(text).unwrap_or(self.times.mtime),
            b"atime" => self.times.atime = pax_time(text).unwrap_or(self.times.atime),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
}

fn narrow(id: u64) -> u32 {
    u32::try_from(id).unwrap_or(0)
}

/// Seconds with a decimal fraction.
fn pax_time(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let sec: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nsec: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nsec > 0 {
        return Some(Time {
            sec: sec - 1,
            nsec: 1_000_000_000 - nsec,
        });
    }
    Some(Time { sec, nsec })
}

/// Times before 1970 or beyond 64 bits of nanoseconds become 1970.
fn bounded(time: Time) -> Time {
    if time.sec < 0 || time.sec > i64::MAX / 1_000_000_000 - 1 {
        return Time::default();
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times_keep_their_fraction() {
        for (text, sec, nsec) in [
            ("12", 12, 0),
            ("12.5", 12, 500_000_000),
            ("12.123456789123", 12, 123_456_789),
            ("-1.25", -2, 750_000_000),
        ] {
            assert_eq!(pax_time(text), Some(Time { sec, nsec }), "{text}");
        }
        assert_eq!(pax_time("x"), None);
    }
}
