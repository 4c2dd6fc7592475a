//! Signatures of requests, version 4.

use std::time::SystemTime;

use oci::{Digest, Timestamp};

use super::credentials::Keys;
use crate::http::hash;

/// What is signed.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// Whom it goes to: `s3`.
    pub(crate) service: &'a str,
    pub(crate) host: &'a str,
    /// Encoded.
    pub(crate) path: &'a str,
    /// Encoded, its parts sorted.
    pub(crate) query: &'a str,
    /// Further ones, their names in lower case.
    pub(crate) headers: &'a [(&'a str, String)],
    /// Hex of the digest of the body.
    pub(crate) payload: &'a str,
    pub(crate) time: SystemTime,
}

impl Request<'_> {
    /// All headers to send, the signature among them.
    pub(crate) fn sign(&self, region: &str, who: &Keys) -> Vec<(String, String)> {
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
        let (method, path, query) = (self.method, self.path, self.query);
        let payload = self.payload;
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
        let service = self.service;
        let scope = format!("{date}/{region}/{service}/aws4_request");
        let digest = Digest::of(&canonical);
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", digest.hex());
        let mut key = format!("AWS4{}", who.secret).into_bytes();
        for part in [date.as_str(), region, service, "aws4_request"] {
            key = hash(&key, part);
        }
        let signature = oci::hex(&hash(&key, &text));
        let value = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            who.id
        );
        headers.push(("authorization".to_owned(), value));
        headers
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_is_signed_as_documented() {
        // The example of the service's own documentation, from 24 May 2013.
        let who = Keys {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            token: None,
        };
        let empty = Digest::of("");
        let headers = Request {
            method: "GET",
            service: "s3",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: "",
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
}
