//! What an upper directory lies on: a tree, or layers that are looked into without being mounted.
//!
//! To mount many layers takes longer than to ask them for a few names. So a layer with few names is listed once, for
//! all who ask whether it has one. Answers are those of the kernel's overlay filesystem:
//!
//! 1. Layers are asked from the nearest down, at a path whose directories were found before in the same way.
//! 2. A mark of a deletion, and anything that is no directory, hides what is below.
//! 3. Directories are put together, down to one that is marked as opaque.
//!
//! What only a mount can tell (a directory that was renamed in place, a file without its content) is answered by one.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fstree::{Meta, Root, path};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

/// A layer with more names is not listed: it is asked for each.
const MAX_NAMES: usize = 128;
/// Nor one whose names have more bytes.
const MAX_BYTES: usize = 16 << 10;
/// Layers that are not listed are asked at most so often before a mount is the better way.
const MAX_LOOKUPS: usize = 256;

/// What an upper directory lies on.
#[derive(Debug, Clone)]
pub enum Base {
    /// The whole tree.
    Tree(Root),
    /// Its layers.
    Layers(Layers),
}

impl Base {
    /// The tree, if it is one.
    pub fn into_tree(self) -> Option<Root> {
        match self {
            Self::Tree(root) => Some(root),
            Self::Layers(_) => None,
        }
    }
}

/// Whose extended attributes count as marks of overlayfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// `trusted.overlay.*`: mounts outside of user namespaces.
    Trusted,
    /// `user.overlay.*`: mounts inside of one.
    User,
    /// Both: fuse-overlayfs.
    Any,
}

impl Marks {
    fn of(options: &[String]) -> Self {
        let has = |wanted| options.iter().any(|option| option == wanted);
        if has(mount::fuse::FUSE_OVERLAYFS) {
            Self::Any
        } else if has("userxattr") {
            Self::User
        } else {
            Self::Trusted
        }
    }

    fn families(self) -> &'static [&'static str] {
        match self {
            Self::Trusted => &["trusted"],
            Self::User => &["user"],
            Self::Any => &["trusted", "user"],
        }
    }

    /// The attributes of this name that are there.
    fn values(self, file: &Path, name: &str) -> io::Result<Vec<Vec<u8>>> {
        let mut values = Vec::new();
        for family in self.families() {
            // No mark is longer than a path.
            let mut value = [0_u8; 4096];
            let key = format!("{family}.overlay.{name}");
            match rustix::fs::lgetxattr(file, key, &mut value) {
                Ok(len) => values.push(value[..len].to_vec()),
                Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS | Errno::PERM) => {}
                Err(err) => return Err(err.into()),
            }
        }
        Ok(values)
    }
}

/// The directory of a layer that never changes, and its names if they are few.
#[derive(Debug)]
pub struct Listing {
    directory: PathBuf,
    marks: Marks,
    /// Paths in byte order; absent: too many.
    names: Option<Names>,
}

type Names = Box<[(Box<[u8]>, Entry)]>;

/// What a layer has under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Dir {
        opaque: bool,
    },
    /// The mark of a deletion.
    Deleted,
    Other,
    /// Only a mount knows.
    Unknown,
}

impl Listing {
    /// Looks through the directory of a layer, until it turns out to be large. `options` are those it is mounted with.
    pub fn of(directory: PathBuf, options: &[String]) -> io::Result<Self> {
        let marks = Marks::of(options);
        let names = list(&directory, marks)?;
        Ok(Self {
            directory,
            marks,
            names,
        })
    }

    /// Whether it has more names than are worth a list.
    pub fn is_large(&self) -> bool {
        self.names.is_none()
    }

    /// What the layer has at `at`, in a directory that it has.
    fn entry(&self, at: &[u8]) -> io::Result<Option<Entry>> {
        let Some(names) = &self.names else {
            return self.look(at);
        };
        let found = names.binary_search_by(|(name, _)| (**name).cmp(at));
        Ok(found.ok().map(|place| names[place].1))
    }

    fn look(&self, at: &[u8]) -> io::Result<Option<Entry>> {
        let place = Root::open(&self.directory)?.parent(path::from_bytes(at))?;
        match rustix::fs::statat(&place.dir, place.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                entry(place.dir.as_fd(), place.name(), kind, self.marks).map(Some)
            }
            Err(Errno::NOENT) => Ok(None),
            Err(err) => Err(err.into()),
        }
    }
}

