//! An agent in memory: private keys read from files, and answers to whoever lists them or wants a signature.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use ring::rand::SystemRandom;
use ring::signature::{
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};

use super::key_file::{self, KeyError, Reader};
use super::{FAILURE, REQUEST_IDENTITIES, SIGN_REQUEST};

const IDENTITIES_ANSWER: u8 = 12;
const SIGN_RESPONSE: u8 = 14;
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// Private keys that never leave this process.
#[derive(Default)]
pub struct Keyring {
    keys: Vec<Entry>,
}

struct Entry {
    key: Key,
    /// The public key as agents and servers know it.
    blob: Vec<u8>,
    comment: String,
}

/// A private key of one of the kinds that are in use.
pub(super) enum Key {
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Curve, Box<EcdsaKeyPair>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
}

impl Curve {
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        [Self::P256, Self::P384]
            .into_iter()
            .find(|curve| curve.name().as_bytes() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
        }
    }

    fn algorithm(self) -> &'static str {
        match self {
            Self::P256 => "ecdsa-sha2-nistp256",
            Self::P384 => "ecdsa-sha2-nistp384",
        }
    }
}

impl Keyring {
    /// No keys yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the private key in a file of OpenSSH or a PEM file: PKCS #1, PKCS #8, SEC 1. Keys under a passphrase are
    /// refused.
    pub fn add(&mut self, file: &[u8]) -> Result<(), KeyError> {
        let (key, comment) = key_file::read(file)?;
        let blob = key.public();
        self.keys.push(Entry { key, blob, comment });
        Ok(())
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The whole answer to a whole message of an agent's client. What is not understood is answered by a failure.
    pub(super) fn answer(&self, request: &[u8]) -> Bytes {
        let failed = Bytes::from_static(FAILURE);
        match request.get(4) {
            Some(&REQUEST_IDENTITIES) => self.identities(),
            Some(&SIGN_REQUEST) => self.signed(&request[5..]).unwrap_or(failed),
            _ => failed,
        }
    }

    fn identities(&self) -> Bytes {
        let mut body = vec![IDENTITIES_ANSWER];
        body.put_u32(u32::try_from(self.keys.len()).unwrap_or(u32::MAX));
        for entry in &self.keys {
            put(&mut body, &entry.blob);
            put(&mut body, entry.comment.as_bytes());
        }
        frame(&body)
    }

    fn signed(&self, request: &[u8]) -> Option<Bytes> {
        let mut reader = Reader(request);
        let (blob, data, flags) = (reader.text()?, reader.text()?, reader.number()?);
        let entry = self.keys.iter().find(|entry| entry.blob == blob)?;
        let mut body = vec![SIGN_RESPONSE];
        put(&mut body, &entry.key.sign(data, flags)?);
        Some(frame(&body))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.keys.iter().map(|entry| &entry.comment);
        f.debug_list().entries(names).finish()
    }
}

impl Key {
    fn public(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        match self {
            Self::Ed25519(pair) => {
                put(&mut blob, b"ssh-ed25519");
                put(&mut blob, pair.public_key().as_ref());
            }
            Self::Rsa(pair) => {
                let parts: ring::rsa::PublicKeyComponents<Vec<u8>> = pair.public().into();
                put(&mut blob, b"ssh-rsa");
                put_number(&mut blob, &parts.e);
                put_number(&mut blob, &parts.n);
            }
            Self::Ecdsa(curve, pair) => {
                put(&mut blob, curve.algorithm().as_bytes());
                put(&mut blob, curve.name().as_bytes());
                put(&mut blob, pair.public_key().as_ref());
            }
        }
        blob
    }

