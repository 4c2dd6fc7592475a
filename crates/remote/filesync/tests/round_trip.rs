//! What is sent arrives, however often and whatever was there before.

#[path = "support/trees.rs"]
mod trees;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use contenthash::Records;
use filesync::{Content, Differ, Emit, Item, Observer, ReceiveOptions, Tree};
use fstree::Root;
use futures::stream::{self, StreamExt};
use proptest::collection::vec;
use proptest::prelude::*;
use proto::fsutil::packet::PacketType;
use proto::fsutil::{Packet, Stat};
use trees::{
    Make, describe, each, make, mine, set_time, stays_below, transfer, transfer_with, whole,
};

fn entry() -> impl Strategy<Value = (String, Make, i64)> {
    let name = prop_oneof![
        Just("a"),
        Just("b"),
        Just("ab"),
        Just("a.b"),
        Just("-"),
        Just("é")
    ];
    let path = vec(name, 1..4).prop_map(|names| names.join("/"));
    let content = prop_oneof![
        4 => vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 200_000..600_000_usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    let kind = prop_oneof![
        2 => (0..0o7777_u32).prop_map(|mode| Make::Dir(mode & 0o1777)),
        5 => (content, 0..0o777_u32).prop_map(|(content, mode)| Make::File(content, mode)),
        1 => "[a-z/.]{1,8}".prop_map(Make::Symlink),
        1 => Just(Make::Link),
    ];
    (
        path,
        kind,
        1_600_000_000_000_000_000..1_600_000_000_000_000_005_i64,
    )
}

/// Names of all files, linked into another folder as a committed snapshot would have them.
fn snapshot(tree: &Path, into: &Path) {
    for (number, line) in files(tree).into_iter().enumerate() {
        fs::hard_link(tree.join(line), into.join(number.to_string())).expect("link");
    }
}

fn files(tree: &Path) -> Vec<String> {
    let root = Root::open(tree).expect("open");
    fstree::Walk::new(&root)
        .expect("walk")
        .map(|entry| entry.expect("entry"))
        .filter(|entry| entry.meta.is_file())
        .map(|entry| entry.path.display().to_string())
        .collect()
}

async fn check(first: &[(String, Make, i64)], second: &[(String, Make, i64)]) {
    let dirs = tempfile::tempdir().expect("a scratch folder");
    let [from, to, fresh, frozen] = ["from", "to", "fresh", "frozen"].map(|name| {
        let dir = dirs.path().join(name);
        fs::create_dir(&dir).expect("mkdir");
        dir
    });
    make(&from, first);
    let outcome = transfer(&from, &to).await;
    outcome.sent.expect("sent");
    let (_, records) = outcome.received.expect("received");
    assert_eq!(describe(&from), describe(&to));

    // A later state of the source, into what is there.
    snapshot(&to, &frozen);
    let before = describe(&frozen);
    for (path, _, _) in first.iter().step_by(3) {
        let at = from.join(path);
        if !stays_below(&from, path) {
            continue;
        }
        let _ = fs::remove_file(&at);
        let _ = fs::remove_dir_all(&at);
    }
    make(&from, second);
    let tree = Tree::new(Root::open(&from).expect("open"));
    let records = records.map(|mut records| {
        records.finish_transfer();
        records
    });
    let outcome = transfer_with(tree, &to, mine(), records).await;
    outcome.sent.expect("sent");
    let (_, records) = outcome.received.expect("received");
    assert_eq!(describe(&from), describe(&to));
    assert_eq!(
        describe(&frozen),
        before,
        "no inode that was there is touched"
    );

    // The records kept along the way say what those of a fresh transfer say.
    let outcome = transfer(&from, &fresh).await;
    let (_, new) = outcome.received.expect("received");
    let (mut records, mut new) = (records.expect("records"), new.expect("records"));
    if !new.is_empty() {
        assert_eq!(each(&mut records, &to), each(&mut new, &fresh));
        assert_eq!(whole(&mut records, &to), whole(&mut new, &fresh));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_tree_arrives_twice(first in vec(entry(), 0..24), second in vec(entry(), 0..24)) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .build()
            .expect("a runtime");
        runtime.block_on(check(&first, &second));
    }
}

#[test]
fn what_a_link_leads_to_is_left_alone() {
    let (_dirs, from, outside) = dirs();
    let link = Make::Symlink(outside.display().to_string());
    let below = ("a/b".to_owned(), Make::File(Vec::new(), 0o600), 0);
    make(&from, &[("a".to_owned(), link, 0), below]);
    assert!(from.join("a").is_symlink());
    assert!(fs::read_dir(&outside).expect("list").next().is_none());
}

fn dirs() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dirs = tempfile::tempdir().expect("a scratch folder");
    let (from, to) = (dirs.path().join("from"), dirs.path().join("to"));
    fs::create_dir(&from).expect("mkdir");
    fs::create_dir(&to).expect("mkdir");
    (dirs, from, to)
}

