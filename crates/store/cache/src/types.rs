//! Names and plain data of the cache.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use content::Provider;
use filters::Filter;
use oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

/// Name of a record: 25 characters, digits and lower-case letters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefId(Arc<str>);

impl RefId {
    /// The id of this text, if it can be one.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'));
        valid.then(|| Self(Arc::from(text)))
    }

    /// A new id.
    pub(crate) fn random() -> Self {
        Self(Arc::from(identity::new_id()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RefId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("not a record id")
    }
}

impl From<RefId> for String {
    fn from(id: RefId) -> Self {
        id.as_str().to_owned()
    }
}

impl fmt::Display for RefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RefId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a record is for; decides how long garbage collection keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum RecordType {
    /// The result of a step or a layer of an image.
    #[default]
    #[serde(rename = "regular")]
    Regular,
    /// The daemon's own.
    #[serde(rename = "internal")]
    Internal,
    /// A frontend's image.
    #[serde(rename = "frontend")]
    Frontend,
    /// A directory of a client.
    #[serde(rename = "source.local")]
    SourceLocal,
    /// A git checkout.
    #[serde(rename = "source.git.checkout")]
    SourceGitCheckout,
    /// A cache mount.
    #[serde(rename = "exec.cachemount")]
    CacheMount,
}

impl RecordType {
    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Internal => "internal",
            Self::Frontend => "frontend",
            Self::SourceLocal => "source.local",
            Self::SourceGitCheckout => "source.git.checkout",
            Self::CacheMount => "exec.cachemount",
        }
    }

    /// The type of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Regular,
            Self::Internal,
            Self::Frontend,
            Self::SourceLocal,
            Self::SourceGitCheckout,
            Self::CacheMount,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
    }
}

/// What is known of a new record.
#[derive(Debug, Clone, Default)]
pub struct RecordOptions {
    /// For users: `mount / from exec …`.
    pub description: String,
    /// What it is for.
    pub record_type: RecordType,
    /// When it counts as created; absent: now.
    pub created: Option<SystemTime>,
}

/// A layer of an image that need not be here yet.
#[derive(Clone)]
pub struct ImageLayer {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Where to get the blob.
    pub provider: Arc<dyn Provider>,
    /// From the image's history.
    pub created: Option<SystemTime>,
    /// For users: `pulled from …`.
    pub description: String,
}

/// A layer of a result, as a manifest lists it.
#[derive(Clone)]
pub struct LayerBlob {
    /// The blob.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// When the layer was made.
    pub created: Option<SystemTime>,
    /// For the image's history.
    pub description: String,
    /// Where to get the blob when it is not in the store.
    pub provider: Option<Arc<dyn Provider>>,
}

impl fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBlob")
            .field("descriptor", &self.descriptor)
            .field("diff_id", &self.diff_id)
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

/// What disk usage tells of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The record.
    pub id: RefId,
    /// It can be written.
    pub mutable: bool,
    /// Somebody holds it, or a record that stands on it.
    pub in_use: bool,
    /// Bytes on disk that are its own: tree and blobs.
    pub size: u64,
    /// The records it stands on; more than one for a merge.
    pub parents: Vec<RefId>,
    /// When it was made.
    pub created: SystemTime,
    /// When it was last let go of.
    pub last_used: Option<SystemTime>,
    /// How often it was used.
    pub usage_count: u64,
    /// For users.
    pub description: String,
    /// What it is for.
    pub record_type: RecordType,
    /// Also held by something that is not this cache.
    pub shared: bool,
}

impl Usage {
    /// Whether a filter lets the record pass. Compat: these fields, and what is present without a value.
    pub fn matches(&self, filter: &Filter) -> bool {
        filter.is_everything()
            || filter.matches(|path| {
                let is = |yes: bool| yes.then_some(Cow::Borrowed(""));
                match path.first()?.as_str() {
                    "id" => Some(self.id.as_str().into()),
                    "parents" if self.parents.is_empty() => None,
                    "parents" => {
                        let parents: Vec<_> = self.parents.iter().map(RefId::as_str).collect();
                        Some(parents.join(";").into())
                    }
                    "description" if self.description.is_empty() => None,
                    "description" => Some(self.description.as_str().into()),
                    "type" => Some(self.record_type.as_str().into()),
                    "inuse" => is(self.in_use),
                    "mutable" => is(self.mutable),
                    "immutable" => is(!self.mutable),
                    "shared" => is(self.shared),
                    "private" => is(!self.shared),
                    _ => None,
                }
            })
    }

    /// Whether the record was used at `since` or later. One that was never let go of was not.
    pub fn is_used_since(&self, since: SystemTime) -> bool {
        self.last_used.is_some_and(|used| used > since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_25_characters_that_parse() {
        let id = RefId::random();
        assert_eq!(id.as_str().len(), 25);
        assert_eq!(RefId::parse(id.as_str()), Some(id));
        assert_eq!(RefId::parse("../../etc"), None);
        assert_eq!(RefId::parse(""), None);
    }

    #[test]
    fn record_types_have_their_wire_names() {
        assert_eq!(
            RecordType::parse("exec.cachemount"),
            Some(RecordType::CacheMount)
        );
        assert_eq!(RecordType::parse("other"), None);
    }
}
