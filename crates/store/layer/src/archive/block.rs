//! Header blocks, field by field.

use std::io;

use super::Header;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier member.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::HardLink => b'1',
            Self::Symlink => b'2',
            Self::CharDevice => b'3',
            Self::BlockDevice => b'4',
            Self::Dir => b'5',
            Self::Fifo => b'6',
        }
    }
}

const NAME: usize = 100;
const PREFIX: usize = 155;
const XATTR: &[u8] = b"SCHILY.xattr.";
/// The largest number of seven octal digits.
const MAX_7: u64 = 0o7_777_777;
/// The largest number of eleven octal digits.
const MAX_11: u64 = 0o77_777_777_777;

/// The blocks in front of a member's content: one, or with an extended header three or more.
pub(super) fn encode(header: &Header) -> io::Result<Vec<u8>> {
    if u64::from(header.device.major.max(header.device.minor)) > MAX_7 {
        let problem = "archive/tar: cannot encode header: device number too large";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let split = split(&header.name);
    let records = records(header, split.is_some());
    let mut out = Vec::with_capacity(512);
    let (prefix, name) = match split {
        Some(at) if records.is_empty() => (&header.name[..at], &header.name[at + 1..]),
        _ => (&b""[..], &*header.name),
    };
    if !records.is_empty() {
        extended(&header.name, &records, &mut out);
    }
    let mut block = Block::new(name, header.kind.flag());
    block.number(100, 8, u64::from(header.mode));
    block.number(108, 8, u64::from(header.uid));
    block.number(116, 8, u64::from(header.gid));
    block.number(124, 12, header.size);
    block.number(136, 12, u64::try_from(header.mtime).unwrap_or(0));
    block.text(157, NAME, &header.link);
    block.number(329, 8, u64::from(header.device.major));
    block.number(337, 8, u64::from(header.device.minor));
    block.text(345, PREFIX, prefix);
    out.extend_from_slice(&block.finish());
    Ok(out)
}

/// Where a name is cut so that it fits the two fields of USTAR. Names that fit one are not cut.
fn split(name: &[u8]) -> Option<usize> {
    if name.len() <= NAME || !name.is_ascii() {
        return None;
    }
    let end = if name.len() > PREFIX + 1 {
        PREFIX + 1
    } else if name.ends_with(b"/") {
        name.len() - 1
    } else {
        name.len()
    };
    let at = name[..end].iter().rposition(|byte| *byte == b'/')?;
    let rest = name.len() - at - 1;
    ((1..=PREFIX).contains(&at) && (1..=NAME).contains(&rest)).then_some(at)
}

type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// What does not fit, sorted by key; nothing when the header can do without.
fn records(header: &Header, splittable: bool) -> Records {
    let mut records = Records::new();
    let mut add = |key: &[u8], value: Vec<u8>| records.push((key.to_vec(), value));
    let long_name = header.name.len() > NAME;
    if !header.name.is_ascii() || (long_name && !splittable) {
        add(b"path", header.name.clone());
    }
    if !header.link.is_ascii() || header.link.len() > NAME {
        add(b"linkpath", header.link.clone());
    }
    for (key, value, limit) in [
        (&b"uid"[..], u64::from(header.uid), MAX_7),
        (b"gid", u64::from(header.gid), MAX_7),
        (b"size", header.size, MAX_11),
    ] {
        if value > limit {
            add(key, value.to_string().into_bytes());
        }
    }
    if u64::try_from(header.mtime).map_or(true, |mtime| mtime > MAX_11) {
        add(b"mtime", header.mtime.to_string().into_bytes());
    }
    for (name, value) in &header.xattrs {
        add(&[XATTR, name].concat(), value.clone());
    }
    // A name that could be split is not, once there is an extended header anyway.
    if !records.is_empty() && long_name && splittable {
        records.push((b"path".to_vec(), header.name.clone()));
    }
    records.sort();
    records
}

fn extended(name: &[u8], records: &Records, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    for (key, value) in records {
        record(key, value, &mut body);
    }
    let mut block = Block::new(&extended_name(name), b'x');
    for at in [100, 108, 116] {
        block.number(at, 8, 0);
    }
    block.number(124, 12, body.len() as u64);
    block.number(136, 12, 0);
    out.extend_from_slice(&block.finish());
    body.resize(body.len().next_multiple_of(512), 0);
    out.extend_from_slice(&body);
}

/// `<len> <key>=<value>\n`, where the length counts its own digits.
pub(super) fn record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + digits(rest);
    if rest + digits(len) > len {
        len = rest + digits(len);
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

fn extended_name(name: &[u8]) -> Vec<u8> {
    let (dir, base) = match name.iter().rposition(|byte| *byte == b'/') {
        Some(at) => name.split_at(at + 1),
        None => (&b""[..], name),
    };
    let joined = fstree::path::clean(&[dir, b"/PaxHeaders.0/", base].concat());
    // What was relative stays so; the slash was put in front only where there is no directory.
    let relative = match joined.strip_prefix(b"/") {
        Some(rest) if !name.starts_with(b"/") => rest.to_vec(),
        _ => joined,
    };
    let mut ascii: Vec<u8> = relative.into_iter().filter(u8::is_ascii).collect();
    ascii.truncate(NAME);
    while ascii.last() == Some(&b'/') {
        ascii.pop();
    }
    ascii
}

/// Zero padded octal digits and a NUL. What does not fit is zero here.
pub(super) fn set_number(block: &mut [u8; 512], field: std::ops::Range<usize>, value: u64) {
    let digits = field.len() - 1;
    let limit = if digits == 7 { MAX_7 } else { MAX_11 };
    let value = if value > limit { 0 } else { value };
    let text = format!("{value:0digits$o}\0");
    block[field].copy_from_slice(text.as_bytes());
}

/// Sets the check sum.
pub(super) fn sign(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let text = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(text.as_bytes());
}

struct Block([u8; 512]);

impl Block {
    fn new(name: &[u8], flag: u8) -> Self {
        let mut block = Self([0; 512]);
        block.text(0, NAME, name);
        block.0[156] = flag;
        block.0[257..265].copy_from_slice(b"ustar\x0000");
        block
    }

    /// What does not fit is in the extended header.
    fn number(&mut self, at: usize, width: usize, value: u64) {
        set_number(&mut self.0, at..at + width, value);
    }

    /// The ASCII part, cut to the field; a cut text does not end in slashes.
    fn text(&mut self, at: usize, width: usize, text: &[u8]) {
        let mut ascii: Vec<u8> = text
            .iter()
            .copied()
            .filter(|byte| byte.is_ascii() && *byte != 0)
            .collect();
        if ascii.len() > width {
            ascii.truncate(width);
            while ascii.last() == Some(&b'/') {
                ascii.pop();
            }
        }
        self.0[at..at + ascii.len()].copy_from_slice(&ascii);
    }

    fn finish(mut self) -> [u8; 512] {
        sign(&mut self.0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for value in ["", "x", &"y".repeat(88), &"z".repeat(89), &"z".repeat(990)] {
            let mut out = Vec::new();
            record(b"path", value.as_bytes(), &mut out);
            let text = String::from_utf8(out).expect("text");
            let (len, _) = text.split_once(' ').expect("a length");
            assert_eq!(len.parse::<usize>().expect("a number"), text.len());
        }
    }

    #[test]
    fn the_extended_header_lies_beside_the_member() {
        for (name, wanted) in [
            ("f", "PaxHeaders.0/f"),
            ("a/b/f", "a/b/PaxHeaders.0/f"),
            ("a/b/", "a/b/PaxHeaders.0"),
            ("ä/f", "/PaxHeaders.0/f"),
        ] {
            assert_eq!(extended_name(name.as_bytes()), wanted.as_bytes(), "{name}");
        }
    }

    #[test]
    fn the_tar_crate_reads_what_was_written() {
        let mut header = Header::new("a".repeat(120), Kind::File, 0o644);
        header.uid = 3_000_000;
        header.mtime = -5;
        let mut archive = super::super::Writer::new(Vec::new());
        header.size = 3;
        archive.member(&header).expect("write");
        archive.content(b"abc").expect("write");
        let bytes = archive.finish().expect("write");
        let mut reader = tar::Archive::new(&*bytes);
        let mut entries = reader.entries().expect("entries");
        let entry = entries.next().expect("one").expect("readable");
        assert_eq!(&*entry.path_bytes(), "a".repeat(120).as_bytes());
        assert_eq!(entry.header().uid().expect("a number"), 3_000_000);
    }
}
