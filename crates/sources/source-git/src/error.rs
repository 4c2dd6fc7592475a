//! Why a repository cannot be used.

use fault::{Class, Classify};

/// Why a repository cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A scheme git may not use here.
    #[error("{scheme}: invalid protocol")]
    Protocol {
        /// Which.
        scheme: String,
    },
    /// No address at all.
    #[error("unknown protocol")]
    UnknownProtocol,
    /// An address that is none.
    #[error("parse {url:?}: {source}")]
    Url {
        /// What was given.
        url: String,
        /// Why not.
        source: url::ParseError,
    },
    /// A ref that could be taken for an option.
    #[error("invalid git ref {reference:?}")]
    BadRef {
        /// Which.
        reference: String,
    },
    /// Something of upstream's that is not here yet.
    #[error("unimplemented: {what}")]
    Unimplemented {
        /// What.
        what: &'static str,
    },
    /// The place of a bundle cannot be one.
    #[error("failed to parse git.bundle locator {locator:?}: {reason}")]
    Locator {
        /// What was given.
        locator: String,
        /// Why not.
        reason: String,
    },
    /// Bundles come from elsewhere.
    #[error(
        "git.bundle locator scheme {scheme:?} is not supported; expected \"docker-image+blob\" or \
         \"oci-layout+blob\""
    )]
    Scheme {
        /// What was given.
        scheme: String,
    },
    /// A bundle says nothing about which of its commits is meant.
    #[error("git.bundle requires git.checksum to be set")]
    BundleChecksum,
    /// A bundle is one file with everything.
    #[error("git.checkoutbundle is incompatible with {attr}")]
    BundleWith {
        /// What cannot be.
        attr: &'static str,
    },
    /// The bundle has other commits.
    #[error("commit {commit} not found in bundle {name}")]
    NotInBundle {
        /// Which is missing.
        commit: String,
        /// Where.
        name: String,
    },
    /// The checksum cannot be one.
    #[error("invalid checksum {checksum} for Git URL, expected hex commit hash")]
    BadChecksum {
        /// What was given.
        checksum: String,
    },
    /// A commit can only be fetched by its name if its name is given.
    #[error("fetch-by-commit requires a checksum or a commit SHA ref")]
    NoCommit,
    /// A part of a name is not enough.
    #[error("fetch-by-commit requires a full commit SHA checksum, got {checksum:?}")]
    PartialCommit {
        /// What was given.
        checksum: String,
    },
    /// The ref is something else.
    #[error("expected checksum to match {expected}, got {actual}")]
    Checksum {
        /// What it should be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// No such ref.
    #[error("repository does not contain ref {reference}, output: {output:?}")]
    NoRef {
        /// Which.
        reference: String,
        /// What the remote said.
        output: String,
    },
    /// The remote sent something strange.
    #[error("invalid commit sha {text:?}")]
    BadCommit {
        /// What.
        text: String,
    },
    /// The remote does not say which branch is meant.
    #[error("could not find default branch for repository: {remote}")]
    NoDefault {
        /// Where.
        remote: String,
    },
    /// The commit is gone.
    #[error(
        "fetched ref {reference} does not match expected commit {commit} and commit can not be \
         found in the repository"
    )]
    Moved {
        /// What was fetched.
        reference: String,
        /// What it was a moment ago.
        commit: String,
    },
    /// Neither commit nor tag.
    #[error("expected commit or tag object, got {kind}")]
    Kind {
        /// What it is.
        kind: String,
    },
    /// The directory is no directory.
    #[error("invalid subdir {subdir}: {reason}")]
    Subdir {
        /// Which.
        subdir: String,
        /// Why not.
        reason: String,
    },
    /// git said no.
    #[error("git stderr:\n{stderr}: exit status {code}")]
    Git {
        /// All it said.
        stderr: String,
        /// How it ended; 255 when it was killed.
        code: i32,
    },
    /// git was stopped.
    #[error("context completed: git stderr:\n{stderr}: {reason}")]
    Stopped {
        /// What it had said so far.
        stderr: String,
        /// Why it was stopped.
        reason: tasks::Cancelled,
    },
    /// git is not there.
    #[error("failed to run git")]
    Start(#[source] std::io::Error),
    /// Something of the above while something was done.
    #[error("{what}")]
    While {
        /// What was done.
        what: String,
        /// What went wrong.
        #[source]
        source: Box<Error>,
    },
    /// Files could not be made or moved.
    #[error("failed to {what}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A blob could not be had.
    #[error(transparent)]
    Content(#[from] content::Error),
    /// A registry failed.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The client failed.
    #[error(transparent)]
    Session(#[from] session::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] cache::Error),
    /// The build ended.
    #[error(transparent)]
    Cancelled(#[from] tasks::Cancelled),
}

impl Error {
    pub(crate) fn during(self, what: impl Into<String>) -> Self {
        Self::While {
            what: what.into(),
            source: Box::new(self),
        }
    }

    pub(crate) fn file(what: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::File { what, source }
    }

    /// What git said, if it is git that failed.
    pub(crate) fn stderr(&self) -> &str {
        match self {
            Self::Git { stderr, .. } => stderr,
            Self::While { source, .. } => source.stderr(),
            _ => "",
        }
    }
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Unimplemented { .. } => Class::Unsupported,
            Self::Start(_) | Self::File { .. } => Class::Internal,
            Self::Stopped { .. } => Class::Cancelled,
            Self::While { source, .. } => source.class(),
            Self::Content(err) => err.class(),
            Self::Registry(err) => err.class(),
            Self::Session(err) => err.class(),
            Self::Cache(err) => err.class(),
            Self::Cancelled(err) => err.class(),
            _ => Class::User,
        }
    }
}
