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
    let marks = if names.is_empty() {
        vec![vec![(TAG, "latest")]]
    } else {
        let names = names.iter().copied();
        names
            .map(|it| vec![(NAME, it), (TAG, tag_of(it))])
            .collect()
    };
    put(dir, &descriptor, &marks)
}

/// Puts something into the folder's index under a tag.
pub(crate) fn tag(dir: &Path, descriptor: &Value, tag: &str) -> Result<(), Error> {
    put(dir, descriptor, &[vec![(TAG, tag)]])
}

/// Annotations that say what an entry is called; the first one decides what is replaced.
type Mark<'a> = Vec<(&'a str, &'a str)>;

fn put(dir: &Path, descriptor: &Value, marks: &[Mark<'_>]) -> Result<(), Error> {
    let path = dir.join(INDEX);
    let updated = lock(&path).and_then(|_lock| update(dir, &path, descriptor, marks));
    updated.map_err(|source| Error::Index {
        path,
        source: fstree::Cause(source),
    })
}

/// The index of a folder.
pub(crate) fn read(dir: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(dir.join(INDEX))?)?)
}

/// The digest of what an index has under a name or a tag.
pub(crate) fn find(index: &Value, tag: &str) -> Option<String> {
    let manifests = index["manifests"].as_array()?;
    [NAME, TAG].into_iter().find_map(|key| {
        let found = manifests
            .iter()
            .find(|entry| entry["annotations"][key] == tag);
        Some(found?["digest"].as_str()?.to_owned())
    })
}

/// Keeps others from changing the index; the file goes away with the lock.
struct Lock {
    path: std::path::PathBuf,
    _file: std::fs::File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Whoever waits notices that the file it locked has no name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn lock(index: &Path) -> io::Result<Lock> {
    use std::os::unix::fs::MetadataExt as _;
    let mut name = index.as_os_str().to_owned();
    name.push(".lock");
    let path = std::path::PathBuf::from(name);
    loop {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        file.lock()?;
        let named = std::fs::metadata(&path).map(|meta| meta.ino());
        if named.is_ok_and(|ino| file.metadata().is_ok_and(|mine| mine.ino() == ino)) {
            return Ok(Lock { path, _file: file });
        }
    }
}

fn update(dir: &Path, path: &Path, descriptor: &Value, marks: &[Mark<'_>]) -> io::Result<()> {
    let index = match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(err) if err.kind() == io::ErrorKind::NotFound => Value::Null,
        Err(err) => return Err(err),
    };
    let index = with(index, descriptor, marks);
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // Readers see the old index or the new one.
    let new = dir.join(format!(".{INDEX}.{}", std::process::id()));
    std::fs::write(&new, index.to_string())?;
    std::fs::rename(&new, path)
}

/// The index with the image in it; an entry of the same name is replaced.
fn with(index: Value, descriptor: &Value, marks: &[Mark<'_>]) -> Value {
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
    for mark in marks {
        let same = |entry: &Value| {
            let (key, value) = mark[0];
            let named = entry["annotations"].get(NAME).is_some();
            entry["annotations"][key] == value && named == (key == NAME)
        };
        manifests.retain(|entry| !same(entry));
        let mut entry = descriptor.clone();
        for (key, value) in mark {
            entry["annotations"][*key] = (*value).into();
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
fn tag_of(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    match name.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Mark<'_> {
        vec![(NAME, name), (TAG, tag_of(name))]
    }

    #[test]
    fn an_image_replaces_the_one_of_its_name() {
        let first = with(
            Value::Null,
            &json!({"digest": "a"}),
            &[named("x.io/n:1"), named("x.io:5000/n")],
        );
        let second = with(first, &json!({"digest": "b"}), &[named("x.io/n:1")]);
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
        let latest = [vec![(TAG, "latest")]];
        let index = with(Value::Null, &json!({"digest": "a"}), &latest);
        let index = with(index, &json!({"digest": "b"}), &latest);
        assert_eq!(
            index["manifests"],
            json!([{"digest": "b", "annotations": {TAG: "latest"}}])
        );
    }
}
