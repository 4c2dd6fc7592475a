//! Files with holes, in GNU's four spellings: in the header (`S`), and in records of version 0.0, 0.1 and 1.0.

use std::io::{self, BufRead};

use super::{Reader, Records, bad_header, number};

/// Where the stored bytes of a file belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Offset and length.
    pub extents: Vec<(u64, u64)>,
    /// Size of the file with its holes.
    pub size: u64,
    /// The true name; the header has a made-up one.
    pub name: Option<Vec<u8>>,
}

const MAX_EXTENTS: usize = 1 << 20;

impl Sparse {
    fn checked(self) -> io::Result<Self> {
        let mut end = 0;
        for (offset, len) in &self.extents {
            let next = offset.checked_add(*len).ok_or_else(bad_header)?;
            if *offset < end || next > self.size {
                return Err(bad_header());
            }
            end = next;
        }
        Ok(self)
    }
}

/// The old form: four extents in the header, 21 more in each block behind it.
pub(super) fn of_header<R: BufRead>(
    reader: &mut Reader<R>,
    block: &[u8; 512],
) -> io::Result<Sparse> {
    let mut extents = Vec::new();
    let size = number::parse(&block[483..495]).ok_or_else(bad_header)?;
    let mut fields = block[386..482].to_vec();
    let mut more = block[482] != 0;
    loop {
        for pair in fields.chunks_exact(24) {
            if pair[0] == 0 {
                break;
            }
            let offset = number::parse(&pair[..12]).ok_or_else(bad_header)?;
            let len = number::parse(&pair[12..]).ok_or_else(bad_header)?;
            extents.push((offset, len));
        }
        if !more || extents.len() > MAX_EXTENTS {
            break;
        }
        let block = reader.block()?.ok_or_else(bad_header)?;
        fields = block[..504].to_vec();
        more = block[504] != 0;
    }
    let sparse = Sparse {
        extents,
        size,
        name: None,
    };
    sparse.checked()
}

/// The forms of PAX. Version 1.0 has its map in front of the content.
pub(super) fn of_records<R: BufRead>(
    reader: &mut Reader<R>,
    records: &Records,
) -> io::Result<Option<Sparse>> {
    let record = |key: &str| records.get(format!("GNU.sparse.{key}").as_bytes());
    let number = |key| record(key).and_then(|value| decimal(value));
    let version = (record("major"), record("minor"));
    let is_1_0 = version.0.is_some_and(|v| v == b"1") && version.1.is_some_and(|v| v == b"0");
    let extents = if is_1_0 {
        map_in_content(reader)?
    } else if let Some(map) = record("map") {
        pairs(map.split(|byte| *byte == b','))?
    } else {
        return Ok(None);
    };
    let size = number("realsize").or_else(|| number("size"));
    let sparse = Sparse {
        extents,
        size: size.ok_or_else(bad_header)?,
        name: record("name").cloned(),
    };
    sparse.checked().map(Some)
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn pairs<'a>(numbers: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<(u64, u64)>> {
    let numbers: Option<Vec<u64>> = numbers.map(decimal).collect();
    let numbers = numbers.ok_or_else(bad_header)?;
    if numbers.len() % 2 != 0 {
        return Err(bad_header());
    }
    Ok(numbers
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect())
}

/// Lines of decimal numbers: how many extents, then offset and length of each; padded to whole blocks.
fn map_in_content<R: BufRead>(reader: &mut Reader<R>) -> io::Result<Vec<(u64, u64)>> {
    let mut text = Vec::new();
    let mut wanted = None;
    loop {
        let lines = text.iter().filter(|byte| **byte == b'\n').count();
        if wanted.is_none() && lines > 0 {
            let first = text.split(|byte| *byte == b'\n').next();
            let count = first.and_then(decimal).ok_or_else(bad_header)?;
            wanted = Some(usize::try_from(count).map_err(|_| bad_header())? * 2 + 1);
        }
        if wanted.is_some_and(|wanted| lines >= wanted) {
            break;
        }
        if text.len() > MAX_EXTENTS * 16 || reader.left < 512 {
            return Err(bad_header());
        }
        let block = reader.block()?.ok_or_else(bad_header)?;
        reader.left -= 512;
        text.extend_from_slice(&block);
    }
    let count = wanted.unwrap_or(1) - 1;
    pairs(text.split(|byte| *byte == b'\n').skip(1).take(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_in_front_of_the_content_is_taken_off() {
        let mut stored = b"2\n0\n3\n100\n2\n".to_vec();
        stored.resize(512, 0);
        stored.extend_from_slice(b"abcde");
        let mut reader = Reader::new(&*stored);
        reader.left = 517;
        let mut records = Records::new();
        for (key, value) in [
            ("major", "1"),
            ("minor", "0"),
            ("realsize", "102"),
            ("name", "n"),
        ] {
            records.insert(format!("GNU.sparse.{key}").into_bytes(), value.into());
        }
        let sparse = of_records(&mut reader, &records)
            .expect("readable")
            .expect("sparse");
        assert_eq!(sparse.extents, [(0, 3), (100, 2)]);
        assert_eq!((sparse.size, reader.left), (102, 5));
    }

    #[test]
    fn extents_that_overlap_or_lie_outside_are_refused() {
        let mut reader = Reader::new(&b""[..]);
        for map in ["0,5,3,1", "0,11", "1", "x,1"] {
            let mut records = Records::new();
            records.insert(b"GNU.sparse.map".to_vec(), map.into());
            records.insert(b"GNU.sparse.size".to_vec(), b"10".to_vec());
            assert!(of_records(&mut reader, &records).is_err(), "{map}");
        }
    }
}
