//! Caches that upstream's daemon exported, read and written again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use content::Provider;
use oci::{Descriptor, Digest};
use progress::Progress;
use remotecache::document::Document;
use remotecache::manifest::Form;
use remotecache::{Documents, Error, Graph, Origin, inline, write};
use serde_json::Value;
use session::Group;
use tasks::Cx;

/// The recorded builds.
fn recorded() -> Vec<(String, Value)> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/cachekeys/dockerfiles"
    );
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("the vectors")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name != "base-busybox.json")
        })
        .collect();
    files.sort();
    let read = |path: std::path::PathBuf| {
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read(&path).expect("readable");
        (name, serde_json::from_slice(&text).expect("JSON"))
    };
    files.into_iter().map(read).collect()
}

/// All exports that have a document, with the manifest.
fn documents() -> Vec<(String, Value, String)> {
    let mut all = Vec::new();
    for (name, file) in recorded() {
        for (kind, export) in file["exports"].as_object().expect("exports") {
            if let Some(raw) = export["cacheconfig_raw"].as_str() {
                all.push((
                    format!("{name} {kind}"),
                    export["manifest"].clone(),
                    raw.to_owned(),
                ));
            }
        }
    }
    all
}

struct Nowhere;

impl Origin for Nowhere {
    fn provider(&self, _: &Group) -> Arc<dyn Provider> {
        unreachable!("nothing is fetched")
    }
}

/// Documents by digest.
struct Recorded(BTreeMap<Digest, Bytes>);

#[async_trait]
impl Documents for Recorded {
    async fn read(&self, _: &Cx, document: &Descriptor) -> Result<Bytes, Error> {
        Ok(self.0[&document.digest].clone())
    }
}

async fn import(documents: &[Bytes], root: &Bytes) -> Result<Graph, Error> {
    let all = documents.iter().chain([root]);
    let from = Recorded(
        all.map(|bytes| (Digest::of(bytes), bytes.clone()))
            .collect(),
    );
    let root = Descriptor::new("", Digest::of(root), 0);
    let origin: Arc<dyn Origin> = Arc::new(Nowhere);
    remotecache::read(&Cx::root(), &from, &root, &origin, &Progress::none()).await
}

/// A document as what it says, whatever the order.
fn meaning(document: &Document) -> BTreeSet<String> {
    let chain = |top: i64| {
        let mut chain = Vec::new();
        let mut at = usize::try_from(top).ok();
        while let Some(place) = at {
            let layer = &document.layers[place];
            chain.push(layer.blob.hex()[..8].to_owned());
            at = usize::try_from(layer.parent).ok();
        }
        chain.join(">")
    };
    // Records by what leads to them, so deep that equal digests can be told apart.
    let mut names: Vec<String> = document
        .records
        .iter()
        .map(|it| it.digest.to_string())
        .collect();
    for _ in 0..8 {
        let named = document.records.iter().map(|record| {
            let inputs = record.inputs.iter().map(|ways| {
                let mut ways: Vec<_> = ways
                    .iter()
                    .map(|way| {
                        let link = usize::try_from(way.link).expect("a place");
                        format!("{}<{}", names[link], way.selector)
                    })
                    .collect();
                ways.sort();
                ways.join("|")
            });
            let inputs: Vec<_> = inputs.collect();
            Digest::of(format!("{}({})", record.digest, inputs.join(";"))).to_string()
        });
        names = named.collect();
    }
    let named = document.records.iter().zip(names).map(|(record, name)| {
        let results: Vec<_> = record
            .results
            .iter()
            .map(|result| format!("{} at {}", chain(result.layer), result.created_at))
            .collect();
        format!("{} {name}: {results:?}", record.digest)
    });
    named.collect()
}

