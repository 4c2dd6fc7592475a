//! Image names as users write them, made complete.

use std::fmt;

/// An image name with its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Named {
    /// Completes and checks a name. The error is a text.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() == 64
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(format!(
                "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            ));
        }
        let (domain, rest) = split_domain(text);
        let remote = rest.split(':').next().unwrap_or_default();
        if remote.to_lowercase() != remote {
            return Err(format!(
                "invalid reference format: repository name ({remote}) must be lowercase"
            ));
        }
        let named = Self::split(domain, &rest);
        named
            .filter(Self::is_valid)
            .ok_or_else(|| "invalid reference format".to_owned())
            .and_then(|named| {
                if named.domain.len() + 1 + named.path.len() > 255 {
                    return Err("repository name must not be more than 255 characters".to_owned());
                }
                Ok(named)
            })
    }

    /// A name as written: nothing is completed. For stores of the client.
    pub(crate) fn parse_plain(text: &str) -> Option<(String, Option<String>)> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.to_owned())),
            None => (text, None),
        };
        let slash = name.rfind('/').map_or(0, |at| at + 1);
        let name = match name[slash..].find(':') {
            Some(at) => &name[..slash + at],
            None => name,
        };
        (!name.is_empty()).then(|| (name.to_owned(), digest))
    }

    fn split(domain: String, rest: &str) -> Option<Self> {
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag.to_owned())),
            None => (rest, None),
        };
        Some(Self {
            domain,
            path: path.to_owned(),
            tag,
            digest,
        })
    }

    fn is_valid(&self) -> bool {
        is_domain(&self.domain)
            && self.path.split('/').all(is_component)
            && self.tag.as_deref().is_none_or(is_tag)
            && self
                .digest
                .as_deref()
                .is_none_or(|digest| digest.parse::<oci::Digest>().is_ok())
    }

    /// With tag `latest` if there is neither tag nor digest.
    pub(crate) fn tagged(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// With this digest; the tag stays.
    pub(crate) fn with_digest(mut self, digest: &str) -> Self {
        self.digest = Some(digest.to_owned());
        self
    }

    /// As users write it: without the registry and directory that are assumed anyway.
    pub(crate) fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            None => full,
            Some(rest) => match rest.strip_prefix("library/") {
                Some(short) if !self.path["library/".len()..].contains('/') => short.to_owned(),
                _ => rest.to_owned(),
            },
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.to_lowercase() != first =>
        {
            (first, rest)
        }
        _ => ("docker.io", text),
    };
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    if domain == "docker.io" && !rest.contains('/') {
        return (domain.to_owned(), format!("library/{rest}"));
    }
    (domain.to_owned(), rest.to_owned())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port),
            _ => return false,
        },
        None => match text.find(':') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let port_valid = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
        None => port.is_empty(),
    };
    host.split('.').all(label) && port_valid
}

/// Letters and digits, parts joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().copied().is_some_and(is_word) || !bytes.last().copied().is_some_and(is_word) {
        return false;
    }
    let mut separator = String::new();
    for &byte in bytes {
        if is_word(byte) {
            let valid = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|byte| byte == b'-');
            if !valid {
                return false;
            }
            separator.clear();
        } else if matches!(byte, b'.' | b'_' | b'-') {
            separator.push(char::from(byte));
        } else {
            return false;
        }
    }
    true
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text
            .bytes()
            .all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> Result<String, String> {
        Named::parse(text).map(|named| named.tagged().to_string())
    }

    #[test]
    fn names_are_completed() {
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("a/b:c", "docker.io/a/b:c"),
            ("localhost/x", "localhost/x:latest"),
            ("r.io:5000/x/y", "r.io:5000/x/y:latest"),
            ("index.docker.io/x", "docker.io/library/x:latest"),
        ] {
            assert_eq!(full(text).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn bad_names_are_refused_in_upstreams_words() {
        assert_eq!(full(""), Err("invalid reference format".to_owned()));
        assert_eq!(
            full("a__b/c___d"),
            Err("invalid reference format".to_owned())
        );
        assert_eq!(
            full("Plain:"),
            Err(
                "invalid reference format: repository name (library/Plain) must be lowercase"
                    .to_owned()
            )
        );
    }

    #[test]
    fn familiar_names_are_short() {
        let short = |text| Named::parse(text).map(|named| named.familiar());
        assert_eq!(
            short("docker.io/library/base:latest").as_deref(),
            Ok("base:latest")
        );
        assert_eq!(short("docker.io/o/base").as_deref(), Ok("o/base"));
        assert_eq!(short("r.io/base").as_deref(), Ok("r.io/base"));
    }
}
