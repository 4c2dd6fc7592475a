//! From directories to blobs.
//!
//! If all mounts together are larger than allowed, the files that were not used for the longest time stay out.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use content::Store;
use fstree::{Meta, Root, Walk};
use oci::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tasks::Cx;

use super::chunks::Chunker;
use super::tree::{Entry, Kind, Name, Writer};
use super::{Listed, Part};
use crate::Error;

/// A mount to be packed.
pub struct Place {
    /// Its id, as steps have it.
    pub id: String,
    /// Its files.
    pub root: Root,
    /// What it stands on: the checksum, and the files. Those that are as they are there are left out.
    pub base: Option<(Digest, Root)>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Packed {
    /// The mounts; their blobs are in the store.
    pub mounts: Vec<Listed>,
    /// Bytes of all files in them.
    pub bytes: u64,
    /// Files that had no room.
    pub too_much: u64,
    /// Files that were written to meanwhile.
    pub busy: u64,
    /// Mounts that could not be read, and why.
    pub failed: Vec<(String, String)>,
}

/// Chunks are about as large as these powers of two at least and at most. Between them there are hardly more chunks than
/// [`CHUNKS`]: the manifest lists them all, and upstream reads none above 1 MiB.
const BITS: (u32, u32) = (20, 24);
const CHUNKS: u64 = 1024;

/// Packs mounts into blobs in `store`: files of at most `limit` bytes.
pub fn pack(cx: &Cx, places: &[Place], limit: u64, store: &Store) -> Result<Packed, Error> {
    let mut packed = Packed::default();
    let mut readable = Vec::new();
    let mut total = 0_u64;
    for place in places {
        let mut add = |_: &Path, meta: &Meta| total = total.saturating_add(meta.size);
        match survey(cx, place, &mut add) {
            Ok(0) => {}
            Ok(_) => readable.push(place),
            Err(Trouble::Stop(err)) => return Err(err),
            Err(Trouble::Unreadable(err)) => packed.failed.push((place.id.clone(), err)),
        }
    }
    let limits = Limits {
        oldest: if total > limit {
            Some(oldest(cx, &readable, limit)?)
        } else {
            None
        },
        bits: bits(total.min(limit)),
    };
    for place in readable {
        match Packer::new(cx, place, &limits, store).and_then(|packer| packer.run(&mut packed)) {
            Ok(listed) => packed.mounts.push(listed),
            Err(Trouble::Stop(err)) => return Err(err),
            Err(Trouble::Unreadable(err)) => packed.failed.push((place.id.clone(), err)),
        }
    }
    Ok(packed)
}

/// How large chunks are when there is so much to be packed.
fn bits(total: u64) -> u32 {
    let wanted = (total / CHUNKS).checked_ilog2().unwrap_or(0) + 1;
    wanted.clamp(BITS.0, BITS.1)
}

/// Why a mount is not packed.
enum Trouble {
    /// Nothing is.
    Stop(Error),
    /// This one cannot be read.
    Unreadable(String),
}

impl From<Error> for Trouble {
    fn from(err: Error) -> Self {
        Self::Stop(err)
    }
}

impl From<tasks::Cancelled> for Trouble {
    fn from(err: tasks::Cancelled) -> Self {
        Self::Stop(err.into())
    }
}

impl From<fstree::Error> for Trouble {
    fn from(err: fstree::Error) -> Self {
        Self::Unreadable(fault_text(&err))
    }
}

fn fault_text(err: &fstree::Error) -> String {
    fault::chain(err)
}

impl From<io::Error> for Trouble {
    fn from(err: io::Error) -> Self {
        Self::Unreadable(err.to_string())
    }
}

struct Limits {
    /// What files must have been used after.
    oldest: Option<Age>,
    bits: u32,
}

/// When a file was used, and an order of those used at the same time.
type Age = (i64, u64);

/// With `relatime` the kernel notes that a file is read if its last use is not later than its last change. Both are the
/// same for a restored file, so one that nobody read since is as old as it was.
fn age(path: &Path, meta: &Meta) -> Age {
    // FNV-1a.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in fstree::path::bytes(path) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (meta.mtime.nanos().max(meta.atime.nanos()), hash)
}

/// The first file there is no room for, when the latest come first.
fn oldest(cx: &Cx, places: &[&Place], limit: u64) -> Result<Age, Error> {
    let mut files = Vec::new();
    for place in places {
        let mut note = |path: &Path, meta: &Meta| files.push((age(path, meta), meta.size));
        if let Err(Trouble::Stop(err)) = survey(cx, place, &mut note) {
            return Err(err);
        }
    }
    files.sort_unstable_by(|a, b| b.cmp(a));
    let mut room = limit;
    for (age, size) in files {
        match room.checked_sub(size) {
            Some(left) => room = left,
            None => return Ok(age),
        }
    }
    Ok((i64::MIN, 0))
}

/// Looks at all files, each inode once. Answers how many entries there are.
fn survey(cx: &Cx, place: &Place, file: &mut dyn FnMut(&Path, &Meta)) -> Result<usize, Trouble> {
    let mut seen = HashSet::new();
    let mut count = 0;
    for entry in Walk::new(&place.root)? {
        cx.check()?;
        let entry = entry?;
        if is_from_base(place, &entry.path, &entry.meta) {
            continue;
        }
        count += 1;
        let first = entry.meta.nlink < 2 || seen.insert(entry.meta.inode());
        if entry.meta.is_file() && first {
            file(&entry.path, &entry.meta);
        }
    }
    Ok(count)
}

fn is_from_base(place: &Place, path: &Path, meta: &Meta) -> bool {
    let Some((_, base)) = &place.base else {
        return false;
    };
    !meta.is_dir()
        && base.symlink_meta(path).is_ok_and(|below| {
            let same = |meta: &Meta| (meta.mode, meta.uid, meta.gid, meta.size, meta.mtime);
            same(&below) == same(meta)
        })
}

struct Packer<'a> {
    cx: &'a Cx,
    place: &'a Place,
    limits: &'a Limits,
    store: &'a Store,
    tree: Writer,
    chunker: Chunker,
    chunks: Vec<Part>,
    /// Where inodes with several names were met first.
    names: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

impl<'a> Packer<'a> {
    fn new(
        cx: &'a Cx,
        place: &'a Place,
        limits: &'a Limits,
        store: &'a Store,
    ) -> Result<Self, Trouble> {
        Ok(Self {
            cx,
            place,
            limits,
            store,
            tree: Writer::new()?,
            chunker: Chunker::new(limits.bits),
            chunks: Vec::new(),
            names: HashMap::new(),
            buffer: vec![0; 256 << 10],
        })
    }

