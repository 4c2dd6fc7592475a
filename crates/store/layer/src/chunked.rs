//! Layers whose files can be read one by one: eStargz and zstd:chunked.
//!
//! Both are ordinary blobs of their compression for whoever does not know better. The archive passes through as it is;
//! blocks begin where the content of a file does, and behind the archive follow an index of the files and a fixed
//! number of bytes that say where it is.
//!
//! 1. The producer writes the archive into a pipe; a thread reads members from it, and everything it reads goes on
//!    into blocks.
//! 2. Content is cut into chunks, each of which begins a block: after 4 MiB in eStargz (Compat: as stargz-snapshotter
//!    cuts), where the content says so in zstd:chunked, so that a change in a file leaves most of its chunks alone.
//! 3. When all blocks are written their places are known, and with them the index.

mod index;
mod tarsplit;

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use oci::{Digest, Hasher};

use crate::archive::{Kind, Member, MemberKind, Reader};
use crate::compress::{Blocks, Codec, Written};
use crate::decompress::{self, Chunks};
use crate::{Compression, Error, Options};
use tarsplit::TarSplit;

/// Bytes of the largest chunk of a file.
const CHUNK: u64 = 4 << 20;
/// Bytes of the largest block: a chunk and the headers behind it.
const BLOCK: usize = 5 << 20;
/// Blocks are large; more threads would hold more of them.
const MAX_THREADS: usize = 4;
/// What the file with the index of an eStargz layer is called.
const TOC_NAME: &[u8] = b"stargz.index.json";

/// A blob that is complete but for its name.
pub(crate) struct Made {
    pub(crate) out: content::Writer,
    pub(crate) diff_id: Digest,
    /// Bytes of the stream.
    pub(crate) size: u64,
    pub(crate) annotations: Vec<(String, String)>,
}

/// A part of a file.
#[derive(Debug, Clone)]
struct Chunk {
    /// Number of the block it begins.
    block: usize,
    offset: u64,
    size: u64,
    digest: Digest,
}

/// A member of the archive.
struct Entry {
    member: Member,
    kind: Kind,
    /// Of the content.
    digest: Option<Digest>,
    chunks: Vec<Chunk>,
    /// Number of the block behind the content.
    end: usize,
}

