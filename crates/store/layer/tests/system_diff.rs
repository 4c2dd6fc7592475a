//! Layers made of recorded pairs of trees, byte for byte.

mod support;

use std::path::Path;
use std::sync::Arc;

use fstree::Root;
use layer::{Base, Change, Compression, Layers, Listing, Options};
use serde_json::Value;
use tasks::Cx;

/// Lower trees of overlays may be given as layers that nobody mounted.
#[derive(Clone, Copy, PartialEq)]
enum Given {
    Mounted,
    Layers,
}

fn layer_of(case: &Value, given: Given) -> Result<(String, Vec<u8>), layer::Error> {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let root = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).expect("mkdir");
        support::make(&path, &case[name]);
        Root::open(&path).expect("open")
    };
    let lower = (case["no_lower"] != true).then(|| root("lower"));
    let upper = root("upper");
    let change = match case["differ"].as_str() {
        Some("overlay") => Change::Overlay {
            lower: lower.map(|tree| match given {
                Given::Mounted => Base::Tree(tree),
                Given::Layers => Base::Layers(layers(dir.path(), tree)),
            }),
            upper,
        },
        _ => Change::Trees { lower, upper },
    };
    let store = content::Store::open(&dir.path().join("content")).expect("a store");
    let options = Options {
        compression: Compression::Uncompressed,
        ..Options::default()
    };
    let blob = layer::diff(&Cx::root(), &change, &options, &store)?;
    let bytes = store.read(&blob.descriptor.digest).expect("a blob");
    Ok((blob.diff_id.to_string(), bytes.to_vec()))
}

fn layers(dir: &Path, tree: Root) -> Layers {
    let listing =
        |name| Listing::of(dir.join(name), &mount::probe::overlay_options()).expect("listed");
    let lower = vec![Arc::new(listing("lower"))];
    Layers::below(&listing("upper"), lower, move || Ok(tree.clone())).expect("few names")
}

fn members(bytes: &[u8]) -> String {
    let mut reader = layer::archive::Reader::new(bytes);
    let mut all = String::new();
    while let Some(member) = reader.next_member().expect("readable") {
        all.push_str(&format!("{member:?}\n"));
    }
    all
}

#[test]
fn every_recorded_pair_of_trees_gives_the_recorded_layer() {
    testkit::require!(root);
    let all = support::vector("diff-cases.json");
    let cases = all.as_array().expect("a list");
    let each = |given| cases.iter().map(move |case| (case, given));
    let overlays = each(Given::Layers).filter(|(case, _)| case["differ"] == "overlay");
    for (case, given) in each(Given::Mounted).chain(overlays) {
        let name = case["name"].as_str().expect("a name");
        if case.get("mod_time_upper_bound").is_some() {
            continue; // an option of the stock writer that the stock daemon never sets
        }
        match layer_of(case, given) {
            Ok((diff_id, bytes)) => {
                assert_eq!(case["error"], Value::Null, "{name}");
                if let Some(recorded) = case.get("tar_base64") {
                    let recorded = support::base64(recorded);
                    assert_eq!(members(&bytes), members(&recorded), "{name}");
                    assert!(bytes == recorded, "{name}: other bytes");
                }
                assert_eq!(
                    bytes.len() as u64,
                    case["tar_size"].as_u64().expect("a size"),
                    "{name}: {}",
                    members(&bytes)
                );
                assert_eq!(diff_id, case["diff_id"], "{name}: {}", members(&bytes));
            }
            Err(err) => {
                let recorded = case["error"].as_str().unwrap_or_default();
                let text = fault::chain(&err);
                assert!(recorded.ends_with(&text), "{name}: {text}");
            }
        }
    }
}

#[test]
fn names_shared_with_other_trees_are_no_links() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for name in ["other", "upper"] {
        std::fs::create_dir(dir.path().join(name)).expect("mkdir");
    }
    let at = |path: &str| dir.path().join(path);
    std::fs::write(at("other/f"), "x").expect("write");
    std::fs::hard_link(at("other/f"), at("upper/f")).expect("link");
    let store = content::Store::open(&at("content")).expect("a store");
    let change = Change::Overlay {
        lower: None,
        upper: Root::open(at("upper")).expect("open"),
    };
    let options = Options {
        compression: Compression::Uncompressed,
        ..Options::default()
    };
    let blob = layer::diff(&Cx::root(), &change, &options, &store).expect("a layer");
    let bytes = store.read(&blob.descriptor.digest).expect("a blob");
    let mut reader = layer::archive::Reader::new(&*bytes);
    let member = reader.next_member().expect("readable").expect("one");
    assert_eq!(
        (member.kind, member.size),
        (
            layer::archive::MemberKind::Known(layer::archive::Kind::File),
            1
        )
    );
}
