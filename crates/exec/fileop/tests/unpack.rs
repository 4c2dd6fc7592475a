//! Archives that are unpacked when they are copied.

mod common;

use std::io::Write;
use std::path::Path;

use common::{lines, mode, mtime, tree};
use fileop::{Copy, copy};
use fstree::Root;
use tar::{Builder, EntryType, Header};
use tasks::Cx;

fn add(to: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, content: &str, link: &str) {
    let mut header = Header::new_gnu();
    // Names that a builder would refuse are what is tested.
    let bytes = header.as_old_mut();
    bytes.name[..name.len()].copy_from_slice(name.as_bytes());
    bytes.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory {
        0o750
    } else {
        0o640
    });
    header.set_uid(u64::from(rustix::process::getuid().as_raw()));
    header.set_gid(u64::from(rustix::process::getgid().as_raw()));
    header.set_mtime(1_000);
    header.set_size(content.len() as u64);
    header.set_cksum();
    to.append(&header, content.as_bytes()).expect("append");
}

fn sample() -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "./", EntryType::Directory, "", "");
    add(&mut tar, "d/", EntryType::Directory, "", "");
    add(&mut tar, "d/f", EntryType::Regular, "one", "");
    add(&mut tar, "d/h", EntryType::Link, "", "d/f");
    add(&mut tar, "deep/er/g", EntryType::Regular, "two", "");
    add(&mut tar, "abs", EntryType::Symlink, "", "/d");
    add(&mut tar, "abs/via", EntryType::Regular, "three", "");
    add(&mut tar, "../out", EntryType::Regular, "four", "");
    tar.into_inner().expect("finish")
}

const UNPACKED: [&str; 10] = [
    "x/",
    "x/abs->/d",
    "x/d/",
    "x/d/f=one",
    "x/d/h=one",
    "x/d/via=three",
    "x/deep/",
    "x/deep/er/",
    "x/deep/er/g=two",
    "x/out=four",
];

fn action() -> Copy {
    Copy {
        src: "/a".to_owned(),
        dest: "/x".to_owned(),
        attempt_unpack: true,
        create_dest_path: true,
        ..Copy::default()
    }
}

fn unpacked(archive: &[u8], target: &[&str]) -> (tempfile::TempDir, Root) {
    let ((from, source), (to, target)) = (tree(&[]), tree(target));
    std::fs::write(from.path().join("a"), archive).expect("write");
    copy(&Cx::root(), &source, &target, &action(), None).expect("copied");
    (to, target)
}

#[test]
fn a_plain_archive_is_unpacked_inside_its_destination() {
    let (to, target) = unpacked(&sample(), &[]);
    assert_eq!(lines(&target), UNPACKED);
    assert_eq!((mode(&to, "x/d"), mode(&to, "x/d/f")), (0o750, 0o640));
    assert_eq!((mode(&to, "x"), mode(&to, "x/deep")), (0o755, 0o755));
    assert_eq!(
        (mtime(&to, "x/d"), mtime(&to, "x/d/f")),
        ((1_000, 0), (1_000, 0))
    );
    assert_eq!(common::inode(&to, "x/d/f"), common::inode(&to, "x/d/h"));
}

#[test]
fn compressed_archives_are_told_by_their_content() {
    let sample = sample();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&sample).expect("compress");
    let gzip = gzip.finish().expect("compress");
    let mut xz = Vec::new();
    lzma_rs::xz_compress(&mut sample.as_slice(), &mut xz).expect("compress");
    let zstd = zstd::encode_all(sample.as_slice(), 1).expect("compress");
    for archive in [gzip, xz, zstd] {
        let (_to, target) = unpacked(&archive, &[]);
        assert_eq!(lines(&target), UNPACKED);
    }
}

#[test]
fn a_bzip2_archive_is_unpacked() {
    // A tar with the one file `f` of two bytes, made by GNU tar and bzip2.
    let archive = include_bytes!("data/one.tar.bz2");
    let (_to, target) = unpacked(archive, &[]);
    assert_eq!(lines(&target), ["x/", "x/f=1\n"]);
}

#[test]
fn what_stands_in_the_way_is_replaced_but_directories_are_merged() {
    let (_to, target) = unpacked(&sample(), &["x/d/old=0", "x/abs/sub=1", "x/out/sub=2"]);
    let mut wanted = UNPACKED.to_vec();
    wanted.insert(5, "x/d/old=0");
    assert_eq!(lines(&target), wanted);
}

#[test]
fn links_of_the_target_lead_nowhere_outside() {
    let ((from, source), (_to, target)) = (tree(&[]), tree(&["x/d->../../../../../tmp"]));
    std::fs::write(from.path().join("a"), sample()).expect("write");
    copy(&Cx::root(), &source, &target, &action(), None).expect("copied");
    assert!(!Path::new("/tmp/f").exists());
    assert_eq!(lines(&target), UNPACKED);
}

#[test]
fn other_files_are_copied() {
    for content in [&b"text"[..], b"", b"\x1f\x8b\x08 no gzip", &[0; 2048]] {
        let (to, _target) = unpacked(content, &[]);
        assert_eq!(std::fs::read(to.path().join("x")).expect("read"), content);
    }
}

#[test]
fn an_archive_cut_short_is_an_error() {
    let ((from, source), (_to, target)) = (tree(&[]), tree(&[]));
    std::fs::write(from.path().join("a"), &sample()[..1200]).expect("write");
    let err = copy(&Cx::root(), &source, &target, &action(), None).expect_err("cut short");
    assert!(
        fault::chain(&err).starts_with("failed to read archive: "),
        "{err}"
    );
}

#[test]
fn a_link_to_a_shared_file_makes_it_the_target_s_own_first() {
    let mut tar = Builder::new(Vec::new());
    add(&mut tar, "h", EntryType::Link, "", "f");
    let archive = tar.into_inner().expect("finish");
    let ((from, source), (to, target)) = (tree(&["f=1"]), tree(&["x/"]));
    std::fs::write(from.path().join("a"), archive).expect("write");
    std::fs::hard_link(from.path().join("f"), to.path().join("x/f")).expect("share");
    copy(&Cx::root(), &source, &target, &action(), None).expect("copied");
    assert_eq!(lines(&target), ["x/", "x/f=1", "x/h=1"]);
    assert_eq!((mode(&from, "f"), mode(&to, "x/f")), (0o644, 0o640));
}
