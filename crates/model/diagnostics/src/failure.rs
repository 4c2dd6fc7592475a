//! The failure itself.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use fault::{Class, Classify};
use tonic::Code;

use crate::Detail;

/// Why a build, or a part of it, failed. Cheap to clone; many waiters may hold the same one.
#[derive(Clone)]
pub struct Failure(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    class: Class,
    /// Set when the failure came from the other side, which then said it with this code.
    code: Option<Code>,
    text: String,
    /// The outermost first.
    details: Vec<Detail>,
    /// What must live as long as the failure is of interest, for whoever knows what it is.
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl Failure {
    /// A failure with its complete text.
    pub fn new(class: Class, text: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            class,
            code: None,
            text: text.into(),
            details: Vec::new(),
            kept: None,
        }))
    }

    /// The wrong of the one who asked: a bad file, a bad option, a step that fails.
    pub fn user(text: impl Into<String>) -> Self {
        Self::new(Class::User, text)
    }

    /// Somebody asked to stop; `text` says it as users read it, `context canceled` as a rule.
    pub fn cancelled(text: impl Into<String>) -> Self {
        Self::new(Class::Cancelled, text)
    }

    /// A failure that says what `err` and its causes say. A full disk anywhere below makes the class.
    pub fn from_error<E: Error + Classify + 'static>(err: &E) -> Self {
        Self::new(fault::class_of(err, err.class()), fault::chain(err))
    }

    /// A failure that came with a gRPC code.
    pub(crate) fn with_code(code: Code, text: String, details: Vec<Detail>) -> Self {
        Self(Arc::new(Inner {
            class: class_of_code(code),
            code: Some(code),
            text,
            details,
            kept: None,
        }))
    }

    /// The same failure, `prefix: ` before its text.
    #[must_use]
    pub fn context(mut self, prefix: impl fmt::Display) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.text = format!("{prefix}: {}", inner.text);
        self
    }

    /// The same failure with more to say at the end of its text.
    #[must_use]
    pub fn and(mut self, suffix: impl fmt::Display) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.text = format!("{}{suffix}", inner.text);
        self
    }

    /// The same failure with one more detail, which becomes the outermost.
    #[must_use]
    pub fn with(mut self, detail: Detail) -> Self {
        Arc::make_mut(&mut self.0).details.insert(0, detail);
        self
    }

    /// The same failure, keeping something alive that tells more about it.
    #[must_use]
    pub fn keeping(mut self, kept: Arc<dyn Any + Send + Sync>) -> Self {
        Arc::make_mut(&mut self.0).kept = Some(kept);
        self
    }

    /// What the failure keeps, if it is a `T`.
    pub fn kept<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.0.kept.clone()?.downcast().ok()
    }

    /// The same failure in another class. What another side called it is forgotten.
    #[must_use]
    pub fn reclassified(mut self, class: Class) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        inner.class = class;
        inner.code = None;
        self
    }

    /// The same failure as one of a build. What a build does not find or reach is no answer to the call that asked for
    /// the build; what another side gave a code keeps it.
    #[must_use]
    pub fn in_build(self) -> Self {
        match (self.0.code, self.0.class) {
            (None, Class::NotFound | Class::AlreadyExists | Class::Unavailable) => {
                self.reclassified(Class::User)
            }
            _ => self,
        }
    }

    /// The complete text.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The details, the outermost first.
    pub fn details(&self) -> &[Detail] {
        &self.0.details
    }

    /// The exit code of the process that failed, if one did.
    pub fn exit_code(&self) -> Option<u32> {
        self.details().iter().find_map(|detail| match detail {
            Detail::Exit { code } => Some(*code),
            _ => None,
        })
    }

    /// Whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.class == Class::Cancelled
    }

    /// The gRPC code this failure is reported with.
    ///
    /// Compat: most failures of a build are `Unknown`, clients tell them apart by text and details. That a name inside
    /// a build does not exist (an image, a file, a secret) is such a failure; that the thing a call asks for does not
    /// exist is `NotFound`.
    pub fn code(&self) -> Code {
        if let Some(code) = self.0.code {
            return code;
        }
        match self.0.class {
            Class::User | Class::Denied => Code::Unknown,
            Class::NotFound | Class::AlreadyExists | Class::Unavailable if self.is_of_a_build() => {
                Code::Unknown
            }
            Class::NotFound => Code::NotFound,
            Class::AlreadyExists => Code::AlreadyExists,
            Class::Unavailable => Code::Unavailable,
            Class::Exhausted => Code::ResourceExhausted,
            Class::Cancelled => Code::Cancelled,
            Class::TimedOut => Code::DeadlineExceeded,
            Class::Unsupported => Code::Unimplemented,
            Class::Internal => Code::Internal,
        }
    }

    fn is_of_a_build(&self) -> bool {
        self.details().iter().any(|detail| {
            matches!(
                detail,
                Detail::Vertex { .. }
                    | Detail::Source { .. }
                    | Detail::Frontend { .. }
                    | Detail::Solve(_)
            )
        })
    }
}

