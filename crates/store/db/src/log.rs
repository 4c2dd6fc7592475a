//! The log: batches since the last flush, one record each, in a file that only grows.
//!
//! Header: magic, generation (8 bytes, little endian), length of the log before it that is not in the file (8; zero if
//! there is none), checksum of these two (8). Record: length and checksum of the payload (4 and 8 bytes),
//! checksum of these (4), payload. Payload: changes, each with kind (0 removed, 1 set), length (1) and name of the
//! table, length (4) and bytes of the key, and if set length (4) and bytes of the value.
//!
//! A record that is cut off ends the log: the process died while writing it, so nobody was told that it is there. A
//! record that is whole and wrong was damaged later, and what stands behind it may not be used: it may build on it. So
//! may a log behind one that was cut off later; that is why it says how long that one was.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::memory::Memory;

const MAGIC: &[u8; 8] = b"kilnlog4";
const HEADER: usize = 32;
/// Of a record.
const HEAD: usize = 16;

/// A log being written.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    buffer: Vec<u8>,
    /// A failed write could not be undone: what follows would be unreadable.
    broken: bool,
}

impl Log {
    pub(crate) fn create(path: PathBuf, generation: u64, before: u64) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)?;
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&generation.to_le_bytes());
        header.extend_from_slice(&before.to_le_bytes());
        let sum = checksum(&header[MAGIC.len()..]);
        header.extend_from_slice(&sum.to_le_bytes());
        if let Err(err) = file.write_all(&header) {
            // The next attempt makes it anew.
            let _ = std::fs::remove_file(&path);
            return Err(err);
        }
        let length = header.len() as u64;
        Ok(Self {
            path,
            file,
            length,
            buffer: Vec::new(),
            broken: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends one batch with one write.
    pub(crate) fn append(&mut self, changes: &Memory) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("an earlier write to the log failed"));
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(&[0; HEAD]);
        encode(changes, &mut self.buffer)?;
        let payload = &self.buffer[HEAD..];
        let length = u32::try_from(payload.len()).map_err(too_large)?;
        let sum = checksum(payload);
        self.buffer[..4].copy_from_slice(&length.to_le_bytes());
        self.buffer[4..12].copy_from_slice(&sum.to_le_bytes());
        let head = head_sum(&self.buffer[..12]);
        self.buffer[12..HEAD].copy_from_slice(&head);
        if let Err(err) = self.file.write_all(&self.buffer) {
            // The file may end with half a record; the next one must not stand behind it.
            self.broken = self.file.set_len(self.length).is_err();
            return Err(err);
        }
        self.length += self.buffer.len() as u64;
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}

/// A log as it was found.
#[derive(Debug)]
pub(crate) enum Found {
    Changes {
        changes: Memory,
        /// So many bytes of the file were read.
        good: usize,
        /// How long the log before it was, at least.
        before: u64,
    },
    /// Its header was cut off: nothing was ever written behind it.
    Begun,
    /// Something in it is not what was written; what stands before that is.
    Damaged {
        changes: Memory,
        /// So many bytes of the file were read.
        good: usize,
    },
}

/// Reads a log back.
pub(crate) fn read(path: &Path, generation: u64) -> io::Result<Found> {
    Ok(parse(&std::fs::read(path)?, generation))
}

pub(crate) fn parse(bytes: &[u8], generation: u64) -> Found {
    let mut rest = Reader(bytes);
    let mut changes = Memory::default();
    let before = match header(&mut rest) {
        None if bytes.len() < HEADER => return Found::Begun,
        Some((found, before)) if found == generation => before,
        _ => return Found::Damaged { changes, good: 0 },
    };
    loop {
        let good = bytes.len() - rest.0.len();
        match record(&mut rest) {
            Next::Batch(batch) => changes.absorb(batch),
            Next::End => {
                return Found::Changes {
                    changes,
                    good,
                    before,
                };
            }
            Next::Damaged => return Found::Damaged { changes, good },
        }
    }
}

/// What follows in a log.
enum Next {
    Batch(Memory),
    /// Nothing, or a record that was cut off.
    End,
    Damaged,
}

/// Its generation, and the length of the log before it.
fn header(rest: &mut Reader<'_>) -> Option<(u64, u64)> {
    if rest.bytes(MAGIC.len())? != MAGIC {
        return None;
    }
    let (numbers, sum) = (rest.bytes(16)?, rest.bytes(8)?);
    let (generation, before) = numbers.split_first_chunk()?;
    let before = before.try_into().ok()?;
    (checksum(numbers).to_le_bytes() == sum)
        .then_some((u64::from_le_bytes(*generation), u64::from_le_bytes(before)))
}

