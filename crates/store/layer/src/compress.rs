//! Takes an uncompressed stream, hashes it, compresses it in independent blocks on several threads, and stores the
//! result in order.
//!
//! A stream of one block never leaves the calling thread. With more, workers compress blocks as they come and one
//! thread writes the results in the order of the blocks; what is under way is bounded, so memory does not grow with
//! the stream. Block limits depend on the stream alone, so the result does not depend on the number of threads.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use libdeflater::{CompressionLvl, Compressor};
use oci::{Descriptor, Hasher};

use crate::{Compression, Error, LayerBlob, Options, chunked};

/// Uncompressed bytes of a gzip member.
const GZIP_BLOCK: usize = 1 << 20;
/// Uncompressed bytes of a zstd frame; larger, because matches reach further.
const ZSTD_BLOCK: usize = 2 << 20;
const MAX_THREADS: usize = 8;

/// Stores what `produce` writes, compressed. Whatever `produce` fails with is returned.
pub(crate) fn store(
    options: &Options,
    store: &content::Store,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<LayerBlob, Error> {
    store_with(options, tasks::cores().min(MAX_THREADS), store, produce)
}

pub(crate) fn store_with(
    options: &Options,
    threads: usize,
    store: &content::Store,
    produce: impl FnOnce(&mut dyn Write) -> Result<(), Error>,
) -> Result<LayerBlob, Error> {
    let mut out = store.writer(None)?;
    let mut annotations = Vec::new();
    let (stored, diff_id, uncompressed_size) = match options.compression {
        Compression::Uncompressed => {
            produce(&mut out)?;
            let stored = out.commit()?;
            let diff_id = stored.0.clone();
            let size = stored.1;
            (stored, diff_id, size)
        }
        Compression::Gzip | Compression::Zstd => {
            let written = std::thread::scope(|scope| {
                let codec = Codec::new(options)?;
                let mut blocks = Blocks::new(scope, codec, codec.block(), threads, out);
                let produced = produce(&mut blocks);
                blocks.finish(produced)
            })?;
            let stored = written.out.commit()?;
            (stored, written.hash.finish(), written.size)
        }
        Compression::Estargz | Compression::ZstdChunked => {
            let made = chunked::write(options, threads, out, produce)?;
            annotations = made.annotations;
            (made.out.commit()?, made.diff_id, made.size)
        }
    };
    let (digest, size) = stored;
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let media_type = options.compression.media_type(options.oci_types);
    let mut descriptor = Descriptor::new(media_type, digest, size);
    descriptor.annotations.extend(annotations);
    Ok(LayerBlob {
        descriptor,
        diff_id,
        uncompressed_size,
    })
}

/// A compression with its level.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Codec {
    Gzip(CompressionLvl),
    Zstd(i32),
}

impl Codec {
    /// Compat: only who makes a layer finds out that there is no such level (util/compression/gzip.go).
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(match options.compression {
            Compression::Zstd | Compression::ZstdChunked => {
                let most = *zstd::compression_level_range().end();
                let level = options
                    .level
                    .map_or(zstd::DEFAULT_COMPRESSION_LEVEL, |level| {
                        i32::try_from(level.clamp(1, most.into())).unwrap_or(most)
                    });
                Self::Zstd(level)
            }
            Compression::Gzip | Compression::Estargz | Compression::Uncompressed => {
                // Level 1 of this encoder is smaller than the default of Go's, which it replaces, and 1.5 times as
                // fast. Compat: -1 asks for the default, -2 for speed.
                let level = match options.level {
                    None | Some(-2 | -1) => 1,
                    Some(level @ 0..=9) => level as i32,
                    Some(level) => return Err(Error::Level { level }),
                };
                Self::Gzip(CompressionLvl::new(level).unwrap_or_default())
            }
        })
    }

    fn block(self) -> usize {
        match self {
            Self::Gzip(_) => GZIP_BLOCK,
            Self::Zstd(_) => ZSTD_BLOCK,
        }
    }

    pub(crate) fn encoder(self) -> io::Result<Encoder> {
        Ok(match self {
            Self::Gzip(level) => Encoder::Gzip {
                packing: Compressor::new(level),
                storing: None,
            },
            Self::Zstd(level) => Encoder::Zstd(zstd::bulk::Compressor::new(level)?),
        })
    }
}

