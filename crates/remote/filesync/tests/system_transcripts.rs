//! The same tree into the same destination as the reference did it, packet for packet.

#[path = "support/trees.rs"]
mod trees;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use filesync::{Differ, ReceiveOptions, Tree};
use fstree::{Patterns, Root};
use prost::Message;
use proto::fsutil::Packet;
use proto::fsutil::packet::PacketType;
use rustix::fs::{CWD, FileType, Mode};
use serde_json::Value as Json;
use trees::{set_time, transfer_with};

const SECONDS: i64 = 1_700_000_000;

fn vectors() -> Json {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/transfer/transcripts.json"
    );
    let text = fs::read_to_string(path).expect("the vectors are checked in");
    serde_json::from_str(&text).expect("JSON")
}

fn build(dir: &Path, tree: &Json) {
    let entries = tree.as_array().expect("entries");
    for entry in entries {
        let at = dir.join(entry["Path"].as_str().expect("path"));
        let link = entry["Link"].as_str().expect("link");
        let mknod = |kind, device| {
            rustix::fs::mknodat(CWD, &at, kind, Mode::from_raw_mode(0o600), device).expect("mknod");
        };
        match entry["Type"].as_str().expect("type") {
            "dir" => fs::create_dir(&at).expect("mkdir"),
            "symlink" => symlink(link, &at).expect("link"),
            "hardlink" => fs::hard_link(dir.join(link), &at).expect("link"),
            "fifo" => mknod(FileType::Fifo, 0),
            "char" => mknod(FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
            "socket" => drop(UnixListener::bind(&at).expect("bind")),
            _ => fs::write(&at, entry["Text"].as_str().expect("text")).expect("write"),
        }
    }
    for entry in entries.iter().rev() {
        let at = dir.join(entry["Path"].as_str().expect("path"));
        let kind = fs::symlink_metadata(&at).expect("meta").file_type();
        if !kind.is_symlink() {
            let given = entry["Mode"].as_u64().expect("mode") as u32;
            let mode = match given {
                0 if kind.is_dir() || kind.is_socket() => 0o755,
                0 => 0o644,
                mode => mode,
            };
            fs::set_permissions(&at, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        set_time(&at, SECONDS * 1_000_000_000);
    }
}

fn options(name: &str) -> ReceiveOptions {
    let metadata_only = name
        .strip_prefix("metadata-only-except-")
        .map(|pattern| filesync::Exceptions(Patterns::new(&[pattern]).expect("a pattern")));
    ReceiveOptions {
        differ: if name == "differ-none" {
            Differ::None
        } else {
            Differ::Metadata
        },
        merge: name == "merge",
        metadata_only,
        owner: None,
    }
}

/// Listing in order, then the rest in the order of ids: the rest depends on timing.
fn ordered(mut packets: Vec<Packet>) -> Vec<Vec<u8>> {
    packets.sort_by_key(|packet| {
        let kind = packet.r#type();
        let late = kind != PacketType::PacketStat;
        (late, kind == PacketType::PacketFin, packet.id)
    });
    packets.iter().map(Message::encode_to_vec).collect()
}

fn expected(transfer: &Json, from: &str) -> Vec<Vec<u8>> {
    let packets = transfer["packets_in_sent_order"]
        .as_array()
        .expect("packets");
    let of_side = packets.iter().filter(|packet| packet["from"] == from);
    let bytes = of_side.map(|packet| {
        let text = packet["wire_base64"].as_str().unwrap_or_default();
        let bytes = STANDARD.decode(text).expect("base64");
        Packet::decode(bytes.as_slice()).expect("a packet")
    });
    ordered(bytes.collect())
}

fn names(dir: &Path) -> BTreeSet<String> {
    let root = Root::open(dir).expect("open");
    let walk = fstree::Walk::new(&root).expect("walk");
    walk.map(|entry| entry.expect("entry").path.display().to_string())
        .collect()
}

#[tokio::test]
async fn both_ends_say_what_the_reference_says() {
    testkit::require!(root);
    let vectors = vectors();
    for transfer in vectors["transfers"].as_array().expect("transfers") {
        let name = transfer["name"].as_str().expect("a name");
        let dirs = tempfile::tempdir().expect("a scratch folder");
        let (from, to) = (dirs.path().join("from"), dirs.path().join("to"));
        fs::create_dir(&from).expect("mkdir");
        fs::create_dir(&to).expect("mkdir");
        build(&from, &vectors["source"]);
        build(&to, &vectors["destination_before"]);
        let tree = Tree::new(Root::open(&from).expect("open"));
        let outcome = transfer_with(tree, &to, options(name), None).await;
        outcome.sent.expect("sent");
        outcome.received.expect("received");
        assert_eq!(
            ordered(outcome.transcript.sent),
            expected(transfer, "sender"),
            "{name}: sender"
        );
        assert_eq!(
            ordered(outcome.transcript.answered),
            expected(transfer, "receiver"),
            "{name}: receiver"
        );
        let tree = transfer["result_tree"].as_array().expect("a tree");
        let tree = tree.iter().map(|line| {
            let line = line.as_str().expect("a line");
            line.rsplit_once(' ').expect("path and mode").0.to_owned()
        });
        assert_eq!(names(&to), tree.collect(), "{name}: tree");
        let metadata = transfer["metadata_file_base64"].as_str().expect("base64");
        if !metadata.is_empty() {
            let written = fs::read(to.join(".fsutil-metadata")).expect("read");
            assert_eq!(STANDARD.encode(written), metadata, "{name}: listing");
        }
    }
}

#[tokio::test]
async fn devices_pipes_owners_and_attributes_arrive() {
    testkit::require!(root);
    let dirs = tempfile::tempdir().expect("a scratch folder");
    let (from, to) = (dirs.path().join("from"), dirs.path().join("to"));
    fs::create_dir(&from).expect("mkdir");
    fs::create_dir(&to).expect("mkdir");
    build(&from, &vectors()["source"]);
    std::os::unix::fs::chown(from.join("h1"), Some(12), Some(34)).expect("chown");
    set_time(&from.join("h1"), SECONDS * 1_000_000_000);
    let attribute = rustix::fs::setxattr(
        from.join("h1"),
        "trusted.kiln",
        b"v",
        rustix::fs::XattrFlags::empty(),
    );
    let tree = Tree::new(Root::open(&from).expect("open"));
    let outcome = transfer_with(tree, &to, ReceiveOptions::default(), None).await;
    outcome.received.expect("received");
    fs::remove_file(from.join("sock")).expect("remove");
    fs::remove_file(to.join("sock")).expect("remove");
    let differences: Vec<_> = trees::describe(&from)
        .into_iter()
        .zip(trees::describe(&to))
        .filter(|(from, to)| from != to)
        .collect();
    assert_eq!(differences, []);
    let meta = fs::metadata(to.join("h2")).expect("meta");
    assert_eq!(
        (
            std::os::unix::fs::MetadataExt::uid(&meta),
            std::os::unix::fs::MetadataExt::gid(&meta)
        ),
        (12, 34)
    );
    if attribute.is_ok() {
        let mut value = [0; 8];
        let len = rustix::fs::getxattr(to.join("h2"), "trusted.kiln", &mut value[..]);
        assert_eq!(len.expect("attribute"), 1);
    }
}