fn list(directory: &Path, marks: Marks) -> io::Result<Option<Names>> {
    let mut names: Vec<(Box<[u8]>, Entry)> = Vec::new();
    let mut bytes = 0;
    let root = rustix::fs::open(directory, DIRECTORY, Mode::empty())?;
    let mut pending = vec![(Vec::new(), root)];
    while let Some((at, dir)) = pending.pop() {
        let mut buffer = [MaybeUninit::uninit(); 8 << 10];
        let mut reader = RawDir::new(&dir, &mut buffer);
        while let Some(found) = reader.next() {
            let found = found?;
            let name = found.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let mut full = at.clone();
            if !full.is_empty() {
                full.push(b'/');
            }
            full.extend_from_slice(name.to_bytes());
            bytes += full.len();
            if names.len() == MAX_NAMES || bytes > MAX_BYTES {
                return Ok(None);
            }
            let kind = match found.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            if kind == FileType::Directory {
                let child = rustix::fs::openat(&dir, name, DIRECTORY, Mode::empty())?;
                pending.push((full.clone(), child));
            }
            names.push((full.into(), entry(dir.as_fd(), name, kind, marks)?));
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Some(names.into()))
}

fn entry(dir: BorrowedFd<'_>, name: &CStr, kind: FileType, marks: Marks) -> io::Result<Entry> {
    match kind {
        FileType::Directory => directory_entry(&through(dir, name), marks),
        FileType::CharacterDevice => {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(match stat.st_rdev {
                0 => Entry::Deleted,
                _ => Entry::Other,
            })
        }
        _ => Ok(Entry::Other),
    }
}

fn directory_entry(directory: &Path, marks: Marks) -> io::Result<Entry> {
    if !marks.values(directory, "redirect")?.is_empty() {
        return Ok(Entry::Unknown);
    }
    let mut opaque = false;
    for value in marks.values(directory, "opaque")? {
        match &*value {
            b"y" => opaque = true,
            // In here files may be marks of deletions.
            b"x" => return Ok(Entry::Unknown),
            _ => {}
        }
    }
    Ok(Entry::Dir { opaque })
}

/// A path for calls that take no descriptor. Valid while `dir` is open.
fn through(dir: BorrowedFd<'_>, name: &CStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    path::from_bytes(&path).to_owned()
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Mounts layers.
type Whole = Arc<dyn Fn() -> io::Result<Root> + Send + Sync>;

/// Layers on top of each other.
#[derive(Clone)]
pub struct Layers {
    /// The nearest first.
    layers: Arc<[Arc<Listing>]>,
    whole: Whole,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.layers.iter()).finish()
    }
}

/// What layers say of a name.
pub(crate) enum Answer {
    Nothing,
    Found(Found),
    /// Only a mount knows.
    Unknown,
}

/// What layers have under a name.
pub(crate) struct Found {
    /// The directory of the layer that shows it.
    pub(crate) dir: OwnedFd,
    pub(crate) meta: Meta,
    /// If it is a directory, the layers that have a part in it.
    pub(crate) within: Vec<u32>,
}

impl Layers {
    /// These layers, the nearest first, for whoever asks for the names of `upper`; `None` if they had better be
    /// mounted. `whole` mounts them all.
    pub fn below(
        upper: &Listing,
        layers: Vec<Arc<Listing>>,
        whole: impl Fn() -> io::Result<Root> + Send + Sync + 'static,
    ) -> Option<Self> {
        let asked = upper.names.as_ref()?.len();
        let large = layers.iter().filter(|layer| layer.names.is_none()).count();
        (asked * large <= MAX_LOOKUPS).then(|| Self {
            layers: layers.into(),
            whole: Arc::new(whole),
        })
    }

    /// The tree they make.
    pub(crate) fn mounted(&self) -> io::Result<Root> {
        (self.whole)()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<u32> {
        (0..).take(self.layers.len()).collect()
    }

    /// What is at `at`, in a directory that those of `within` have.
    pub(crate) fn find(&self, within: &[u32], at: &Path) -> io::Result<Answer> {
        let at = path::bytes(at);
        let mut top = None;
        let mut parts = Vec::new();
        for place in within {
            let layer = &self.layers[*place as usize];
            match layer.entry(at)? {
                None => {}
                Some(Entry::Unknown) => return Ok(Answer::Unknown),
                Some(Entry::Dir { opaque }) => {
                    top = top.or(Some(layer));
                    parts.push(*place);
                    if opaque {
                        break;
                    }
                }
                Some(Entry::Other) => {
                    top = top.or(Some(layer));
                    break;
                }
                Some(Entry::Deleted) => break,
            }
        }
        let Some(layer) = top else {
            return Ok(Answer::Nothing);
        };
        let place = Root::open(&layer.directory)?.parent(path::from_bytes(at))?;
        let stat = rustix::fs::statat(&place.dir, place.name(), AtFlags::SYMLINK_NOFOLLOW)?;
        let meta = Meta::from(&stat);
        let file = through(place.dir.as_fd(), place.name());
        if meta.is_file() && !layer.marks.values(&file, "metacopy")?.is_empty() {
            // Its content is in another layer.
            return Ok(Answer::Unknown);
        }
        Ok(Answer::Found(Found {
            dir: place.dir,
            meta,
            within: parts,
        }))
    }
}
