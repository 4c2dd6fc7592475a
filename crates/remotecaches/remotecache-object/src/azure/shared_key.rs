//! Signatures with the key of an account.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use remotecache::Error;
use url::Url;

use crate::http::hash;

/// An account and its key.
pub(crate) struct SharedKey {
    account: String,
    key: Vec<u8>,
}

impl SharedKey {
    pub(crate) fn new(account: &str, key: &str) -> Result<Self, Error> {
        let key = STANDARD.decode(key).map_err(|err| {
            Error::option(format!(
                "failed to create container client: failed to create shared key: decode account key: {err}"
            ))
        })?;
        Ok(Self {
            account: account.to_owned(),
            key,
        })
    }

    /// The header that allows this request.
    pub(crate) fn sign(
        &self,
        method: &str,
        url: &Url,
        headers: &[(&'static str, String)],
    ) -> String {
        let text = self.text(method, url, headers);
        let signature = STANDARD.encode(hash(&self.key, &text));
        format!("SharedKey {}:{signature}", self.account)
    }

    /// What is signed.
    fn text(&self, method: &str, url: &Url, headers: &[(&'static str, String)]) -> String {
        let header = |name: &str| {
            let found = headers.iter().find(|(known, _)| *known == name);
            let value = found.map_or("", |(_, value)| value.as_str());
            // An empty body has no length.
            if name == "content-length" && value == "0" {
                ""
            } else {
                value
            }
        };
        let mut text = method.to_owned();
        for name in [
            "content-encoding",
            "content-language",
            "content-length",
            "content-md5",
            "content-type",
            "date",
            "if-modified-since",
            "if-match",
            "if-none-match",
            "if-unmodified-since",
            "range",
        ] {
            text.push('\n');
            text.push_str(header(name));
        }
        text.push('\n');
        let own: BTreeMap<_, _> = headers
            .iter()
            .filter(|(name, _)| name.starts_with("x-ms-"))
            .map(|(name, value)| (*name, value))
            .collect();
        for (name, value) in own {
            text.push_str(&format!("{name}:{value}\n"));
        }
        text.push_str(&format!("/{}{}", self.account, url.path()));
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        for (name, value) in query {
            text.push_str(&format!("\n{}:{value}", name.to_lowercase()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_in_the_documented_order() {
        let key = SharedKey::new("me", "a2V5").expect("a key");
        let url = "https://me.example.com/c/blobs%2Fx?comp=block&blockid=YQ%3D%3D";
        let headers = [
            ("x-ms-version", "v".to_owned()),
            ("x-ms-date", "d".to_owned()),
            ("content-length", "5".to_owned()),
            ("if-none-match", "*".to_owned()),
        ];
        let text = key.text("PUT", &url.parse().expect("an address"), &headers);
        assert_eq!(
            text,
            "PUT\n\n\n5\n\n\n\n\n\n*\n\n\nx-ms-date:d\nx-ms-version:v\n/me/c/blobs%2Fx\nblockid:YQ==\ncomp:block"
        );
    }

    #[test]
    fn an_empty_body_has_no_length() {
        let key = SharedKey::new("me", "a2V5").expect("a key");
        let headers = [("content-length", "0".to_owned())];
        let url = "https://h/c".parse().expect("an address");
        let text = key.text("PUT", &url, &headers);
        assert!(text.starts_with("PUT\n\n\n\n"), "{text:?}");
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        let err = SharedKey::new("me", "no key!").err().expect("refused");
        let text = err.to_string();
        assert!(
            text.contains("failed to create shared key: decode account key"),
            "{text}"
        );
    }
}