pub(crate) enum Encoder {
    Gzip {
        packing: Compressor,
        /// For what does not become smaller.
        storing: Option<Compressor>,
    },
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Encoder {
    /// Replaces `out` with a complete member or frame.
    pub(crate) fn encode(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::Gzip { packing, storing } => {
                let encoder = if is_packed(packing, block, out)? {
                    storing.get_or_insert_with(|| {
                        Compressor::new(CompressionLvl::new(0).unwrap_or_default())
                    })
                } else {
                    packing
                };
                out.resize(encoder.gzip_compress_bound(block.len()), 0);
                let len = encoder
                    .gzip_compress(block, out)
                    .map_err(|err| io::Error::other(err.to_string()))?;
                out.truncate(len);
                // Compat: upstream's members do not tell how hard the encoder tried.
                out[8] = 0;
                Ok(())
            }
            Self::Zstd(encoder) => {
                out.clear();
                out.reserve(zstd::zstd_safe::compress_bound(block.len()));
                encoder.compress_to_buffer(block, out)?;
                Ok(())
            }
        }
    }
}

/// A part of a block that stands for it, and how many there are. Parts are half as long as matches reach.
const SAMPLE: usize = 16 << 10;
const SAMPLES: usize = 4;

/// Whether a block is packed already, as archives, images and random numbers are: to try costs most there and wins
/// nothing. Told from samples, so the same block is always treated the same.
fn is_packed(encoder: &mut Compressor, block: &[u8], out: &mut Vec<u8>) -> io::Result<bool> {
    if block.len() < 4 * SAMPLES * SAMPLE {
        return Ok(false);
    }
    out.resize(encoder.deflate_compress_bound(SAMPLE), 0);
    for sample in block.chunks(block.len() / SAMPLES).take(SAMPLES) {
        let packed = encoder
            .deflate_compress(&sample[..SAMPLE], out)
            .map_err(|err| io::Error::other(err.to_string()))?;
        if packed < SAMPLE - SAMPLE / 64 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A block on its way to a worker, and where its result goes.
struct Job {
    block: Vec<u8>,
    result: SyncSender<io::Result<Vec<u8>>>,
}

/// A blob all blocks of which are written.
pub(crate) struct Written {
    pub(crate) out: content::Writer,
    /// Compressed bytes of each block.
    pub(crate) lengths: Vec<u64>,
    /// Of the stream.
    pub(crate) hash: Hasher,
    /// Bytes of the stream.
    pub(crate) size: u64,
}

type Output = (content::Writer, Vec<u64>);

/// What runs beside the producer once there is more than one block.
struct Running<'scope> {
    jobs: SyncSender<Job>,
    results: SyncSender<Receiver<io::Result<Vec<u8>>>>,
    writer: ScopedJoinHandle<'scope, Result<Output, Error>>,
    /// Buffers of blocks that are done with.
    spare: Receiver<Vec<u8>>,
}

/// A stream on its way into a blob.
pub(crate) struct Blocks<'scope, 'env> {
    scope: &'scope Scope<'scope, 'env>,
    codec: Codec,
    /// Bytes of the largest block.
    limit: usize,
    /// Blocks that were sent away.
    cuts: usize,
    threads: usize,
    hash: Hasher,
    size: u64,
    block: Vec<u8>,
    /// Taken by the writing thread when it starts.
    out: Option<content::Writer>,
    running: Option<Running<'scope>>,
}

impl<'scope> Blocks<'scope, '_> {
    pub(crate) fn new<'env>(
        scope: &'scope Scope<'scope, 'env>,
        codec: Codec,
        limit: usize,
        threads: usize,
        out: content::Writer,
    ) -> Blocks<'scope, 'env> {
        Blocks {
            scope,
            codec,
            limit,
            cuts: 0,
            threads: threads.max(1),
            hash: Hasher::new(),
            size: 0,
            block: Vec::new(),
            out: Some(out),
            running: None,
        }
    }

    fn start(&mut self, out: content::Writer) -> Running<'scope> {
        let depth = self.threads;
        let (jobs, queue) = sync_channel::<Job>(depth);
        let (results, ordered) = sync_channel(depth);
        let (give_back, spare) = sync_channel(depth + self.threads);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..self.threads {
            let (queue, give_back, codec) = (queue.clone(), give_back.clone(), self.codec);
            self.scope.spawn(move || work(codec, &queue, &give_back));
        }
        let writer = self.scope.spawn(move || write(out, ordered));
        Running {
            jobs,
            results,
            writer,
            spare,
        }
    }

    /// What comes next begins a block. Returns the number of that block.
    pub(crate) fn begin_block(&mut self) -> io::Result<usize> {
        if !self.block.is_empty() {
            self.cut()?;
        }
        Ok(self.cuts)
    }

    /// Sends the gathered block away.
    fn cut(&mut self) -> io::Result<()> {
        if let Some(out) = self.out.take() {
            self.running = Some(self.start(out));
        }
        let Some(running) = &self.running else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        self.cuts += 1;
        let next = running.spare.try_recv().unwrap_or_default();
        let block = std::mem::replace(&mut self.block, next);
        self.block.clear();
        let (result, receiver) = sync_channel(1);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        running.results.send(receiver).map_err(|_| gone(()))?;
        running
            .jobs
            .send(Job { block, result })
            .map_err(|_| gone(()))
    }

    /// Completes the blob, unless the producer or the writer failed.
    pub(crate) fn finish(mut self, produced: Result<(), Error>) -> Result<Written, Error> {
        let (out, lengths) = match self.out.take() {
            Some(out) => {
                produced?;
                self.write_only_block(out)?
            }
            None => {
                // A failed write makes the producer fail as well, but only the writer knows why.
                let out = self.join()?;
                produced?;
                out
            }
        };
        Ok(Written {
            out,
            lengths,
            hash: self.hash,
            size: self.size,
        })
    }

    fn write_only_block(&self, mut out: content::Writer) -> Result<Output, Error> {
        let mut bytes = Vec::new();
        let mut encode = || -> io::Result<()> {
            self.codec.encoder()?.encode(&self.block, &mut bytes)?;
            out.write_all(&bytes)
        };
        encode().map_err(|source| Error::Write { source })?;
        Ok((out, vec![bytes.len() as u64]))
    }

    /// Waits for everything that is under way.
    fn join(&mut self) -> Result<Output, Error> {
        if !self.block.is_empty() {
            // When this fails the writer is gone, and says why below.
            let _ = self.cut();
        }
        let running = self.running.take().ok_or_else(|| Error::Write {
            source: io::ErrorKind::BrokenPipe.into(),
        })?;
        drop(running.jobs);
        drop(running.results);
        match running.writer.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Write for Blocks<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == self.limit {
            self.cut()?;
        }
        let taken = bytes.len().min(self.limit - self.block.len());
        self.hash.update(&bytes[..taken]);
        self.size += taken as u64;
        self.block.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(codec: Codec, queue: &Mutex<Receiver<Job>>, give_back: &SyncSender<Vec<u8>>) {
    let mut encoder = codec.encoder();
    // Results wait for their turn in no more memory than they need.
    let mut scratch = Vec::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { block, result }) = job else {
            return;
        };
        let encoded = match &mut encoder {
            Ok(encoder) => {
                let encoded = encoder.encode(&block, &mut scratch);
                encoded.map(|()| scratch.as_slice().to_vec())
            }
            Err(err) => Err(io::Error::new(err.kind(), err.to_string())),
        };
        // Nobody may be waiting any more: the writer failed, or all buffers are back.
        let _ = result.send(encoded);
        let _ = give_back.try_send(block);
    }
}

