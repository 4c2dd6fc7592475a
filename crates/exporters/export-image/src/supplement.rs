//! Documents about what is in an image learn in which layer each file is.

use std::collections::HashMap;

use content::Store;
use export::attestation::{self, Attestation, Content};
use export::{Error, Work};
use oci::{Descriptor, Digest};
use serde_json::{Map, Value, json};

use crate::attest::About;
use crate::commit;

mod spdx;

/// Who changed the document.
const TOOL: &str = concat!("Tool: buildkit-kiln-", env!("CARGO_PKG_VERSION"));

/// Adds layers to a document about the image itself. Other attestations, and documents nobody can read, stay as they are.
pub(crate) async fn supplement(
    work: &Work,
    store: &Store,
    about: &About<'_>,
    said: &mut Attestation,
) -> Result<(), Error> {
    let is_document = said.predicate_type == attestation::SPDX && said.is_core();
    if !is_document || about.part.result.is_none() {
        return Ok(());
    }
    let content = said.read(work).await?;
    let Some(spdx::Read { mut document, flaw }) = spdx::read(&content) else {
        return Ok(());
    };
    if spdx::files(&mut document).iter().any(|it| lacks_layer(it)) {
        commit::fetch(work, store, about.layers).await?;
        let layers: Vec<Descriptor> = about
            .layers
            .iter()
            .map(|it| it.descriptor.clone())
            .collect();
        let (cx, store) = (work.cx.clone(), store.clone());
        document = tasks::blocking(move || {
            let mut finder = Finder::new(layers);
            for file in spdx::files(&mut document) {
                place(file, |name| {
                    finder.find(name, |layer, each| layer::names(&cx, &store, layer, each))
                })?;
            }
            Ok::<_, layer::Error>(document)
        })
        .await
        .map_err(|err| Error::new(&err))?;
    }
    sign(&mut document);
    let unwritable = |why: String| Error::user(format!("unable to encode spdx: {why}"));
    if let Some(flaw) = flaw {
        return Err(unwritable(flaw));
    }
    let document = oci::json::compact(&spdx::finish(document));
    let document = document.map_err(|err| unwritable(err.to_string()))?;
    said.content = Content::Made(attestation::made(document.into()));
    Ok(())
}

/// A comment somebody else wrote is free text and stays.
fn lacks_layer(file: &Map<String, Value>) -> bool {
    file.get("comment").is_some_and(|it| it == "")
}

fn place<E>(
    file: &mut Map<String, Value>,
    mut find: impl FnMut(&str) -> Result<Option<Digest>, E>,
) -> Result<(), E> {
    if !lacks_layer(file) {
        return Ok(());
    }
    let name = file.get("fileName").and_then(Value::as_str);
    if let Some(digest) = find(&clean(name.unwrap_or_default()))? {
        file.insert("comment".to_owned(), json!(format!("layerID: {digest}")));
    }
    Ok(())
}

fn sign(document: &mut Map<String, Value>) {
    let creators = document
        .get_mut("creationInfo")
        .and_then(|about| about.get_mut("creators"));
    match creators {
        Some(Value::Array(creators)) => creators.push(json!(TOOL)),
        Some(none) => *none = json!([TOOL]),
        None => {}
    }
}

/// A path without detours, from the root.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Looks from the top layer down, and at each layer once. A file that was removed is in the layer that made it.
struct Finder {
    pending: Vec<Descriptor>,
    known: HashMap<String, Digest>,
}

impl Finder {
    fn new(layers: Vec<Descriptor>) -> Self {
        Self {
            pending: layers,
            known: HashMap::new(),
        }
    }

    fn find<E>(
        &mut self,
        name: &str,
        list: impl Fn(&Descriptor, &mut dyn FnMut(&[u8])) -> Result<(), E>,
    ) -> Result<Option<Digest>, E> {
        loop {
            if let Some(digest) = self.known.get(name) {
                return Ok(Some(digest.clone()));
            }
            let Some(layer) = self.pending.pop() else {
                return Ok(None);
            };
            list(&layer, &mut |member| {
                let path = clean(&String::from_utf8_lossy(member));
                let base = path.rsplit('/').next().unwrap_or_default();
                if !base.starts_with(".wh.") {
                    let digest = || layer.digest.clone();
                    self.known.entry(path).or_insert_with(digest);
                }
            })?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str) -> Descriptor {
        Descriptor::new("", Digest::of(name), 0)
    }

    fn list(layer: &Descriptor, each: &mut dyn FnMut(&[u8])) -> Result<(), ()> {
        let names: &[&str] = if layer.digest == Digest::of("low") {
            &["a", "b/c"]
        } else {
            &["b/", "b/.wh.c", "./a"]
        };
        names.iter().for_each(|name| each(name.as_bytes()));
        Ok(())
    }

    #[test]
    fn the_highest_layer_with_a_file_is_the_one() {
        let mut finder = Finder::new(vec![layer("low"), layer("high")]);
        for (name, wanted) in [
            ("/b/c", Some(Digest::of("low"))),
            ("/a", Some(Digest::of("high"))),
            ("/none", None),
        ] {
            assert_eq!(finder.find(name, list), Ok(wanted), "{name}");
        }
    }

    #[test]
    fn comments_of_others_stay() {
        let found = |file: Value, wanted: &str| {
            let Value::Object(mut file) = file else {
                panic!("no object");
            };
            let placed = place(&mut file, |name| {
                assert_eq!(name, wanted);
                Ok::<_, ()>(Some(Digest::of("")))
            });
            assert_eq!(placed, Ok(()));
            file["comment"].clone()
        };
        let mine = json!({"fileName": "/a", "comment": "mine"});
        assert_eq!(found(mine, "never asked"), "mine");
        let none = json!({"fileName": "x/../a", "comment": ""});
        let digest = Digest::of("");
        assert_eq!(found(none, "/a"), format!("layerID: {digest}"));
    }

    #[test]
    fn documents_are_written_as_upstream_writes_them() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../testing/vectors/spdx/documents.json"
        );
        let cases: Vec<Value> =
            serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON");
        for case in &cases {
            let name = &case["name"];
            let given = case["given"].to_string();
            let Some(read) = spdx::read(given.as_bytes()) else {
                assert_eq!(case["unread"], true, "{name}");
                continue;
            };
            if let Some(flaw) = read.flaw {
                assert_eq!(case["refused"], flaw, "{name}");
                continue;
            }
            let mut document = read.document;
            let layer = Digest::of("layer");
            for file in spdx::files(&mut document) {
                let found = |name: &str| {
                    let here = matches!(name, "/x" | "/dep").then(|| layer.clone());
                    Ok::<_, ()>(here)
                };
                place(file, found).expect("no error");
            }
            sign(&mut document);
            let written = oci::json::compact(&spdx::finish(document)).expect("JSON");
            let wanted = case["written"].as_str().expect("a document");
            let wanted = wanted.replace("LAYER", layer.as_str());
            let wanted = wanted.replace("Tool: TOOL", TOOL);
            assert_eq!(String::from_utf8(written).expect("text"), wanted, "{name}");
        }
        assert_eq!(cases.len(), 15);
    }
}
