//! How fast layers are made and unpacked: `measure DIR [COMPRESSION]` makes a layer of a folder and unpacks it.
//!
//! Run with `--release`, as root, twice: the first time reads the folder from the disk.

use std::time::Instant;

use layer::{Change, Compression, Options, Target};
use tasks::Cx;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("which folder?")?;
    let only = std::env::args().nth(2);
    let scratch = tempfile::tempdir()?;
    let store = content::Store::open(&scratch.path().join("content"))?;
    let cx = Cx::root();
    for compression in [
        Compression::Uncompressed,
        Compression::Gzip,
        Compression::Zstd,
    ] {
        if only
            .as_ref()
            .is_some_and(|only| only != compression.as_str())
        {
            continue;
        }
        let change = Change::Overlay {
            lower: None,
            upper: fstree::Root::open(&dir)?,
        };
        let options = Options {
            compression,
            ..Options::default()
        };
        let begun = Instant::now();
        let blob = layer::diff(&cx, &change, &options, &store)?;
        let made = begun.elapsed();
        let target = scratch.path().join(compression.as_str());
        std::fs::create_dir(&target)?;
        let begun = Instant::now();
        let target = Target::Plain(target);
        layer::apply(&cx, &store, &blob.descriptor, Some(&blob.diff_id), &target)?;
        let unpacked = begun.elapsed();
        let megabytes = |bytes: u64| bytes / 1_000_000;
        println!(
            "{:12} {} MB -> {} MB in {made:.2?}, unpacked in {unpacked:.2?}",
            compression.as_str(),
            megabytes(blob.uncompressed_size),
            megabytes(blob.descriptor.size.unsigned_abs()),
        );
    }
    Ok(())
}
