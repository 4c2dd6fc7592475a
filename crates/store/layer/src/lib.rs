//! Trees to tar blobs and back: the layers of an image.
//!
//! [`diff`] reads a change and writes it as a layer into the content store, in one pass: walk, tar, diff id,
//! compression, digest. [`apply`] is the mirror. Both block: call them through `tasks::blocking`. What a layer belongs
//! to, and which blobs should be kept, is not known here.
//!
//! [`carve`] makes a layer of an overlay one that can lie anywhere.
//!
//! Invariant: the bytes of a blob depend on the tree and the options alone, never on the number of threads.

mod apply;
pub mod archive;
mod base;
mod carve;
mod chunked;
mod compress;
mod decompress;
mod diff;
mod error;
mod names;
mod options;
mod write;

use std::collections::BTreeSet;
use std::io::{BufRead, Read, Write};
use std::path::PathBuf;

use fstree::Root;
use oci::{Descriptor, Digest};
use tasks::Cx;

pub use base::{Base, Layers, Listing};
pub use carve::{carve, is_carved};
pub use error::Error;
pub use names::names;
pub use options::{
    Compression, Options, annotation, convert_media_type, is_nondistributable, parse_level,
};

/// A change to a tree.
#[derive(Debug, Clone)]
pub enum Change {
    /// The upper directory of an overlay: only what changed, with the kernel's marks for what was deleted.
    Overlay {
        /// What is below; absent: nothing is.
        lower: Option<Base>,
        /// The upper directory itself, not a mount of it.
        upper: Root,
    },
    /// Two whole trees.
    Trees {
        /// The tree before; absent: everything is new.
        lower: Option<Root>,
        /// The tree after.
        upper: Root,
    },
}

/// A layer in the content store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The blob, with the media type of its compression, and the annotations that belong to an index of files.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed stream: the archive, and the index of an eStargz layer behind it.
    pub diff_id: Digest,
    /// Bytes of that stream.
    pub uncompressed_size: u64,
}

/// Where a layer is unpacked.
#[derive(Debug, Clone)]
pub enum Target {
    /// Onto a tree, which may have content already: whiteouts remove things.
    Plain(PathBuf),
    /// Into an empty upper directory: whiteouts become the kernel's marks.
    Overlay {
        /// The upper directory.
        upper: PathBuf,
        /// The directories below, nearest first. Parents that the layer does not list look as they look there.
        lower: Vec<PathBuf>,
    },
}

/// Writes a change as a layer into `store`.
pub fn diff(
    cx: &Cx,
    change: &Change,
    options: &Options,
    store: &content::Store,
) -> Result<LayerBlob, Error> {
    compress::store(options, store, |out| write::write(cx, change, out))
}

/// Unpacks the layer `blob`, which must be in `store`, and verifies `diff_id` if it is known. Returns the diff id.
///
/// After a failure the target is in an undefined state.
pub fn apply(
    cx: &Cx,
    store: &content::Store,
    blob: &Descriptor,
    diff_id: Option<&Digest>,
    target: &Target,
) -> Result<Digest, Error> {
    let (actual, _) = unpack(cx, store, blob, diff_id, target)?;
    Ok(actual)
}

/// A layer that was unpacked into an upper directory before the layers below were there.
#[derive(Debug)]
#[must_use = "its directories look as they should only when it is finished"]
pub struct Ahead {
    upper: PathBuf,
    unlisted: BTreeSet<PathBuf>,
}

impl Ahead {
    /// The layers below are there, nearest first: parents that the layer does not list look as they look there.
    pub fn finish(self, lower: &[PathBuf]) -> Result<(), Error> {
        apply::complete(&self.upper, lower, &self.unlisted)
    }
}

/// Unpacks a layer like [`apply`] into an empty upper directory, while the layers below are being unpacked.
pub fn apply_ahead(
    cx: &Cx,
    store: &content::Store,
    blob: &Descriptor,
    diff_id: Option<&Digest>,
    upper: PathBuf,
) -> Result<Ahead, Error> {
    let target = Target::Overlay {
        upper: upper.clone(),
        lower: Vec::new(),
    };
    let (_, unlisted) = unpack(cx, store, blob, diff_id, &target)?;
    Ok(Ahead { upper, unlisted })
}

fn unpack(
    cx: &Cx,
    store: &content::Store,
    blob: &Descriptor,
    diff_id: Option<&Digest>,
    target: &Target,
) -> Result<(Digest, BTreeSet<PathBuf>), Error> {
    let file = store.open_blob(&blob.digest)?;
    let bad = reading(blob);
    let (unlisted, actual) =
        decompress::with_stream(file, |stream| apply::unpack(cx, stream, target, &bad))?;
    match diff_id {
        Some(expected) if *expected != actual => Err(Error::DiffId {
            actual,
            expected: expected.clone(),
        }),
        _ => Ok((actual, unlisted)),
    }
}

/// The same layer under another compression. It is made anew even if `blob` has that compression.
pub fn convert(
    cx: &Cx,
    store: &content::Store,
    blob: &Descriptor,
    options: &Options,
) -> Result<LayerBlob, Error> {
    remake(store, blob, options, |stream, out| {
        loop {
            cx.check()?;
            let bytes = stream.fill_buf().map_err(reading(blob))?;
            if bytes.is_empty() {
                return Ok(());
            }
            let len = bytes.len();
            out.write_all(bytes)
                .map_err(|source| Error::Write { source })?;
            stream.consume(len);
        }
    })
}

/// The same layer with no time later than `epoch`, in seconds since 1970. It is another layer, with a diff id of its
/// own.
pub fn clamp_times(
    cx: &Cx,
    store: &content::Store,
    blob: &Descriptor,
    epoch: i64,
    options: &Options,
) -> Result<LayerBlob, Error> {
    cx.check()?;
    remake(store, blob, options, |stream, out| {
        archive::clamp(stream, out, epoch).map_err(reading(blob))?;
        // Decompression is checked to the end of the blob.
        std::io::copy(stream, &mut std::io::sink()).map_err(reading(blob))?;
        Ok(())
    })
}

/// Stores what `change` makes of the uncompressed stream of a blob.
fn remake(
    store: &content::Store,
    blob: &Descriptor,
    options: &Options,
    change: impl FnOnce(&mut decompress::Chunks, &mut dyn Write) -> Result<(), Error>,
) -> Result<LayerBlob, Error> {
    // An index in the old blob is none of the new one's.
    let mut file = store.open_blob(&blob.digest)?;
    let payload = chunked::payload(&mut file).map_err(reading(blob))?;
    let file = file.take(payload);
    let (layer, _) = decompress::with_stream(file, |mut stream| {
        compress::store(options, store, |out| change(&mut stream, out))
    })?;
    Ok(layer)
}

fn reading(blob: &Descriptor) -> impl Fn(std::io::Error) -> Error + '_ {
    |source| Error::Read {
        digest: blob.digest.clone(),
        source,
    }
}
