//! The archive that both `docker load` and OCI tools read: an image layout, its members sorted by name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use bytes::Bytes;
use content::Store;
use fault::{Class, Classify};
use layer::archive::{Header, Kind, Writer};
use oci::{Descriptor, Digest, Index, Manifest, Reference, media_type};
use serde::Serialize;
use tasks::Cx;

/// Why an archive could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A blob could not be read.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// A document of the image cannot be understood.
    #[error("failed to parse manifest {digest}")]
    Document {
        digest: Digest,
        #[source]
        source: serde_json::Error,
    },
    /// A blob ended early.
    #[error("failed to read blob {digest}")]
    Blob {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    /// Nobody takes the archive.
    #[error("failed to send archive")]
    Send(#[source] io::Error),
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Content(err) => err.class(),
            Self::Document { .. } | Self::Blob { .. } => Class::Internal,
            Self::Send(_) => Class::Unavailable,
            Self::Cancelled(_) => Class::Cancelled,
        }
    }
}

/// An image and how it is to be packed.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    pub root: Descriptor,
    /// In full.
    pub names: Vec<Reference>,
    /// With the file that older versions of `docker load` want.
    pub docker: bool,
}

/// Everything an image consists of, each blob once.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    /// Layers and configs.
    pub leaves: Vec<Descriptor>,
    /// Manifests and indexes, children before parents.
    pub documents: Vec<Descriptor>,
}

impl Reachable {
    /// What can be reached from `root`.
    pub(crate) fn from(root: &Descriptor, store: &Store) -> Result<Self, Error> {
        let mut all = Self::default();
        all.add(root, store, &mut BTreeSet::new())?;
        Ok(all)
    }

    fn add(
        &mut self,
        blob: &Descriptor,
        store: &Store,
        seen: &mut BTreeSet<Digest>,
    ) -> Result<(), Error> {
        if !seen.insert(blob.digest.clone()) {
            return Ok(());
        }
        let children = if is_index(blob) {
            parse(blob, store, Index::parse)?.manifests
        } else if is_manifest(blob) {
            let manifest = parse(blob, store, Manifest::parse)?;
            let mut children = vec![manifest.config];
            children.extend(manifest.layers);
            children
        } else {
            self.leaves.push(blob.clone());
            return Ok(());
        };
        for child in &children {
            self.add(child, store, seen)?;
        }
        self.documents.push(blob.clone());
        Ok(())
    }
}

/// What is in a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Dir,
    Text(Bytes, u32),
    Blob(Digest, u64),
}

/// Members by name; the order of names is that of the archive.
pub(crate) type Members = BTreeMap<String, Body>;

/// The list of docker's own format.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Archive {
    /// Everything that goes into the archive.
    pub(crate) fn members(&self, store: &Store) -> Result<Members, Error> {
        let mut members = Members::from([
            ("blobs/".to_owned(), Body::Dir),
            ("blobs/sha256/".to_owned(), Body::Dir),
            (
                "oci-layout".to_owned(),
                Body::Text(
                    Bytes::from_static(br#"{"imageLayoutVersion":"1.0.0"}"#),
                    0o444,
                ),
            ),
        ]);
        let reachable = Reachable::from(&self.root, store)?;
        for blob in reachable.leaves.iter().chain(&reachable.documents) {
            let size = store.info(&blob.digest)?.size;
            members.insert(
                blob_path(&blob.digest),
                Body::Blob(blob.digest.clone(), size),
            );
        }
        let text = |value: Result<Vec<u8>, serde_json::Error>| match value {
            Ok(bytes) => Ok(Body::Text(bytes.into(), 0o644)),
            Err(source) => Err(Error::Document {
                digest: self.root.digest.clone(),
                source,
            }),
        };
        let index = text(oci::json::compact(&self.index()))?;
        members.insert("index.json".to_owned(), index);
        if self.docker
            && let Some(list) = self.docker_list(store)?
        {
            let list = text(oci::json::compact(&list))?;
            members.insert("manifest.json".to_owned(), list);
        }
        Ok(members)
    }

    /// One entry for each name, or one without a name.
    fn index(&self) -> Index {
        let named = |name: &Reference| {
            let mut entry = self.root.clone();
            let full = name.to_string();
            let short = object(name).unwrap_or_else(|| full.clone());
            let annotations = &mut entry.annotations;
            annotations.insert("io.containerd.image.name".to_owned(), full);
            annotations.insert("org.opencontainers.image.ref.name".to_owned(), short);
            entry
        };
        let entries = if self.names.is_empty() {
            vec![self.root.clone()]
        } else {
            self.names.iter().map(named).collect()
        };
        Index::new(media_type::OCI_INDEX, entries)
    }

    fn docker_list(&self, store: &Store) -> Result<Option<[DockerImage; 1]>, Error> {
        if !is_manifest(&self.root) {
            return Ok(None);
        }
        let manifest = parse(&self.root, store, Manifest::parse)?;
        let names: Vec<String> = self.names.iter().map(Reference::familiar).collect();
        let layers: Vec<String> = (manifest.layers.iter())
            .map(|layer| blob_path(&layer.digest))
            .collect();
        Ok(Some([DockerImage {
            config: blob_path(&manifest.config.digest),
            repo_tags: (!names.is_empty()).then_some(names),
            // Compat: Go's lists of nothing are null.
            layers: (!layers.is_empty()).then_some(layers),
        }]))
    }
}

