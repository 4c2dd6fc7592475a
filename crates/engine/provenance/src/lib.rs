//! Where results come from: what a build was asked, what it was made of, and the documents that say so (SLSA provenance,
//! versions 0.2 and 1).
//!
//! 1. [`Capture`] collects what is known of one result.
//! 2. [`request`] says what was asked, without what is secret or nobody's business.
//! 3. [`Predicate`] puts both into the words of SLSA.
//!
//! How the facts are found, and where the documents go, is not known here.

mod capture;
mod materials;
mod options;
mod predicate;
pub mod request;
mod steps;
mod url;

pub use capture::{
    Capture, GitSource, HttpSource, ImageBlob, ImageSource, Named, Sources, image_platforms,
};
pub use materials::Material;
pub use options::{Mode, Options, Sbom, Version, Wanted};
pub use predicate::{Environment, Layers, Predicate, Run};
pub use request::{Parameters, Requested};
pub use steps::{Places, Steps};

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is wrong.
    #[error("{0}")]
    Option(String),
    /// A name of an image is none.
    #[error("failed to parse ref {name:?}")]
    Reference {
        /// What was given.
        name: String,
        /// What is wrong with it.
        #[source]
        source: oci::ReferenceError,
    },
    /// A name of a single blob has more than a digest.
    #[error("failed to capture provenance: invalid image blob reference {name}")]
    Blob {
        /// What was given.
        name: String,
    },
    /// A definition cannot be read.
    #[error("{0}")]
    Definition(&'static str),
    /// Not everything the result was made of is known, but that was asked for.
    #[error("{text}")]
    Incomplete {
        /// For people.
        text: String,
        /// What is not known: names.
        locals: Vec<String>,
    },
    /// A document cannot be written.
    #[error("failed to marshal provenance")]
    Json(#[from] serde_json::Error),
}

impl fault::Classify for Error {
    fn class(&self) -> fault::Class {
        match self {
            Self::Option(_)
            | Self::Reference { .. }
            | Self::Blob { .. }
            | Self::Incomplete { .. } => fault::Class::User,
            Self::Definition(_) | Self::Json(_) => fault::Class::Internal,
        }
    }
}
