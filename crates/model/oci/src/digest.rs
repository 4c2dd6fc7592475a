//! Content digests, always as the text `algorithm:hex`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// A digest text: `sha256:` and 64 hex digits, or `random:` and hex for what must never leave the daemon.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Arc<str>);

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The algorithm is not known.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// It has no algorithm, or characters that are not allowed.
    #[error("invalid checksum digest format")]
    Format,
    /// It has the wrong length for its algorithm.
    #[error("invalid checksum digest length")]
    Length,
}

impl fault::Classify for DigestError {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self::from_sha256(sha2::Sha256::digest(bytes.as_ref()).as_slice())
    }

    /// The digest with this 32-byte value.
    pub fn from_sha256(raw: &[u8]) -> Self {
        let mut text = String::with_capacity("sha256:".len() + raw.len() * 2);
        text.push_str("sha256:");
        push_hex(&mut text, raw);
        Self(Arc::from(text))
    }

    /// The same hex under the algorithm name `random`.
    pub fn into_random(self) -> Self {
        Self(Arc::from(format!("random:{}", self.hex())))
    }

    /// Whether this names something that must never leave the daemon.
    pub fn is_random(&self) -> bool {
        self.0.starts_with("random:")
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the colon.
    pub fn algorithm(&self) -> &str {
        self.0
            .split_once(':')
            .map_or("", |(algorithm, _)| algorithm)
    }

    /// What stands behind the colon.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }
}

/// SHA-256 over bytes that come piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest::from_sha256(self.0.finalize().as_slice())
    }
}

/// Bytes as digests are written.
pub fn hex(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len() * 2);
    push_hex(&mut text, raw);
    text
}

/// As [`hex`], behind what is there already.
pub fn push_hex(text: &mut String, raw: &[u8]) {
    for part in raw.chunks(32) {
        let mut digits = [0; 64];
        for (two, byte) in digits.chunks_exact_mut(2).zip(part) {
            two.copy_from_slice(&hex_digits(*byte));
        }
        let digits = str::from_utf8(&digits[..2 * part.len()]);
        text.push_str(digits.expect("digits are text"));
    }
}

/// The two digits of a byte.
pub fn hex_digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    const ALL: [[u8; 2]; 256] = {
        let mut all = [[0; 2]; 256];
        let mut at = 0;
        while at < 256 {
            all[at] = [DIGITS[at >> 4], DIGITS[at & 15]];
            at += 1;
        }
        all
    };
    ALL[usize::from(byte)]
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        let length = match algorithm {
            "sha256" | "random" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ if is_algorithm(algorithm) && is_encoded(hex) => return Err(DigestError::Algorithm),
            _ => return Err(DigestError::Format),
        };
        if hex.is_empty() {
            return Err(DigestError::Format);
        }
        if hex.len() != length {
            return Err(DigestError::Length);
        }
        if !hex
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(DigestError::Format);
        }
        Ok(Self(Arc::from(text)))
    }
}

/// Whether it could be the name of an algorithm nobody here knows: words of small letters and digits.
fn is_algorithm(text: &str) -> bool {
    text.split(['.', '+', '_', '-']).all(|word| {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !word.is_empty() && word.bytes().all(allowed)
    })
}

/// Whether it could be what such an algorithm came to.
fn is_encoded(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b'_' | b'-');
    !text.is_empty() && text.bytes().all(allowed)
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of("").as_str(), empty);
        assert_eq!(Hasher::new().finish(), empty.parse().expect("a digest"));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "sha256:", "sha256:AB", "md5:00", "e3b0"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
