//! The simple splitter for references that are in full form already, as image sources of LLB have them.

use fault::{Class, Classify};

/// A full reference in two parts: where the repository is, and what is wanted from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locator {
    /// Host and path: `docker.io/library/busybox`.
    pub locator: String,
    /// `1.36`, `1.36@sha256:…` or `@sha256:…`; may be empty.
    pub object: String,
    /// The host alone.
    pub host: String,
}

/// Why a text cannot be split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocatorError {
    /// It is a URL.
    #[error("invalid reference")]
    Invalid,
    /// Nothing stands where the host should.
    #[error("hostname required")]
    Hostname,
    /// Nothing says which of the repository's images is meant.
    #[error("object required")]
    Object,
    /// The host is malformed.
    // Compat: upstream reads the text as the URL of a scheme it makes up, and users see that.
    #[error("parse \"dummy://{text}\": {problem}")]
    Host {
        /// The whole text.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Classify for LocatorError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Locator {
    /// Splits `text` at the first `:` or `@` behind the host.
    pub fn parse(text: &str) -> Result<Self, LocatorError> {
        if text.contains("://") {
            return Err(LocatorError::Invalid);
        }
        let end = text.find(['/', '?', '#']).unwrap_or(text.len());
        let (authority, path) = text.split_at(end);
        let host = match authority.rsplit_once('@') {
            Some((_, host)) => host,
            None => authority,
        };
        check_host(host).map_err(|problem| LocatorError::Host {
            text: text.to_owned(),
            problem,
        })?;
        if host.is_empty() {
            return Err(LocatorError::Hostname);
        }
        let at = path.find([':', '@']).unwrap_or(path.len());
        let (repository, object) = path.split_at(at);
        let mut locator = host.to_owned();
        for part in repository.split('/').filter(|part| !part.is_empty()) {
            locator.push('/');
            locator.push_str(part);
        }
        Ok(Self {
            locator,
            object: object.strip_prefix(':').unwrap_or(object).to_owned(),
            host: host.to_owned(),
        })
    }

    /// The digest in the object, if there is one.
    pub fn digest(&self) -> Option<crate::Digest> {
        let (_, digest) = self.object.rsplit_once('@')?;
        digest.parse().ok()
    }
}

fn check_host(host: &str) -> Result<(), String> {
    if let Some(bad) = host.chars().find(|letter| {
        matches!(
            letter,
            ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'
        )
    }) {
        return Err(format!(
            "invalid character {:?} in host name",
            bad.to_string()
        ));
    }
    let after_host = match host.strip_prefix('[') {
        Some(address) => {
            let (address, after) = address
                .rsplit_once(']')
                .ok_or_else(|| "missing ']' in host".to_owned())?;
            check_escapes(address)?;
            after
        }
        None => {
            check_escapes(host)?;
            host.rfind(':').map_or("", |at| &host[at..])
        }
    };
    let number = after_host.strip_prefix(':').unwrap_or(after_host);
    let numeric = number.bytes().all(|byte| byte.is_ascii_digit());
    if numeric && (after_host.is_empty() || after_host.starts_with(':')) {
        return Ok(());
    }
    Err(format!("invalid port {after_host:?} after host"))
}

fn check_escapes(text: &str) -> Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let escape: String = text[at..].chars().take(3).collect();
        let hex = escape.bytes().skip(1);
        if escape.len() != 3 || !hex.clone().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    Ok(())
}
