//! Signatures of requests, version 4.

use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use oci::{Digest, Timestamp};
use sha2::Sha256;

use super::options::Credentials;

/// What is signed.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    /// Encoded.
    pub(crate) path: &'a str,
    /// Further ones, their names in lower case.
    pub(crate) headers: &'a [(&'a str, String)],
    /// Hex of the digest of the body.
    pub(crate) payload: &'a str,
    pub(crate) time: SystemTime,
}

/// A key as part of a path.
pub(crate) fn encode(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

impl Request<'_> {
    /// All headers to send, the signature among them.
    pub(crate) fn sign(&self, region: &str, who: &Credentials) -> Vec<(String, String)> {
        let time: String = Timestamp::from(self.time).truncated().to_string();
        let time: String = time
            .chars()
            .filter(|letter| !matches!(letter, '-' | ':'))
            .collect();
        let date = time.get(..8).unwrap_or_default().to_owned();
        let mut headers = vec![
            ("host".to_owned(), self.host.to_owned()),
            ("x-amz-content-sha256".to_owned(), self.payload.to_owned()),
            ("x-amz-date".to_owned(), time.clone()),
        ];
        let further = self.headers.iter();
        headers.extend(further.map(|(name, value)| ((*name).to_owned(), value.clone())));
        if let Some(token) = &who.token {
            headers.push(("x-amz-security-token".to_owned(), token.clone()));
        }
        headers.sort();
        if who.id.is_empty() {
            // A bucket may be open to everybody.
            return headers;
        }
        let names: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.trim()))
            .collect();
        let (method, path, payload) = (self.method, self.path, self.payload);
        let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{payload}");
        let scope = format!("{date}/{region}/s3/aws4_request");
        let digest = Digest::of(&canonical);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", digest.hex());
        let mut key = format!("AWS4{}", who.secret).into_bytes();
        for part in [date.as_str(), region, "s3", "aws4_request"] {
            key = hash(&key, part);
        }
        let signature: String = hash(&key, &text)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            who.id
        );
        headers.push(("authorization".to_owned(), value));
        headers
    }
}

fn hash(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_is_signed_as_documented() {
        // The example of the service's own documentation, from 24 May 2013.
        let who = Credentials {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let empty = Digest::of("");
        let headers = Request {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            headers: &[("range", "bytes=0-9".to_owned())],
            payload: empty.hex(),
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600),
        }
        .sign("us-east-1", &who);
        let (_, value) = headers.last().expect("a signature");
        assert!(
            value.ends_with("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
            "{value}"
        );
    }

    #[test]
    fn keys_are_encoded_but_for_slashes() {
        assert_eq!(encode("blobs/sha256:ab c"), "blobs/sha256%3Aab%20c");
    }
}