/// Writes the archive that `produce` makes, with an index.
pub(crate) fn write(
    options: &Options,
    threads: usize,
    out: content::Writer,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<Made, Error> {
    let codec = Codec::new(options)?;
    let compression = options.compression;
    let threads = threads.min(MAX_THREADS);
    let split = std::thread::scope(|scope| {
        let (mut pipe, chunks) = decompress::pipe();
        let blocks = Blocks::new(scope, codec, BLOCK, threads, out);
        let splitting = scope.spawn(move || split(chunks, blocks, compression, codec));
        let written = |source| Error::Write { source };
        let produced = produce(&mut pipe).and_then(|()| pipe.finish().map_err(written));
        let split = match splitting.join() {
            Ok(split) => split,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match (produced, split) {
            (Ok(()), split) => split,
            // Only the other thread knows why it reads no more.
            (Err(Error::Write { source }), Err(why))
                if source.kind() == io::ErrorKind::BrokenPipe =>
            {
                Err(why)
            }
            (Err(failed), _) => Err(failed),
        }
    })?;
    let finished = match compression {
        Compression::Estargz => index::estargz(codec, split),
        _ => index::zstd(codec, split),
    };
    finished.map_err(|source| Error::Write { source })
}

/// The archive in blocks, and what was learnt on the way.
struct Split {
    written: Written,
    entries: Vec<Entry>,
    tarsplit: Option<TarSplit>,
}

fn split(
    chunks: Chunks,
    blocks: Blocks<'_, '_>,
    compression: Compression,
    codec: Codec,
) -> Result<Split, Error> {
    let mut splitter = Splitter {
        reader: Reader::new(Tee {
            input: chunks,
            blocks,
            failed: None,
            headers: Vec::new(),
            in_content: false,
        }),
        compression,
        entries: Vec::new(),
        tarsplit: None,
    };
    let wanted = || Error::archive("eStargz and zstd:chunked need a tar archive");
    let result = match (compression, codec) {
        (Compression::ZstdChunked, Codec::Zstd(level)) => TarSplit::new(level)
            .map(|tarsplit| splitter.tarsplit = Some(tarsplit))
            .and_then(|()| splitter.run()),
        _ => splitter.run(),
    };
    let tee = splitter.reader.into_inner();
    // The blocks know best why writing failed.
    let told = match (tee.failed, result) {
        (Some(source), _) => Err(Error::Write { source }),
        (None, Err(source)) if source.kind() == io::ErrorKind::Unsupported => {
            Err(Error::archive(source.to_string()))
        }
        (None, Err(source)) if source.kind() == io::ErrorKind::InvalidData => Err(wanted()),
        (None, Err(source)) => Err(Error::Write { source }),
        (None, Ok(())) => Ok(()),
    };
    Ok(Split {
        written: tee.blocks.finish(told)?,
        entries: splitter.entries,
        tarsplit: splitter.tarsplit,
    })
}

struct Splitter<'scope, 'env> {
    reader: Reader<Tee<'scope, 'env>>,
    compression: Compression,
    entries: Vec<Entry>,
    tarsplit: Option<TarSplit>,
}

impl Splitter<'_, '_> {
    fn run(&mut self) -> io::Result<()> {
        while let Some(member) = self.reader.next_member()? {
            let kind = match member.kind {
                MemberKind::Known(kind) if !member.is_sparse() => kind,
                MemberKind::Global => continue,
                // Compat: upstream's words, but for the flag.
                _ => return Err(unsupported("unsupported input tar entry")),
            };
            if self.compression == Compression::Estargz && is_index(&member.name) {
                let text = "existing TOC JSON is not allowed; decompress layer before append";
                return Err(unsupported(text));
            }
            self.member(member, kind)?;
        }
        let tee = self.reader.input();
        loop {
            let len = tee.fill_buf()?.len();
            if len == 0 {
                break;
            }
            tee.consume(len);
        }
        let rest = std::mem::take(&mut tee.headers);
        if let Some(tarsplit) = &mut self.tarsplit {
            tarsplit.segment(&rest)?;
        }
        Ok(())
    }

    fn member(&mut self, member: Member, kind: Kind) -> io::Result<()> {
        let headers = std::mem::take(&mut self.reader.input().headers);
        if let Some(tarsplit) = &mut self.tarsplit {
            tarsplit.segment(&headers)?;
        }
        let mut entry = Entry {
            member,
            kind,
            digest: None,
            chunks: Vec::new(),
            end: 0,
        };
        let mut sum = self.tarsplit.is_some().then(tarsplit::Crc64::new);
        if kind == Kind::File {
            self.reader.input().in_content = true;
            let done = self.content(&mut entry, &mut sum);
            self.reader.input().in_content = false;
            done?;
        }
        if let (Some(tarsplit), Some(sum)) = (&mut self.tarsplit, sum) {
            tarsplit.file(&entry.member.name, entry.member.size, sum)?;
        }
        self.entries.push(entry);
        Ok(())
    }

    fn content(&mut self, entry: &mut Entry, sum: &mut Option<tarsplit::Crc64>) -> io::Result<()> {
        let (mut hash, mut whole) = (Hasher::new(), None::<Hasher>);
        let (mut offset, mut done) = (0, 0);
        let mut cutter = Cutter::new(self.compression);
        let size = entry.member.size;
        if size > 0 {
            entry.end = self.reader.input().begin_block()?;
        }
        while done < size {
            let bytes = self.reader.stored()?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (len, is_end) = cutter.next(bytes);
            let bytes = &bytes[..len];
            hash.update(bytes);
            if let Some(whole) = &mut whole {
                whole.update(bytes);
            }
            if let Some(sum) = sum {
                sum.update(bytes);
            }
            self.reader.used(len);
            done += len as u64;
            if !is_end && done < size {
                continue;
            }
            if done < size && whole.is_none() {
                whole = Some(hash.clone());
            }
            entry.chunks.push(Chunk {
                block: entry.end,
                offset,
                size: done - offset,
                digest: std::mem::take(&mut hash).finish(),
            });
            offset = done;
            if done < size || self.compression == Compression::ZstdChunked {
                entry.end = self.reader.input().begin_block()?;
            }
        }
        entry.digest = Some(match (whole, entry.chunks.last()) {
            (Some(whole), _) => whole.finish(),
            (None, Some(only)) => only.digest.clone(),
            (None, None) => hash.finish(),
        });
        Ok(())
    }
}

fn unsupported(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, text)
}

fn is_index(name: &[u8]) -> bool {
    fstree::path::clean(&[b"/", name].concat())[1..] == *TOC_NAME
}

/// Says where chunks end.
struct Cutter {
    by_content: bool,
    /// Bytes of the current chunk.
    len: u64,
    rolling: u64,
}

/// Ends of chunks by content are this far apart at least, and by chance four times that.
const NEAREST: u64 = 64 << 10;
const RARE: u64 = (1 << 18) - 1;

/// A number for each byte, for a hash that forgets what is more than 64 bytes ago.
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let (mut at, mut state) = (0, 0_u64);
    while at < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
};

