//! Reads tar archives of any dialect in use: V7, USTAR, PAX, GNU, sparse files included.

pub(super) mod number;
mod sparse;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use fstree::{Device, Time};

use sparse::Sparse;

/// Long names and extended headers larger than this are an attack.
const MAX_EXTENSION: u64 = 1 << 20;
const XATTR: &[u8] = b"SCHILY.xattr.";

/// What is known of a member before its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path as written.
    pub name: Vec<u8>,
    /// Target of a link as written.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner by name; mostly empty.
    pub user: Vec<u8>,
    /// Group by name; mostly empty.
    pub group: Vec<u8>,
    /// Bytes of content, holes included.
    pub size: u64,
    /// Last change.
    pub mtime: Time,
    /// Last access, where the archive tells.
    pub atime: Option<Time>,
    /// Last change of its attributes, where the archive tells.
    pub ctime: Option<Time>,
    /// Number of a device node.
    pub device: Device,
    /// Extended attributes in the order of their names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Option<Sparse>,
}

impl Member {
    /// Whether the archive has the content without its holes.
    pub(crate) fn is_sparse(&self) -> bool {
        self.sparse.is_some()
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberKind {
    /// Something that can be made.
    Known(super::Kind),
    /// Records for all that follows: of no interest to us.
    Global,
    /// A type flag we do not know.
    Unknown(u8),
}

/// Reads one member after the other.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Bytes of the current member's stored content that were not read, and the padding behind it.
    left: u64,
    padding: u64,
}

pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

fn invalid(problem: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("archive/tar: {problem}"),
    )
}

pub(super) fn bad_header() -> io::Error {
    invalid("invalid tar header")
}

impl<R: BufRead> Reader<R> {
    /// An archive that begins here.
    pub fn new(input: R) -> Self {
        Self {
            input,
            left: 0,
            padding: 0,
        }
    }

    /// What stands behind the archive, and any content that was not read.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The stream the archive is in.
    pub(crate) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// Content of the current member as it is stored: at most what is left of it, and nothing at its end.
    pub(crate) fn stored(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let bytes = self.input.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let now = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        Ok(&bytes[..now])
    }

    /// So much of [`Reader::stored`] was used; it must not be more.
    pub(crate) fn used(&mut self, len: usize) {
        self.input.consume(len);
        self.left = self.left.saturating_sub(len as u64);
    }

    /// The next member, passing over content that was not read.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let mut records = Records::new();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(block) = self.header_block()? else {
                return Ok(None);
            };
            let size = number::parse(&block[124..136]).ok_or_else(bad_header)?;
            match block[156] {
                b'x' | b'X' => {
                    let body = self.extension(size)?;
                    records = parse_records(&body)?;
                }
                b'L' => long_name = Some(until_nul(&self.extension(size)?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.extension(size)?).to_vec()),
                _ => {
                    let mut member = read_header(&block)?;
                    if let Some(name) = long_name {
                        member.name = name;
                    }
                    if let Some(link) = long_link {
                        member.link = link;
                    }
                    merge(&mut member, &records)?;
                    self.begin(&mut member, &block, &mut records)?;
                    return Ok(Some(member));
                }
            }
        }
    }

    /// Prepares for the content of the member.
    fn begin(
        &mut self,
        member: &mut Member,
        block: &[u8; 512],
        records: &mut Records,
    ) -> io::Result<()> {
        let has_content = match member.kind {
            MemberKind::Known(kind) => kind == super::Kind::File,
            MemberKind::Global | MemberKind::Unknown(_) => true,
        };
        if !has_content {
            member.size = 0;
        }
        self.left = member.size;
        self.padding = padding(member.size);
        if block[156] == b'S' {
            member.sparse = Some(sparse::of_header(self, block)?);
        } else {
            member.sparse = sparse::of_records(self, records)?;
        }
        if let Some(sparse) = &member.sparse {
            member.size = sparse.size;
            if let Some(name) = &sparse.name {
                member.name.clone_from(name);
            }
        }
        Ok(())
    }

    /// Hands the content of the member to `take`, piece by piece, each with its offset. Holes are left out; the file
    /// is [`Member::size`] bytes long.
    pub fn content(
        &mut self,
        member: &Member,
        mut take: impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(sparse) = &member.sparse else {
            return self.pieces(self.left, 0, &mut take);
        };
        for (offset, len) in &sparse.extents {
            self.pieces(*len, *offset, &mut take)?;
        }
        Ok(())
    }

    fn pieces(
        &mut self,
        mut len: u64,
        mut offset: u64,
        take: &mut impl FnMut(u64, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if len > self.left {
            return Err(bad_header());
        }
        while len > 0 {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let now = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
            take(offset, &bytes[..now])?;
            self.input.consume(now);
            len -= now as u64;
            offset += now as u64;
            self.left -= now as u64;
        }
        Ok(())
    }

    fn skip(&mut self) -> io::Result<()> {
        let mut len = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        while len > 0 {
            let bytes = self.input.fill_buf()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let now = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
            self.input.consume(now);
            len -= now as u64;
        }
        Ok(())
    }

    /// The next header; `None` at the end of the archive.
    fn header_block(&mut self) -> io::Result<Option<[u8; 512]>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block != [0; 512] {
            check_sum(&block)?;
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if second != [0; 512] => Err(bad_header()),
            _ => Ok(None),
        }
    }

    fn block(&mut self) -> io::Result<Option<[u8; 512]>> {
        if self.input.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut block = [0; 512];
        self.input.read_exact(&mut block)?;
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(bad_header());
        }
        let mut body = vec![0; usize::try_from(size).map_err(|_| bad_header())?];
        self.input.read_exact(&mut body)?;
        self.padding = padding(size);
        Ok(body)
    }
}

