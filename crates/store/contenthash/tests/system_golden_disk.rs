//! Upstream's answers for trees on disk. Devices and owners take root.

mod common;

use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use common::{Entry, Tree, check, trees};
use contenthash::Records;
use fstree::Device;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tasks::Cx;

fn make(root: &Path, entry: &Entry) {
    let at = root.join(&entry.path);
    let node = |kind: FileType| {
        let rdev = Device {
            major: entry.devmajor,
            minor: entry.devminor,
        };
        mknodat(CWD, &at, kind, Mode::from_raw_mode(0o600), rdev.packed()).expect("mknod");
    };
    match entry.kind.as_str() {
        "dir" => std::fs::create_dir_all(&at).expect("mkdir"),
        "symlink" => symlink(&entry.linkname, &at).expect("symlink"),
        "hardlink" => std::fs::hard_link(root.join(&entry.linkname), &at).expect("link"),
        "char" => node(FileType::CharacterDevice),
        "block" => node(FileType::BlockDevice),
        "fifo" => node(FileType::Fifo),
        "socket" => drop(UnixListener::bind(&at).expect("bind")),
        _ => std::fs::write(&at, &entry.content).expect("write"),
    }
    if entry.kind == "hardlink" {
        return;
    }
    if entry.kind == "symlink" {
        lchown(&at, Some(entry.uid), Some(entry.gid)).expect("lchown");
        return;
    }
    chown(&at, Some(entry.uid), Some(entry.gid)).expect("chown");
    std::fs::set_permissions(&at, std::fs::Permissions::from_mode(entry.mode)).expect("chmod");
    for (name, value) in &entry.xattrs {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&at, name.as_str(), value, flags).expect("xattr");
    }
}

fn build(tree: &Tree) -> (tempfile::TempDir, fstree::Root) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for entry in &tree.entries {
        make(dir.path(), entry);
    }
    make(dir.path(), &tree.root);
    let root = fstree::Root::open(dir.path()).expect("open");
    (dir, root)
}

#[test]
fn trees_on_disk_give_upstream_s_digests() {
    testkit::require!(root);
    for tree in &trees() {
        let (_dir, root) = build(tree);
        let mut shared = Records::new();
        for asked in &tree.queries {
            let ask = |records: &mut Records| {
                let answer = records.query(&Cx::root(), &root, &asked.query);
                let answer = answer.map(|digest| digest.to_string());
                check(
                    tree,
                    asked,
                    answer.map_err(|err| fault::chain(&err)),
                    &asked.disk,
                );
            };
            ask(&mut Records::new());
            ask(&mut shared);
            // What was learned is enough to say it again without the disk.
            assert!(shared.known(&asked.query).is_some(), "{:?}", asked.query);
        }
        let restored = Records::from_bytes(&shared.to_bytes()).expect("readable");
        assert!(restored == shared);
    }
}

#[test]
fn an_empty_transfer_leaves_the_answer_to_the_disk() {
    testkit::require!(root);
    let trees = trees();
    let tree = trees.iter().find(|tree| tree.name == "empty").expect("one");
    let (_dir, root) = build(tree);
    for asked in &tree.queries {
        let mut records = Records::new();
        records.finish_transfer();
        assert!(records.known(&asked.query).is_none());
        let answer = records.query(&Cx::root(), &root, &asked.query);
        let answer = answer.map(|digest| digest.to_string());
        check(
            tree,
            asked,
            answer.map_err(|err| fault::chain(&err)),
            &asked.stream,
        );
    }
}

#[test]
fn a_question_about_one_file_reads_no_other() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::create_dir(dir.path().join("a")).expect("mkdir");
    std::fs::write(dir.path().join("a/f"), "x").expect("write");
    let root = fstree::Root::open(dir.path()).expect("open");
    let mut records = Records::new();
    let query = contenthash::Query::of("/a/f");
    records.query(&Cx::root(), &root, &query).expect("there");
    assert!(records.take_changed());
    assert!(records.known(&query).is_some());
    assert!(records.known(&contenthash::Query::of("/a")).is_none());
    records.query(&Cx::root(), &root, &query).expect("known");
    assert!(!records.take_changed());
}