/// What a name says behind its first colon; nothing if it has no tag. Compat: containerd's OCI name of an image.
fn object(name: &Reference) -> Option<String> {
    let tag = name.tag()?;
    Some(match name.digest() {
        Some(digest) => format!("{tag}@{digest}"),
        None => tag.to_owned(),
    })
}

fn is_index(blob: &Descriptor) -> bool {
    matches!(
        blob.media_type.as_str(),
        media_type::OCI_INDEX | media_type::DOCKER_LIST
    )
}

fn is_manifest(blob: &Descriptor) -> bool {
    matches!(
        blob.media_type.as_str(),
        media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST
    )
}

fn parse<T>(
    blob: &Descriptor,
    store: &Store,
    parse: impl Fn(&[u8]) -> Result<T, serde_json::Error>,
) -> Result<T, Error> {
    parse(&store.read(&blob.digest)?).map_err(|source| Error::Document {
        digest: blob.digest.clone(),
        source,
    })
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Writes the archive.
pub(crate) fn write(
    cx: &Cx,
    members: &Members,
    store: &Store,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut archive = Writer::new(out);
    for (name, body) in members {
        cx.check()?;
        match body {
            Body::Dir => {
                let header = Header::new(name.as_bytes(), Kind::Dir, 0o755);
                archive.member(&header).map_err(Error::Send)?;
            }
            Body::Text(bytes, mode) => {
                let mut header = Header::new(name.as_bytes(), Kind::File, *mode);
                header.size = bytes.len() as u64;
                archive.member(&header).map_err(Error::Send)?;
                archive.content(bytes).map_err(Error::Send)?;
            }
            Body::Blob(digest, size) => {
                // Blobs were verified when they got their name and never change.
                let file = store.open_blob(digest)?;
                let mut header = Header::new(name.as_bytes(), Kind::File, 0o444);
                header.size = *size;
                archive.member(&header).map_err(Error::Send)?;
                archive.copy(file).map_err(|source| match source.kind() {
                    io::ErrorKind::UnexpectedEof => Error::Blob {
                        digest: digest.clone(),
                        source,
                    },
                    _ => Error::Send(source),
                })?;
            }
        }
    }
    archive.finish().map(drop).map_err(Error::Send)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::compose::tests::recorded;

    /// Stores the texts of a recorded image and packs it again. Binary blobs are stored where they are recorded.
    fn check(name: &str, names: &[&str], docker: bool) {
        let image = recorded(name);
        let dir = tempfile::tempdir().expect("a scratch folder");
        let store = Store::open(dir.path()).expect("a store");
        let mut index = Value::Null;
        for (key, blob) in image["blobs"].as_object().expect("blobs") {
            if let Some(text) = blob["text"].as_str() {
                store.put(text).expect("stored");
                if key == "index.json" {
                    index = serde_json::from_str(text).expect("JSON");
                }
            } else if let Some(text) = blob["base64"].as_str() {
                use base64::Engine as _;
                let engine = base64::engine::general_purpose::STANDARD;
                store
                    .put(engine.decode(text).expect("base64"))
                    .expect("stored");
            } else {
                return; // a layer was left out of the record
            }
        }
        let mut root: Descriptor =
            serde_json::from_value(index["manifests"][0].clone()).expect("a descriptor");
        root.annotations
            .retain(|key, _| !key.contains("containerd") && !key.ends_with("ref.name"));
        let parse = |name: &&str| Reference::parse(name).expect("a name").with_default_tag();
        let archive = Archive {
            root,
            names: names.iter().map(parse).collect(),
            docker,
        };
        let members = archive.members(&store).expect("members");
        let mut bytes = Vec::new();
        write(&Cx::root(), &members, &store, &mut bytes).expect("written");
        let mut reader = layer::archive::Reader::new(&*bytes);
        for wanted in image["members"].as_array().expect("members") {
            let member = reader.next_member().expect("readable").expect("one more");
            let member_name = String::from_utf8(member.name.clone()).expect("text");
            assert_eq!(member_name, wanted["name"]);
            assert_eq!(
                format!("{:04o}", member.mode),
                wanted["mode"],
                "{member_name}"
            );
            assert_eq!(
                member.size,
                wanted["size"].as_u64().expect("a size"),
                "{member_name}"
            );
            assert_eq!((member.uid, member.gid, member.mtime.sec), (0, 0, 0));
            if let Some(text) = image["blobs"][&member_name]["text"].as_str() {
                let mut content = Vec::new();
                reader
                    .content(&member, |_, piece| {
                        content.extend_from_slice(piece);
                        Ok(())
                    })
                    .expect("readable");
                assert_eq!(String::from_utf8(content).expect("text"), text);
            }
        }
        assert!(reader.next_member().expect("readable").is_none());
    }

    /// An image without layers, and the names of its archive.
    fn scratch(store: &Store, names: &[&str]) -> Archive {
        let put = |media_type: &str, bytes: Vec<u8>| {
            let size = i64::try_from(bytes.len()).expect("small");
            let descriptor = Descriptor::new(media_type, Digest::of(&bytes), size);
            store.put(bytes).expect("stored");
            descriptor
        };
        let config = put(media_type::OCI_CONFIG, b"{}".to_vec());
        let manifest = Manifest::new(media_type::OCI_MANIFEST, config, Vec::new());
        let bytes = manifest.to_bytes().expect("a manifest");
        let parse = |name: &&str| Reference::parse(name).expect("a name").with_default_tag();
        Archive {
            root: put(media_type::OCI_MANIFEST, bytes),
            names: names.iter().map(parse).collect(),
            docker: true,
        }
    }

    #[test]
    fn an_entry_is_called_what_follows_the_repository() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let store = Store::open(dir.path()).expect("a store");
        let digest = Digest::of(b"x");
        let (both, alone) = (format!("a/b:tag@{digest}"), format!("a/b@{digest}"));
        let index = scratch(&store, &["a/b", &both, &alone]).index();
        let called: Vec<String> = (index.manifests.iter())
            .map(|entry| entry.annotations["org.opencontainers.image.ref.name"].clone())
            .collect();
        let wanted = [
            "latest".to_owned(),
            format!("tag@{digest}"),
            format!("docker.io/{alone}"),
        ];
        assert_eq!(called, wanted);
    }

    #[test]
    fn an_image_without_layers_has_no_list_of_them() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let store = Store::open(dir.path()).expect("a store");
        let members = scratch(&store, &[]).members(&store).expect("members");
        let Body::Text(text, _) = &members["manifest.json"] else {
            panic!("a text");
        };
        let config = blob_path(&Digest::of(b"{}"));
        let wanted = format!(r#"[{{"Config":"{config}","RepoTags":null,"Layers":null}}]"#);
        assert_eq!(String::from_utf8_lossy(text), wanted);
    }

    #[test]
    fn recorded_archives_are_packed_again() {
        check("image-scratch-oci", &[], false);
        check("image-scratch-docker", &["ex.com/a/b:t"], true);
        check("image-empty-oci", &[], false);
        check("image-multi-oci", &["ex.com/m:1", "ex.com/m2"], false);
    }
}