pub(super) fn padding(size: u64) -> u64 {
    match size % 512 {
        0 => 0,
        over => 512 - over,
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The field counts as blanks. Compat: some writers summed signed bytes.
pub(super) fn check_sum(block: &[u8; 512]) -> io::Result<()> {
    let stored = number::parse(&block[148..156]).ok_or_else(bad_header)?;
    let bytes = (block.iter().enumerate()).map(|(at, byte)| {
        if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        }
    });
    let unsigned: u64 = bytes.clone().map(u64::from).sum();
    let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
    if stored == unsigned || i64::try_from(stored) == Ok(signed) {
        return Ok(());
    }
    Err(bad_header())
}

fn read_header(block: &[u8; 512]) -> io::Result<Member> {
    let number = |from: usize, to: usize| number::parse(&block[from..to]).ok_or_else(bad_header);
    let small = |from, to| number(from, to).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
    let ustar = &block[257..263] == b"ustar\0";
    let gnu = &block[257..265] == b"ustar  \0";
    let mut name = until_nul(&block[..100]).to_vec();
    if ustar {
        let prefix = until_nul(&block[345..500]);
        if !prefix.is_empty() {
            name = [prefix, b"/", &*name].concat();
        }
    }
    let mut device = Device::default();
    if ustar || gnu {
        let part = |from, to| {
            let field = &block[from..to];
            number::parse(field).and_then(|value| u32::try_from(value).ok())
        };
        device.major = part(329, 337).ok_or_else(bad_header)?;
        device.minor = part(337, 345).ok_or_else(bad_header)?;
    }
    Ok(Member {
        kind: kind(block[156], &name),
        name,
        link: until_nul(&block[157..257]).to_vec(),
        mode: small(100, 108)? & 0o7777,
        uid: small(108, 116)?,
        gid: small(116, 124)?,
        user: until_nul(&block[265..297]).to_vec(),
        group: until_nul(&block[297..329]).to_vec(),
        size: number(124, 136)?,
        mtime: Time {
            sec: number::parse_signed(&block[136..148]).ok_or_else(bad_header)?,
            nsec: 0,
        },
        atime: None,
        ctime: None,
        device,
        xattrs: Vec::new(),
        sparse: None,
    })
}

fn kind(flag: u8, name: &[u8]) -> MemberKind {
    use super::Kind;
    let known = match flag {
        // Before there were types, directories were told by their name.
        0 if name.ends_with(b"/") => Kind::Dir,
        0 | b'0' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        b'g' => return MemberKind::Global,
        other => return MemberKind::Unknown(other),
    };
    MemberKind::Known(known)
}

/// `<len> <key>=<value>\n`, the length counting itself; values may be binary.
pub(super) fn parse_records(mut body: &[u8]) -> io::Result<Records> {
    let mut records = Records::new();
    while !body.is_empty() {
        let space = body.iter().position(|byte| *byte == b' ');
        let space = space.ok_or_else(bad_header)?;
        let len = std::str::from_utf8(&body[..space])
            .ok()
            .and_then(|text| text.parse::<usize>().ok())
            .filter(|len| *len > space + 1 && *len <= body.len())
            .ok_or_else(bad_header)?;
        let (record, rest) = body.split_at(len);
        let record = record[space + 1..]
            .strip_suffix(b"\n")
            .ok_or_else(bad_header)?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let equals = equals.ok_or_else(bad_header)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            // The oldest form repeats these two; later ones put the same numbers into one record.
            let map: &mut Vec<u8> = records.entry(b"GNU.sparse.map".to_vec()).or_default();
            if !map.is_empty() {
                map.push(b',');
            }
            map.extend_from_slice(value);
        } else {
            records.insert(key.to_vec(), value.to_vec());
        }
        body = rest;
    }
    Ok(records)
}

