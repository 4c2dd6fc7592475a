//! Recorded images, composed again.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

pub(crate) fn recorded(name: &str) -> Value {
    let path = format!(
        "{}/../../../testing/vectors/layers/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).expect("a vector file");
    serde_json::from_str(&text).expect("a JSON document")
}

fn blob<'a>(image: &'a Value, digest: &Digest) -> &'a str {
    image["blobs"][digest.as_str()]["text"]
        .as_str()
        .expect("a text")
}

/// Takes a recorded image apart and composes it anew; the layers are taken as they are.
fn check_single(image: &Value, wanted: &Descriptor, places: &Places) {
    let manifest = Manifest::parse(blob(image, &wanted.digest).as_bytes()).expect("a manifest");
    let config = blob(image, &manifest.config.digest);
    let parsed = ImageConfig::parse(config.as_bytes()).expect("a config");
    let layers = manifest
        .layers
        .iter()
        .zip(parsed.diff_ids().expect("layers"));
    // What the frontend says is later than the epoch; the base image's steps keep their time.
    let epoch = Timestamp::from_seconds(1_600_000_000);
    let mut given = parsed.clone();
    let mut history = given.history().expect("a history");
    let inherited = history
        .iter()
        .take_while(|step| step.created > Some(epoch))
        .count();
    let base_history = history[..inherited].to_vec();
    for step in &mut history[inherited..] {
        step.created = None;
    }
    given.set_history(&history).expect("set");
    given
        .set_created(Some(Timestamp::from_seconds(1_700_000_000)))
        .expect("set");
    let mut base = parsed.clone();
    base.set_history(&base_history).expect("set");
    let composed = single(&Source {
        config: Some(&given.to_bytes()),
        base: Some(&base.to_bytes()),
        layers: layers
            .map(|(descriptor, diff_id)| Layer {
                descriptor: {
                    let mut descriptor = descriptor.clone();
                    let internal = "containerd.io/uncompressed".to_owned();
                    descriptor.annotations.insert(internal, diff_id.to_string());
                    descriptor
                },
                diff_id,
                origin: LayerOrigin {
                    created: Some(Timestamp::from_seconds(1_700_000_001)),
                    description: String::new(),
                },
            })
            .collect(),
        annotations: places,
        epoch: Some(epoch),
        inline_cache: None,
        squashed: None,
        oci_types: manifest.media_type == media_type::OCI_MANIFEST,
        prefer_nondistributable: false,
    })
    .expect("composed");
    let text = |document: &Document| String::from_utf8(document.bytes.to_vec()).expect("text");
    assert_eq!(text(&composed.config), config);
    assert_eq!(text(&composed.manifest), blob(image, &wanted.digest));
    assert_eq!(composed.manifest.descriptor.digest, wanted.digest);
    assert!(!composed.unaccounted);
}

fn root(image: &Value) -> Descriptor {
    let text = image["blobs"]["index.json"]["text"]
        .as_str()
        .expect("a text");
    let mut layout = Index::parse(text.as_bytes()).expect("an index");
    layout.manifests.swap_remove(0)
}

#[test]
fn recorded_images_come_out_byte_for_byte() {
    for name in ["scratch-oci", "scratch-docker", "base-oci", "empty-oci"] {
        let image = recorded(&format!("image-{name}"));
        let mut places = Places::default();
        if name == "base-oci" {
            places.manifest = BTreeMap::from([("x".to_owned(), "y".to_owned())]);
        }
        check_single(&image, &root(&image), &places);
    }
}

#[test]
fn a_recorded_index_comes_out_byte_for_byte() {
    let image = recorded("image-multi-oci");
    let root = root(&image);
    let text = blob(&image, &root.digest);
    let recorded = Index::parse(text.as_bytes()).expect("an index");
    for platform in &recorded.manifests[..2] {
        let mut places = Places::default();
        if platform
            .platform
            .as_ref()
            .is_some_and(|p| p.architecture == "amd64")
        {
            places.manifest = BTreeMap::from([("only".to_owned(), "amd".to_owned())]);
        }
        check_single(&image, platform, &places);
    }
    let places = Places {
        index: BTreeMap::from([("z".to_owned(), "w".to_owned())]),
        ..Places::default()
    };
    let composed = index(recorded.manifests, &places, true).expect("composed");
    assert_eq!(composed.bytes, text);
    assert_eq!(composed.descriptor.digest, root.digest);
}