#[tokio::test]
async fn nothing_is_asked_for_when_nothing_changed() {
    let (_dirs, from, to) = dirs();
    fs::create_dir(from.join("d")).expect("mkdir");
    fs::write(from.join("d/f"), "x").expect("write");
    fs::hard_link(from.join("d/f"), from.join("d/g")).expect("link");
    transfer(&from, &to).await.received.expect("received");
    let (received, _) = transfer(&from, &to).await.received.expect("received");
    assert_eq!(received.entries, 3);
    assert_eq!(received.files, 0);

    set_time(&from.join("d/f"), 7);
    let (received, _) = transfer(&from, &to).await.received.expect("received");
    assert_eq!(received.files, 1, "one inode, fetched once");
    assert_eq!(describe(&from), describe(&to));
}

#[tokio::test]
async fn a_directory_keeps_its_time_when_its_last_entry_is_removed() {
    let (_dirs, from, to) = dirs();
    for name in ["d", "d/sub", "e"] {
        fs::create_dir(from.join(name)).expect("mkdir");
    }
    fs::write(from.join("d/sub/f"), "x").expect("write");
    set_time(&from.join("d/sub"), 7);
    transfer(&from, &to).await.received.expect("received");
    fs::remove_file(from.join("d/sub/f")).expect("removed");
    set_time(&from.join("d/sub"), 7);
    transfer(&from, &to).await.received.expect("received");
    assert_eq!(describe(&from), describe(&to));
}

#[tokio::test]
async fn merging_keeps_what_is_not_sent() {
    let (_dirs, from, to) = dirs();
    fs::write(from.join("new"), "x").expect("write");
    fs::write(from.join("both"), "sent").expect("write");
    fs::write(to.join("both"), "there").expect("write");
    fs::write(to.join("old"), "y").expect("write");
    let outside = tempfile::tempdir().expect("a scratch folder");
    fs::create_dir(from.join("d")).expect("mkdir");
    fs::write(from.join("d/f"), "z").expect("write");
    std::os::unix::fs::symlink(outside.path(), to.join("d")).expect("link");
    let options = ReceiveOptions {
        merge: true,
        ..mine()
    };
    let tree = Tree::new(Root::open(&from).expect("open"));
    let outcome = transfer_with(tree, &to, options, None).await;
    outcome.received.expect("received");
    assert_eq!(fs::read(to.join("both")).expect("read"), b"sent");
    assert_eq!(fs::read(to.join("old")).expect("read"), b"y");
    assert_eq!(fs::read(to.join("d/f")).expect("read"), b"z");
    assert!(
        fs::read_dir(outside.path()).expect("list").next().is_none(),
        "links in the destination lead nowhere"
    );
}

#[tokio::test]
async fn without_differ_everything_is_fetched_into_new_inodes() {
    let (_dirs, from, to) = dirs();
    fs::write(from.join("f"), "x").expect("write");
    transfer(&from, &to).await.received.expect("received");
    let before = fs::metadata(to.join("f")).expect("meta").ino();
    let options = ReceiveOptions {
        differ: Differ::None,
        ..mine()
    };
    let tree = Tree::new(Root::open(&from).expect("open"));
    let outcome = transfer_with(tree, &to, options, None).await;
    assert_eq!(outcome.received.expect("received").0.files, 1);
    assert_ne!(fs::metadata(to.join("f")).expect("meta").ino(), before);
}

fn file(path: &str, content: &'static str) -> Item {
    Item {
        stat: Stat {
            path: path.to_owned(),
            mode: 0o644,
            size: content.len() as i64,
            ..Stat::default()
        },
        content: Content::Bytes(content.into()),
    }
}

#[tokio::test]
async fn files_that_are_on_no_disk_can_be_sent() {
    let (_dirs, _, to) = dirs();
    let listing = |emit: Emit<'_>| {
        emit(file("a.json", "{}"))?;
        emit(file("b.json", "[]"))
    };
    let outcome = transfer_with(listing, &to, mine(), None).await;
    outcome.received.expect("received");
    assert_eq!(fs::read(to.join("b.json")).expect("read"), b"[]");
}