    fn run(mut self, packed: &mut Packed) -> Result<Listed, Trouble> {
        let own = self.place.root.meta("")?;
        self.tree.add(&described(Path::new(""), &own, Kind::Dir))?;
        for entry in Walk::new(&self.place.root)? {
            self.cx.check()?;
            let entry = entry?;
            if !is_from_base(self.place, &entry.path, &entry.meta) {
                self.entry(&entry, packed)?;
            }
        }
        self.chunker
            .finish(&mut put(self.store, &mut self.chunks))?;
        let tree = self.tree.finish()?;
        self.store.put(&tree).map_err(Error::from)?;
        Ok(Listed {
            id: self.place.id.clone(),
            base: self.place.base.as_ref().map(|(digest, _)| digest.clone()),
            tree: Part::of(&tree),
            chunks: self.chunks,
        })
    }

    fn entry(&mut self, entry: &fstree::Entry, packed: &mut Packed) -> Result<(), Trouble> {
        let meta = &entry.meta;
        let mut described = match meta.kind() {
            fstree::Kind::Dir => described(&entry.path, meta, Kind::Dir),
            fstree::Kind::Symlink => Entry {
                link: Name::of(&entry.link),
                ..described(&entry.path, meta, Kind::Symlink)
            },
            fstree::Kind::File => match self.names.get(&meta.inode()) {
                Some(first) if meta.nlink > 1 => Entry {
                    link: Name::of(first),
                    ..described(&entry.path, meta, Kind::Hardlink)
                },
                _ => return self.file(entry, packed),
            },
            // Sockets, pipes and devices mean nothing elsewhere.
            _ => return Ok(()),
        };
        described.attributes = attributes(entry);
        Ok(self.tree.add(&described)?)
    }

