//! Reads a blob whatever its compression, known by its first bytes, on a thread of its own.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use oci::{Digest, Hasher};

use crate::Compression;

const BUFFER: usize = 128 << 10;
/// Chunks that may wait between the threads.
const DEPTH: usize = 4;

/// The uncompressed stream of `blob`.
pub(crate) fn reader<'a>(blob: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut blob = BufReader::with_capacity(BUFFER, blob);
    Ok(match Compression::detect(blob.fill_buf()?) {
        Compression::Gzip | Compression::Estargz => {
            Box::new(flate2::bufread::MultiGzDecoder::new(blob))
        }
        Compression::Zstd | Compression::ZstdChunked => {
            Box::new(zstd::stream::read::Decoder::with_buffer(blob)?)
        }
        Compression::Uncompressed => Box::new(blob),
    })
}

/// Runs `consume` over the uncompressed stream of `blob`, which another thread decompresses and hashes. Returns the
/// digest of the stream along with what `consume` returns; it must read to the end.
pub(crate) fn with_stream<T, E>(
    blob: impl Read + Send,
    consume: impl FnOnce(Chunks) -> Result<T, E>,
) -> Result<(T, Digest), E> {
    std::thread::scope(|scope| {
        let (full, chunks) = sync_channel(DEPTH);
        let (give_back, spare) = sync_channel(DEPTH + 2);
        let hashing = scope.spawn(move || produce(blob, &full, &spare));
        let consumed = consume(Chunks {
            chunks,
            give_back,
            current: Vec::new(),
            used: 0,
        });
        let digest = match hashing.join() {
            Ok(digest) => digest,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok((consumed?, digest))
    })
}

/// Fills chunks until the stream ends or nobody wants them any more.
fn produce(
    blob: impl Read + Send,
    full: &SyncSender<io::Result<Vec<u8>>>,
    spare: &Receiver<Vec<u8>>,
) -> Digest {
    let mut hash = Hasher::new();
    let mut stream = match reader(blob) {
        Ok(stream) => stream,
        Err(err) => {
            let _ = full.send(Err(err));
            return hash.finish();
        }
    };
    loop {
        let mut chunk = spare.try_recv().unwrap_or_default();
        chunk.resize(BUFFER, 0);
        match stream.read(&mut chunk) {
            Ok(0) => return hash.finish(),
            Ok(len) => {
                chunk.truncate(len);
                hash.update(&chunk);
                if full.send(Ok(chunk)).is_err() {
                    return hash.finish();
                }
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => {
                let _ = full.send(Err(err));
                return hash.finish();
            }
        }
    }
}

/// A stream from one thread to another: what is written to the one is read from the other.
pub(crate) fn pipe() -> (Pipe, Chunks) {
    let (full, chunks) = sync_channel(DEPTH);
    let (give_back, spare) = sync_channel(DEPTH + 2);
    let pipe = Pipe {
        full,
        spare,
        current: Vec::new(),
        finished: false,
    };
    let chunks = Chunks {
        chunks,
        give_back,
        current: Vec::new(),
        used: 0,
    };
    (pipe, chunks)
}

/// The end of a pipe that is written to.
#[derive(Debug)]
pub(crate) struct Pipe {
    full: SyncSender<io::Result<Vec<u8>>>,
    spare: Receiver<Vec<u8>>,
    current: Vec<u8>,
    finished: bool,
}

impl Pipe {
    /// The stream is complete. Without this its reader gets an error at the end.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if !self.finished {
            // Nobody may be reading any more.
            let _ = self.full.send(Err(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.current.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        let taken = bytes.len().min(BUFFER);
        self.current.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.current.is_empty() {
            return Ok(());
        }
        let mut next = self.spare.try_recv().unwrap_or_default();
        next.clear();
        let chunk = std::mem::replace(&mut self.current, next);
        let sent = self.full.send(Ok(chunk));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The stream as the consuming thread reads it.
#[derive(Debug)]
pub(crate) struct Chunks {
    chunks: Receiver<io::Result<Vec<u8>>>,
    give_back: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    used: usize,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let len = bytes.len().min(out.len());
        out[..len].copy_from_slice(&bytes[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.used == self.current.len() {
            // The other side is done when it is gone.
            let Ok(chunk) = self.chunks.recv() else {
                return Ok(&[]);
            };
            let used = std::mem::replace(&mut self.current, chunk?);
            self.used = 0;
            // A buffer too many is dropped.
            let _ = self.give_back.try_send(used);
        }
        Ok(&self.current[self.used..])
    }

    fn consume(&mut self, len: usize) {
        self.used += len;
    }
}