fn merge(member: &mut Member, records: &Records) -> io::Result<()> {
    for (key, value) in records {
        // An empty value takes the record back.
        if value.is_empty() {
            continue;
        }
        let number = || {
            std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(bad_header)
        };
        let small = || number().map(|value| u32::try_from(value).unwrap_or(u32::MAX));
        let time = || number::parse_time(value).ok_or_else(bad_header);
        match &**key {
            b"path" => member.name.clone_from(value),
            b"linkpath" => member.link.clone_from(value),
            b"uname" => member.user.clone_from(value),
            b"gname" => member.group.clone_from(value),
            b"uid" => member.uid = small()?,
            b"gid" => member.gid = small()?,
            b"size" => member.size = number()?,
            b"mtime" => member.mtime = time()?,
            b"atime" => member.atime = Some(time()?),
            b"ctime" => member.ctime = Some(time()?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    member.xattrs.push((name.to_vec(), value.clone()));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Header, Kind, Writer};

    fn read(bytes: &[u8]) -> io::Result<Vec<(Member, Vec<u8>)>> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(member) = reader.next_member()? {
            let mut content = vec![0; usize::try_from(member.size).expect("small")];
            reader.content(&member, |at, piece| {
                let at = usize::try_from(at).expect("small");
                content[at..at + piece.len()].copy_from_slice(piece);
                Ok(())
            })?;
            all.push((member, content));
        }
        Ok(all)
    }

    #[test]
    fn what_was_written_is_read() {
        let mut header = Header::new("ä".repeat(80), Kind::File, 0o4755);
        header.uid = 4_000_000_000;
        header.gid = 7;
        header.mtime = -1;
        header.size = 3;
        let capability = b"\x01\n\x0a=\n".to_vec();
        header.xattrs = vec![(b"security.capability".to_vec(), capability)];
        let mut link = Header::new("l", Kind::Symlink, 0o777);
        link.link = b"x".repeat(101);
        let mut writer = Writer::new(Vec::new());
        writer.member(&header).expect("write");
        writer.content(b"abc").expect("write");
        writer.member(&link).expect("write");
        let all = read(&writer.finish().expect("write")).expect("readable");
        let (file, content) = &all[0];
        assert_eq!(content, b"abc");
        assert_eq!(
            (&file.name, file.mode, file.uid, file.gid, file.mtime.sec),
            (&header.name, 0o4755, header.uid, 7, -1)
        );
        assert_eq!(file.xattrs, header.xattrs);
        assert_eq!(all[1].0.link, link.link);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_cut_archive_is_an_error_and_so_is_a_damaged_header() {
        let mut header = Header::new("f", Kind::File, 0o644);
        header.size = 600;
        let mut writer = Writer::new(Vec::new());
        writer.member(&header).expect("write");
        writer.content(&[1; 600]).expect("write");
        let mut bytes = writer.finish().expect("write");
        assert!(read(&bytes[..700]).is_err());
        assert!(read(&bytes[..100]).is_err());
        assert_eq!(read(&bytes[..1536]).expect("no end mark").len(), 1);
        bytes[0] = b'g';
        assert!(read(&bytes).is_err());
        assert!(read(b"").expect("nothing").is_empty());
    }
}
