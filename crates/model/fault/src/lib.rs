//! What kind of failure something is, and how a chain of causes is printed.
//!
//! Every crate has its own error type; all of them can say which [`Class`] they belong to. Turning a class into a
//! gRPC code or an exit code happens once, at the top, never where the error is born.

use std::error::Error;

/// The situations a caller may want to tell apart without knowing the error type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The input is wrong: a bad Dockerfile, a bad option, a failing step.
    User,
    /// A named thing does not exist.
    NotFound,
    /// A named thing exists already.
    AlreadyExists,
    /// Credentials or policy forbid it.
    Denied,
    /// Something outside cannot be reached now; trying again may help.
    Unavailable,
    /// Disk, memory or a quota ran out.
    Exhausted,
    /// Somebody asked to stop.
    Cancelled,
    /// A deadline passed.
    TimedOut,
    /// We do not do this.
    Unsupported,
    /// A defect of ours or of the machine.
    Internal,
}

/// Errors that know their class.
pub trait Classify {
    /// The class of this failure.
    fn class(&self) -> Class;
}

impl Classify for std::io::Error {
    fn class(&self) -> Class {
        use std::io::ErrorKind;
        match self.kind() {
            ErrorKind::NotFound => Class::NotFound,
            ErrorKind::AlreadyExists => Class::AlreadyExists,
            ErrorKind::PermissionDenied => Class::Denied,
            ErrorKind::StorageFull | ErrorKind::OutOfMemory | ErrorKind::QuotaExceeded => {
                Class::Exhausted
            }
            ErrorKind::TimedOut => Class::TimedOut,
            ErrorKind::Unsupported => Class::Unsupported,
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe => Class::Unavailable,
            ErrorKind::InvalidInput | ErrorKind::InvalidData => Class::User,
            _ => Class::Internal,
        }
    }
}

/// Whether an option says yes or no, in the spellings that Go takes. Said here once: who refuses other words names the option.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The message of `err` and of everything below it, joined by `: `.
pub fn chain(err: &(dyn Error + 'static)) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        let message = inner.to_string();
        // Transparent wrappers repeat the text of what they wrap.
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = inner.source();
    }
    text
}

/// The class of an I/O error anywhere in the chain if that says the disk or memory ran out, else `otherwise`.
pub fn class_of(err: &(dyn Error + 'static), otherwise: Class) -> Class {
    let mut cause = Some(err);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>()
            && io.class() == Class::Exhausted
        {
            return Class::Exhausted;
        }
        cause = inner.source();
    }
    otherwise
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_no_have_the_spellings_of_go() {
        assert!(["1", "t", "T", "true", "TRUE", "True"].map(truth) == [Some(true); 6]);
        assert!(["0", "f", "F", "false", "FALSE", "False"].map(truth) == [Some(false); 6]);
        assert!(["", "yes", "tRUE", " 1"].map(truth) == [None; 4]);
    }

    #[test]
    fn a_full_disk_is_exhausted() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(full.class(), Class::Exhausted);
        assert_eq!(class_of(&full, Class::Internal), Class::Exhausted);
    }
}