fn class_of_code(code: Code) -> Class {
    match code {
        Code::Ok
        | Code::Unknown
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::OutOfRange => Class::User,
        Code::Cancelled | Code::Aborted => Class::Cancelled,
        Code::DeadlineExceeded => Class::TimedOut,
        Code::NotFound => Class::NotFound,
        Code::AlreadyExists => Class::AlreadyExists,
        Code::PermissionDenied | Code::Unauthenticated => Class::Denied,
        Code::ResourceExhausted => Class::Exhausted,
        Code::Unimplemented => Class::Unsupported,
        Code::Unavailable => Class::Unavailable,
        Code::Internal | Code::DataLoss => Class::Internal,
    }
}

impl Classify for Failure {
    fn class(&self) -> Class {
        self.0.class
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("class", &self.0.class)
            .field("text", &self.0.text)
            .field("details", &self.0.details)
            .finish()
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_prefixes_and_details_go_in_front() {
        let inner = Failure::user("\"/x\": not found").with(Detail::Vertex {
            digest: "sha256:aa".to_owned(),
        });
        let outer = inner
            .clone()
            .context("failed to compute cache key")
            .with(Detail::Frontend {
                name: "dockerfile.v0".to_owned(),
                source: String::new(),
            });
        assert_eq!(
            outer.to_string(),
            "failed to compute cache key: \"/x\": not found"
        );
        assert!(matches!(outer.details()[0], Detail::Frontend { .. }));
        assert_eq!(inner.details().len(), 1, "the clone is not changed");
    }

    #[test]
    fn what_is_missing_inside_a_build_is_unknown_and_else_not_found() {
        let missing = Failure::new(Class::NotFound, "no such job x");
        assert_eq!(missing.code(), Code::NotFound);
        assert_eq!(missing.clone().in_build().code(), Code::Unknown);
        let told = Failure::with_code(Code::NotFound, "no such dir".to_owned(), Vec::new());
        assert_eq!(told.in_build().code(), Code::NotFound);
        let in_build = missing.with(Detail::Vertex {
            digest: "sha256:aa".to_owned(),
        });
        assert_eq!(in_build.code(), Code::Unknown);
    }

    #[test]
    fn a_full_disk_below_is_exhausted() {
        #[derive(Debug)]
        struct Write(std::io::Error);
        impl fmt::Display for Write {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("failed to write")
            }
        }
        impl Error for Write {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        impl Classify for Write {
            fn class(&self) -> Class {
                Class::Internal
            }
        }
        let failure = Failure::from_error(&Write(std::io::Error::from_raw_os_error(28)));
        assert_eq!(failure.code(), Code::ResourceExhausted);
        assert_eq!(
            failure.text(),
            "failed to write: No space left on device (os error 28)"
        );
    }
}
