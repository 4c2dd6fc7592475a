//! What sources say about themselves without being built from.

use bytes::Bytes;
use oci::{Descriptor, Digest};

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The raw commit and tag objects of a git source.
    pub git_objects: bool,
    /// One more checksum of what an http source delivers.
    pub http_checksum: Option<Suffixed>,
    /// Of an image only the digest.
    pub no_config: bool,
    /// What is attested about an image, with the statements of these predicate types.
    pub attestations: Option<Vec<String>>,
}

/// A checksum of some bytes and a few more behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suffixed {
    /// Algorithm.
    pub hash: Hash,
    /// What is hashed after the content.
    pub suffix: Bytes,
}

/// Algorithms for [`Suffixed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

/// What a source answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Facts {
    /// This kind of source says nothing.
    Nothing,
    /// An image.
    Image {
        /// What the name stands for: the index if it is one.
        digest: Digest,
        /// Config JSON of the wanted platform; empty when it was not asked for.
        config: Bytes,
        /// What is attested about it, if that was asked for and there is an index.
        attested: Option<Attested>,
    },
    /// A git repository.
    Git(GitFacts),
    /// A file behind a URL.
    Http(HttpFacts),
}

/// What is attested about an image: documents to follow from the index on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The index.
    pub root: Digest,
    /// The manifest of the wanted platform.
    pub image: Digest,
    /// The manifest that lists statements about it.
    pub manifest: Option<Digest>,
    /// The manifest that signs the list.
    pub signature: Option<Digest>,
    /// The documents: index, list of statements, statements, and the signature with what it is made of.
    pub blobs: Vec<(Descriptor, Bytes)>,
}

/// What a git remote says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitFacts {
    /// The full name of the ref, or the commit that was asked for.
    pub reference: String,
    /// What it points at: a commit or an annotated tag.
    pub checksum: String,
    /// The commit behind an annotated tag, if it is one.
    pub commit_checksum: String,
    /// The raw commit object.
    pub commit: Bytes,
    /// The raw tag object.
    pub tag: Bytes,
}

/// What a web server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpFacts {
    /// Digest of the content.
    pub digest: Digest,
    /// What the file is called.
    pub filename: String,
    /// `Last-Modified`, in seconds since the epoch.
    pub last_modified: Option<i64>,
    /// The checksum that was asked for: `sha512:…`.
    pub checksum: Option<String>,
}
