//! Names of images: `busybox`, `example.com:5000/a/b:tag@sha256:…`.
//!
//! What a user types is normalised here once: the domain is always there, and `library/` in front of official names.

mod grammar;
mod locator;

use std::fmt;
use std::str::FromStr;

use fault::{Class, Classify};

use crate::{Digest, DigestError};

pub use locator::{Locator, LocatorError};

const HUB: &str = "docker.io";
const OLD_HUB: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const MAX_PATH: usize = 255;

/// A normalised image reference. It prints in full: `docker.io/library/busybox:1.36`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// Empty only for names whose first component looks like a domain without being one: `foo_bar.com/x`.
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The path has upper-case letters.
    #[error("invalid reference format: repository name ({path}) must be lowercase")]
    Uppercase {
        /// The path, `library/` included.
        path: String,
    },
    /// It could be mistaken for an image id.
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    Identifier {
        /// What was given.
        name: String,
    },
    /// The path is too long.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The digest is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Classify for ReferenceError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Reference {
    /// Reads and normalises what a user typed. No tag is added.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(grammar::is_lower_hex) {
            return Err(ReferenceError::Identifier {
                name: text.to_owned(),
            });
        }
        let (domain, rest) = split_domain(text);
        let until_colon = rest.split(':').next().unwrap_or_default();
        if until_colon.to_lowercase() != until_colon {
            return Err(ReferenceError::Uppercase {
                path: until_colon.to_owned(),
            });
        }
        Self::from_parts(domain, &rest)
    }

    fn from_parts(domain: &str, rest: &str) -> Result<Self, ReferenceError> {
        let parts = grammar::split(rest).ok_or(ReferenceError::Format)?;
        let (domain, path) = if grammar::is_domain(domain) && grammar::is_path(parts.path) {
            (domain.to_owned(), parts.path.to_owned())
        } else {
            // Compat: a first component that is no domain may still be one of a path without any.
            let whole = format!("{domain}/{}", parts.path);
            if !grammar::is_path(&whole) {
                return Err(ReferenceError::Format);
            }
            (String::new(), whole)
        };
        if path.len() > MAX_PATH {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            domain,
            path,
            tag: parts.tag.map(str::to_owned),
            digest: parts.digest.map(check_digest).transpose()?,
        })
    }

    /// Host and port, `docker.io` for the Hub.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on that host: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given. It decides when there is a tag as well.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/busybox`.
    pub fn name(&self) -> String {
        if self.domain.is_empty() {
            return self.path.clone();
        }
        format!("{}/{}", self.domain, self.path)
    }

    /// Without tag and digest.
    #[must_use]
    pub fn without_object(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// With the tag `latest` when there is neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(&self) -> Self {
        let mut with = self.clone();
        if with.tag.is_none() && with.digest.is_none() {
            with.tag = Some("latest".to_owned());
        }
        with
    }

    /// With this tag instead of its own.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !grammar::is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            ..self.clone()
        })
    }

    /// With this digest; the tag stays.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// The name as users write it: `busybox`.
    pub fn familiar_name(&self) -> String {
        if self.domain != HUB {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The reference as users write it: `busybox:1.36`.
    pub fn familiar(&self) -> String {
        self.with_object(self.familiar_name())
    }

    fn with_object(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(digest.as_str());
        }
        name
    }
}

/// The domain, and what is behind it with `library/` added where it belongs.
fn split_domain(text: &str) -> (&str, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.to_lowercase() != first =>
        {
            (first, rest)
        }
        _ => (HUB, text),
    };
    let domain = if domain == OLD_HUB { HUB } else { domain };
    if domain == HUB && !rest.contains('/') {
        return (domain, format!("{OFFICIAL}{rest}"));
    }
    (domain, rest.to_owned())
}

/// Random digests are names within one daemon and no others'.
fn check_digest(text: &str) -> Result<Digest, DigestError> {
    if text.starts_with("random:") {
        return Err(DigestError::Algorithm);
    }
    text.parse()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_object(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Reference::parse(text)
            .expect_err("not a reference")
            .to_string()
    }

    #[test]
    fn a_first_component_that_is_no_domain_belongs_to_the_path() {
        let reference = Reference::parse("foo_bar.com/x").expect("a reference");
        assert_eq!(reference.domain(), "");
        assert_eq!(reference.to_string(), "foo_bar.com/x");
    }

    #[test]
    fn a_digest_of_the_wrong_length_is_told_from_a_bad_one() {
        let short = "0".repeat(40);
        assert_eq!(
            error(&format!("x@sha256:{short}")),
            "invalid checksum digest length"
        );
        assert_eq!(
            error(&format!("x@random:{}", "0".repeat(64))),
            "unsupported digest algorithm"
        );
    }

    #[test]
    fn a_tag_and_a_digest_can_be_exchanged() {
        let reference = Reference::parse("a/b:1").expect("a reference");
        let digest = Digest::of("x");
        assert_eq!(
            reference.with_digest(digest.clone()).to_string(),
            format!("docker.io/a/b:1@{digest}")
        );
        assert_eq!(reference.with_tag("2").expect("a tag").familiar(), "a/b:2");
        assert!(reference.with_tag("no spaces").is_err());
        assert_eq!(reference.without_object().to_string(), "docker.io/a/b");
    }
}