    fn file(&mut self, entry: &fstree::Entry, packed: &mut Packed) -> Result<(), Trouble> {
        let meta = &entry.meta;
        let age = age(&entry.path, meta);
        if self.limits.oldest.is_some_and(|oldest| age <= oldest) {
            packed.too_much += 1;
            return Ok(());
        }
        let mut file = match open(entry) {
            Ok(file) => file,
            // It vanished.
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err.into()),
        };
        let mut described = described(&entry.path, meta, Kind::File);
        described.attributes = attributes(entry);
        let mut take = put(self.store, &mut self.chunks);
        while described.size < meta.size {
            self.cx.check()?;
            let left = usize::try_from(meta.size - described.size).unwrap_or(usize::MAX);
            let room = left.min(self.buffer.len());
            let read = file.read(&mut self.buffer[..room])?;
            if read == 0 {
                break;
            }
            self.chunker.add(&self.buffer[..read], &mut take)?;
            described.size += read as u64;
        }
        drop(take);
        let now = Meta::from(&rustix::fs::fstat(&file).map_err(io::Error::from)?);
        if described.size != meta.size || (now.size, now.mtime) != (meta.size, meta.mtime) {
            packed.busy += 1;
            described = Entry {
                size: described.size,
                ..self::described(Path::new(""), meta, Kind::Nothing)
            };
        } else {
            packed.bytes += meta.size;
            if meta.nlink > 1 {
                self.names.insert(meta.inode(), entry.path.clone());
            }
        }
        Ok(self.tree.add(&described)?)
    }
}

fn described(path: &Path, meta: &Meta, kind: Kind) -> Entry {
    Entry {
        path: Name::of(path),
        kind,
        mode: meta.permissions(),
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime.nanos(),
        size: 0,
        link: Name::default(),
        attributes: Vec::new(),
    }
}

/// Attributes that users set. Those that cannot be read are no reason to leave out a file.
fn attributes(entry: &fstree::Entry) -> Vec<(Name, Vec<u8>)> {
    let all = entry.xattrs().unwrap_or_default().into_iter();
    let named = all.filter(|(name, _)| {
        let name = name.as_encoded_bytes();
        name.starts_with(b"user.") || name == b"security.capability"
    });
    named
        .map(|(name, value)| (Name::of(Path::new(&name)), value))
        .collect()
}

/// Opens a file so that this does not count as its use.
fn open(entry: &fstree::Entry) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let unnoticed = flags | OFlags::NOATIME;
    match rustix::fs::openat(entry.dir(), entry.name(), unnoticed, Mode::empty()) {
        // Somebody else's file.
        Err(Errno::PERM) => entry.open(),
        opened => Ok(File::from(opened?)),
    }
}

/// Compresses pieces and puts them into the store.
fn put<'a>(
    store: &'a Store,
    chunks: &'a mut Vec<Part>,
) -> impl FnMut(&[u8]) -> Result<(), Error> + 'a {
    move |piece| {
        let compressed = zstd::bulk::compress(piece, 3)
            .map_err(|err| Error::document(format!("failed to compress cache mount: {err}")))?;
        store.put(&compressed)?;
        chunks.push(Part::of(&compressed));
        Ok(())
    }
}
