//! Messages written straight into bytes.
//!
//! A graph of thousands of ops is written for each build. Making a message of each op first, to have it encoded, costs
//! more than all the rest. Fields come in ascending order, and what is zero or empty is left out, as in upstream.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use oci::Platform;

const ALGORITHM: &str = "sha256:";
/// How long the text of a digest is.
pub(super) const DIGEST: usize = ALGORITHM.len() + 64;

/// The bytes of a message, so far.
#[derive(Default)]
pub(super) struct Wire(pub(super) Vec<u8>);

impl Wire {
    /// A number; zero is left out.
    pub(super) fn int(&mut self, tag: u32, value: i64) {
        if value != 0 {
            self.present(tag, value.cast_unsigned());
        }
    }

    /// A number that is written even if it is zero.
    pub(super) fn present(&mut self, tag: u32, value: u64) {
        encode_key(tag, WireType::Varint, &mut self.0);
        encode_varint(value, &mut self.0);
    }

    /// Written if true.
    pub(super) fn flag(&mut self, tag: u32, value: bool) {
        self.int(tag, i64::from(value));
    }

    /// A text; none if it is empty.
    pub(super) fn text(&mut self, tag: u32, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    /// The text of a digest.
    pub(super) fn digest(&mut self, tag: u32, raw: &[u8; 32]) {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        encode_varint(DIGEST as u64, &mut self.0);
        self.0.extend_from_slice(ALGORITHM.as_bytes());
        let mut digits = [[0; 2]; 32];
        for (two, byte) in digits.iter_mut().zip(raw) {
            *two = oci::hex_digits(*byte);
        }
        self.0.extend_from_slice(digits.as_flattened());
    }

    /// Bytes; none if there are none.
    pub(super) fn bytes(&mut self, tag: u32, value: &[u8]) {
        if !value.is_empty() {
            self.parts(tag, &[value]);
        }
    }

    /// Texts of a list; empty ones count.
    pub(super) fn list(&mut self, tag: u32, values: &[impl AsRef<str>]) {
        for value in values {
            self.parts(tag, &[value.as_ref().as_bytes()]);
        }
    }

    /// A text in pieces.
    pub(super) fn parts(&mut self, tag: u32, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        encode_varint(length as u64, &mut self.0);
        for part in parts {
            self.0.extend_from_slice(part);
        }
    }

    /// A message that is made already.
    pub(super) fn ready(&mut self, tag: u32, message: &impl Message) {
        prost::encoding::message::encode(tag, message, &mut self.0);
    }

    /// A message. Its length is put in front when it is known.
    pub(super) fn message<T>(&mut self, tag: u32, write: impl FnOnce(&mut Self) -> T) -> T {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        let start = self.0.len();
        self.0.push(0);
        let done = write(self);
        let length = self.0.len() - start - 1;
        match u8::try_from(length) {
            Ok(short @ 0..=127) => self.0[start] = short,
            _ => {
                let mut long = [0; 10];
                let mut rest = &mut long[..];
                encode_varint(length as u64, &mut rest);
                let used = 10 - rest.len();
                self.0.splice(start..=start, long[..used].iter().copied());
            }
        }
        done
    }

    /// What an op runs on.
    pub(super) fn platform(&mut self, tag: u32, platform: &Platform) {
        self.message(tag, |wire| {
            wire.text(1, &platform.architecture);
            wire.text(2, &platform.os);
            wire.text(3, &platform.variant);
            wire.text(4, &platform.os_version);
            wire.list(5, &platform.os_features);
        });
    }
}

/// What names an op.
pub(super) fn digest_text(raw: &[u8; 32]) -> String {
    let mut text = String::with_capacity(DIGEST);
    push_digest(&mut text, raw);
    text
}

/// The same, behind what is there already.
pub(super) fn push_digest(text: &mut String, raw: &[u8; 32]) {
    text.push_str(ALGORITHM);
    oci::push_hex(text, raw);
}

#[cfg(test)]
mod tests {
    use proto::pb;

    use super::*;

    #[test]
    fn messages_of_any_length_have_it_in_front() {
        for length in [0, 1, 124, 125, 126, 127, 128, 300, 16_380, 20_000] {
            let filter = vec!["x".repeat(length)];
            let mut wire = Wire::default();
            wire.message(11, |wire| wire.list(1, &filter));
            let constraints = Some(pb::WorkerConstraints { filter });
            let op = pb::Op {
                constraints,
                ..pb::Op::default()
            };
            assert_eq!(wire.0, op.encode_to_vec(), "{length}");
        }
    }

    #[test]
    fn numbers_are_written_as_prost_writes_them() {
        for index in [0, 1, 127, 128, -1, i64::MAX, i64::MIN] {
            let mut wire = Wire::default();
            wire.text(1, "a");
            wire.int(2, index);
            let digest = "a".to_owned();
            assert_eq!(wire.0, pb::Input { digest, index }.encode_to_vec());
        }
    }
}
