//! Links: how a node follows from the node of one of its inputs.

use oci::Digest;
use serde::{Deserialize, Serialize};

/// The way from an input's node to a node that depends on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// D of the dependent operation.
    pub digest: Digest,
    /// Its input number.
    pub input: u32,
    /// Its output number.
    pub output: i32,
    /// The part of the input that counts; none for content keys.
    pub selector: Option<Digest>,
}

/// A text that is no link.
#[derive(Debug, thiserror::Error)]
#[error("invalid link {text:?}")]
pub struct LinkError {
    /// What was given.
    pub text: String,
    #[source]
    source: serde_json::Error,
}

impl fault::Classify for LinkError {
    fn class(&self) -> fault::Class {
        fault::Class::Internal
    }
}

#[derive(Serialize, Deserialize)]
struct Json {
    #[serde(rename = "Input", default, skip_serializing_if = "is_zero_input")]
    input: u32,
    #[serde(rename = "Output", default, skip_serializing_if = "is_zero_output")]
    output: i32,
    #[serde(rename = "Digest")]
    digest: Digest,
    #[serde(rename = "Selector", default, skip_serializing_if = "Option::is_none")]
    selector: Option<Digest>,
}

// serde passes references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero_input(number: &u32) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero_output(number: &i32) -> bool {
    *number == 0
}

impl Link {
    /// K(D, n) of the dependent key: documents know a link by input, this and the selector.
    pub fn key_digest(&self) -> Digest {
        crate::key::key_digest(&self.digest, self.output)
    }

    /// The text by which databases know a link.
    pub fn to_json(&self) -> String {
        let json = Json {
            input: self.input,
            output: self.output,
            digest: self.digest.clone(),
            selector: self.selector.clone(),
        };
        serde_json::to_string(&json).expect("numbers and digests can always be written")
    }

    /// Reads that text.
    pub fn from_json(text: &str) -> Result<Self, LinkError> {
        let json: Json = serde_json::from_str(text).map_err(|source| LinkError {
            text: text.to_owned(),
            source,
        })?;
        Ok(Self {
            digest: json.digest,
            input: json.input,
            output: json.output,
            selector: json.selector,
        })
    }
}