#[tokio::test]
async fn a_listing_that_climbs_out_is_refused() {
    let (_dirs, _, to) = dirs();
    let listing = |emit: Emit<'_>| emit(file("../evil", "x"));
    let outcome = transfer_with(listing, &to, mine(), None).await;
    let err = outcome.received.expect_err("refused");
    assert_eq!(err.to_string(), "escape check ../evil: invalid argument");
    let err = outcome.sent.expect_err("told");
    assert_eq!(
        err.to_string(),
        "error from receiver: escape check ../evil: invalid argument"
    );
    assert!(!to.parent().expect("parent").join("evil").exists());
}

#[tokio::test]
async fn a_listing_that_fails_fails_both_sides() {
    let (_dirs, _, to) = dirs();
    let listing = |emit: Emit<'_>| {
        emit(file("a", "x"))?;
        Err(filesync::Error::Unclean {
            path: "walk".to_owned(),
        })
    };
    let outcome = transfer_with(listing, &to, mine(), None).await;
    let text = "unclean path walk: invalid argument";
    assert_eq!(outcome.sent.expect_err("failed").to_string(), text);
    let err = outcome.received.expect_err("failed");
    assert_eq!(err.to_string(), format!("error from sender: {text}"));
}

#[tokio::test]
async fn a_file_that_vanished_arrives_empty() {
    let (_dirs, from, to) = dirs();
    fs::write(from.join("a"), "x").expect("write");
    let path = from.join("a");
    let root = Root::open(&from).expect("open");
    let listing = move |emit: Emit<'_>| {
        let content = Content::File {
            root,
            path: "a".into(),
        };
        fs::remove_file(&path).expect("remove");
        emit(Item {
            content,
            ..file("a", "x")
        })
    };
    let outcome = transfer_with(listing, &to, mine(), None).await;
    outcome.received.expect("received");
    assert_eq!(fs::read(to.join("a")).expect("read"), b"");
}

#[tokio::test]
async fn nothing_temporary_is_left_behind() {
    let (_dirs, from, to) = dirs();
    for i in 0..50 {
        fs::write(from.join(format!("f{i}")), "new").expect("write");
        fs::write(to.join(format!("f{i}")), "older").expect("write");
    }
    let outcome = transfer(&from, &to).await;
    outcome.received.expect("received");
    assert_eq!(describe(&from), describe(&to));
    let _: Option<Records> = None;
}

const LARGE: usize = 12 << 20;
const PART: usize = 32 << 10;

/// Six large files and then many directories.
fn listing_that_lasts() -> Vec<Packet> {
    let entry = |path: String, mode, size| Packet {
        stat: Some(Stat {
            path,
            mode,
            size,
            ..Stat::default()
        }),
        ..Packet::default()
    };
    let files = (0..6).map(|i| entry(format!("a{i}"), 0o644, LARGE as i64));
    let dirs = (0..12).map(|i| entry(format!("d{i:04}"), 1 << 31 | 0o755, 0));
    files.chain(dirs).chain([Packet::default()]).collect()
}

/// Makes the listing end long after content has begun to come.
struct SlowDirs;

impl Observer for SlowDirs {
    fn changed(&mut self, path: &[u8], _: contenthash::Change<'_>) {
        if path.starts_with(b"d") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn removed(&mut self, _: &[u8]) {}
}

fn content(id: u32) -> impl Iterator<Item = Packet> {
    let part = bytes::Bytes::from(vec![id as u8; PART]);
    let packet = move |data| Packet {
        r#type: PacketType::PacketData.into(),
        id,
        data,
        ..Packet::default()
    };
    (0..LARGE / PART)
        .map(move |_| part.clone())
        .chain([bytes::Bytes::new()])
        .map(packet)
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_waits_while_the_listing_ends_is_not_lost() {
    let (_dirs, _, to) = dirs();
    let (replies, mut answers) = tokio::sync::mpsc::unbounded_channel();
    // All content is there at once as soon as it is asked for, and more than the receiver lets wait.
    let requested = async move {
        for _ in 0..6 {
            answers.recv().await;
        }
        stream::iter((0..6).flat_map(content)).chain(stream::once(async move {
            answers.recv().await;
            Packet::default()
        }))
    };
    let packets = stream::iter(listing_that_lasts())
        .chain(stream::once(requested).flatten())
        .map(Ok);
    let root = Root::open(&to).expect("open");
    let cx = tasks::Cx::root();
    let slow = Some(SlowDirs);
    let receiving = filesync::receive(&cx, Box::pin(packets), replies, root, mine(), slow, |_| {});
    tokio::time::timeout(std::time::Duration::from_secs(60), receiving)
        .await
        .expect("an end in time")
        .expect("received");
    for i in 0..6_u8 {
        let written = fs::read(to.join(format!("a{i}"))).expect("read");
        assert!(written == vec![i; LARGE], "a{i}");
    }
}
