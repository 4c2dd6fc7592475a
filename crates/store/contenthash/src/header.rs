//! The text that stands for a file's metadata, and the hash of it with the content (section 4.1).

use std::fmt::Write as _;
use std::io;

use fstree::{Kind, Meta};
use sha2::{Digest as _, Sha256};

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sum(pub [u8; 32]);

impl Sum {
    /// The sum of no bytes.
    pub fn of_nothing() -> Self {
        Self::of(b"")
    }

    /// The sum of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// As a digest.
    pub fn digest(&self) -> oci::Digest {
        oci::Digest::from_sha256(&self.0)
    }

    /// The text of the digest, as it is hashed into lists.
    pub(crate) fn feed(&self, hash: &mut Sha256) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
        for (at, byte) in self.0.iter().enumerate() {
            text[7 + 2 * at] = DIGITS[usize::from(byte >> 4)];
            text[8 + 2 * at] = DIGITS[usize::from(byte & 15)];
        }
        hash.update(text);
    }
}

impl std::fmt::Debug for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.digest().as_str())
    }
}

/// The metadata of one file that counts. Name and times do not.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileHeader<'a> {
    /// `st_mode`, type bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size; counts for regular files (and sockets) only.
    pub size: u64,
    /// Target of a symbolic link; counts for nothing else.
    pub linkname: &'a [u8],
    /// Device numbers. Compat: from a stream as sent, from disk zero.
    pub devmajor: u64,
    /// See `devmajor`.
    pub devminor: u64,
}

impl<'a> FileHeader<'a> {
    /// The header of something on disk, as upstream reads it there.
    pub fn from_disk(meta: &Meta, linkname: &'a [u8]) -> Self {
        let permissions = if meta.is_symlink() { 0o777 } else { 0 };
        Self {
            mode: meta.mode | permissions,
            uid: meta.uid,
            gid: meta.gid,
            size: meta.size,
            linkname,
            devmajor: 0,
            devminor: 0,
        }
    }

    fn kind(&self) -> Kind {
        match self.mode & 0o170_000 {
            0o040_000 => Kind::Dir,
            0o120_000 => Kind::Symlink,
            0o020_000 => Kind::CharDevice,
            0o060_000 => Kind::BlockDevice,
            0o010_000 => Kind::Fifo,
            // A socket loses its type bit.
            _ => Kind::File,
        }
    }

    /// The bytes hashed before the content. `xattrs` in any order.
    pub fn bytes<N: AsRef<[u8]>, V: AsRef<[u8]>>(&self, xattrs: &[(N, V)]) -> Vec<u8> {
        let kind = self.kind();
        let typeflag = match kind {
            Kind::Dir => '5',
            Kind::Symlink => '2',
            Kind::CharDevice => '3',
            Kind::BlockDevice => '4',
            Kind::Fifo => '6',
            Kind::File | Kind::Socket => '0',
        };
        let size = if kind == Kind::File { self.size } else { 0 };
        let mut text = String::with_capacity(96);
        let written = write!(
            text,
            "namemode{}uid{}gid{}size{size}typeflag{typeflag}linkname",
            self.mode & 0o7777,
            self.uid,
            self.gid
        );
        debug_assert!(written.is_ok(), "text grows as needed");
        let mut bytes = text.into_bytes();
        if kind == Kind::Symlink {
            bytes.extend_from_slice(self.linkname);
        }
        let numbers = format!(
            "unamegnamedevmajor{}devminor{}",
            self.devmajor, self.devminor
        );
        bytes.extend_from_slice(numbers.as_bytes());
        let mut counted: Vec<(&[u8], &[u8])> = xattrs
            .iter()
            .map(|(name, value)| (name.as_ref(), value.as_ref()))
            .filter(|(name, _)| counts(name))
            .collect();
        counted.sort_unstable_by_key(|(name, _)| *name);
        for (name, value) in counted {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

fn counts(xattr: &[u8]) -> bool {
    xattr == b"security.capability"
        || !xattr.starts_with(b"security.") && !xattr.starts_with(b"system.")
}

/// Hashes one file while its content passes by.
#[derive(Debug, Clone)]
pub struct FileHasher(Sha256);

impl FileHasher {
    /// A hash that has taken the header.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(header: &FileHeader<'_>, xattrs: &[(N, V)]) -> Self {
        Self(Sha256::new_with_prefix(header.bytes(xattrs)))
    }

    /// Takes more content.
    pub fn update(&mut self, content: &[u8]) {
        self.0.update(content);
    }

    /// The record of the file.
    pub fn finish(self) -> Sum {
        Sum(self.0.finalize().into())
    }
}

impl io::Write for FileHasher {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.update(content);
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_described() {
        let header = FileHeader {
            mode: 0o100_644,
            size: 6,
            ..FileHeader::default()
        };
        let none: [(&str, &str); 0] = [];
        assert_eq!(
            String::from_utf8(header.bytes(&none)).expect("text"),
            "namemode420uid0gid0size6typeflag0linknameunamegnamedevmajor0devminor0"
        );
    }

    #[test]
    fn attributes_that_count_come_sorted() {
        let header = FileHeader {
            mode: 0o100_000,
            ..FileHeader::default()
        };
        let xattrs = [
            ("user.z", "1"),
            ("security.selinux", "no"),
            ("system.posix_acl_access", "no"),
            ("security.capability", "2"),
        ];
        let text = String::from_utf8(header.bytes(&xattrs)).expect("text");
        assert!(
            text.ends_with("devminor0security.capability2user.z1"),
            "{text}"
        );
    }
}
