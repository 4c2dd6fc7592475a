//! The files of a mount as a text: one JSON object per line, compressed.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// A directory.
    #[serde(rename = "d")]
    Dir,
    /// A file, whose bytes come next in the stream.
    #[serde(rename = "f")]
    File,
    /// A symbolic link.
    #[serde(rename = "l")]
    Symlink,
    /// One more name of a file that came before.
    #[serde(rename = "h")]
    Hardlink,
    /// Bytes of the stream that belong to nothing: of a file that was written to when it was read.
    #[serde(rename = "-")]
    Nothing,
}

/// A path or a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Name {
    /// As almost all are.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Default for Name {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl Name {
    pub(super) fn of(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        let bytes = match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        };
        fstree::path::from_bytes(bytes).to_owned()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One entry. Directories come before what is in them; the first is the mount itself, with no path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "p", default)]
    pub(super) path: Name,
    #[serde(rename = "k")]
    pub(super) kind: Kind,
    /// Permission bits.
    #[serde(rename = "m", default)]
    pub(super) mode: u32,
    #[serde(rename = "u", default)]
    pub(super) uid: u32,
    #[serde(rename = "g", default)]
    pub(super) gid: u32,
    /// Nanoseconds since 1970.
    #[serde(rename = "t", default)]
    pub(super) mtime: i64,
    /// Bytes in the stream.
    #[serde(rename = "s", default, skip_serializing_if = "is_zero")]
    pub(super) size: u64,
    /// The target of a link.
    #[serde(rename = "l", default, skip_serializing_if = "Name::is_empty")]
    pub(super) link: Name,
    /// Extended attributes.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) attributes: Vec<(Name, Vec<u8>)>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Writes a tree.
pub(super) struct Writer(zstd::stream::write::Encoder<'static, Vec<u8>>);

impl Writer {
    pub(super) fn new() -> io::Result<Self> {
        zstd::stream::write::Encoder::new(Vec::new(), 3).map(Self)
    }

    pub(super) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, entry)?;
        self.0.write_all(b"\n")
    }

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        self.0.finish()
    }
}

/// A line is at most this long: many times what paths and attributes can be.
const LONGEST: u64 = 16 << 20;

/// Reads a tree.
pub(super) fn read(bytes: &[u8]) -> Result<impl Iterator<Item = Result<Entry, Error>>, Error> {
    let decoder = zstd::stream::read::Decoder::new(bytes).map_err(bad)?;
    let mut lines = BufReader::new(decoder);
    Ok(std::iter::from_fn(move || {
        let mut line = Vec::new();
        match lines.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Err(err) => Some(Err(bad(err))),
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_slice(&line).map_err(Error::json("cache mount"))),
        }
    }))
}

fn bad(err: io::Error) -> Error {
    Error::document(format!("failed to read cache mount: {err}"))
}
