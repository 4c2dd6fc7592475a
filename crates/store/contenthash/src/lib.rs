//! Checksums of trees: the digests that make a step cached when the files it sees have not changed.
//!
//! [`Records`] keeps what is known of one tree: a digest for every file, link and directory header, and one for the
//! contents of every directory. It fills itself from disk as far as a [`Query`] needs, or takes digests from a transfer
//! ([`Records::insert`], [`Records::remove`]) whose receiver hashed while writing ([`FileHasher`]). It does not know
//! where trees come from and never changes one.
//!
//! Compat: every digest equals upstream's (cache/contenthash), because it ends up in cache keys that travel. The rules
//! and their oddities are in the description of cache keys, chapter 4; comments name its sections.

mod codec;
mod disk;
mod filtered;
mod header;
mod listing;
mod records;
mod resolve;

use fault::{Class, Classify};
use fstree::PatternError;

pub use header::{FileHasher, FileHeader, Sum};
pub use listing::Listed;
pub use records::{Change, Records};

/// What is asked about a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Query {
    /// The place in the tree. A trailing slash counts in filtered queries.
    pub path: String,
    /// Follow a link at the end of the path.
    pub follow: bool,
    /// The path may have wildcards.
    pub wildcard: bool,
    /// Only what matches these, relative to the path.
    pub include: Vec<String>,
    /// Not what matches these.
    pub exclude: Vec<String>,
    /// Paths that must be among the results of a filtered query.
    pub required: Vec<String>,
}

impl Query {
    /// The plain question about one path.
    pub fn of(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            ..Self::default()
        }
    }

    /// Whether the answer is a list of files rather than one record.
    pub fn is_filtered(&self) -> bool {
        self.wildcard || !self.include.is_empty() || !self.exclude.is_empty()
    }

    /// The answer where there is no tree at all.
    pub fn on_nothing(&self) -> Result<oci::Digest, Error> {
        if self.path == "/" {
            return Ok(oci::Digest::of(b""));
        }
        Err(Error::NoTree {
            path: self.path.clone(),
        })
    }
}

/// Why there is no checksum.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path, or a required one, is not in the tree.
    #[error("{path:?}: not found")]
    NotFound {
        /// As asked for, cleaned.
        path: String,
    },
    /// There is no tree to look into.
    #[error("{path}: no such file or directory")]
    NoTree {
        /// As asked for.
        path: String,
    },
    /// A path leads through more than 255 links.
    #[error("too many links")]
    TooManyLinks,
    /// A wildcard path that cannot be read.
    #[error(transparent)]
    Wildcard(#[from] PatternError),
    /// A bad include or exclude list.
    #[error("invalid {list}: [{}]", patterns.join(" "))]
    Patterns {
        /// `includepatterns` or `excludepatterns`.
        list: &'static str,
        /// The list.
        patterns: Vec<String>,
        /// What is wrong.
        source: PatternError,
    },
    /// The tree could not be read.
    #[error(transparent)]
    Tree(#[from] fstree::Error),
    /// The work was told to stop.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::NotFound { .. } | Self::NoTree { .. } => Class::NotFound,
            Self::TooManyLinks | Self::Wildcard(_) | Self::Patterns { .. } => Class::User,
            Self::Tree(err) => err.class(),
            Self::Cancelled(err) => err.class(),
        }
    }
}
