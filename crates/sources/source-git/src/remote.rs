//! Addresses of repositories.

use url::Url;

use crate::Error;

/// An address, and what follows `#`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    /// What git is given.
    pub(crate) url: String,
    /// Host and path.
    pub(crate) location: String,
    pub(crate) reference: String,
    pub(crate) subdir: String,
}

impl Remote {
    /// Reads an address of a transport that git may use.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match scheme(text) {
            Some(scheme) if supported(scheme) => Self::of_url(text),
            Some(scheme) => Err(Error::Protocol {
                scheme: scheme.to_ascii_lowercase(),
            }),
            None => Self::of_scp(text).ok_or(Error::UnknownProtocol),
        }
    }

    fn of_url(text: &str) -> Result<Self, Error> {
        let parsed = Url::parse(text).map_err(|source| Error::Url {
            url: source::redacted(text),
            source,
        })?;
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let url = rest.split_once('?').map_or(rest, |(url, _)| url);
        let host = match (parsed.host_str(), parsed.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => String::new(),
        };
        let (reference, subdir) = split_fragment(&unescape(fragment));
        Ok(Self {
            url: url.to_owned(),
            location: format!("{host}{}", rooted(&unescape(parsed.path()))),
            reference,
            subdir,
        })
    }

    /// `user@host:path`
    fn of_scp(text: &str) -> Option<Self> {
        if text.contains('\n') {
            return None;
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let url = rest.split_once('?').map_or(rest, |(url, _)| url);
        let (user, after) = url.split_once('@')?;
        let (host, path) = after.split_once(':')?;
        let word = |text: &str, more: &[u8]| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
            !text.is_empty() && text.bytes().all(allowed)
        };
        if !word(user, b"-_") || !word(host, b"-.") {
            return None;
        }
        let (reference, subdir) = split_fragment(fragment);
        Some(Self {
            url: url.to_owned(),
            location: format!("{host}{}", rooted(path)),
            reference,
            subdir,
        })
    }
}

/// Whether git may be given this as it is.
pub(crate) fn is_transport(text: &str) -> bool {
    match scheme(text) {
        Some(scheme) => supported(scheme),
        None => Remote::of_scp(text).is_some(),
    }
}

fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once("://")?;
    let valid = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    valid.then_some(scheme)
}

fn supported(scheme: &str) -> bool {
    let known = ["http", "https", "ssh", "git"];
    known.iter().any(|known| scheme.eq_ignore_ascii_case(known))
}

/// `ref:subdir`; the directory does not leave the repository.
fn split_fragment(fragment: &str) -> (String, String) {
    let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
    let subdir = rooted(subdir);
    (reference.to_owned(), subdir[1..].to_owned())
}

/// A path that is absolute and clean.
pub(crate) fn rooted(path: &str) -> String {
    fstree::path::clean_str(&format!("/{path}"))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether this is the full name of an object.
pub(crate) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (String, String, String, String) {
        let remote = Remote::parse(text).expect("an address");
        (remote.url, remote.location, remote.reference, remote.subdir)
    }

    #[test]
    fn addresses_are_taken_apart() {
        for (text, url, location, reference, subdir) in [
            (
                "https://github.com/user/repo.git#mybranch:mydir/mysubdir/",
                "https://github.com/user/repo.git",
                "github.com/user/repo.git",
                "mybranch",
                "mydir/mysubdir",
            ),
            (
                "ssh://root@sub.example:2222/root/foo.git#main",
                "ssh://root@sub.example:2222/root/foo.git",
                "sub.example:2222/root/foo.git",
                "main",
                "",
            ),
            (
                "git@github.com:user/repo.git#:dir/../../escape",
                "git@github.com:user/repo.git",
                "github.com/user/repo.git",
                "",
                "escape",
            ),
            (
                "ssh://foo%40corp.com@github.com/user/repo.git",
                "ssh://foo%40corp.com@github.com/user/repo.git",
                "github.com/user/repo.git",
                "",
                "",
            ),
        ] {
            let wanted = [url, location, reference, subdir].map(str::to_owned);
            assert_eq!(parse(text), wanted.into(), "{text}");
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        let error = |text| Remote::parse(text).expect_err("refused").to_string();
        assert_eq!(error("file:///etc"), "file: invalid protocol");
        assert_eq!(error("ext::sh -c id"), "unknown protocol");
        assert_eq!(error("-oProxyCommand=x"), "unknown protocol");
    }

    #[test]
    fn commits_are_lower_case_and_whole() {
        assert!(is_commit(&"a".repeat(40)));
        assert!(is_commit(&"0".repeat(64)));
        assert!(!is_commit(&"A".repeat(40)));
        assert!(!is_commit("abc"));
    }
}
