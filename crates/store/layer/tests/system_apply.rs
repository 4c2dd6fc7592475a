//! Recorded archives, unpacked.

mod support;

use layer::{Compression, Options, Target};
use oci::{Descriptor, media_type};
use tasks::Cx;

#[test]
fn every_recorded_archive_unpacks_as_recorded() {
    testkit::require!(root);
    for case in support::vector("apply-cases.json")
        .as_array()
        .expect("a list")
    {
        let name = case["name"].as_str().expect("a name");
        let dir = tempfile::tempdir().expect("a scratch folder");
        let root = dir.path().join("root");
        std::fs::create_dir(&root).expect("mkdir");
        support::make(&root, &case["before"]);
        let store = content::Store::open(&dir.path().join("content")).expect("a store");
        let tar = support::base64(&case["tar_base64"]);
        let digest = store.put(&tar).expect("stored");
        let plain = Descriptor::new(media_type::OCI_LAYER, digest.clone(), tar.len() as i64);
        let target = if case["overlay_whiteouts"] == true {
            Target::Overlay {
                upper: root.clone(),
                lower: Vec::new(),
            }
        } else {
            Target::Plain(root.clone())
        };
        // The same archive under each compression in turn, so that all ways of reading are used.
        let compression = [
            Compression::Uncompressed,
            Compression::Gzip,
            Compression::Zstd,
        ][name.len() % 3];
        let options = Options {
            compression,
            ..Options::default()
        };
        let cx = Cx::root();
        let blob = layer::convert(&cx, &store, &plain, &options).expect("converted");
        assert_eq!(blob.diff_id, digest, "{name}");
        let unpacked = layer::apply(&cx, &store, &blob.descriptor, Some(&digest), &target);
        match unpacked {
            Ok(diff_id) => {
                assert!(case.get("error").is_none(), "{name}");
                assert_eq!(diff_id, digest, "{name}");
            }
            Err(err) => {
                let text = fault::chain(&err).replace(&root.display().to_string(), "<root>");
                assert_eq!(text, case["error"], "{name}");
            }
        }
        // After a failure the target is thrown away; what is left in it (times above all) is nobody's business.
        if case.get("error").is_none() {
            assert_eq!(
                support::describe(&root),
                support::describe_recorded(&case["after"]),
                "{name}"
            );
        }
    }
}

#[test]
fn another_diff_id_than_the_promised_one_is_an_error() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let store = content::Store::open(&dir.path().join("content")).expect("a store");
    let digest = store.put([0_u8; 1024]).expect("stored");
    let blob = Descriptor::new(media_type::OCI_LAYER, digest, 1024);
    let target = Target::Plain(dir.path().to_owned());
    let wrong = oci::Digest::of("other");
    let failed = layer::apply(&Cx::root(), &store, &blob, Some(&wrong), &target);
    assert!(matches!(failed, Err(layer::Error::DiffId { .. })));
}

#[test]
fn parents_that_a_layer_leaves_out_look_as_they_do_below() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let at = |path: &str| dir.path().join(path);
    for path in ["low/a/b", "lower/a", "upper"] {
        std::fs::create_dir_all(at(path)).expect("mkdir");
    }
    let entry = |path: &str, uid: u32| {
        serde_json::json!([{"path": path, "type": "dir", "mode": "0711", "uid": uid, "gid": 7,
            "mtime": [1000, 5], "xattrs_base64": {"user.k": "dg=="}}])
    };
    std::fs::remove_dir(at("low/a/b")).expect("rmdir");
    support::make(&at("low"), &entry("a/b", 3));
    let mut archive = layer::archive::Writer::new(Vec::new());
    let header = layer::archive::Header::new("a/b/f", layer::archive::Kind::File, 0o644);
    archive.member(&header).expect("write");
    let tar = archive.finish().expect("write");
    let store = content::Store::open(&at("content")).expect("a store");
    let digest = store.put(&tar).expect("stored");
    let blob = Descriptor::new(media_type::OCI_LAYER, digest, tar.len() as i64);
    let target = Target::Overlay {
        upper: at("upper"),
        lower: vec![at("lower"), at("low")],
    };
    layer::apply(&Cx::root(), &store, &blob, None, &target).expect("unpacked");
    let lines = support::describe(&at("upper"));
    assert!(lines[0].starts_with("a dir 0755 0:0"), "{lines:?}");
    assert!(lines[1].starts_with("a/b dir 0711 3:7"), "{lines:?}");
    assert!(lines[1].contains("user.k=v"), "{lines:?}");
}
