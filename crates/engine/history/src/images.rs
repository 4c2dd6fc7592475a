//! What a record keeps of the images a build made: indexes, manifests, configs and attestations, but no layers.

use std::collections::BTreeSet;
use std::io::Read as _;

use oci::{Descriptor, Digest};

use crate::Error;
use crate::blobs::Blobs;

/// Nothing that is larger is read as a manifest.
const LARGEST: u64 = 8 << 20;

/// Copies what belongs to a result from the daemon's store. What is not there is left out: results of exports to files
/// may be nowhere but with the client.
pub(crate) fn copy(
    content: &content::Store,
    blobs: &Blobs,
    result: &Descriptor,
) -> Result<(), Error> {
    let mut left = vec![(result.digest.clone(), result.media_type.clone())];
    while let Some((digest, media_type)) = left.pop() {
        if !is_kept(&media_type) {
            continue;
        }
        let small = content.info(&digest).is_ok_and(|info| info.size <= LARGEST);
        if !small {
            continue;
        }
        let Ok(bytes) = content.read(&digest) else {
            continue;
        };
        if !blobs.contains(&digest) {
            blobs.put(&media_type, &bytes)?;
        }
        left.extend(children(&media_type, &bytes));
    }
    Ok(())
}

/// Adds a blob, if it is here, and those it names.
pub(crate) fn add_closure(
    blobs: &Blobs,
    digest: Digest,
    media_type: &str,
    found: &mut BTreeSet<Digest>,
) {
    let mut left = vec![(digest, media_type.to_owned())];
    while let Some((digest, media_type)) = left.pop() {
        if !blobs.contains(&digest) || !found.insert(digest.clone()) || !is_list(&media_type) {
            continue;
        }
        let mut bytes = Vec::new();
        let read = blobs
            .reader(&digest)
            .map(|reader| reader.take(LARGEST).read_to_end(&mut bytes));
        if matches!(read, Ok(Ok(_))) {
            left.extend(children(&media_type, &bytes));
        }
    }
}

fn is_list(media_type: &str) -> bool {
    is_index(media_type) || is_manifest(media_type)
}

fn is_index(media_type: &str) -> bool {
    media_type.ends_with("image.index.v1+json") || media_type.ends_with("manifest.list.v2+json")
}

fn is_manifest(media_type: &str) -> bool {
    media_type.ends_with("image.manifest.v1+json") || media_type.ends_with("manifest.v2+json")
}

/// Layers of file systems are not.
fn is_kept(media_type: &str) -> bool {
    media_type.ends_with("json") || media_type.ends_with("in-toto")
}

fn children(media_type: &str, bytes: &[u8]) -> Vec<(Digest, String)> {
    let descriptors: Vec<Descriptor> = if is_index(media_type) {
        serde_json::from_slice::<oci::Index>(bytes).map_or_else(|_| Vec::new(), |it| it.manifests)
    } else if is_manifest(media_type) {
        serde_json::from_slice::<oci::Manifest>(bytes).map_or_else(
            |_| Vec::new(),
            |it| std::iter::once(it.config).chain(it.layers).collect(),
        )
    } else {
        Vec::new()
    };
    descriptors
        .into_iter()
        .map(|child| (child.digest, child.media_type))
        .collect()
}
