//! A directory whose inside is all there is: no path, link or `..` leads out of it.
//!
//! The kernel does the work (`openat2` with `RESOLVE_IN_ROOT`). Where it cannot, for want of the call or because of
//! its limit of 40 links, the path is walked here, component by component, on descriptors, with a limit of 255.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::meta::Meta;
use crate::path;

/// How many links one path may lead through.
const MAX_LINKS: usize = 255;
/// How often a resolution is tried again when somebody renames directories meanwhile.
const RACE_RETRIES: usize = 16;

/// A directory as the root of a tree. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Root {
    fd: Arc<OwnedFd>,
}

/// The directory an entry is in, and its name there.
#[derive(Debug)]
pub struct Parent {
    /// The open directory (an `O_PATH` descriptor).
    pub dir: OwnedFd,
    /// The entry's own name, which may be a link or not exist; `.` for the root itself.
    pub name: CString,
}

/// Directories made by [`Root::mkdir_all`], outermost first, as resolved paths.
pub type Created = Vec<PathBuf>;

/// Where a path leads when all its links are followed by hand.
struct Walked {
    /// Open directories or files on the way, each with its name; the root is not among them.
    found: Vec<(CString, OwnedFd)>,
    /// Components that do not exist.
    missing: Vec<CString>,
}

