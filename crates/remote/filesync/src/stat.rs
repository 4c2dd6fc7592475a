//! Entries as they are sent: made from what a walk finds, compared with what is on disk, hashed.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use contenthash::FileHeader;
use fstree::{Device, Entry, Kind, Meta, unix_mode};
use proto::fsutil::Stat;

use crate::Error;

/// The bit of a socket in the modes of the wire.
const GO_SOCKET: u32 = 1 << 24;

/// The entry as it is sent. `first_name` is the path under which its inode was sent before.
pub fn of_entry(entry: &Entry, first_name: Option<&Path>) -> Result<Stat, Error> {
    let text = |path: &Path| match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::NotText {
            path: entry.path.clone(),
        }),
    };
    let meta = &entry.meta;
    let linkname = if meta.is_symlink() {
        text(&entry.link)?
    } else {
        first_name.map_or(Ok(String::new()), text)?
    };
    let xattrs = entry.xattrs();
    Ok(of_meta(text(&entry.path)?, linkname, meta, xattrs.ok()))
}

/// What is told of a file.
///
/// Compat: directories have no size, sockets look like files, attributes of macOS and those that cannot be read are left
/// out.
pub fn of_meta(
    path: String,
    linkname: String,
    meta: &Meta,
    xattrs: Option<fstree::xattr::Xattrs>,
) -> Stat {
    let size = if meta.is_dir() { 0 } else { meta.size };
    Stat {
        path,
        mode: meta.go_mode() & !GO_SOCKET,
        uid: meta.uid,
        gid: meta.gid,
        size: i64::try_from(size).unwrap_or(i64::MAX),
        mod_time: meta.mtime.nanos(),
        linkname,
        devmajor: i64::from(meta.rdev.major),
        devminor: i64::from(meta.rdev.minor),
        xattrs: xattrs.map(named).unwrap_or_default(),
    }
}

fn named(found: fstree::xattr::Xattrs) -> BTreeMap<String, Bytes> {
    let named = found
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    named
        .filter(|(name, _)| !name.starts_with("com.apple."))
        .map(|(name, value)| (name, Bytes::from(value)))
        .collect()
}

/// What the entry is.
pub fn kind(stat: &Stat) -> Kind {
    let meta_mode = unix_mode(stat.mode);
    match meta_mode & 0o170_000 {
        0o040_000 => Kind::Dir,
        0o120_000 => Kind::Symlink,
        0o020_000 => Kind::CharDevice,
        0o060_000 => Kind::BlockDevice,
        0o010_000 => Kind::Fifo,
        // A socket that somebody sends all the same is a file without content.
        _ => Kind::File,
    }
}

/// Whether the entry is another name of a file that was sent before.
pub fn is_hard_link(stat: &Stat) -> bool {
    !stat.linkname.is_empty() && !matches!(kind(stat), Kind::Symlink | Kind::Dir)
}

/// Numbers of a device node.
pub fn device(stat: &Stat) -> Device {
    Device {
        major: u32::try_from(stat.devmajor).unwrap_or(0),
        minor: u32::try_from(stat.devminor).unwrap_or(0),
    }
}

/// Whether what is on disk needs no change. Extended attributes, and the times of directories, do not count.
pub(crate) fn is_same(stat: &Stat, meta: &Meta, linkname: &[u8]) -> bool {
    let dir = meta.is_dir();
    meta.go_mode() & !GO_SOCKET == stat.mode & !GO_SOCKET
        && meta.kind() == kind(stat)
        && meta.uid == stat.uid
        && meta.gid == stat.gid
        && i64::from(meta.rdev.major) == stat.devmajor
        && i64::from(meta.rdev.minor) == stat.devminor
        && linkname == stat.linkname.as_bytes()
        && (dir || i64::try_from(meta.size) == Ok(stat.size) && meta.mtime.nanos() == stat.mod_time)
}

/// What is hashed before the content of the entry.
pub fn header(stat: &Stat) -> FileHeader<'_> {
    FileHeader {
        mode: unix_mode(stat.mode),
        uid: stat.uid,
        gid: stat.gid,
        size: u64::try_from(stat.size).unwrap_or(0),
        linkname: stat.linkname.as_bytes(),
        devmajor: u64::try_from(stat.devmajor).unwrap_or(0),
        devminor: u64::try_from(stat.devminor).unwrap_or(0),
    }
}

/// The attributes as the hash takes them.
pub(crate) fn attributes(stat: &Stat) -> Vec<(&[u8], &[u8])> {
    let pairs = stat.xattrs.iter();
    pairs
        .map(|(name, value)| (name.as_bytes(), &value[..]))
        .collect()
}
