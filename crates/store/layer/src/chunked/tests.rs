//! Blobs with an index, read back.

use std::io::Cursor;

use serde_json::Value;

use super::*;
use crate::archive::{Header, Writer};
use crate::{LayerBlob, annotation, compress};

fn noise(size: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(next).collect()
}

/// Files of these sizes between a directory and a link.
fn archive(sizes: &[usize]) -> Vec<u8> {
    let mut out = Writer::new(Vec::new());
    let mut dir = Header::new("d/", Kind::Dir, 0o755);
    dir.mtime = 1_700_000_000;
    out.member(&dir).expect("written");
    for (number, size) in sizes.iter().enumerate() {
        let mut file = Header::new(format!("d/{number}"), Kind::File, 0o644);
        file.size = *size as u64;
        file.uid = 5;
        file.xattrs = vec![(b"security.capability".to_vec(), vec![1, 2])];
        out.member(&file).expect("written");
        out.content(&noise(*size)).expect("written");
    }
    let mut link = Header::new("l", Kind::Symlink, 0o777);
    link.link = b"d/0".to_vec();
    out.member(&link).expect("written");
    out.finish().expect("written")
}

struct Made {
    store: content::Store,
    _dir: tempfile::TempDir,
    layer: LayerBlob,
    blob: Vec<u8>,
}

fn made(compression: Compression, archive: &[u8]) -> Made {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let store = content::Store::open(dir.path()).expect("a store");
    let options = Options {
        compression,
        ..Options::default()
    };
    let on = |threads| {
        compress::store_with(&options, threads, &store, |out| {
            for piece in archive.chunks(70_000) {
                out.write_all(piece)
                    .map_err(|source| Error::Write { source })?;
            }
            Ok(())
        })
        .expect("stored")
    };
    let layer = on(1);
    assert_eq!(layer, on(3), "threads make no difference");
    let blob = store.read(&layer.descriptor.digest).expect("a blob");
    Made {
        store,
        _dir: dir,
        blob: blob.to_vec(),
        layer,
    }
}

fn decompressed(blob: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader = decompress::reader(blob).expect("a reader");
    reader.read_to_end(&mut out).expect("readable");
    out
}

fn number(value: &Value) -> usize {
    value
        .as_u64()
        .map_or(0, |it| usize::try_from(it).expect("small"))
}

/// Follows an index through the blob: every chunk is where it says, and has the digest it says.
fn check_chunks(blob: &[u8], entries: &[Value], sizes: &[usize]) {
    let mut found = vec![0; sizes.len()];
    let (mut current, mut whole) = ((0, 0), Vec::new());
    for entry in entries {
        let kind = entry["type"].as_str().expect("a type");
        if kind == "reg" {
            let name = entry["name"].as_str().expect("a name");
            let number_of = name.rsplit('/').next().and_then(|it| it.parse().ok());
            current = (number_of.expect("a number"), number(&entry["size"]));
            assert_eq!(current.1, sizes[current.0]);
            whole = noise(current.1);
            let digest = entry["digest"].as_str();
            let wanted = Digest::of(&whole).to_string();
            assert!(digest.is_none_or(|digest| digest == wanted), "{name}");
        }
        if !matches!(kind, "reg" | "chunk") || current.1 == 0 {
            continue;
        }
        let from = number(&entry["chunkOffset"]);
        let len = match number(&entry["chunkSize"]) {
            0 => current.1 - from,
            len => len,
        };
        let mut bytes = vec![0; len];
        let mut reader = decompress::reader(&blob[number(&entry["offset"])..]).expect("a reader");
        reader.read_exact(&mut bytes).expect("readable");
        assert!(bytes == whole[from..from + len]);
        if let Some(digest) = entry["chunkDigest"].as_str() {
            assert_eq!(digest, Digest::of(&bytes).to_string());
        }
        found[current.0] += len;
    }
    assert_eq!(found, sizes);
}

const MIB: usize = 1 << 20;

