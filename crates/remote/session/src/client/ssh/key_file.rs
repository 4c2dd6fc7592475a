//! Reads files with private keys: those of OpenSSH, and PEM in its older forms.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, RsaKeyPair,
};

use super::keyring::{Curve, Key};

/// Why a file gives no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no key in it.
    #[error("ssh: no key found")]
    None,
    /// It needs a passphrase.
    #[error(
        "ssh: this private key is passphrase protected (add it to an agent with ssh-add and forward that)"
    )]
    Encrypted,
    /// A kind of key that is not known here.
    #[error(
        "ssh: unsupported key type {kind:?} (add it to an agent with ssh-add and forward that)"
    )]
    Unsupported {
        /// What the file calls it.
        kind: String,
    },
    /// It is no whole key.
    #[error("ssh: {reason}")]
    Damaged {
        /// What is wrong.
        reason: String,
    },
}

const MAGIC: &[u8] = b"openssh-key-v1\0";

fn damaged(reason: impl Into<String>) -> KeyError {
    let reason = reason.into();
    KeyError::Damaged { reason }
}

fn rejected(err: ring::error::KeyRejected) -> KeyError {
    damaged(format!("key not usable: {err}"))
}

/// The key in a file, and what its owner calls it.
pub(super) fn read(file: &[u8]) -> Result<(Key, String), KeyError> {
    let text = std::str::from_utf8(file).map_err(|_| KeyError::None)?;
    let (kind, body) = block(text).ok_or(KeyError::None)?;
    if kind == "ENCRYPTED PRIVATE KEY" || body.contains("ENCRYPTED") {
        return Err(KeyError::Encrypted);
    }
    // Lines with a colon are headers of old PEM files.
    let lines = body.lines().filter(|line| !line.contains(':'));
    let packed: String = lines.flat_map(str::split_whitespace).collect();
    let bytes = STANDARD.decode(packed).map_err(|_| KeyError::None)?;
    match kind {
        "OPENSSH PRIVATE KEY" => openssh(&bytes),
        "RSA PRIVATE KEY" => {
            let pair = RsaKeyPair::from_der(&bytes).map_err(rejected)?;
            Ok((Key::Rsa(Box::new(pair)), String::new()))
        }
        "EC PRIVATE KEY" => Ok((sec1(&bytes)?, String::new())),
        "PRIVATE KEY" => Ok((pkcs8(&bytes)?, String::new())),
        other => Err(KeyError::Unsupported {
            kind: other.to_owned(),
        }),
    }
}

/// The first PEM block: what it is called, and what is between its lines.
fn block(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (kind, rest) = rest.split_once("-----")?;
    let (body, end) = rest.split_once("-----END ")?;
    end.starts_with(kind).then_some((kind, body))
}

fn openssh(bytes: &[u8]) -> Result<(Key, String), KeyError> {
    let short = || damaged("invalid openssh private key format");
    let mut reader = Reader(bytes.strip_prefix(MAGIC).ok_or_else(short)?);
    let cipher = reader.text().ok_or_else(short)?;
    let derivation = reader.text().ok_or_else(short)?;
    let _ = reader.text().ok_or_else(short)?;
    if cipher != b"none" || derivation != b"none" {
        return Err(KeyError::Encrypted);
    }
    if reader.number() != Some(1) {
        return Err(damaged("multi-key files are not supported"));
    }
    let _public = reader.text().ok_or_else(short)?;
    let mut reader = Reader(reader.text().ok_or_else(short)?);
    let checks = (reader.number(), reader.number());
    if checks.0.is_none() || checks.0 != checks.1 {
        return Err(damaged("malformed OpenSSH key"));
    }
    let kind = reader.text().ok_or_else(short)?;
    let key = match kind {
        b"ssh-ed25519" => {
            let public = reader.text().ok_or_else(short)?;
            let private = reader.text().ok_or_else(short)?;
            let seed = private.get(..32).ok_or_else(short)?;
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
            Key::Ed25519(pair.map_err(rejected)?)
        }
        b"ssh-rsa" => {
            let mut next = || reader.text().map(without_zeros).ok_or_else(short);
            let (n, e, d, inverse) = (next()?, next()?, next()?, next()?);
            rsa(n, e, d, inverse, (next()?, next()?))?
        }
        _ if kind.starts_with(b"ecdsa-sha2-") => {
            let name = reader.text().ok_or_else(short)?;
            let public = reader.text().ok_or_else(short)?;
            let secret = reader.text().ok_or_else(short)?;
            let curve = Curve::of(name).ok_or_else(|| unsupported(kind))?;
            ecdsa(curve, secret, public)?
        }
        other => return Err(unsupported(other)),
    };
    let comment = reader.text().unwrap_or_default();
    Ok((key, String::from_utf8_lossy(comment).into_owned()))
}

fn unsupported(kind: &[u8]) -> KeyError {
    KeyError::Unsupported {
        kind: String::from_utf8_lossy(kind).into_owned(),
    }
}

/// OpenSSH leaves out two of the numbers that make RSA fast.
fn rsa(
    n: &[u8],
    e: &[u8],
    d: &[u8],
    inverse: &[u8],
    (p, q): (&[u8], &[u8]),
) -> Result<Key, KeyError> {
    let (for_p, for_q) = (modulo_predecessor(d, p), modulo_predecessor(d, q));
    let parts = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: &for_p,
        dQ: &for_q,
        qInv: inverse,
    };
    let pair = RsaKeyPair::from_components(&parts).map_err(rejected)?;
    Ok(Key::Rsa(Box::new(pair)))
}

