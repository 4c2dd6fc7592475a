//! What a source op says about a file behind a URL.

use oci::Digest;
use source::Identifier;
use source::file::Options;
use url::Url;

/// An identifier, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub(crate) url: String,
    pub(crate) checksum: Option<Digest>,
    pub(crate) file: Options,
    pub(crate) auth_secret: String,
    /// Names in their canonical form, sorted.
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Attrs {
    pub(crate) fn parse(id: &Identifier) -> Result<Self, source::Error> {
        let mut attrs = Self {
            url: format!("{}://{}", id.scheme, id.name),
            checksum: None,
            file: Options::default(),
            auth_secret: String::new(),
            headers: Vec::new(),
        };
        let (mut key, mut signature) = (false, false);
        for (name, value) in &id.attrs {
            match name.as_str() {
                "http.checksum" => {
                    let digest = value.parse().map_err(|err| source::Error::new(&Bad(err)))?;
                    attrs.checksum = Some(digest);
                }
                "http.authheadersecret" => attrs.auth_secret.clone_from(value),
                "http.sig.pubkey" => key = !value.is_empty(),
                "http.sig.signature" => signature = !value.is_empty(),
                _ => {
                    if attrs.file.take(name, value)? {
                        continue;
                    }
                    let header = name.strip_prefix("http.header.");
                    // Compat: others are ignored.
                    if let Some(header) = header.and_then(canonical) {
                        attrs.headers.push((header, value.clone()));
                    }
                }
            }
        }
        attrs.headers.sort();
        match (key, signature) {
            (false, false) => Ok(attrs),
            (true, true) => Err(source::Error {
                message: "unimplemented: http signature verification".to_owned(),
                class: fault::Class::Unsupported,
            }),
            _ => Err(source::Error::user(
                "http signature verification requires both pubkey and signature",
            )),
        }
    }

    /// The client sends it.
    pub(crate) fn is_upload(&self) -> bool {
        Url::parse(&self.url).is_ok_and(|url| url.host_str() == Some(session::upload::HOST))
    }

    /// The URL without its password, for people.
    pub(crate) fn shown_url(&self) -> String {
        match Url::parse(&self.url) {
            Ok(mut url) if url.password().is_some() => {
                // A URL with a password has a host.
                let _ = url.set_password(Some("xxxxx"));
                url.to_string()
            }
            _ => self.url.clone(),
        }
    }
}

fn canonical(header: &str) -> Option<&'static str> {
    match header.to_ascii_lowercase().as_str() {
        "accept" => Some("Accept"),
        "user-agent" => Some("User-Agent"),
        _ => None,
    }
}

/// A checksum that is none.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Bad(oci::DigestError);

impl fault::Classify for Bad {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn parse(url: &str, attrs: &[(&str, &str)]) -> Result<Attrs, String> {
        let (scheme, name) = url.split_once("://").expect("a URL");
        let attrs = attrs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let id = Identifier {
            scheme: scheme.to_owned(),
            name: name.to_owned(),
            attrs: attrs.collect(),
            platform: oci::Platform::host(),
        };
        Attrs::parse(&id).map_err(|err| err.message)
    }

    #[test]
    fn only_two_headers_count() {
        let attrs = parse(
            "https://example.com/f",
            &[
                ("http.header.user-agent", "me"),
                ("http.header.ACCEPT", "a/b"),
                ("http.header.x-other", "no"),
            ],
        )
        .expect("valid");
        let wanted = [
            ("Accept", "a/b".to_owned()),
            ("User-Agent", "me".to_owned()),
        ];
        assert_eq!(attrs.headers, wanted);
    }

    #[test]
    fn a_signature_is_not_ignored() {
        let refused = |attrs: &[(&str, &str)]| parse("http://x/y", attrs).expect_err("refused");
        assert_eq!(
            refused(&[("http.sig.pubkey", "k")]),
            "http signature verification requires both pubkey and signature"
        );
        assert_eq!(
            refused(&[("http.sig.pubkey", "k"), ("http.sig.signature", "s")]),
            "unimplemented: http signature verification"
        );
    }

    #[test]
    fn passwords_are_not_shown() {
        let attrs = parse("http://me:secret@example.com/x", &[]).expect("valid");
        assert_eq!(attrs.shown_url(), "http://me:xxxxx@example.com/x");
    }

    #[test]
    fn uploads_have_a_host_of_their_own() {
        assert!(
            parse("http://buildkit-session/abc", &[])
                .expect("valid")
                .is_upload()
        );
        assert!(
            !parse("http://example.com/abc", &[])
                .expect("valid")
                .is_upload()
        );
    }
}