#[test]
fn an_estargz_layer_lists_its_chunks() {
    let sizes = [0, 3, 4 * MIB, 9 * MIB + 5];
    let archive = archive(&sizes);
    let made = made(Compression::Estargz, &archive);
    let footer = &made.blob[made.blob.len() - 51..];
    let toc_at = index::estargz_offset(footer.try_into().expect("51 bytes")).expect("a footer");
    let toc_at = usize::try_from(toc_at).expect("small");
    let stream = decompressed(&made.blob);
    assert!(stream.starts_with(&archive));
    assert_eq!(made.layer.diff_id, Digest::of(&stream));
    assert_eq!(made.layer.uncompressed_size, stream.len() as u64);
    let mut reader = Reader::new(Cursor::new(&stream[archive.len()..]));
    let member = reader.next_member().expect("readable").expect("an index");
    assert_eq!(member.name, TOC_NAME);
    let mut toc = Vec::new();
    reader
        .content(&member, |_, piece| {
            toc.extend_from_slice(piece);
            Ok(())
        })
        .expect("readable");
    assert!(reader.next_member().expect("readable").is_none());
    assert!(decompressed(&made.blob[toc_at..]).starts_with(TOC_NAME));
    let annotations = &made.layer.descriptor.annotations;
    assert_eq!(
        annotations[annotation::ESTARGZ_TOC],
        Digest::of(&toc).to_string()
    );
    assert_eq!(
        annotations[annotation::ESTARGZ_SIZE],
        stream.len().to_string()
    );
    assert!(
        toc.starts_with(b"{\n\t\"version\": 1,\n\t\"entries\": [\n\t\t{\n\t\t\t\"name\": \"d/\"")
    );
    let toc: Value = serde_json::from_slice(&toc).expect("JSON");
    let entries = toc["entries"].as_array().expect("entries");
    assert_eq!(
        entries[0],
        serde_json::json!({
            "name": "d/", "type": "dir", "modtime": "2023-11-14T22:13:20Z", "mode": 0o755
        })
    );
    assert_eq!(entries.last().expect("a link")["linkName"], "d/0");
    assert_eq!(entries[1]["xattrs"]["security.capability"], "AQI=");
    check_chunks(&made.blob, entries, &sizes);
    // A chunk as long as chunks can be says so, the last one of a file does not.
    let chunks: Vec<usize> = (entries.iter())
        .filter(|entry| entry["name"] == "d/3")
        .map(|entry| number(&entry["chunkSize"]))
        .collect();
    assert_eq!(chunks, [4 * MIB, 4 * MIB, 0]);
}

#[test]
fn a_chunked_zstd_layer_lists_its_chunks_and_is_made_whole_again() {
    let sizes = [0, 3, 6 * MIB + 1];
    let archive = archive(&sizes);
    let made = made(Compression::ZstdChunked, &archive);
    assert!(decompressed(&made.blob) == archive);
    assert_eq!(made.layer.diff_id, Digest::of(&archive));
    let annotations = &made.layer.descriptor.annotations;
    let place = |key: &str| -> Vec<usize> {
        let numbers = annotations[key].split(':');
        numbers.map(|it| it.parse().expect("a number")).collect()
    };
    let [at, len, size, 1] = place(annotation::ZSTD_TOC_PLACE)[..] else {
        panic!("{annotations:?}");
    };
    let compressed = &made.blob[at..at + len];
    assert_eq!(
        annotations[annotation::ZSTD_TOC],
        Digest::of(compressed).to_string()
    );
    let toc = decompressed(compressed);
    assert_eq!(toc.len(), size);
    let toc: Value = serde_json::from_slice(&toc).expect("JSON");
    let entries = toc["entries"].as_array().expect("entries");
    check_chunks(&made.blob, entries, &sizes);
    assert!(entries.len() > 6, "a large file has several chunks");
    let [split_at, split_len, split_size] = place(annotation::ZSTD_TARSPLIT_PLACE)[..] else {
        panic!("{annotations:?}");
    };
    let split = &made.blob[split_at..split_at + split_len];
    assert_eq!(toc["tarSplitDigest"], Digest::of(split).to_string());
    let split = decompressed(split);
    assert_eq!(split.len(), split_size);
    let mut whole = Vec::new();
    for line in split
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        use base64::Engine as _;
        let line: Value = serde_json::from_slice(line).expect("JSON");
        if line["type"] == 1 {
            whole.extend_from_slice(&noise(number(&line["size"])));
        } else {
            let payload = line["payload"].as_str().expect("a payload");
            let engine = base64::engine::general_purpose::STANDARD;
            whole.extend_from_slice(&engine.decode(payload).expect("base64"));
        }
    }
    assert!(whole == archive);
    let footer = &made.blob[made.blob.len() - 64..];
    assert_eq!(footer[..8], (at as u64).to_le_bytes());
    assert_eq!(&footer[56..], b"GNUlInUx");
}

