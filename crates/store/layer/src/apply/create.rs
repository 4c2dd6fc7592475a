//! Makes what a member describes.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use fstree::{Meta, path};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::attributes::{self, Xattr};
use super::{Place, Unpacker};
use crate::Error;
use crate::archive::{Kind, Member, Reader};

/// A member on its way into the target.
pub(super) struct Entry<'a> {
    pub member: &'a Member,
    pub kind: Kind,
    pub place: &'a Place,
    /// Its name in its place.
    pub name: CString,
    /// Its path in the target, without links.
    pub at: PathBuf,
}

impl Entry<'_> {
    fn stat(&self) -> rustix::io::Result<Meta> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statat(&self.place.dir, &*self.name, flags)?;
        Ok(Meta::from(&stat))
    }
}

impl Unpacker {
    pub(super) fn create<R: BufRead>(
        &self,
        entry: &Entry<'_>,
        reader: &mut Reader<R>,
        bad: &dyn Fn(io::Error) -> Error,
    ) -> Result<(), Error> {
        match entry.kind {
            Kind::File => return self.file(entry, reader, bad),
            Kind::Dir => self.directory(entry)?,
            Kind::Symlink => self.replacing(entry, "symlink", || {
                rustix::fs::symlinkat(&*entry.member.link, &entry.place.dir, &*entry.name)
            })?,
            Kind::HardLink => self.hard_link(entry)?,
            Kind::CharDevice => self.node(entry, FileType::CharacterDevice)?,
            Kind::BlockDevice => self.node(entry, FileType::BlockDevice)?,
            Kind::Fifo => self.node(entry, FileType::Fifo)?,
        }
        self.finish(entry)
    }

    /// Calls `make`, removing what is in the way.
    fn replacing<T>(
        &self,
        entry: &Entry<'_>,
        op: &str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Error> {
        let made = match make() {
            Err(Errno::EXIST) => {
                self.root
                    .remove_all(&entry.at)
                    .map_err(|err| self.failed("remove", entry, err))?;
                make()
            }
            made => made,
        };
        made.map_err(|err| self.failed(op, entry, err))
    }

    fn failed(&self, op: &str, entry: &Entry<'_>, err: impl Into<io::Error>) -> Error {
        Error::target(format!("{op} {}", self.show(&entry.at)), err)
    }

    fn directory(&self, entry: &Entry<'_>) -> Result<(), Error> {
        let make = || rustix::fs::mkdirat(&entry.place.dir, &*entry.name, Mode::RWXU);
        match make() {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let meta = entry
                    .stat()
                    .map_err(|err| self.failed("lstat", entry, err))?;
                if meta.is_dir() {
                    return Ok(());
                }
                self.replacing(entry, "mkdir", make)
            }
            Err(err) => Err(self.failed("mkdir", entry, err)),
        }
    }

    fn node(&self, entry: &Entry<'_>, kind: FileType) -> Result<(), Error> {
        let device = match kind {
            FileType::Fifo => 0,
            _ => entry.member.device.packed(),
        };
        self.replacing(entry, "mknod", || {
            let mode = Mode::from_raw_mode(entry.member.mode);
            rustix::fs::mknodat(&entry.place.dir, &*entry.name, kind, mode, device)
        })
    }

