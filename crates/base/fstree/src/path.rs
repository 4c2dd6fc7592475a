//! Slash separated paths as bytes: cleaning, joining, ordering. Pure text, no file system.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The shortest path that means the same by text alone: no `.`, no double slash, `..` taken back where possible.
///
/// The empty path becomes `.`; an absolute path cannot climb above `/`.
pub fn clean(path: &[u8]) -> Vec<u8> {
    let absolute = path.first() == Some(&b'/');
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match parts.last() {
                Some(last) if *last != b".." => {
                    parts.pop();
                }
                _ if absolute => {}
                _ => parts.push(part),
            },
            _ => parts.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    if absolute {
        out.push(b'/');
    }
    out.extend_from_slice(&parts.join(&b'/'));
    if out.is_empty() {
        out.push(b'.');
    }
    out
}

/// [`clean`] for text.
pub fn clean_str(path: &str) -> String {
    String::from_utf8(clean(path.as_bytes()))
        .expect("cutting valid text at slashes leaves valid text")
}

/// The path as seen from the root of a tree: absolute and clean, `..` stopping at the root.
pub fn rooted(path: impl AsRef<Path>) -> PathBuf {
    let mut text = vec![b'/'];
    text.extend_from_slice(path.as_ref().as_os_str().as_bytes());
    from_bytes(&clean(&text)).to_owned()
}

/// The path below the root without a leading slash; empty for the root itself.
pub fn relative(path: impl AsRef<Path>) -> PathBuf {
    let rooted = rooted(path);
    from_bytes(&bytes(&rooted)[1..]).to_owned()
}

/// The bytes of a path.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path over these bytes.
pub fn from_bytes(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// The order of a depth first walk: bytewise, with `/` below every other byte.
pub fn walk_order(left: &[u8], right: &[u8]) -> Ordering {
    let key = |byte: &u8| {
        if *byte == b'/' {
            0
        } else {
            u16::from(*byte) + 1
        }
    };
    left.iter().map(key).cmp(right.iter().map(key))
}

/// `dir/name`, or just `name` in the root (an empty `dir`).
pub fn join(dir: &Path, name: &[u8]) -> PathBuf {
    if dir.as_os_str().is_empty() {
        return from_bytes(name).to_owned();
    }
    let mut text = Vec::with_capacity(bytes(dir).len() + 1 + name.len());
    text.extend_from_slice(bytes(dir));
    text.push(b'/');
    text.extend_from_slice(name);
    from_bytes(&text).to_owned()
}

/// Whether a name has one of `*`, `?`, `[` that no backslash takes the meaning of.
pub fn has_wildcard(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_follows_the_text() {
        for (given, wanted) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("//a//b/", "/a/b"),
            ("./a/./b", "a/b"),
            ("a/../..", ".."),
            ("/../a", "/a"),
            ("../../a/..", "../.."),
        ] {
            assert_eq!(clean_str(given), wanted, "{given}");
        }
    }

    #[test]
    fn a_slash_sorts_below_everything() {
        let mut paths = ["foo.txt", "foo-bar", "foo/x", "foo"];
        paths.sort_by(|a, b| walk_order(a.as_bytes(), b.as_bytes()));
        assert_eq!(paths, ["foo", "foo/x", "foo-bar", "foo.txt"]);
    }

    #[test]
    fn a_root_cannot_be_left_by_text() {
        assert_eq!(relative("/../../a/./b"), Path::new("a/b"));
        assert_eq!(rooted("../.."), Path::new("/"));
    }

    #[test]
    fn an_escaped_star_is_no_wildcard() {
        assert!(!has_wildcard(br"a\*"));
        assert!(has_wildcard(br"a\\*"));
    }
}
