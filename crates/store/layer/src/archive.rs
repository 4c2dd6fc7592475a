//! Tar archives. Written byte for byte as Go's writer does when asked for PAX: plain USTAR where everything fits, one
//! extended header where it does not, never a GNU extension. Read in every dialect in use.

mod block;
mod clamp;
mod read;

use std::io::{self, Read, Write};

pub use block::Kind;
pub(crate) use clamp::clamp;
pub use read::{Member, MemberKind, Reader};

const BLOCK: u64 = 512;
const ZEROS: [u8; 1024] = [0; 1024];
/// Content is read in pieces of this size.
const BUFFER: usize = 128 << 10;

/// What is written before the content of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Path in the archive; directories end in a slash.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content that follow.
    pub size: u64,
    /// Last change, in whole seconds since 1970.
    pub mtime: i64,
    /// Target of a symbolic link, or the earlier name of a hard link.
    pub link: Vec<u8>,
    /// Number of a device node.
    pub device: fstree::Device,
    /// Extended attributes, by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Header {
    /// A member of root's, of 1970, without content.
    pub fn new(name: impl Into<Vec<u8>>, kind: Kind, mode: u32) -> Self {
        Self {
            name: name.into(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            link: Vec::new(),
            device: fstree::Device::default(),
            xattrs: Vec::new(),
        }
    }
}

/// Writes members one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    /// Content the last header announced and that has not come yet.
    missing: u64,
    padding: usize,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            missing: 0,
            padding: 0,
            buffer: Vec::new(),
        }
    }

    /// Starts a member. Its content must follow through [`Writer::content`] or [`Writer::copy`] if it has any.
    pub fn member(&mut self, header: &Header) -> io::Result<()> {
        debug_assert_eq!(self.missing, 0, "the last member is complete");
        self.out.write_all(&block::encode(header)?)?;
        self.missing = header.size;
        let over = usize::try_from(header.size % BLOCK).unwrap_or(0);
        self.padding = if over == 0 { 0 } else { 512 - over };
        Ok(())
    }

    /// The content of the last member, or a piece of it.
    pub fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.missing.checked_sub(bytes.len() as u64);
        self.missing = left.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "more content than announced")
        })?;
        self.out.write_all(bytes)?;
        if self.missing == 0 {
            self.out.write_all(&ZEROS[..self.padding])?;
            self.padding = 0;
        }
        Ok(())
    }

    /// The whole content of the last member. An `UnexpectedEof` when there is less than was announced; what is beyond
    /// is not read.
    pub fn copy(&mut self, mut from: impl Read) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(BUFFER, 0);
        while self.missing > 0 {
            let room = usize::try_from(self.missing).map_or(BUFFER, |left| left.min(BUFFER));
            match from.read(&mut buffer[..room]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => self.content(&buffer[..len])?,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Writes the end of the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&ZEROS)?;
        Ok(self.out)
    }
}
