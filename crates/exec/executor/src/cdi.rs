//! Devices described by the Container Device Interface: documents in some directories say what a device is called and
//! what a container needs to have it.
//!
//! [`Registry`] reads the directories again whenever something in them changed and somebody asks. [`Edits`] is what a
//! step's devices change in its specification. Who may have which device is decided elsewhere.

mod document;
mod edits;
mod registry;
mod yaml;

pub use edits::Edits;
pub use registry::{Known, Listed, Registry};

use std::path::PathBuf;

/// A device a step asks for: `vendor/class=name`, `vendor/class` for the first, `vendor/class=*` for all, or the class
/// its annotations give it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Name.
    pub name: String,
    /// The step runs without it too.
    pub optional: bool,
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("required device {name:?} is not registered")]
    NotRegistered { name: String },
    #[error("failed to stat CDI host device {:?}", path.display())]
    HostDevice {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("CDI device {:?} is not a device node", path.display())]
    NotADevice { path: PathBuf },
    #[error("CDI device {:?}: host type mismatch ({wanted}, {found})", path.display())]
    Mismatch {
        path: PathBuf,
        wanted: char,
        found: char,
    },
}

impl fault::Classify for Error {
    fn class(&self) -> fault::Class {
        match self {
            Self::NotRegistered { .. } => fault::Class::User,
            Self::HostDevice { source, .. } => source.class(),
            Self::NotADevice { .. } | Self::Mismatch { .. } => fault::Class::Internal,
        }
    }
}
