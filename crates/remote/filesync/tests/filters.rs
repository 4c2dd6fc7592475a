//! What of a tree is sent under include, exclude and follow lists, as the reference decides it.

#[path = "support/trees.rs"]
mod trees;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use filesync::Tree;
use fstree::{FilterOptions, Root};
use serde_json::Value as Json;
use trees::{mine, transfer_with};

fn vectors() -> Json {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/transfer/filter-cases.json"
    );
    let text = fs::read_to_string(path).expect("the vectors are checked in");
    serde_json::from_str(&text).expect("JSON")
}

fn build(dir: &Path, tree: &Json) {
    for entry in tree.as_array().expect("entries") {
        let at = dir.join(entry["Path"].as_str().expect("path"));
        match entry["Type"].as_str().expect("type") {
            "dir" => fs::create_dir_all(at).expect("mkdir"),
            "symlink" => symlink(entry["Link"].as_str().expect("link"), at).expect("link"),
            _ => fs::write(at, entry["Text"].as_str().expect("text")).expect("write"),
        }
    }
}

fn list(json: &Json) -> Vec<String> {
    let items = json.as_array().map_or(&[][..], Vec::as_slice);
    let text = |item: &Json| item.as_str().expect("text").to_owned();
    items.iter().map(text).collect()
}

#[tokio::test]
async fn every_filter_sends_what_the_reference_sends() {
    let vectors = vectors();
    let from = tempfile::tempdir().expect("a scratch folder");
    build(from.path(), &vectors["tree"]);
    for case in vectors["cases"].as_array().expect("cases") {
        let to = tempfile::tempdir().expect("a scratch folder");
        let tree = Tree {
            root: Root::open(from.path()).expect("open"),
            filter: FilterOptions {
                include: list(&case["Include"]),
                exclude: list(&case["Exclude"]),
                follow: list(&case["Follow"]),
            },
            map: Box::new(|_| {}),
        };
        let outcome = transfer_with(tree, to.path(), mine(), None).await;
        if let Some(error) = case["Err"].as_str() {
            let err = outcome.sent.expect_err("an error");
            let text = fault::chain(&err);
            let end = error.rsplit(": ").next().unwrap_or(error);
            assert!(text.ends_with(end), "{case}: {text}");
            continue;
        }
        outcome.received.expect("received");
        let stats = outcome.transcript.sent.into_iter();
        let sent: Vec<String> = stats.filter_map(|packet| Some(packet.stat?.path)).collect();
        assert_eq!(sent, list(&case["Sent"]), "{case}");
    }
}
