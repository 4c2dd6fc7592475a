//! Whether a file that counts as changed has only changed its mode.
//!
//! What is known of the old file is the beginning of its checksum, which is made of metadata and content. So the content
//! of the new file is tried with the modes a file usually has: one that gives the old checksum was the old mode. That
//! costs nothing to keep, and reading a few small files when somebody asks.

use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use cachekeys::SUM;
use contenthash::{FileHasher, FileHeader};
use fstree::{Meta, Root};

/// What files and directories usually have.
const USUAL: [u32; 20] = [
    0o644, 0o755, 0o600, 0o700, 0o664, 0o775, 0o640, 0o750, 0o666, 0o777, 0o444, 0o555, 0o400,
    0o500, 0o604, 0o705, 0o2755, 0o2775, 0o4755, 0o1777,
];
/// Larger files are not read.
const LARGEST: u64 = 4 << 20;

/// The old and the new mode, if nothing else changed.
pub(super) fn change(tree: &mount::Tree, path: &[u8], old: &[u8; SUM]) -> Option<(u32, u32)> {
    let root = Root::from_borrowed(tree.fd()).ok()?;
    let name = String::from_utf8(path.to_vec()).ok()?;
    let path = Path::new(name.trim_end_matches('/'));
    let meta = root.symlink_meta(path).ok()?;
    let xattrs = xattrs(&root, path, &meta)?;
    let content = content(&root, path, &meta)?;
    let now = meta.permissions();
    let special = now & 0o7777 ^ now & 0o777;
    let tried = USUAL.into_iter().chain(USUAL.map(|mode| mode | special));
    let was = tried.filter(|mode| *mode != now).find(|mode| {
        let mut header = FileHeader::from_disk(&meta, b"");
        header.mode = meta.mode & !0o7777 | mode;
        let mut hasher = FileHasher::new(&header, &xattrs);
        hasher.update(&content);
        hasher.finish().0[..SUM] == old[..]
    })?;
    Some((was, now))
}

fn xattrs(root: &Root, path: &Path, meta: &Meta) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let found = if meta.is_dir() {
        fstree::xattr::of_file(root.open_dir(path).ok()?.fd())
    } else if meta.is_file() {
        fstree::xattr::of_file(root.open_file(path).ok()?)
    } else {
        return None;
    };
    let bytes = |(name, value): (std::ffi::OsString, Vec<u8>)| (name.into_vec(), value);
    Some(found.ok()?.into_iter().map(bytes).collect())
}

fn content(root: &Root, path: &Path, meta: &Meta) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    if meta.is_file() {
        if meta.size > LARGEST {
            return None;
        }
        let file = root.open_file(path).ok()?;
        file.take(LARGEST).read_to_end(&mut content).ok()?;
    }
    Some(content)
}