    /// The signature with its algorithm. `None` for RSA with SHA-1, which nobody should accept any more.
    fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let mut signature = Vec::new();
        match self {
            Self::Ed25519(pair) => {
                put(&mut signature, b"ssh-ed25519");
                put(&mut signature, pair.sign(data).as_ref());
            }
            Self::Rsa(pair) => {
                let (name, padding) = if flags & RSA_SHA2_512 != 0 {
                    ("rsa-sha2-512", &RSA_PKCS1_SHA512)
                } else if flags & RSA_SHA2_256 != 0 {
                    ("rsa-sha2-256", &RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut bytes = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut bytes).ok()?;
                put(&mut signature, name.as_bytes());
                put(&mut signature, &bytes);
            }
            Self::Ecdsa(curve, pair) => {
                let both = pair.sign(&random, data).ok()?;
                let (r, s) = both.as_ref().split_at(both.as_ref().len() / 2);
                let mut numbers = Vec::new();
                put_number(&mut numbers, r);
                put_number(&mut numbers, s);
                put(&mut signature, curve.algorithm().as_bytes());
                put(&mut signature, &numbers);
            }
        }
        Some(signature)
    }
}

/// A text with its length in front.
fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.put_u32(u32::try_from(text.len()).expect("keys and signatures are small"));
    out.extend_from_slice(text);
}

/// A number that is not negative.
fn put_number(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = key_file::without_zeros(bytes);
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    if negative {
        put(out, &[&[0], bytes].concat());
    } else {
        put(out, bytes);
    }
}

