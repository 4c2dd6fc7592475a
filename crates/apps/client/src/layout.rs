//! The index of a folder laid out as OCI says, after an image was written into it.

use std::io;
use std::path::Path;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::{Error, Response};

const INDEX: &str = "index.json";
const NAME: &str = "io.containerd.image.name";
const TAG: &str = "org.opencontainers.image.ref.name";

/// Puts the image of a build into the folder's index, under its names or as `latest`.
pub(crate) fn record(dir: &Path, response: &Response) -> Result<(), Error> {
    let Some(descriptor) = response
        .exporter
        .get("containerimage.descriptor")
        .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok())
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
    else {
        return Ok(());
    };
    let names = response.exporter.get("image.name");
    let names: Vec<&str> = names.iter().flat_map(|names| names.split(',')).collect();
    let path = dir.join(INDEX);
    update(dir, &path, &descriptor, &names).map_err(|source| Error::Index { path, source })
}

fn update(dir: &Path, path: &Path, descriptor: &Value, names: &[&str]) -> io::Result<()> {
    let index = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(err) if err.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(err) => return Err(err),
    };
    let index = with(index, descriptor, names);
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // Readers see the old index or the new one.
    let new = dir.join(format!(".{INDEX}.{}", std::process::id()));
    std::fs::write(&new, index.to_string())?;
    std::fs::rename(&new, path)
}

/// The index with the image in it; an entry of the same name is replaced.
fn with(index: Value, descriptor: &Value, names: &[&str]) -> Value {
    let mut index = match index {
        Value::Object(index) => index,
        _ => Map::new(),
    };
    index.entry("schemaVersion").or_insert(json!(2));
    index
        .entry("mediaType")
        .or_insert(json!("application/vnd.oci.image.index.v1+json"));
    let mut manifests = match index.remove("manifests") {
        Some(Value::Array(manifests)) => manifests,
        _ => Vec::new(),
    };
    let marks: Vec<Vec<(&str, &str)>> = if names.is_empty() {
        vec![vec![(TAG, "latest")]]
    } else {
        let names = names.iter().copied();
        names.map(|it| vec![(NAME, it), (TAG, tag(it))]).collect()
    };
    for mark in marks {
        let same = |entry: &Value| {
            let (key, value) = mark[0];
            let named = entry["annotations"].get(NAME).is_some();
            entry["annotations"][key] == value && named == (key == NAME)
        };
        manifests.retain(|entry| !same(entry));
        let mut entry = descriptor.clone();
        for (key, value) in mark {
            entry["annotations"][key] = value.into();
        }
        if let Some(annotations) = entry["annotations"].as_object_mut() {
            annotations.sort_keys();
        }
        manifests.push(entry);
    }
    index.insert("manifests".to_owned(), manifests.into());
    Value::Object(index)
}

/// What follows the last colon of a name, unless that belongs to a port.
fn tag(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_replaces_the_one_of_its_name() {
        let first = with(
            Value::Null,
            &json!({"digest": "a"}),
            &["x.io/n:1", "x.io:5000/n"],
        );
        let second = with(first, &json!({"digest": "b"}), &["x.io/n:1"]);
        assert_eq!(
            second["manifests"],
            json!([
                {"digest": "a", "annotations": {NAME: "x.io:5000/n", TAG: "latest"}},
                {"digest": "b", "annotations": {NAME: "x.io/n:1", TAG: "1"}},
            ])
        );
    }

    #[test]
    fn an_image_without_a_name_is_the_latest() {
        let index = with(Value::Null, &json!({"digest": "a"}), &[]);
        let index = with(index, &json!({"digest": "b"}), &[]);
        assert_eq!(
            index["manifests"],
            json!([{"digest": "b", "annotations": {TAG: "latest"}}])
        );
    }
}
