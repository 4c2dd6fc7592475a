//! Why a build could not be turned into LLB, and where in the file.

use std::sync::Arc;

use diagnostics::{Detail, Failure};
use dockerfile_syntax::Span;
use fault::{Class, Classify};
use llb::build::SourceMap;
use proto::pb;

use crate::paths::PathError;

/// What is wrong. Texts are those users of upstream know.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    /// Something the build said.
    #[error(transparent)]
    Build(#[from] Failure),
    #[error(transparent)]
    Syntax(#[from] dockerfile_syntax::Error),
    #[error(transparent)]
    Word(#[from] dockerfile_syntax::shell::ExpandError),
    #[error(transparent)]
    Mount(#[from] dockerfile_syntax::ast::MountError),
    #[error(transparent)]
    Lint(#[from] dockerfile_syntax::lint::Violation),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("{0}: {1}")]
    In(&'static str, Box<Error>),
    #[error("{0}: {1}")]
    InText(String, Box<Error>),
    #[error("{0}{1}")]
    Hinted(Box<Error>, dockerfile_syntax::suggest::Hint),
    /// A text of its own.
    #[error("{0}")]
    Text(String),
    /// A fixed text of its own.
    #[error("{0}")]
    Says(&'static str),
    /// A capability that somebody demanded and we lack.
    #[error("unsupported frontend capability {0}")]
    FrontendCap(String),
    /// A request that is no build and that we do not know.
    #[error("unsupported request {0}")]
    Subrequest(String),
}

impl Classify for Error {
    fn class(&self) -> Class {
        match self {
            Self::Build(failure) => failure.class(),
            Self::In(_, inner) | Self::InText(_, inner) | Self::Hinted(inner, _) => inner.class(),
            Self::FrontendCap(_) => Class::Unsupported,
            _ => Class::User,
        }
    }
}

/// An error and the places it is about, innermost first.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    pub(crate) error: Box<Error>,
    pub(crate) spans: Vec<Span>,
}

pub(crate) type Result<T> = std::result::Result<T, Trouble>;

impl<E: Into<Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self {
            error: Box::new(error.into()),
            spans: Vec::new(),
        }
    }
}

/// An error with this text.
pub(crate) fn text(text: impl Into<String>) -> Error {
    Error::Text(text.into())
}

/// Putting more into an error on its way up.
pub(crate) trait Locate<T> {
    /// Adds a place.
    fn at(self, span: Span) -> Result<T>;
    /// Replaces all places.
    fn only_at(self, span: Span) -> Result<T>;
    /// Puts words and a colon in front.
    fn context(self, prefix: &'static str) -> Result<T>;
    /// Puts words and a colon in front.
    fn with_context(self, prefix: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Trouble>> Locate<T> for std::result::Result<T, E> {
    fn at(self, span: Span) -> Result<T> {
        self.map_err(|err| {
            let mut trouble = err.into();
            trouble.spans.push(span);
            trouble
        })
    }

    fn only_at(self, span: Span) -> Result<T> {
        self.map_err(|err| Trouble {
            error: err.into().error,
            spans: vec![span],
        })
    }

    fn context(self, prefix: &'static str) -> Result<T> {
        self.map_err(|err| {
            let Trouble { error, spans } = err.into();
            Trouble {
                error: Box::new(Error::In(prefix, error)),
                spans,
            }
        })
    }

    fn with_context(self, prefix: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|err| {
            let Trouble { error, spans } = err.into();
            Trouble {
                error: Box::new(Error::InText(prefix(), error)),
                spans,
            }
        })
    }
}

impl Error {
    /// The failure as it travels to the client, details of the build included.
    fn into_failure(self) -> Failure {
        match self {
            Self::Build(failure) => failure,
            Self::In(prefix, inner) => inner.into_failure().context(prefix),
            Self::InText(prefix, inner) => inner.into_failure().context(&prefix),
            Self::Hinted(inner, hint) => inner.into_failure().and(hint),
            Self::FrontendCap(ref name) => {
                let detail = Detail::FrontendCap { name: name.clone() };
                Failure::from_error(&self).with(detail)
            }
            Self::Subrequest(ref name) => {
                let detail = Detail::Subrequest { name: name.clone() };
                Failure::from_error(&self).with(detail)
            }
            other => Failure::from_error(&other),
        }
    }
}

impl Trouble {
    /// The same without its places.
    pub(crate) fn unplaced(self) -> Self {
        Self {
            error: self.error,
            spans: Vec::new(),
        }
    }

    /// The failure as it travels to the client.
    pub(crate) fn into_failure(self, file: Option<&Arc<SourceMap>>) -> Failure {
        let mut failure = self.error.into_failure();
        if let Some(file) = file {
            for span in self.spans {
                failure = failure.with(Detail::Source {
                    info: file.info(),
                    ranges: ranges(span),
                });
            }
        }
        failure
    }
}

/// One range per line, as clients expect.
pub(crate) fn ranges<R: FromIterator<pb::Range>>(span: Span) -> R {
    let position = |line: u32| {
        Some(pb::Position {
            line: i32::try_from(line).unwrap_or(i32::MAX),
            character: 0,
        })
    };
    span.lines()
        .map(|line| pb::Range {
            start: position(line),
            end: position(line),
        })
        .collect()
}