#[tokio::test]
async fn what_upstream_wrote_means_the_same_when_written_again() {
    let all = documents();
    assert!(all.len() > 20);
    for (name, manifest, raw) in all {
        let root = Bytes::from(serde_json::to_vec(&manifest).expect("JSON"));
        let graph = import(&[raw.clone().into()], &root).await;
        let graph = graph.unwrap_or_else(|err| panic!("{name}: {err}"));
        let before: Document = serde_json::from_str(&raw).expect("a document");
        let after = write(&graph).expect("results");
        assert_eq!(before.layers.len(), after.layers.len(), "{name}");
        assert_eq!(before.records.len(), after.records.len(), "{name}");
        assert_eq!(meaning(&before), meaning(&after), "{name}");
    }
}

#[tokio::test]
async fn the_text_is_gos() {
    for (name, _, raw) in documents() {
        let document: Document = serde_json::from_str(&raw).expect("a document");
        let text = String::from_utf8(document.to_bytes().expect("JSON")).expect("text");
        assert_eq!(text, raw, "{name}");
    }
}

#[tokio::test]
async fn all_forms_of_manifests_are_written_as_upstream_writes_them() {
    let (_, file) = recorded()
        .into_iter()
        .find(|(name, _)| name.starts_with("22-"))
        .expect("the build with all forms");
    for (kind, oci_types, image) in [
        ("max", true, true),
        ("index", true, false),
        ("dockerlist", false, false),
    ] {
        let export = &file["exports"][kind];
        let manifest = &export["manifest"];
        let raw = export["cacheconfig_raw"].as_str().expect("a document");
        let root = Bytes::from(serde_json::to_vec(manifest).expect("JSON"));
        let graph = import(&[Bytes::from(raw.to_owned())], &root)
            .await
            .expect("a graph");
        let written = Form { oci_types, image }
            .write(&graph)
            .expect("written")
            .expect("results");
        let ours: Value = serde_json::from_slice(&written.manifest.1).expect("JSON");
        assert_eq!(ours, *manifest, "{kind}");
        assert_eq!(
            written.manifest.0.media_type, export["manifest_media_type"],
            "{kind}"
        );
        assert_eq!(written.blobs.len(), 2);
    }
}

#[tokio::test]
async fn caches_inside_images_are_read_and_written() {
    let mut count = 0;
    for (name, file) in recorded() {
        for (kind, export) in file["exports"].as_object().expect("exports") {
            let Some(records) = export["inline_cache_records"].as_array() else {
                continue;
            };
            count += 1;
            let cache = base64::engine::general_purpose::STANDARD
                .encode(serde_json::to_vec(records).expect("JSON"));
            let config = serde_json::json!({
                "rootfs": export["rootfs"],
                "moby.buildkit.cache.v0": cache,
                "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "RUN x"}],
            });
            let config = Bytes::from(config.to_string());
            let mut manifest = export["manifest"].clone();
            manifest["config"]["digest"] = Digest::of(&config).to_string().into();
            let root = Bytes::from(manifest.to_string());
            let graph = import(&[config], &root).await;
            let graph = graph.unwrap_or_else(|err| panic!("{name} {kind}: {err}"));
            let digest = |value: &Value| value.as_str().expect("text").parse().expect("a digest");
            let diff_ids = export["rootfs"]["diff_ids"].as_array().expect("diff ids");
            let layers = manifest["layers"].as_array().expect("layers");
            let image: Vec<(Digest, Digest)> = layers
                .iter()
                .zip(diff_ids)
                .map(|(layer, diff_id)| (digest(&layer["digest"]), digest(diff_id)))
                .collect();
            let again = inline::records(&graph, &image)
                .expect("written")
                .expect("results");
            let again: Vec<Value> = serde_json::from_slice(&again).expect("JSON");
            let results = |records: &[Value]| {
                let one = |record: &Value| {
                    format!(
                        "{} {} {}",
                        record["digest"], record["layers"], record["chains"]
                    )
                };
                records.iter().map(one).collect::<BTreeSet<_>>()
            };
            assert_eq!(results(&again), results(records), "{name} {kind}");
        }
    }
    assert!(count >= 2);
}
