//! Where a document and its layers stand: in an image manifest, an index, or docker's list.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci::{Descriptor, Digest, Index, Manifest, Timestamp, media_type};

use crate::document::{self, Document};
use crate::graph::Graph;
use crate::layers::{Blob, CREATED, DIFF_ID};
use crate::{Error, write};

/// The key of the response that has the manifest's descriptor.
pub const RESPONSE: &str = "cache.manifest";

/// Which form a cache has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// OCI media types rather than docker's.
    pub oci_types: bool,
    /// An image manifest rather than an index.
    pub image: bool,
}

/// A cache ready to be sent.
pub struct Written {
    /// The layers, each once.
    pub blobs: Vec<Blob>,
    /// The document.
    pub config: (Descriptor, Bytes),
    /// The manifest or index.
    pub manifest: (Descriptor, Bytes),
}

impl Form {
    /// Reads the options `oci-mediatypes` and `image-manifest`.
    pub fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, Error> {
        let flag = |key: &str| attrs.get(key).map(|value| flag(key, value)).transpose();
        let oci_types = flag("oci-mediatypes")?.unwrap_or(true);
        let image = flag("image-manifest")?.unwrap_or(oci_types);
        Ok(Self { oci_types, image })
    }

    /// Writes a graph; `None` when there is nothing to write.
    pub fn write(self, graph: &Graph) -> Result<Option<Written>, Error> {
        let Some(document) = write(graph) else {
            return Ok(None);
        };
        // Compat: it is the export that fails, which a build may survive (cache/remotecache/export.go).
        if self.image && !self.oci_types {
            return Err(Error::option(
                "invalid configuration for remote cache, OCI mediatypes are required for image-manifest cache format",
            ));
        }
        let mut layers = Vec::with_capacity(document.layers.len());
        let mut blobs: BTreeMap<Digest, Blob> = BTreeMap::new();
        for layer in &document.layers {
            let Some(blob) = graph.layers.blob(&layer.blob) else {
                let text = format!("missing blob {}", layer.blob);
                return Err(Error::document(text));
            };
            layers.push(self.listed(blob));
            blobs
                .entry(layer.blob.clone())
                .or_insert_with(|| blob.clone());
        }
        if let Some(mounts) = &graph.mounts {
            // Listed, so that a registry keeps them.
            layers.extend(mounts.blobs().iter().map(|blob| blob.descriptor.clone()));
        }
        let config = config(&document)?;
        let manifest = self.manifest(config.0.clone(), layers)?;
        Ok(Some(Written {
            blobs: blobs.into_values().collect(),
            config,
            manifest,
        }))
    }

    /// A layer as the manifest lists it.
    fn listed(self, blob: &Blob) -> Descriptor {
        let given = &blob.descriptor;
        // Compat: a cache has all its layers, those that an image would not have as well.
        let media_type = layer::convert_media_type(&given.media_type, self.oci_types, false);
        let mut listed = Descriptor::new(&media_type, given.digest.clone(), given.size);
        if !layer::is_nondistributable(&given.media_type) {
            listed.urls.clone_from(&given.urls);
        }
        listed.annotations.clone_from(&given.annotations);
        let annotations = &mut listed.annotations;
        annotations.insert(DIFF_ID.to_owned(), blob.diff_id.to_string());
        if let Some(created) = blob.created {
            annotations.insert(CREATED.to_owned(), Timestamp::from(created).to_string());
        }
        listed
    }

    fn manifest(
        self,
        config: Descriptor,
        mut layers: Vec<Descriptor>,
    ) -> Result<(Descriptor, Bytes), Error> {
        let (kind, bytes) = if self.image {
            let manifest = Manifest::new(media_type::OCI_MANIFEST, config, layers);
            (media_type::OCI_MANIFEST, oci::json::compact(&manifest))
        } else {
            let kind = if self.oci_types {
                media_type::OCI_INDEX
            } else {
                media_type::DOCKER_LIST
            };
            layers.push(config);
            (kind, oci::json::compact(&Index::new(kind, layers)))
        };
        let bytes = Bytes::from(bytes.map_err(Error::json("cache manifest"))?);
        Ok((described(kind, &bytes), bytes))
    }
}

fn config(document: &Document) -> Result<(Descriptor, Bytes), Error> {
    let bytes = document.to_bytes().map_err(Error::json("cache config"))?;
    let bytes = Bytes::from(bytes);
    Ok((described(document::MEDIA_TYPE, &bytes), bytes))
}

fn described(media_type: &str, bytes: &Bytes) -> Descriptor {
    let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
    Descriptor::new(media_type, Digest::of(bytes), size)
}

impl Written {
    /// The answer for the client.
    pub fn response(&self) -> Result<BTreeMap<String, String>, Error> {
        let json = oci::json::compact(&self.manifest.0).map_err(Error::json("descriptor"))?;
        let text = String::from_utf8_lossy(&json).into_owned();
        Ok(BTreeMap::from([(RESPONSE.to_owned(), text)]))
    }
}

/// A truth value in the spellings Go accepts.
pub fn flag(key: &str, value: &str) -> Result<bool, Error> {
    fault::truth(value).ok_or_else(|| {
        Error::option(format!(
            "failed to parse {key}: strconv.ParseBool: parsing {value:?}: invalid syntax"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::Whence;

    fn parse(attrs: &[(&str, &str)]) -> Result<Form, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Form::parse(&attrs.iter().map(owned).collect()).map_err(|err| err.to_string())
    }

    #[test]
    fn docker_types_have_no_image_form() {
        let form = |oci_types, image| Ok(Form { oci_types, image });
        assert_eq!(parse(&[]), form(true, true));
        assert_eq!(parse(&[("image-manifest", "false")]), form(true, false));
        assert_eq!(parse(&[("oci-mediatypes", "0")]), form(false, false));
        assert_eq!(
            parse(&[("image-manifest", "yes")]),
            Err("failed to parse image-manifest: strconv.ParseBool: parsing \"yes\": invalid syntax".to_owned())
        );
    }

    #[test]
    fn foreign_layers_are_ordinary_ones_of_a_cache() {
        let mut given = Descriptor::new(media_type::DOCKER_LAYER_FOREIGN_GZIP, Digest::of("x"), 1);
        given.urls = vec!["https://example.com/x".to_owned()];
        let blob = Blob {
            descriptor: given,
            diff_id: Digest::of("y"),
            created: None,
            description: String::new(),
            whence: Whence::Here,
        };
        for (oci_types, wanted) in [
            (true, media_type::OCI_LAYER_GZIP),
            (false, media_type::DOCKER_LAYER_GZIP),
        ] {
            let image = oci_types;
            let listed = Form { oci_types, image }.listed(&blob);
            assert_eq!((listed.media_type.as_str(), listed.urls.len()), (wanted, 0));
        }
    }
}
