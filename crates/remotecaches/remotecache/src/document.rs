//! The document of a cache, as upstream writes it: layers and records that name each other by their place in a list.

use oci::{Digest, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};

use crate::mounts::Part;

/// The media type of such a document.
pub const MEDIA_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// A whole cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// What results are made of.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub layers: Vec<Layer>,
    /// What results are known by.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub records: Vec<Record>,
    /// The list of cache mounts that travel with the cache. Upstream does not know of it and passes over it.
    #[serde(
        rename = "cacheMounts",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub mounts: Option<Part>,
}

/// A layer on top of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// The compressed layer.
    pub blob: Digest,
    /// The layer below; -1 is none, and absent means 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parent: i64,
    /// For caches without manifests: what a descriptor would say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

/// What a descriptor would say about a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotations {
    /// Media type of the layer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Digest of the uncompressed tar.
    #[serde(rename = "diffID", default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// Bytes of the blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: i64,
    /// When the layer was made.
    #[serde(default = "beginning")]
    pub created_at: Timestamp,
}

/// A record: what leads to it, and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The result: a layer and all below it. One at most is written.
    #[serde(
        rename = "layers",
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub results: Vec<Placed>,
    /// Results as whole lists of layers, the lowest first.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub chains: Vec<Chain>,
    /// K(D, n).
    pub digest: Digest,
    /// For each input the ways it may be known by.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "nullable"
    )]
    pub inputs: Vec<Vec<Input>>,
}

/// A result as a place in the list of layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    /// The topmost layer.
    pub layer: i64,
    /// When the result was saved first.
    #[serde(default = "beginning")]
    pub created_at: Timestamp,
}

/// A result as a list of layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// The layers, the lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<i64>,
    /// When the result was saved first.
    #[serde(default = "beginning")]
    pub created_at: Timestamp,
}

/// One way an input may be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Which part of the input counts; empty for all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The record.
    pub link: i64,
}

/// The time that Go's clocks begin with: what a time that was never set is written as.
pub fn beginning() -> Timestamp {
    const SECONDS: i64 = -62_135_596_800;
    Timestamp::from_seconds(SECONDS)
}

impl Document {
    /// The text, as Go would write it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        oci::json::compact(self)
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Compat: documents written by Go have null for an empty list.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_of_zero_is_left_out_and_none_is_not() {
        let blob = Digest::of("x");
        let document = Document {
            layers: [0, -1]
                .map(|parent| Layer {
                    blob: blob.clone(),
                    parent,
                    annotations: None,
                })
                .to_vec(),
            records: Vec::new(),
            mounts: None,
        };
        let text = String::from_utf8(document.to_bytes().expect("JSON")).expect("text");
        let wanted =
            format!(r#"{{"layers":[{{"blob":"{blob}"}},{{"blob":"{blob}","parent":-1}}]}}"#);
        assert_eq!(text, wanted);
        let back: Document = serde_json::from_str(&text).expect("a document");
        assert_eq!(back, document);
    }

    #[test]
    fn a_time_that_was_never_set_is_the_first_of_all() {
        assert_eq!(beginning().to_string(), "0001-01-01T00:00:00Z");
        let chain: Chain = serde_json::from_str(r#"{"layers":[1]}"#).expect("a chain");
        assert_eq!(chain.created_at, beginning());
    }
}