    fn hard_link(&self, entry: &Entry<'_>) -> Result<(), Error> {
        let first = path::relative(path::from_bytes(&entry.member.link));
        let fail = |err: io::Error| {
            let what = format!("link {} {}", self.show(&first), self.show(&entry.at));
            Error::target(what, err)
        };
        let first = self.root.parent(&first).map_err(fail)?;
        let link = || {
            rustix::fs::linkat(
                &first.dir,
                first.name(),
                &entry.place.dir,
                &*entry.name,
                AtFlags::empty(),
            )
        };
        match link() {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                self.root
                    .remove_all(&entry.at)
                    .map_err(|err| self.failed("remove", entry, err))?;
                link().map_err(|err| fail(err.into()))
            }
            Err(err) => Err(fail(err.into())),
        }
    }

    fn file<R: BufRead>(
        &self,
        entry: &Entry<'_>,
        reader: &mut Reader<R>,
        bad: &dyn Fn(io::Error) -> Error,
    ) -> Result<(), Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let file = self.replacing(entry, "open", || {
            rustix::fs::openat(
                &entry.place.dir,
                &*entry.name,
                flags | OFlags::CLOEXEC,
                Mode::RUSR | Mode::WUSR,
            )
        })?;
        let file = File::from(file);
        let mut written = 0;
        let mut failed = None;
        let read = reader.content(entry.member, |at, bytes| {
            written = at + bytes.len() as u64;
            file.write_all_at(bytes, at).map_err(|err| {
                let kind = err.kind();
                failed = Some(err);
                io::Error::from(kind)
            })
        });
        if let Some(err) = failed {
            return Err(self.failed("write", entry, err));
        }
        read.map_err(bad)?;
        if written != entry.member.size {
            // The end of a sparse file is a hole.
            file.set_len(entry.member.size)
                .map_err(|err| self.failed("truncate", entry, err))?;
        }
        self.finish_file(entry, &file)
    }

    fn finish_file(&self, entry: &Entry<'_>, file: &File) -> Result<(), Error> {
        let member = entry.member;
        let meta = rustix::fs::fstat(file).map_err(|err| self.failed("fstat", entry, err))?;
        let meta = Meta::from(&meta);
        if (meta.uid, meta.gid) != (member.uid, member.gid) {
            let owner = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
            rustix::fs::fchown(file, Some(owner.0), Some(owner.1))
                .map_err(|err| self.chown_failed(entry, err))?;
        }
        self.xattrs(entry, true)?;
        // Changing the owner, and writing, may have taken bits away.
        if meta.permissions() != member.mode || member.mode & 0o6000 != 0 {
            rustix::fs::fchmod(file, Mode::from_raw_mode(member.mode))
                .map_err(|err| self.failed("chmod", entry, err))?;
        }
        let (mtime, atime) = attributes::times(member);
        rustix::fs::futimens(file, &attributes::timestamps(mtime, atime))
            .map_err(|err| self.failed("chtimes", entry, err))
    }

    /// Attributes of anything that is not a file of its own.
    fn finish(&self, entry: &Entry<'_>) -> Result<(), Error> {
        let member = entry.member;
        let dir = &entry.place.dir;
        attributes::chown(dir, &entry.name, member.uid, member.gid)
            .map_err(|err| self.chown_failed(entry, err))?;
        let kind = match entry.kind {
            Kind::HardLink => {
                let meta = entry.stat();
                meta.map_err(|err| self.failed("lstat", entry, err))?.kind()
            }
            Kind::Dir => fstree::Kind::Dir,
            Kind::Symlink => fstree::Kind::Symlink,
            _ => fstree::Kind::Fifo,
        };
        let plain = matches!(kind, fstree::Kind::Dir | fstree::Kind::File);
        self.xattrs(entry, plain)?;
        if kind != fstree::Kind::Symlink {
            let mode = Mode::from_raw_mode(member.mode);
            rustix::fs::chmodat(dir, &*entry.name, mode, AtFlags::empty())
                .map_err(|err| self.failed("chmod", entry, err))?;
        }
        if entry.kind == Kind::Dir {
            return Ok(());
        }
        let (mtime, atime) = attributes::times(member);
        attributes::set_times(dir, &entry.name, mtime, atime)
            .map_err(|err| self.failed("chtimes", entry, err))
    }

    fn xattrs(&self, entry: &Entry<'_>, plain: bool) -> Result<(), Error> {
        for (name, value) in &entry.member.xattrs {
            let set = attributes::set_xattr(&entry.place.dir, &entry.name, name, value, plain);
            match set {
                Ok(Xattr::Set) => {}
                Ok(Xattr::LeftOut) => {
                    let name = String::from_utf8_lossy(name);
                    tracing::warn!(%name, path = %entry.at.display(), "extended attribute left out");
                }
                Err(err) => {
                    let name = String::from_utf8_lossy(name);
                    let what = format!(
                        "failed to setxattr {:?} for key {name:?}",
                        self.show(&entry.at)
                    );
                    return Err(Error::target(what, err));
                }
            }
        }
        Ok(())
    }

    fn chown_failed(&self, entry: &Entry<'_>, err: Errno) -> Error {
        let (uid, gid) = (entry.member.uid, entry.member.gid);
        let path = self.show(&entry.at);
        let what = format!("failed to Lchown {path:?} for UID {uid}, GID {gid}");
        if err == Errno::INVAL && self.namespaced {
            let cause = fstree::errno_text(&err.into());
            return Error::archive(format!(
                "{what}: {cause} (Hint: try increasing the number of subordinate IDs in /etc/subuid and /etc/subgid)"
            ));
        }
        Error::target(what, err)
    }
}