#[test]
fn a_change_at_the_start_of_a_file_leaves_most_chunks_alone() {
    let ends = |bytes: &[u8]| {
        let mut cutter = Cutter::new(Compression::ZstdChunked);
        let (mut rest, mut chunks) = (bytes, std::collections::BTreeSet::new());
        let mut chunk = Vec::new();
        while !rest.is_empty() {
            let (len, is_end) = cutter.next(&rest[..rest.len().min(1_000)]);
            chunk.extend_from_slice(&rest[..len]);
            rest = &rest[len..];
            if is_end {
                chunks.insert(std::mem::take(&mut chunk));
            }
        }
        chunks
    };
    let before = noise(8 * MIB);
    let after = [b"something new", &*before].concat();
    let (before, after) = (ends(&before), ends(&after));
    assert!(before.len() > 8, "{}", before.len());
    assert!(before.difference(&after).count() <= 2);
}

#[test]
fn the_index_of_an_old_blob_is_none_of_the_new_one() {
    let archive = archive(&[10]);
    let from = made(Compression::Estargz, &archive);
    for compression in [Compression::Gzip, Compression::ZstdChunked] {
        let options = Options {
            compression,
            ..Options::default()
        };
        let cx = tasks::Cx::root();
        let again = crate::convert(&cx, &from.store, &from.layer.descriptor, &options);
        assert_eq!(again.expect("converted").diff_id, Digest::of(&archive));
    }
    let options = Options {
        compression: Compression::Estargz,
        ..Options::default()
    };
    let cx = tasks::Cx::root();
    let again = crate::convert(&cx, &from.store, &from.layer.descriptor, &options);
    assert_eq!(again.expect("converted"), from.layer);
}

#[test]
fn what_is_no_archive_is_refused() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let store = content::Store::open(dir.path()).expect("a store");
    let options = Options {
        compression: Compression::Estargz,
        ..Options::default()
    };
    let mut own = Writer::new(Vec::new());
    own.member(&Header::new("./stargz.index.json", Kind::File, 0))
        .expect("written");
    let own = own.finish().expect("written");
    for (bytes, wanted) in [
        (
            noise(2 * MIB),
            "eStargz and zstd:chunked need a tar archive",
        ),
        (
            own,
            "existing TOC JSON is not allowed; decompress layer before append",
        ),
    ] {
        let failed = compress::store_with(&options, 2, &store, |out| {
            out.write_all(&bytes)
                .map_err(|source| Error::Write { source })
        });
        assert_eq!(failed.expect_err("refused").to_string(), wanted);
    }
    let failed = compress::store_with(&options, 2, &store, |out| {
        let all = archive(&[MIB]);
        out.write_all(&all[..MIB])
            .map_err(|source| Error::Write { source })?;
        Err(Error::Redirect)
    });
    assert!(matches!(failed, Err(Error::Redirect)));
    assert!(store.list().expect("a list").is_empty());
}