impl Root {
    /// The directory at a trusted path as a root.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path.as_ref(), flags, Mode::empty())?;
        Ok(Self::from_fd(fd))
    }

    /// An open directory as a root.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd: Arc::new(fd) }
    }

    /// A second descriptor of an open directory as a root.
    pub fn from_borrowed(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self::from_fd(fd.try_clone_to_owned()?))
    }

    /// The descriptor; it may be `O_PATH`.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A path of this directory for calls that take only text. Valid while `self` lives.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    /// Opens what `path` leads to; links are followed inside the root, the last one unless `NOFOLLOW` is given.
    pub fn open_with(
        &self,
        path: impl AsRef<Path>,
        flags: OFlags,
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        let path = path.as_ref();
        let flags = flags | OFlags::CLOEXEC;
        match self.openat2(path, flags, mode, ResolveFlags::IN_ROOT) {
            Err(Errno::NOSYS | Errno::PERM | Errno::LOOP | Errno::AGAIN) => {
                self.open_by_hand(path, flags, mode)
            }
            opened => Ok(opened?),
        }
    }

    /// Opens a file for reading, links followed. Named pipes do not block.
    pub fn open_file(&self, path: impl AsRef<Path>) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        Ok(File::from(self.open_with(path, flags, Mode::empty())?))
    }

    /// The directory at `path` as a root of its own, links followed.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        Ok(Self::from_fd(self.open_with(path, flags, Mode::empty())?))
    }

    /// What is known of the entry at `path`, links followed.
    pub fn meta(&self, path: impl AsRef<Path>) -> io::Result<Meta> {
        let fd = self.open_with(path, OFlags::PATH, Mode::empty())?;
        Ok(Meta::from(&rustix::fs::fstat(fd)?))
    }

    /// What is known of the entry at `path`; a link at its end is not followed.
    pub fn symlink_meta(&self, path: impl AsRef<Path>) -> io::Result<Meta> {
        let fd = self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        Ok(Meta::from(&rustix::fs::fstat(fd)?))
    }

    /// The target of the link at `path`.
    pub fn read_link(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let fd = self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        match rustix::fs::readlinkat(fd, c"", Vec::new()) {
            // What an empty path says of something that is no link.
            Err(Errno::NOENT) => Err(Errno::INVAL.into()),
            target => Ok(path::from_bytes(target?.as_bytes()).to_owned()),
        }
    }

    /// The directory that `path` names an entry of. Links are followed but for the last component.
    pub fn parent(&self, path: impl AsRef<Path>) -> io::Result<Parent> {
        let relative = path::relative(path);
        let bytes = path::bytes(&relative);
        let (dir, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (&b""[..], bytes),
        };
        let name = if name.is_empty() { b"." } else { name };
        Ok(Parent {
            dir: self.open_with(
                path::from_bytes(dir),
                OFlags::PATH | OFlags::DIRECTORY,
                Mode::empty(),
            )?,
            name: CString::new(name)?,
        })
    }

    /// The same place without links: relative to the root, empty for the root itself.
    ///
    /// Components that do not exist are kept as they are. Something that is no directory in the middle is an error,
    /// and so are more than 255 links (`ELOOP`).
    pub fn resolve(&self, path: impl AsRef<Path>) -> io::Result<PathBuf> {
        let text = path::bytes(path.as_ref());
        let plain = !text.split(|byte| *byte == b'/').any(|part| part == b"..");
        if plain
            && self
                .openat2(
                    path.as_ref(),
                    OFlags::PATH | OFlags::CLOEXEC,
                    Mode::empty(),
                    ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS,
                )
                .is_ok()
        {
            return Ok(path::relative(path));
        }
        let walked = self.walk_by_hand(path.as_ref(), true)?;
        let names: Vec<&[u8]> = (walked.found.iter().map(|(name, _)| name))
            .chain(&walked.missing)
            .map(|name| name.to_bytes())
            .collect();
        Ok(path::from_bytes(&names.join(&b'/')).to_owned())
    }

    /// Makes `path` and what is missing above it, each directory with exactly these permission bits.
    ///
    /// Links are followed inside the root, also to targets that do not exist yet.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> io::Result<Created> {
        if let Ok(meta) = self.meta(path.as_ref()) {
            return if meta.is_dir() {
                Ok(Created::new())
            } else {
                Err(Errno::NOTDIR.into())
            };
        }
        let walked = self.walk_by_hand(path.as_ref(), true)?;
        let mut at = PathBuf::new();
        for (name, _) in &walked.found {
            at = path::join(&at, name.to_bytes());
        }
        let mut dir = match walked.found.last() {
            Some((_, fd)) => fd.try_clone()?,
            None => self.fd.try_clone()?,
        };
        let mut created = Created::new();
        for name in &walked.missing {
            at = path::join(&at, name.to_bytes());
            match rustix::fs::mkdirat(&dir, name.as_c_str(), Mode::from_raw_mode(mode)) {
                Ok(()) => {
                    let mode = Mode::from_raw_mode(mode);
                    rustix::fs::chmodat(&dir, name.as_c_str(), mode, AtFlags::empty())?;
                    created.push(at.clone());
                }
                Err(Errno::EXIST) => {}
                Err(err) => return Err(err.into()),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, name.as_c_str(), flags, Mode::empty())?;
        }
        Ok(created)
    }

    /// Removes the entry at `path` and everything below. Links are followed but for the last component.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let parent = match self.parent(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            parent => parent?,
        };
        parent.remove_all()
    }

    fn openat2(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
        resolve: ResolveFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, mode, resolve) {
                Err(Errno::AGAIN) if tries < RACE_RETRIES => tries += 1,
                opened => return opened,
            }
        }
    }

    fn open_by_hand(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let follow = !flags.contains(OFlags::NOFOLLOW);
        let mut walked = self.walk_by_hand(path, follow)?;
        let name = match walked.missing.len() {
            0 => walked.found.pop().map(|(name, _)| name),
            1 if flags.contains(OFlags::CREATE) => walked.missing.pop(),
            _ => return Err(Errno::NOENT.into()),
        };
        let dir = match walked.found.last() {
            Some((_, fd)) => fd.as_fd(),
            None => self.fd.as_fd(),
        };
        let name = name.as_deref().unwrap_or(c".");
        Ok(rustix::fs::openat(
            dir,
            name,
            flags | OFlags::NOFOLLOW,
            mode,
        )?)
    }

    fn walk_by_hand(&self, path: &Path, follow_last: bool) -> io::Result<Walked> {
        let mut todo: VecDeque<Vec<u8>> = VecDeque::new();
        push_front(&mut todo, path::bytes(path));
        let mut walked = Walked {
            found: Vec::new(),
            missing: Vec::new(),
        };
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                if walked.missing.pop().is_none() {
                    walked.found.pop();
                }
                continue;
            }
            let name = CString::new(part)?;
            if !walked.missing.is_empty() {
                walked.missing.push(name);
                continue;
            }
            let dir = match walked.found.last() {
                Some((_, fd)) => fd.as_fd(),
                None => self.fd.as_fd(),
            };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(dir, name.as_c_str(), flags, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => {
                    walked.missing.push(name);
                    continue;
                }
                Err(err) => return Err(err.into()),
            };
            let is_link = Meta::from(&rustix::fs::fstat(&fd)?).is_symlink();
            if is_link && (follow_last || !todo.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&fd, c"", Vec::new())?;
                if target.as_bytes().first() == Some(&b'/') {
                    walked.found.clear();
                }
                push_front(&mut todo, target.as_bytes());
            } else {
                walked.found.push((name, fd));
            }
        }
        Ok(walked)
    }
}