/// `value` modulo `prime - 1`, for an odd prime: binary long division.
fn modulo_predecessor(value: &[u8], prime: &[u8]) -> Vec<u8> {
    // One byte more than the divisor has: the remainder is doubled before it is made smaller.
    let mut divisor = [&[0], prime].concat();
    if let Some(last) = divisor.last_mut() {
        *last &= 0xfe;
    }
    let mut rest = vec![0_u8; divisor.len()];
    for bit in value
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let high = *byte >> 7;
            *byte = *byte << 1 | carry;
            carry = high;
        }
        if rest >= divisor {
            let mut borrow = false;
            for (byte, take) in rest.iter_mut().zip(&divisor).rev() {
                let (less, first) = byte.overflowing_sub(*take);
                let (less, second) = less.overflowing_sub(u8::from(borrow));
                *byte = less;
                borrow = first || second;
            }
        }
    }
    without_zeros(&rest).to_vec()
}

fn algorithm(curve: Curve) -> (&'static EcdsaSigningAlgorithm, usize) {
    match curve {
        Curve::P256 => (&ECDSA_P256_SHA256_FIXED_SIGNING, 32),
        Curve::P384 => (&ECDSA_P384_SHA384_FIXED_SIGNING, 48),
    }
}

fn ecdsa(curve: Curve, secret: &[u8], public: &[u8]) -> Result<Key, KeyError> {
    let (algorithm, size) = algorithm(curve);
    let secret = without_zeros(secret);
    let missing = size
        .checked_sub(secret.len())
        .ok_or_else(|| damaged("key not usable: too long"))?;
    let secret = [&vec![0; missing], secret].concat();
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &secret, public, &random);
    Ok(Key::Ecdsa(curve, Box::new(pair.map_err(rejected)?)))
}

fn pkcs8(bytes: &[u8]) -> Result<Key, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes) {
        return Ok(Key::Ed25519(pair));
    }
    let random = SystemRandom::new();
    for curve in [Curve::P256, Curve::P384] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm(curve).0, bytes, &random) {
            return Ok(Key::Ecdsa(curve, Box::new(pair)));
        }
    }
    let pair = RsaKeyPair::from_pkcs8(bytes).map_err(rejected)?;
    Ok(Key::Rsa(Box::new(pair)))
}

/// `ECPrivateKey`: version, secret, the curve's name under tag 0, the public key under tag 1.
fn sec1(bytes: &[u8]) -> Result<Key, KeyError> {
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    let short = || damaged("asn1: structure error");
    let (mut secret, mut curve, mut public) = (None, None, None);
    let list = Der(Der(bytes).expect(0x30).ok_or_else(short)?);
    for (tag, value) in list {
        match tag {
            0x04 => secret = Some(value),
            0xa0 => curve = Der(value).expect(0x06),
            // The first byte of a bit string says how many bits at its end do not count.
            0xa1 => public = Der(value).expect(0x03).and_then(|bits| bits.get(1..)),
            _ => {}
        }
    }
    let curve = match curve.ok_or_else(short)? {
        P256 => Curve::P256,
        P384 => Curve::P384,
        _ => return Err(unsupported(b"ecdsa")),
    };
    let public = public.ok_or_else(|| damaged("the public key is missing"))?;
    ecdsa(curve, secret.ok_or_else(short)?, public)
}

/// Numbers in the wire format of ssh may start with zeros.
pub(super) fn without_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Reads the wire format of ssh.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    /// What has its length in front.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }
}

/// Reads a sequence of DER values.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The value of the next element, if it has this tag.
    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next()
            .and_then(|(tag, value)| (tag == wanted).then_some(value))
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let mut length = usize::from(first);
        if first & 0x80 != 0 {
            let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            if bytes.len() > 4 {
                return None;
            }
            length = bytes
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            rest = after;
        }
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_those_of_division() {
        let number = |value: u32| without_zeros(&value.to_be_bytes()).to_vec();
        for (value, prime) in [(1_000_003_u32, 251_u32), (5, 65_537), (4_000_000_000, 7919)] {
            let rest = modulo_predecessor(&number(value), &number(prime));
            assert_eq!(rest, number(value % (prime - 1)), "{value} {prime}");
        }
    }

    #[test]
    fn what_is_no_key_says_so() {
        let refused = |text: &str| read(text.as_bytes()).err();
        assert_eq!(refused("nothing"), Some(KeyError::None));
        assert_eq!(
            refused("-----BEGIN RSA PRIVATE KEY-----\nAA=="),
            Some(KeyError::None)
        );
        let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n\
                   -----END RSA PRIVATE KEY-----\n";
        assert_eq!(refused(old), Some(KeyError::Encrypted));
        let dsa = "-----BEGIN DSA PRIVATE KEY-----\nAAAA\n-----END DSA PRIVATE KEY-----\n";
        let kind = "DSA PRIVATE KEY".to_owned();
        assert_eq!(refused(dsa), Some(KeyError::Unsupported { kind }));
        let cut = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n\
                   -----END OPENSSH PRIVATE KEY-----\n";
        assert!(matches!(refused(cut), Some(KeyError::Damaged { .. })));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for length in 0..64_u8 {
            let bytes: Vec<u8> = (0..length).map(|at| at.wrapping_mul(37)).collect();
            assert!(sec1(&bytes).is_err(), "{length}");
            assert!(pkcs8(&bytes).is_err(), "{length}");
            assert!(openssh(&[MAGIC, &bytes].concat()).is_err(), "{length}");
        }
    }
}
