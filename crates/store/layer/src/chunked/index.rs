//! The documents behind the archive: indexes of its files, and where they are.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fstree::Time;
use oci::{Digest, Timestamp};
use serde::Serialize;

use super::{Entry, Made, Split, TOC_NAME};
use crate::annotation;
use crate::archive::{self, Header, Kind};
use crate::compress::{Codec, Written};

/// Bytes at the end of an eStargz layer: an empty gzip member whose header says where the index is.
pub(super) const ESTARGZ_FOOTER: usize = 51;
const ESTARGZ_MAGIC: &[u8] = b"STARGZ";
/// Gzip with an extra field of 26 bytes, in it "SG" with 22 bytes.
const FOOTER_HEAD: [u8; 16] = [
    0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0,
];
/// A last, stored, empty block, and sum and size of nothing.
const FOOTER_TAIL: [u8; 13] = [1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];

/// Readers of zstd pass over a frame that begins so.
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
const ZSTD_MAGIC: &[u8; 8] = b"GNUlInUx";
/// The only form of index there is.
const ZSTD_FORM: u64 = 1;

#[derive(Serialize)]
struct Index<E> {
    version: u32,
    entries: Option<Vec<E>>,
    #[serde(rename = "tarSplitDigest", skip_serializing_if = "Option::is_none")]
    tarsplit: Option<Digest>,
}

/// A member, or a chunk of one. Fields without a value are left out, and come in this order.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_default")]
    size: u64,
    #[serde(skip_serializing_if = "is_default")]
    modtime: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    link_name: String,
    #[serde(skip_serializing_if = "is_default")]
    mode: u32,
    #[serde(skip_serializing_if = "is_default")]
    uid: u32,
    #[serde(skip_serializing_if = "is_default")]
    gid: u32,
    #[serde(skip_serializing_if = "is_default")]
    user_name: String,
    #[serde(skip_serializing_if = "is_default")]
    group_name: String,
    #[serde(skip_serializing_if = "is_default")]
    offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    dev_major: u32,
    #[serde(skip_serializing_if = "is_default")]
    dev_minor: u32,
    #[serde(skip_serializing_if = "is_default")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_default")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_default")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "is_default")]
    chunk_digest: Option<Digest>,
    #[serde(rename = "accesstime", skip_serializing_if = "is_default")]
    access_time: Option<Timestamp>,
    #[serde(rename = "changetime", skip_serializing_if = "is_default")]
    change_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_default")]
    end_offset: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where each block begins, and where the last one ends.
fn places(written: &Written) -> Vec<u64> {
    let mut at = 0;
    let ends = written.lengths.iter().map(|length| {
        at += length;
        at
    });
    std::iter::once(0).chain(ends).collect()
}

/// What all forms say of a member.
fn listed(entry: &Entry) -> Listed {
    let member = &entry.member;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| (text(name), STANDARD.encode(value));
    let (kind, is_link, is_device) = match entry.kind {
        Kind::File => ("reg", false, false),
        Kind::HardLink => ("hardlink", true, false),
        Kind::Symlink => ("symlink", true, false),
        Kind::CharDevice => ("char", false, true),
        Kind::BlockDevice => ("block", false, true),
        Kind::Dir => ("dir", false, false),
        Kind::Fifo => ("fifo", false, false),
    };
    Listed {
        name: text(&member.name),
        kind,
        size: member.size,
        link_name: if is_link {
            text(&member.link)
        } else {
            String::new()
        },
        mode: member.mode,
        uid: member.uid,
        gid: member.gid,
        dev_major: if is_device { member.device.major } else { 0 },
        dev_minor: if is_device { member.device.minor } else { 0 },
        xattrs: member.xattrs.iter().map(xattr).collect(),
        ..Listed::default()
    }
}

/// Completes an eStargz layer.
pub(super) fn estargz(codec: Codec, split: Split) -> io::Result<Made> {
    let toc = estargz_toc(&split);
    let json = oci::json::tabbed(&toc).map_err(io::Error::from)?;
    let mut header = Header::new(TOC_NAME, Kind::File, 0);
    header.size = json.len() as u64;
    let mut archive = archive::Writer::new(Vec::new());
    archive.member(&header)?;
    archive.content(&json)?;
    let archive = archive.finish()?;
    let Written {
        mut out,
        mut hash,
        size,
        ..
    } = split.written;
    // Compat: the index counts as a part of the layer.
    hash.update(&archive);
    let size = size + archive.len() as u64;
    let offset = out.size();
    let mut compressed = Vec::new();
    codec.encoder()?.encode(&archive, &mut compressed)?;
    out.write_all(&compressed)?;
    out.write_all(&FOOTER_HEAD)?;
    out.write_all(format!("{offset:016x}").as_bytes())?;
    out.write_all(ESTARGZ_MAGIC)?;
    out.write_all(&FOOTER_TAIL)?;
    Ok(Made {
        out,
        diff_id: hash.finish(),
        size,
        annotations: vec![
            (
                annotation::ESTARGZ_TOC.to_owned(),
                Digest::of(&json).to_string(),
            ),
            (annotation::ESTARGZ_SIZE.to_owned(), size.to_string()),
        ],
    })
}