fn write(
    mut out: content::Writer,
    ordered: Receiver<Receiver<io::Result<Vec<u8>>>>,
) -> Result<Output, Error> {
    let mut lengths = Vec::new();
    for result in ordered {
        let bytes = result
            .recv()
            .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
        bytes
            .and_then(|bytes| {
                lengths.push(bytes.len() as u64);
                out.write_all(&bytes)
            })
            .map_err(|source| Error::Write { source })?;
    }
    Ok((out, lengths))
}

#[cfg(test)]
mod tests {
    use oci::Digest;

    use super::*;
    use crate::decompress;

    fn stream(size: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..size)
            .map(|at| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if at % 7 < 3 {
                    (state >> 24) as u8
                } else {
                    b'a'
                }
            })
            .collect()
    }

    fn check(compression: Compression, size: usize) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let blobs = content::Store::open(dir.path()).expect("a store");
        let options = Options {
            compression,
            ..Options::default()
        };
        let bytes = stream(size);
        let store_on = |threads| {
            store_with(&options, threads, &blobs, |out| {
                for piece in bytes.chunks(100_000) {
                    out.write_all(piece)
                        .map_err(|source| Error::Write { source })?;
                }
                Ok(())
            })
            .expect("stored")
        };
        let one = store_on(1);
        assert_eq!(one, store_on(3));
        assert_eq!(one.diff_id, Digest::of(&bytes));
        assert_eq!(one.uncompressed_size, size as u64);
        let blob = blobs.read(&one.descriptor.digest).expect("a blob");
        assert_eq!(
            one.descriptor.size,
            i64::try_from(blob.len()).expect("small")
        );
        assert_eq!(Compression::detect(&blob), compression);
        let mut back = Vec::new();
        let mut reader = decompress::reader(&*blob).expect("a reader");
        io::copy(&mut reader, &mut back).expect("readable");
        assert!(back == bytes);
    }

    #[test]
    fn streams_of_any_length_come_back_and_threads_do_not_matter() {
        for compression in [
            Compression::Gzip,
            Compression::Zstd,
            Compression::Uncompressed,
        ] {
            for size in [0, 1, GZIP_BLOCK, GZIP_BLOCK + 1, 5 * GZIP_BLOCK + 77] {
                if size > 0 || compression != Compression::Uncompressed {
                    check(compression, size);
                }
            }
        }
    }

    #[test]
    fn what_is_packed_already_is_stored_as_it_is() {
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        let mut block: Vec<u8> = (0..GZIP_BLOCK).map(|_| random()).collect();
        let codec = Codec::new(&Options::default()).expect("a codec");
        let mut encoder = codec.encoder().expect("an encoder");
        let mut packed = |block: &[u8]| {
            let mut out = Vec::new();
            encoder.encode(block, &mut out).expect("encoded");
            let mut back = Vec::new();
            let mut reader = decompress::reader(&*out).expect("a reader");
            io::copy(&mut reader, &mut back).expect("readable");
            assert!(back == block);
            out.len()
        };
        let more = packed(&block) - block.len();
        assert!(more < 200, "{more}");
        // A quarter of it can be packed.
        block[GZIP_BLOCK / 4..GZIP_BLOCK / 2].fill(b'a');
        assert!(packed(&block) < GZIP_BLOCK * 4 / 5);
    }

    #[test]
    fn gzip_members_tell_nothing_about_time_name_or_effort() {
        let mut out = Vec::new();
        for level in [1, 6, 9] {
            let codec = Codec::Gzip(CompressionLvl::new(level).expect("a level"));
            let mut encoder = codec.encoder().expect("an encoder");
            encoder.encode(b"hello", &mut out).expect("encoded");
            assert_eq!(out[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        }
    }

    #[test]
    fn gzip_has_the_levels_of_go_and_zstd_takes_any() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let blobs = content::Store::open(dir.path()).expect("a store");
        let made = |compression, level| {
            let options = Options {
                compression,
                level: Some(level),
                ..Options::default()
            };
            // The end of an archive without members.
            store(&options, &blobs, |out| {
                out.write_all(&[0; 1024])
                    .map_err(|source| Error::Write { source })
            })
        };
        for compression in [Compression::Gzip, Compression::Estargz] {
            for level in [-2, -1, 0, 1, 9] {
                made(compression, level).expect("a layer");
            }
            for level in [-3, 10, i64::MIN, i64::MAX] {
                let err = made(compression, level).expect_err("refused");
                let said = format!(
                    "failed to get compressed stream: gzip: invalid compression level: {level}"
                );
                assert_eq!(fault::chain(&err), said);
                assert_eq!(fault::Classify::class(&err), fault::Class::User);
            }
        }
        for compression in [
            Compression::Zstd,
            Compression::ZstdChunked,
            Compression::Uncompressed,
        ] {
            for level in [i64::MIN, -3, 0, 10, 1 << 32, i64::MAX] {
                made(compression, level).expect("a layer");
            }
        }
    }

    #[test]
    fn what_the_producer_fails_with_is_what_one_gets() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let blobs = content::Store::open(dir.path()).expect("a store");
        let failed = store_with(&Options::default(), 2, &blobs, |out| {
            out.write_all(&stream(3 * GZIP_BLOCK))
                .map_err(|source| Error::Write { source })?;
            Err(Error::Redirect)
        });
        assert!(matches!(failed, Err(Error::Redirect)));
        assert!(blobs.list().expect("a list").is_empty());
    }
}