#[test]
fn a_result_without_a_config_gets_one() {
    let composed = single(&Source {
        config: None,
        base: None,
        layers: Vec::new(),
        annotations: &Places::default(),
        epoch: None,
        inline_cache: Some("e30="),
        squashed: None,
        oci_types: true,
        prefer_nondistributable: false,
    })
    .expect("composed");
    let config: Value = serde_json::from_slice(&composed.config.bytes).expect("JSON");
    assert_eq!(config["created"], Value::Null);
    assert_eq!(config["moby.buildkit.cache.v0"], "e30=");
    assert_eq!(config["config"]["WorkingDir"], "/");
}

#[test]
fn steps_of_squashed_layers_stay_as_steps_that_made_none() {
    let origin = |description: &str| LayerOrigin {
        created: Some(Timestamp::from_seconds(7)),
        description: description.to_owned(),
    };
    let layer = |text: &str| Layer {
        descriptor: Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::of(text), 1),
        diff_id: Digest::of(text),
        origin: origin(text),
    };
    let config = br#"{"os":"linux","architecture":"amd64","rootfs":{},"history":[
        {"created_by":"base"},{"created_by":"env","empty_layer":true},{"created_by":"a"},{"created_by":"b"}]}"#;
    let history = |kept, layers: &[&str]| {
        let composed = single(&Source {
            config: Some(config),
            base: None,
            layers: layers.iter().map(|text| layer(text)).collect(),
            annotations: &Places::default(),
            epoch: None,
            inline_cache: None,
            squashed: Some(kept),
            oci_types: true,
            prefer_nondistributable: false,
        })
        .expect("composed");
        assert!(!composed.unaccounted);
        let config: Value = serde_json::from_slice(&composed.config.bytes).expect("JSON");
        let steps = config["history"].as_array().expect("steps").clone();
        let made = |step: &Value| {
            let by = step["created_by"].as_str().expect("text").to_owned();
            (by, step["empty_layer"] != true)
        };
        steps.iter().map(made).collect::<Vec<_>>()
    };
    let expected = |made: [bool; 5]| {
        let by = ["base", "env", "a", "b", "top"].map(str::to_owned);
        by.into_iter().zip(made).collect::<Vec<_>>()
    };
    assert_eq!(
        history(1, &["low", "top"]),
        expected([true, false, false, false, true])
    );
    assert_eq!(
        history(0, &["top"]),
        expected([false, false, false, false, true])
    );
}

#[test]
fn only_times_that_documents_would_say_must_be_sayable() {
    let composed = |config: &str, seconds| {
        single(&Source {
            config: Some(config.as_bytes()),
            base: None,
            layers: Vec::new(),
            annotations: &Places::default(),
            epoch: Some(Timestamp::from_seconds(seconds)),
            inline_cache: None,
            squashed: None,
            oci_types: true,
            prefer_nondistributable: false,
        })
        .map(drop)
        .map_err(|err| err.message)
    };
    let config =
        |more: &str| format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{}},{more}}}"#);
    let created = config(r#""created":"2020-01-01T00:00:00Z""#);
    let step = config(
        r#""history":[{"created":"2020-01-01T00:00:00Z","created_by":"a","empty_layer":true}]"#,
    );
    // Whatever is later than the last time there is stays as it is.
    for config in [&created, &step] {
        for seconds in [253_402_300_799, 253_402_300_800, i64::MAX] {
            assert_eq!(composed(config, seconds), Ok(()));
        }
    }
    let refused = |what| {
        Err(format!(
            "failed to marshal {what}: json: error calling MarshalJSON for type *time.Time: Time.MarshalJSON: year \
             outside of range [0,9999]"
        ))
    };
    assert_eq!(
        composed(&created, -62_167_219_201),
        refused("creation time")
    );
    assert_eq!(composed(&step, -62_167_219_201), refused("history"));
    assert_eq!(composed(&step, -62_167_219_200), Ok(()));
}