impl Parent {
    /// What is known of the entry itself.
    pub fn meta(&self) -> io::Result<Meta> {
        let stat = rustix::fs::statat(&self.dir, &*self.name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Meta::from(&stat))
    }

    /// Removes the entry and everything below it; an absent one is no error.
    pub fn remove_all(&self) -> io::Result<()> {
        crate::dir::remove_all(&self.dir, &self.name)
    }

    /// The entry's name for system calls.
    pub fn name(&self) -> &CStr {
        &self.name
    }
}

/// Puts the components of `text` before what is still to be walked.
fn push_front(todo: &mut VecDeque<Vec<u8>>, text: &[u8]) {
    for part in text.split(|byte| *byte == b'/').rev() {
        if !matches!(part, b"" | b".") {
            todo.push_front(part.to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let at = dir.path();
        std::fs::create_dir_all(at.join("a/b")).expect("mkdir");
        std::fs::write(at.join("a/b/f"), "x").expect("write");
        symlink("/a/b", at.join("abs")).expect("link");
        symlink("../../../../a", at.join("a/up")).expect("link");
        symlink("/new/dir", at.join("ahead")).expect("link");
        symlink("loop", at.join("loop")).expect("link");
        let root = Root::open(at).expect("open");
        (dir, root)
    }

    #[test]
    fn links_stay_inside_whichever_way_they_point() {
        let (_dir, root) = tree();
        for path in [
            "abs/f",
            "/abs/f",
            "a/up/b/f",
            "../../abs/f",
            "a/up/up/up/b/f",
        ] {
            assert_eq!(
                root.resolve(path).expect(path),
                Path::new("a/b/f"),
                "{path}"
            );
            assert!(root.open_file(path).is_ok(), "{path}");
            let by_hand = root.open_by_hand(Path::new(path), OFlags::RDONLY, Mode::empty());
            assert!(by_hand.is_ok(), "{path}");
        }
    }

    #[test]
    fn missing_components_are_kept_by_resolve() {
        let (_dir, root) = tree();
        assert_eq!(
            root.resolve("abs/x/../y").expect("resolve"),
            Path::new("a/b/y")
        );
        assert_eq!(root.resolve("").expect("resolve"), Path::new(""));
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let (_dir, root) = tree();
        assert_eq!(
            root.resolve("loop").expect_err("loop").raw_os_error(),
            Some(Errno::LOOP.raw_os_error())
        );
        assert!(root.open_file("loop").is_err());
    }

    #[test]
    fn directories_are_made_behind_links() {
        let (dir, root) = tree();
        let made = root.mkdir_all("ahead/x", 0o700).expect("mkdir");
        assert_eq!(
            made,
            [
                Path::new("new"),
                Path::new("new/dir"),
                Path::new("new/dir/x")
            ]
        );
        assert!(dir.path().join("new/dir/x").is_dir());
        assert_eq!(root.meta("new").expect("meta").permissions(), 0o700);
        assert!(root.mkdir_all("ahead/x", 0o700).expect("again").is_empty());
        assert!(root.mkdir_all("a/b/f/x", 0o700).is_err());
    }

    #[test]
    fn removing_takes_the_link_not_its_target() {
        let (dir, root) = tree();
        root.remove_all("abs").expect("remove");
        assert!(dir.path().join("a/b/f").exists());
        root.remove_all("a").expect("remove");
        root.remove_all("nope/x").expect("absent");
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_chain_of_two_hundred_links_is_followed() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        std::fs::write(dir.path().join("0"), "x").expect("write");
        for at in 1..=200 {
            symlink((at - 1).to_string(), dir.path().join(at.to_string())).expect("link");
        }
        let root = Root::open(dir.path()).expect("open");
        assert!(root.open_file("200").is_ok());
    }

    #[test]
    fn the_target_of_a_link_is_read_as_stored() {
        let (_dir, root) = tree();
        assert_eq!(root.read_link("abs").expect("link"), Path::new("/a/b"));
        assert!(root.read_link("a").is_err());
    }
}