fn estargz_toc(split: &Split) -> Index<Listed> {
    let places = places(&split.written);
    let (mut users, mut groups) = (BTreeMap::new(), BTreeMap::new());
    let mut entries = Vec::new();
    for entry in &split.entries {
        let member = &entry.member;
        let mut first = listed(entry);
        first.modtime = rounded(member.mtime);
        first.user_name = if_new(&mut users, member.uid, &member.user);
        first.group_name = if_new(&mut groups, member.gid, &member.group);
        first.digest.clone_from(&entry.digest);
        let mut next = Some(first);
        for chunk in &entry.chunks {
            let mut part = next.take().unwrap_or_else(|| Listed {
                name: String::from_utf8_lossy(&member.name).into_owned(),
                kind: "chunk",
                ..Listed::default()
            });
            part.offset = places[chunk.block];
            part.chunk_offset = chunk.offset;
            part.chunk_digest = Some(chunk.digest.clone());
            if chunk.size == super::CHUNK {
                part.chunk_size = chunk.size;
            }
            entries.push(part);
        }
        entries.extend(next);
    }
    Index {
        version: 1,
        entries: Some(entries).filter(|entries| !entries.is_empty()),
        tarsplit: None,
    }
}

/// A name is said once per number.
fn if_new(said: &mut BTreeMap<u32, Vec<u8>>, id: u32, name: &[u8]) -> String {
    if name.is_empty() || said.get(&id).is_some_and(|said| said == name) {
        return String::new();
    }
    said.insert(id, name.to_vec());
    String::from_utf8_lossy(name).into_owned()
}

/// Whole seconds; the beginning of 1970 is no time.
fn rounded(time: Time) -> Option<Timestamp> {
    let up = i64::from(time.nsec >= 500_000_000);
    (time.sec != 0).then(|| Timestamp::from_seconds(time.sec.saturating_add(up)))
}

/// Where the index is, if these are the last bytes of an eStargz layer.
pub(super) fn estargz_offset(footer: &[u8; ESTARGZ_FOOTER]) -> Option<u64> {
    let (head, rest) = footer.split_at(FOOTER_HEAD.len());
    let (digits, rest) = rest.split_at(16);
    let is_one = head[..4] == FOOTER_HEAD[..4]
        && head[10..] == FOOTER_HEAD[10..]
        && rest.starts_with(ESTARGZ_MAGIC);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_one)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Completes a zstd:chunked layer.
pub(super) fn zstd(codec: Codec, mut split: Split) -> io::Result<Made> {
    let tarsplit = split.tarsplit.take();
    let (tarsplit, tarsplit_size) = match tarsplit {
        Some(tarsplit) => tarsplit.finish()?,
        None => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let toc = zstd_toc(&split, Digest::of(&tarsplit));
    let json = oci::json::compact(&toc).map_err(io::Error::from)?;
    let mut compressed = Vec::new();
    codec.encoder()?.encode(&json, &mut compressed)?;
    let Written {
        mut out,
        hash,
        size,
        ..
    } = split.written;
    let head = SKIPPABLE.len() as u64 + 4;
    let toc_at = out.size() + head;
    skippable(&mut out, &compressed)?;
    let tarsplit_at = out.size() + head;
    skippable(&mut out, &tarsplit)?;
    let (toc_len, tarsplit_len) = (compressed.len() as u64, tarsplit.len() as u64);
    let numbers = [
        toc_at,
        toc_len,
        json.len() as u64,
        ZSTD_FORM,
        tarsplit_at,
        tarsplit_len,
        tarsplit_size,
    ];
    let mut footer = Vec::with_capacity(64);
    for number in numbers {
        footer.extend_from_slice(&number.to_le_bytes());
    }
    footer.extend_from_slice(ZSTD_MAGIC);
    skippable(&mut out, &footer)?;
    let toc_place = format!("{toc_at}:{toc_len}:{}:{ZSTD_FORM}", json.len());
    let tarsplit_place = format!("{tarsplit_at}:{tarsplit_len}:{tarsplit_size}");
    Ok(Made {
        out,
        diff_id: hash.finish(),
        size,
        annotations: vec![
            (
                annotation::ZSTD_TOC.to_owned(),
                Digest::of(&compressed).to_string(),
            ),
            (annotation::ZSTD_TOC_PLACE.to_owned(), toc_place),
            (annotation::ZSTD_TARSPLIT_PLACE.to_owned(), tarsplit_place),
        ],
    })
}

fn skippable(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len());
    let len = len.map_err(|_| io::Error::other("the index of a layer is too large"))?;
    out.write_all(&SKIPPABLE)?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(bytes)
}

fn zstd_toc(split: &Split, tarsplit: Digest) -> Index<Listed> {
    let places = places(&split.written);
    let mut entries = Vec::new();
    for entry in &split.entries {
        let member = &entry.member;
        let mut first = listed(entry);
        first.modtime = Some(exact(member.mtime));
        first.access_time = member.atime.map(exact);
        first.change_time = member.ctime.map(exact);
        if let Some(chunk) = entry.chunks.first() {
            first.digest.clone_from(&entry.digest);
            first.offset = places[chunk.block];
            first.end_offset = places[entry.end];
        }
        if let [chunk, _, ..] = &*entry.chunks {
            first.chunk_size = chunk.size;
            first.chunk_digest = Some(chunk.digest.clone());
        }
        entries.push(first);
        for chunk in entry.chunks.iter().skip(1) {
            entries.push(Listed {
                name: String::from_utf8_lossy(&member.name).into_owned(),
                kind: "chunk",
                offset: places[chunk.block],
                chunk_offset: chunk.offset,
                chunk_size: chunk.size,
                chunk_digest: Some(chunk.digest.clone()),
                ..Listed::default()
            });
        }
    }
    Index {
        version: 1,
        entries: Some(entries),
        tarsplit: Some(tarsplit),
    }
}

fn exact(time: Time) -> Timestamp {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let base = if time.sec < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    let nanos = Duration::from_nanos(time.nsec.into());
    let exact = base.and_then(|base: SystemTime| base.checked_add(nanos));
    exact.map_or_else(|| Timestamp::from_seconds(time.sec), Timestamp::from)
}
