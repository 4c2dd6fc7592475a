//! Trees written as short texts.

// Each test file uses its own part.
#![allow(dead_code)]

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use fstree::{Kind, Root, Walk};

/// A scratch folder with what the lines say: `dir/`, `file=content`, `link->target`, `second==first`.
pub fn tree(lines: &[&str]) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for line in lines {
        make(dir.path(), line);
    }
    let root = Root::open(dir.path()).expect("open");
    (dir, root)
}

fn make(dir: &Path, line: &str) {
    let with_parent = |name: &str| {
        let at = dir.join(name);
        std::fs::create_dir_all(at.parent().expect("below the root")).expect("mkdir");
        at
    };
    if let Some((name, target)) = line.split_once("->") {
        symlink(target, with_parent(name)).expect("symlink");
    } else if let Some((name, first)) = line.split_once("==") {
        std::fs::hard_link(dir.join(first), with_parent(name)).expect("link");
    } else if let Some((name, content)) = line.split_once('=') {
        std::fs::write(with_parent(name), content).expect("write");
    } else {
        std::fs::create_dir_all(dir.join(line)).expect("mkdir");
    }
}

/// The tree as lines, in walk order.
pub fn lines(root: &Root) -> Vec<String> {
    let walk = Walk::new(root).expect("walk");
    walk.map(|entry| {
        let entry = entry.expect("entry");
        let path = entry.path.display();
        match entry.meta.kind() {
            Kind::Dir => format!("{path}/"),
            Kind::Symlink => format!("{path}->{}", entry.link.display()),
            Kind::File => {
                let content = std::io::read_to_string(entry.open().expect("open"));
                format!("{path}={}", content.expect("text"))
            }
            other => format!("{path} is {other:?}"),
        }
    })
    .collect()
}

pub fn mode(dir: &tempfile::TempDir, path: &str) -> u32 {
    stat(dir, path).mode() & 0o7777
}

pub fn set_mode(dir: &tempfile::TempDir, path: &str, mode: u32) {
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(dir.path().join(path), mode).expect("chmod");
}

pub fn inode(dir: &tempfile::TempDir, path: &str) -> u64 {
    stat(dir, path).ino()
}

pub fn mtime(dir: &tempfile::TempDir, path: &str) -> (i64, i64) {
    let meta = stat(dir, path);
    (meta.mtime(), meta.mtime_nsec())
}

fn stat(dir: &tempfile::TempDir, path: &str) -> std::fs::Metadata {
    std::fs::symlink_metadata(dir.path().join(path)).expect(path)
}