impl Cutter {
    fn new(compression: Compression) -> Self {
        Self {
            by_content: compression == Compression::ZstdChunked,
            len: 0,
            rolling: 0,
        }
    }

    /// How many of these bytes belong to the current chunk, and whether it ends with them.
    fn next(&mut self, bytes: &[u8]) -> (usize, bool) {
        let room = usize::try_from(CHUNK - self.len).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        if self.by_content {
            for (at, byte) in bytes.iter().enumerate() {
                self.rolling = (self.rolling << 1).wrapping_add(GEAR[usize::from(*byte)]);
                let len = self.len + at as u64 + 1;
                // The high bits have seen the most bytes.
                if self.rolling >> 40 & RARE == 0 && len >= NEAREST {
                    *self = Self { len: 0, ..*self };
                    return (at + 1, true);
                }
            }
        }
        self.len += bytes.len() as u64;
        let is_full = self.len == CHUNK;
        if is_full {
            self.len = 0;
        }
        (bytes.len(), is_full)
    }
}

/// Passes on what is read.
struct Tee<'scope, 'env> {
    input: Chunks,
    blocks: Blocks<'scope, 'env>,
    failed: Option<io::Error>,
    /// What is no content, since the last member.
    headers: Vec<u8>,
    in_content: bool,
}

impl Tee<'_, '_> {
    fn begin_block(&mut self) -> io::Result<usize> {
        self.check()?;
        let begun = self.blocks.begin_block();
        begun.map_err(|err| self.fail(err))
    }

    /// Keeps the error for the one who asks last.
    fn fail(&mut self, err: io::Error) -> io::Error {
        self.failed = Some(err);
        io::ErrorKind::BrokenPipe.into()
    }

    fn check(&self) -> io::Result<()> {
        match self.failed {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Read for Tee<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let len = bytes.len().min(out.len());
        out[..len].copy_from_slice(&bytes[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Tee<'_, '_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        self.input.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        let passed = match self.input.fill_buf() {
            Ok(bytes) => {
                let bytes = &bytes[..len];
                if !self.in_content {
                    self.headers.extend_from_slice(bytes);
                }
                self.blocks.write_all(bytes)
            }
            Err(err) => Err(err),
        };
        if let Err(err) = passed {
            self.failed = Some(err);
        }
        self.input.consume(len);
    }
}

/// Bytes of a blob without the index that eStargz has behind the archive.
pub(crate) fn payload(blob: &mut File) -> io::Result<u64> {
    let size = blob.metadata()?.len();
    let mut footer = [0; index::ESTARGZ_FOOTER];
    if size < footer.len() as u64 {
        return Ok(size);
    }
    blob.seek(SeekFrom::Start(size - footer.len() as u64))?;
    blob.read_exact(&mut footer)?;
    blob.rewind()?;
    let toc = index::estargz_offset(&footer).filter(|toc| *toc < size);
    Ok(toc.unwrap_or(size))
}

#[cfg(test)]
mod tests;
