//! Manifests and configs of recorded images come back byte for byte.

use oci::{Descriptor, Digest, ImageConfig, Index, Manifest};
use serde_json::Value;

#[test]
fn every_recorded_document_is_written_as_it_was_read() {
    for name in [
        "image-scratch-oci",
        "image-scratch-docker",
        "image-base-oci",
        "image-empty-oci",
        "image-multi-oci",
    ] {
        let path = format!(
            "{}/../../../testing/vectors/layers/{name}.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(path).expect("a vector file");
        let image: Value = serde_json::from_str(&text).expect("a JSON document");
        for (digest, blob) in image["blobs"].as_object().expect("blobs") {
            let Some(text) = blob["text"].as_str() else {
                continue;
            };
            let value: Value = serde_json::from_str(text).expect("JSON");
            let bytes = if digest == "index.json" {
                let index = Index::parse(text.as_bytes()).expect("an index");
                oci::json::compact(&index).expect("JSON")
            } else if value.get("manifests").is_some() {
                let index = Index::parse(text.as_bytes()).expect("an index");
                index.to_bytes().expect("JSON")
            } else if value.get("schemaVersion").is_some() {
                let manifest = Manifest::parse(text.as_bytes()).expect("a manifest");
                manifest.to_bytes().expect("JSON")
            } else if value.get("rootfs").is_some() {
                let mut config = ImageConfig::parse(text.as_bytes()).expect("a config");
                let diff_ids = config.diff_ids().expect("layers");
                let history = config.history().expect("a history");
                let created = config.created().expect("a time");
                config.set_rootfs(diff_ids).expect("set");
                config.set_history(&history).expect("set");
                config.set_created(created).expect("set");
                config.to_bytes()
            } else {
                continue;
            };
            assert_eq!(String::from_utf8(bytes).expect("text"), text, "{name}");
            if digest.starts_with("sha256:") {
                assert_eq!(Digest::of(text).as_str(), digest, "{name}");
            }
        }
    }
}

#[test]
fn a_descriptor_leaves_out_what_it_does_not_know() {
    let descriptor = Descriptor::new("a/b", Digest::of(""), 3);
    assert_eq!(
        serde_json::to_string(&descriptor).expect("JSON"),
        format!(
            r#"{{"mediaType":"a/b","digest":"{}","size":3}}"#,
            Digest::of("")
        )
    );
}
