//! Why an image cannot be used.

use fault::{Class, Classify};
use oci::Digest;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is no reference.
    #[error(transparent)]
    Locator(#[from] oci::LocatorError),
    /// The name is no reference.
    #[error(transparent)]
    Reference(#[from] oci::ReferenceError),
    /// Neither tag nor digest.
    #[error("object required")]
    Object,
    /// No such way of resolving.
    #[error("invalid resolvemode: {mode}")]
    Mode {
        /// What was given.
        mode: String,
    },
    /// No such kind of record.
    #[error("invalid record type {text}")]
    RecordType {
        /// What was given.
        text: String,
    },
    /// The limit is no positive number.
    #[error("invalid layer limit {text}{why}")]
    Limit {
        /// What was given.
        text: String,
        /// Why it is no number, if it is none.
        why: String,
    },
    /// The checksum is no digest.
    #[error("invalid image checksum {text}")]
    BadChecksum {
        /// What was given.
        text: String,
        /// Why not.
        #[source]
        source: oci::DigestError,
    },
    /// The name stands for another image than it must.
    #[error("image digest {actual} for {name} does not match expected checksum {expected}")]
    Checksum {
        /// What it stands for.
        actual: Digest,
        /// What it must stand for.
        expected: Digest,
        /// The name.
        name: String,
    },
    /// The digest in the name is none.
    #[error(transparent)]
    Digest(#[from] oci::DigestError),
    /// The registry does not tell what refers to a manifest.
    #[error("fetching referrers for attestation manifest {digest}")]
    Referrers {
        /// The manifest.
        digest: Digest,
        /// Cause.
        #[source]
        source: Box<registry::Error>,
    },
    /// The index has nothing for the platform.
    #[error("no match for platform in manifest: not found")]
    Platform,
    /// Indexes within indexes, or lists of manifests that do not say what they are for.
    #[error("no image within {limit} documents of index {index}")]
    Endless {
        /// Where it began.
        index: Digest,
        /// How many were read.
        limit: usize,
    },
    /// Manifests of the oldest kind.
    #[error(
        "support Docker Image manifest version 2, schema 1 has been removed. More information at \
         https://docs.docker.com/go/deprecated-image-specs/"
    )]
    Schema1,
    /// The root is neither manifest nor index.
    #[error("encountered unknown type {media_type}; children may not be fetched")]
    MediaType {
        /// What it is.
        media_type: String,
    },
    /// A manifest that is none.
    #[error("failed to parse manifest {digest}")]
    Manifest {
        /// Which.
        digest: Digest,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest without a config.
    #[error("manifest {digest} has no config")]
    NoConfig {
        /// Which.
        digest: Digest,
    },
    /// A config that is none.
    #[error("failed to resolve rootfs")]
    Config(#[source] serde_json::Error),
    /// Config and manifest do not belong together.
    #[error("mismatched image rootfs and manifest layers: {diff_ids} diff ids, {layers} layers")]
    Mismatched {
        /// In the config.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
    /// The image has fewer layers than the limit.
    #[error("layer limit {limit} is greater than the number of layers in the image {layers}")]
    TooFew {
        /// The limit.
        limit: usize,
        /// What there is.
        layers: usize,
    },
    /// The config lists fewer layers than the limit.
    #[error("image has {layers} layers, limit is {limit}")]
    TooFewDiffIds {
        /// What there is.
        layers: usize,
        /// The limit.
        limit: usize,
    },
    /// A config that is none cannot be cut to a number of layers.
    #[error("failed to parse image config")]
    ConfigLimit(#[source] serde_json::Error),
    /// In a client's store there are only digests.
    #[error("reference {name:?} must have digest")]
    NoDigest {
        /// What was given.
        name: String,
    },
    /// The client's store has no such blob.
    #[error("unable to get info about digest: content {digest}: not found")]
    Missing {
        /// Which.
        digest: Digest,
    },
    /// The client has no stores at all.
    #[error("unable to get info about digest: Unimplemented")]
    NoStores(#[source] session::Error),
    /// The client's store did not answer.
    #[error("unable to get info about digest")]
    Root(#[source] session::Error),
    /// What the client's store has is something else.
    #[error("reference {name:?} contains neither an index nor a manifest")]
    NoImage {
        /// What was asked for.
        name: String,
    },
    /// The name of a blob has no digest, or none that is one.
    #[error("invalid reference digest")]
    BlobDigest(#[source] oci::DigestError),
    /// The client's store has no such blob, or the client no such store.
    ///
    /// Compat: as upstream tells what a content store answers.
    #[error("NotFound: rpc error: code = NotFound desc = {why}")]
    MissingBlob {
        /// What the client said.
        why: String,
    },
    /// The registry gives no such blob.
    #[error("unexpected HEAD status code {url}: {status}")]
    BlobStatus {
        /// Where it should be.
        url: String,
        /// What was answered.
        status: registry::Status,
        /// Class.
        class: Class,
    },
    /// A file for a blob could not be made.
    #[error(transparent)]
    Open(std::io::Error),
    /// A blob could not be made a file.
    #[error("failed to write a blob")]
    File(#[source] std::io::Error),
    /// A blob could not be had.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// The client failed.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Platform => Class::NotFound,
            Self::Registry(err) => err.class(),
            Self::Content(err) => err.class(),
            Self::Session(err) | Self::Root(err) => err.class(),
            Self::Referrers { source, .. } => source.class(),
            Self::Missing { .. } => Class::NotFound,
            Self::MissingBlob { .. } => Class::NotFound,
            Self::BlobStatus { class, .. } => *class,
            Self::Open(err) => err.class(),
            Self::File(_) => Class::Internal,
            Self::Cache(err) => err.class(),
            Self::Locator(_)
            | Self::Reference(_)
            | Self::Digest(_)
            | Self::BlobDigest(_)
            | Self::Object
            | Self::NoDigest { .. }
            // Compat: no feature of ours is missing; clients put the words for that before the whole text.
            | Self::NoStores(_)
            | Self::NoImage { .. }
            | Self::Mode { .. }
            | Self::RecordType { .. }
            | Self::Limit { .. }
            | Self::BadChecksum { .. }
            | Self::Checksum { .. }
            | Self::Endless { .. }
            | Self::Schema1
            | Self::MediaType { .. }
            | Self::Manifest { .. }
            | Self::NoConfig { .. }
            | Self::Config(_)
            | Self::Mismatched { .. }
            | Self::TooFew { .. }
            | Self::TooFewDiffIds { .. }
            | Self::ConfigLimit(_) => Class::User,
        }
    }
}
