//! What makes an archive whole again, byte for byte, for those who have its files: all that is no content.
//!
//! Compat: the form of tar-split, a JSON text per line.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// A document being written, compressed.
pub(super) struct TarSplit {
    out: zstd::stream::write::Encoder<'static, Vec<u8>>,
    size: u64,
    position: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// A name that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    name_raw: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    payload: Option<String>,
    position: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(size: &u64) -> bool {
    *size == 0
}

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

impl TarSplit {
    pub(super) fn new(level: i32) -> io::Result<Self> {
        Ok(Self {
            out: zstd::stream::write::Encoder::new(Vec::new(), level)?,
            size: 0,
            position: 0,
        })
    }

    /// Bytes between the contents of files.
    pub(super) fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.line(Line {
            kind: SEGMENT,
            name: None,
            name_raw: None,
            size: 0,
            payload: Some(STANDARD.encode(bytes)),
            position: 0,
        })
    }

    /// Any member, with content or without.
    pub(super) fn file(&mut self, name: &[u8], size: u64, sum: Crc64) -> io::Result<()> {
        let text = std::str::from_utf8(name).ok();
        self.line(Line {
            kind: FILE,
            name: text,
            name_raw: text.is_none().then(|| STANDARD.encode(name)),
            size,
            payload: (size > 0).then(|| STANDARD.encode(sum.finish())),
            position: 0,
        })
    }

    fn line(&mut self, mut line: Line<'_>) -> io::Result<()> {
        line.position = self.position;
        self.position += 1;
        let mut json = oci::json::compact(&line).map_err(io::Error::from)?;
        json.push(b'\n');
        self.size += json.len() as u64;
        self.out.write_all(&json)
    }

    /// The document, and how long it is when it is decompressed.
    pub(super) fn finish(self) -> io::Result<(Vec<u8>, u64)> {
        Ok((self.out.finish()?, self.size))
    }
}

/// The check sum of ISO 3309 with 64 bits.
pub(super) struct Crc64(u64);

/// Tables for eight bytes at a time: the n-th is for a byte that n others follow.
static TABLES: [[u64; 256]; 8] = {
    let mut tables = [[0_u64; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            let low = sum & 1;
            sum >>= 1;
            if low == 1 {
                sum ^= 0xd800_0000_0000_0000;
            }
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut number = 1;
    while number < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[number - 1][byte];
            tables[number][byte] = tables[0][(before & 0xff) as usize] ^ (before >> 8);
            byte += 1;
        }
        number += 1;
    }
    tables
};

impl Crc64 {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let mut sum = self.0;
        let (eights, rest) = bytes.as_chunks::<8>();
        for eight in eights {
            let mixed = (sum ^ u64::from_le_bytes(*eight)).to_le_bytes();
            sum = 0;
            for (at, byte) in mixed.into_iter().enumerate() {
                sum ^= TABLES[7 - at][usize::from(byte)];
            }
        }
        for byte in rest {
            let [low, ..] = sum.to_le_bytes();
            sum = TABLES[0][usize::from(low ^ byte)] ^ (sum >> 8);
        }
        self.0 = sum;
    }

    fn finish(self) -> [u8; 8] {
        (!self.0).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_sum_is_that_of_the_standard() {
        for pieces in [&["123456789"][..], &["1", "2345678", "9"]] {
            let mut sum = Crc64::new();
            for piece in pieces {
                sum.update(piece.as_bytes());
            }
            assert_eq!(sum.finish(), 0xb909_56c7_75a4_1001_u64.to_be_bytes());
        }
    }

    #[test]
    fn a_line_says_what_is_content_and_what_is_not() {
        let mut split = TarSplit::new(1).expect("an encoder");
        split.segment(b"abc").expect("written");
        split.file(b"n<", 0, Crc64::new()).expect("written");
        split.file(b"\xff", 1, Crc64::new()).expect("written");
        let (bytes, size) = split.finish().expect("finished");
        let text = zstd::decode_all(&*bytes).expect("zstd");
        assert_eq!(size, text.len() as u64);
        assert_eq!(
            String::from_utf8(text).expect("text"),
            "{\"type\":2,\"payload\":\"YWJj\",\"position\":0}\n\
             {\"type\":1,\"name\":\"n\\u003c\",\"payload\":null,\"position\":1}\n\
             {\"type\":1,\"name_raw\":\"/w==\",\"size\":1,\"payload\":\"AAAAAAAAAAA=\",\"position\":2}\n"
        );
    }
}