fn frame(body: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(4 + body.len());
    message.put_u32(u32::try_from(body.len()).expect("an answer is small"));
    message.put_slice(body);
    message.freeze()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ring::signature::{self, UnparsedPublicKey};

    use super::*;

    fn file(name: &str) -> Vec<u8> {
        let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys"));
        std::fs::read(dir.join(name)).expect("the keys are there")
    }

    fn ring(name: &str) -> Keyring {
        let mut ring = Keyring::new();
        ring.add(&file(name)).expect(name);
        ring
    }

    /// The second and third words of the public key's file.
    fn public(name: &str) -> (Vec<u8>, String) {
        let text = String::from_utf8(file(&format!("{name}.pub"))).expect("text");
        let mut words = text.trim_end_matches('\n').splitn(3, ' ').skip(1);
        let blob = STANDARD
            .decode(words.next().expect("a key"))
            .expect("base64");
        (blob, words.next().unwrap_or_default().to_owned())
    }

    fn request(ring: &Keyring, body: &[u8]) -> Vec<u8> {
        let answer = ring.answer(&frame(body));
        let (length, body) = answer.split_first_chunk::<4>().expect("a length");
        assert_eq!(u32::from_be_bytes(*length) as usize, body.len());
        body.to_vec()
    }

    fn sign(ring: &Keyring, blob: &[u8], data: &[u8], flags: u32) -> Option<(String, Vec<u8>)> {
        let mut body = vec![SIGN_REQUEST];
        put(&mut body, blob);
        put(&mut body, data);
        body.put_u32(flags);
        let answer = request(ring, &body);
        if answer.first() != Some(&SIGN_RESPONSE) {
            return None;
        }
        let mut reader = Reader(Reader(&answer[1..]).text()?);
        let name = String::from_utf8(reader.text()?.to_vec()).ok()?;
        Some((name, reader.text()?.to_vec()))
    }

    /// `r` and `s` at their full length.
    fn fixed(signature: &[u8], size: usize) -> Vec<u8> {
        let mut reader = Reader(signature);
        let mut both = Vec::new();
        for _ in 0..2 {
            let number = key_file::without_zeros(reader.text().expect("a number"));
            both.resize(both.len() + size - number.len(), 0);
            both.extend_from_slice(number);
        }
        both
    }

    #[test]
    fn public_keys_are_those_of_ssh_keygen() {
        for name in [
            "ed25519",
            "rsa",
            "p256",
            "rsa-pkcs1",
            "p384-sec1",
            "rsa-pkcs8",
            "p256-pkcs8",
        ] {
            let answer = request(&ring(name), &[REQUEST_IDENTITIES]);
            assert_eq!(answer[..5], [IDENTITIES_ANSWER, 0, 0, 0, 1], "{name}");
            let mut reader = Reader(&answer[5..]);
            let (blob, comment) = public(name);
            assert_eq!(reader.text(), Some(blob.as_slice()), "{name}");
            assert_eq!(reader.text(), Some(comment.as_bytes()), "{name}");
        }
        assert_eq!(ring("ed25519-pkcs8").len(), 1);
    }

    #[test]
    fn signatures_hold() {
        let data = b"data";
        let signed = |name: &str, flags| {
            let (blob, _) = public(name);
            let done = sign(&ring(name), &blob, data, flags).expect(name);
            (blob, done)
        };
        let last = |blob: &[u8]| {
            let mut reader = Reader(blob);
            let mut last = Vec::new();
            while let Some(text) = reader.text() {
                last = text.to_vec();
            }
            last
        };
        let (blob, (name, bytes)) = signed("ed25519", 0);
        assert_eq!(name, "ssh-ed25519");
        let key = UnparsedPublicKey::new(&signature::ED25519, last(&blob));
        key.verify(data, &bytes).expect("ed25519");

        for (name, size, curve, with) in [
            (
                "p256",
                32,
                "ecdsa-sha2-nistp256",
                &signature::ECDSA_P256_SHA256_FIXED,
            ),
            (
                "p256-pkcs8",
                32,
                "ecdsa-sha2-nistp256",
                &signature::ECDSA_P256_SHA256_FIXED,
            ),
            (
                "p384-sec1",
                48,
                "ecdsa-sha2-nistp384",
                &signature::ECDSA_P384_SHA384_FIXED,
            ),
        ] {
            let (blob, (algorithm, bytes)) = signed(name, 0);
            assert_eq!(algorithm, curve);
            let key = UnparsedPublicKey::new(with, last(&blob));
            key.verify(data, &fixed(&bytes, size)).expect(name);
        }
        for name in ["rsa", "rsa-pkcs1", "rsa-pkcs8"] {
            for (flags, algorithm, with) in [
                (
                    RSA_SHA2_256,
                    "rsa-sha2-256",
                    &signature::RSA_PKCS1_2048_8192_SHA256,
                ),
                (
                    RSA_SHA2_512,
                    "rsa-sha2-512",
                    &signature::RSA_PKCS1_2048_8192_SHA512,
                ),
            ] {
                let (blob, (said, bytes)) = signed(name, flags);
                assert_eq!(said, algorithm);
                let mut reader = Reader(&blob);
                let _ = reader.text();
                let e = key_file::without_zeros(reader.text().expect("e"));
                let n = key_file::without_zeros(reader.text().expect("n"));
                let key = signature::RsaPublicKeyComponents { n, e };
                key.verify(with, data, &bytes).expect(name);
            }
        }
    }

    #[test]
    fn other_requests_fail() {
        let ring = ring("ed25519");
        assert_eq!(request(&ring, &[19]), [5]);
        assert_eq!(request(&ring, &[SIGN_REQUEST, 0, 0]), [5]);
        assert_eq!(sign(&ring, b"other", b"x", 0), None);
        let (blob, _) = public("rsa");
        assert_eq!(sign(&self::ring("rsa"), &blob, b"x", 0), None, "SHA-1");
    }

    #[test]
    fn locked_keys_are_refused() {
        for name in ["locked", "locked-pkcs1"] {
            let refused = Keyring::new().add(&file(name));
            assert_eq!(refused, Err(KeyError::Encrypted), "{name}");
        }
        let refused = Keyring::new().add(&file("p521"));
        let kind = "ecdsa-sha2-nistp521".to_owned();
        assert_eq!(refused, Err(KeyError::Unsupported { kind }));
    }

    #[test]
    fn no_key_is_printed() {
        assert_eq!(format!("{:?}", ring("ed25519")), "[\"one of ed25519\"]");
    }
}