fn record(rest: &mut Reader<'_>) -> Next {
    let Some(mut head) = rest.bytes(HEAD).map(Reader) else {
        return Next::End;
    };
    let sums = &head.0[..12];
    if head_sum(sums) != head.0[12..] {
        return Next::Damaged;
    }
    let (length, sum) = (head.length(), head.bytes(8));
    let Some(payload) = length.and_then(|length| rest.bytes(length)) else {
        return Next::End;
    };
    if sum != Some(&checksum(payload).to_le_bytes()) {
        return Next::Damaged;
    }
    decode(payload).map_or(Next::Damaged, Next::Batch)
}

/// Of the first bytes of a record.
fn head_sum(head: &[u8]) -> [u8; 4] {
    let [_, _, _, _, last @ ..] = checksum(head).to_le_bytes();
    last
}

fn encode(changes: &Memory, out: &mut Vec<u8>) -> io::Result<()> {
    for (table, changes) in changes.tables() {
        let name = u8::try_from(table.len()).map_err(too_large)?;
        for (key, value) in changes {
            out.push(u8::from(value.is_some()));
            out.push(name);
            out.extend_from_slice(table.as_bytes());
            for part in std::iter::once(key).chain(value) {
                let length = u32::try_from(part.len()).map_err(too_large)?;
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(part);
            }
        }
    }
    Ok(())
}

fn decode(payload: &[u8]) -> Option<Memory> {
    let mut rest = Reader(payload);
    let mut changes = Memory::default();
    while !rest.0.is_empty() {
        let set = rest.bytes(1)?[0] == 1;
        let name = usize::from(rest.bytes(1)?[0]);
        let table = std::str::from_utf8(rest.bytes(name)?).ok()?;
        let length = rest.length()?;
        let key = rest.bytes(length)?.to_vec();
        let value = if set {
            let length = rest.length()?;
            Some(rest.bytes(length)?.to_vec())
        } else {
            None
        };
        changes.set(table, key, value);
    }
    Some(changes)
}

fn too_large(err: std::num::TryFromIntError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, err)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn length(&mut self) -> Option<usize> {
        let raw: [u8; 4] = self.bytes(4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(raw)).ok()
    }
}

/// Enough to recognise a record that was cut off; not against malice.
fn checksum(bytes: &[u8]) -> u64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = (bytes.len() as u64).wrapping_mul(PRIME) ^ PRIME;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
        sum = (sum ^ word).wrapping_mul(PRIME).rotate_left(29);
    }
    for byte in chunks.remainder() {
        sum = (sum ^ u64::from(*byte)).wrapping_mul(PRIME).rotate_left(29);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>) -> Memory {
        let mut changes = Memory::default();
        changes.set("t", key.into(), value.map(Into::into));
        changes
    }

    fn changes(path: &Path, generation: u64) -> Memory {
        match read(path, generation).expect("read") {
            Found::Changes { changes, .. } => changes,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_log_is_read_up_to_the_record_that_was_cut_off() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("log");
        let mut log = Log::create(path.clone(), 7, 0).expect("made");
        log.append(&change("a", Some("1"))).expect("written");
        log.append(&change("b", None)).expect("written");
        let whole = std::fs::read(&path).expect("read");
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).expect("written");
            let found = match read(&path, 7).expect("read") {
                Found::Changes { changes, good, .. } => {
                    assert!(good <= cut, "cut at {cut}");
                    changes
                }
                other => {
                    assert!(matches!(other, Found::Begun), "{other:?}, cut at {cut}");
                    assert!(cut < HEADER, "cut at {cut}");
                    continue;
                }
            };
            assert_eq!(found.look("t", b"b"), None, "cut at {cut}");
        }
        std::fs::write(&path, &whole).expect("written");
        let found = changes(&path, 7);
        assert_eq!(found.look("t", b"a"), Some(Some(&b"1".to_vec())));
        assert_eq!(found.look("t", b"b"), Some(None));
        assert!(matches!(read(&path, 8), Ok(Found::Damaged { good: 0, .. })));
    }

    #[test]
    fn every_single_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let path = dir.path().join("log");
        let mut log = Log::create(path.clone(), 1, 0).expect("made");
        log.append(&change("some key", Some("some value")))
            .expect("written");
        log.append(&change("other", None)).expect("written");
        let whole = std::fs::read(&path).expect("read");
        for at in 0..whole.len() {
            let mut bent = whole.clone();
            bent[at] ^= 0x20;
            let Found::Damaged { changes, good } = parse(&bent, 1) else {
                panic!("byte {at}");
            };
            // What stands before the damage is there.
            assert!(good <= at, "byte {at}");
            assert_eq!(changes.is_empty(), good <= HEADER, "byte {at}");
        }
    }
}
