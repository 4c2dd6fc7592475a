//! Readers for compressed files, chosen by their first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::thread::JoinHandle;

const BUFFER: usize = 64 << 10;

/// The content of a file, decompressed if it is gzip, bzip2, xz or zstd.
pub(crate) fn reader(file: File) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(BUFFER, file);
    let start = file.fill_buf()?;
    Ok(match kind(start) {
        Kind::Plain => Box::new(file),
        Kind::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Kind::Bzip2 => Box::new(bzip2_rs::DecoderReader::new(file)),
        Kind::Xz => Box::new(Xz::new(file)?),
        Kind::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(file)?),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

fn kind(start: &[u8]) -> Kind {
    const SKIPPABLE: u32 = 0x184D_2A50;
    let number = start
        .first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes));
    match start {
        [0x42, 0x5A, 0x68, ..] => Kind::Bzip2,
        [0x1F, 0x8B, 0x08, ..] => Kind::Gzip,
        [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00, ..] => Kind::Xz,
        [0x28, 0xB5, 0x2F, 0xFD, ..] => Kind::Zstd,
        _ if start.len() >= 8 && number & !0xF == SKIPPABLE => Kind::Zstd,
        _ => Kind::Plain,
    }
}

/// Xz, whose decoder wants to write: it does so into a pipe, on a thread of its own.
struct Xz {
    pipe: Option<File>,
    worker: Option<JoinHandle<io::Result<()>>>,
}

impl Xz {
    fn new(mut source: BufReader<File>) -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let worker = std::thread::Builder::new()
            .name("xz".to_owned())
            .spawn(move || {
                let mut pipe = io::BufWriter::with_capacity(BUFFER, File::from(write));
                lzma_rs::xz_decompress(&mut source, &mut pipe).map_err(|err| match err {
                    lzma_rs::error::Error::IoError(err) => err,
                    other => io::Error::new(io::ErrorKind::InvalidData, format!("{other:?}")),
                })?;
                io::Write::flush(&mut pipe)
            })?;
        Ok(Self {
            pipe: Some(File::from(read)),
            worker: Some(worker),
        })
    }

    fn join(&mut self) -> io::Result<()> {
        match self.worker.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Read for Xz {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(0);
        };
        let len = pipe.read(buffer)?;
        if len == 0 && !buffer.is_empty() {
            self.join()?;
        }
        Ok(len)
    }
}

impl Drop for Xz {
    fn drop(&mut self) {
        // The worker stops at its next write when nobody reads.
        self.pipe = None;
        if let Err(error) = self.join() {
            tracing::trace!(%error, "xz stream left early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_the_first_bytes() {
        for (start, wanted) in [
            (&b"\x1f\x8b\x08"[..], Kind::Gzip),
            (b"BZh9", Kind::Bzip2),
            (b"\xfd7zXZ\0", Kind::Xz),
            (b"\x28\xb5\x2f\xfd", Kind::Zstd),
            (b"\x51\x2a\x4d\x18\0\0\0\0", Kind::Zstd),
            (b"\x51\x2a\x4d\x18", Kind::Plain),
            (b"plain", Kind::Plain),
            (b"", Kind::Plain),
        ] {
            assert_eq!(kind(start), wanted, "{start:?}");
        }
    }
}
