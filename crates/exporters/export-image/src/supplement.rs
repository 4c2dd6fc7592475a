//! Documents about what is in an image learn in which layer each file is.

use std::collections::HashMap;

use content::Store;
use export::attestation::{self, Attestation, Content};
use export::{Error, Work};
use oci::{Descriptor, Digest};
use serde_json::{Map, Value, json};

use crate::attest::About;
use crate::commit;

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
    let Some(mut document) = parse(&content) else {
        return Ok(());
    };
    if files(&mut document).is_some_and(|files| files.iter().any(lacks_layer)) {
        commit::fetch(work, store, about.layers).await?;
        let layers: Vec<Descriptor> = about
            .layers
            .iter()
            .map(|it| it.descriptor.clone())
            .collect();
        let (cx, store) = (work.cx.clone(), store.clone());
        document = tasks::blocking(move || {
            let mut finder = Finder::new(layers);
            for file in files(&mut document).into_iter().flatten() {
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
    let document = oci::json::indented(&Value::Object(document)).map_err(|err| Error {
        message: format!("unable to encode spdx: {err}"),
        class: fault::Class::Internal,
    })?;
    said.content = Content::Made(attestation::made(document.into()));
    Ok(())
}

fn parse(content: &[u8]) -> Option<Map<String, Value>> {
    let document: Map<String, Value> = serde_json::from_slice(content).ok()?;
    let version = document.get("spdxVersion")?.as_str()?;
    if !["SPDX-2.1", "SPDX-2.2", "SPDX-2.3"].contains(&version) {
        return None;
    }
    let is_id = |value: &Value| {
        let id = value.as_str().and_then(|id| id.strip_prefix("SPDXRef-"));
        id.is_some_and(|id| !id.is_empty())
    };
    let elements = ["files", "packages", "snippets"].into_iter();
    let elements = elements.filter_map(|key| document.get(key)?.as_array());
    let ids = elements.flatten().filter_map(|it| it.get("SPDXID"));
    let mut ids = document.get("SPDXID").into_iter().chain(ids);
    ids.all(is_id).then_some(document)
}

fn files(document: &mut Map<String, Value>) -> Option<&mut Vec<Value>> {
    document.get_mut("files")?.as_array_mut()
}

/// A comment somebody else wrote is free text and stays.
fn lacks_layer(file: &Value) -> bool {
    let comment = file.get("comment").and_then(Value::as_str);
    file.is_object() && comment.is_none_or(str::is_empty)
}

fn place<E>(
    file: &mut Value,
    mut find: impl FnMut(&str) -> Result<Option<Digest>, E>,
) -> Result<(), E> {
    if !lacks_layer(file) {
        return Ok(());
    }
    let name = file.get("fileName").and_then(Value::as_str);
    let found = find(&clean(name.unwrap_or_default()))?;
    if let (Some(digest), Some(file)) = (found, file.as_object_mut()) {
        file.insert("comment".to_owned(), json!(format!("layerID: {digest}")));
    }
    Ok(())
}

fn sign(document: &mut Map<String, Value>) {
    let about = document.entry("creationInfo").or_insert(Value::Null);
    if !about.is_object() {
        *about = json!({"creators": [], "created": ""});
    }
    let creators = about
        .as_object_mut()
        .map(|about| about.entry("creators").or_insert_with(|| json!([])));
    if let Some(Value::Array(creators)) = creators {
        creators.push(json!(TOOL));
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
        let mut file = json!({"fileName": "/a", "comment": "mine"});
        let found = place(&mut file, |_| Ok::<_, ()>(Some(Digest::of(""))));
        assert_eq!(found, Ok(()));
        assert_eq!(file["comment"], "mine");
        let mut file = json!({"fileName": "x/../a"});
        let digest = Digest::of("");
        let found = place(&mut file, |name| {
            assert_eq!(name, "/a");
            Ok::<_, ()>(Some(digest.clone()))
        });
        assert_eq!(found, Ok(()));
        assert_eq!(file["comment"], format!("layerID: {digest}"));
    }

    #[test]
    fn a_document_says_who_changed_it() {
        let mut document = parse(br#"{"spdxVersion":"SPDX-2.3","creationInfo":null}"#);
        let document = document.as_mut().expect("a document");
        sign(document);
        assert_eq!(document["creationInfo"]["creators"], json!([TOOL]));
        assert!(parse(b"{}").is_none());
    }

    #[test]
    fn what_upstream_cannot_read_stays_as_it_is() {
        for text in [
            r#"{"spdxVersion":"SPDX-3.0"}"#,
            r#"{"spdxVersion":"SPDX-2.3","SPDXID":"DOCUMENT"}"#,
            r#"{"spdxVersion":"SPDX-2.3","files":[{"SPDXID":"a"}]}"#,
        ] {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
        let good = r#"{"spdxVersion":"SPDX-2.2","files":[{"SPDXID":"SPDXRef-a"},{}]}"#;
        assert!(parse(good.as_bytes()).is_some());
    }
}
