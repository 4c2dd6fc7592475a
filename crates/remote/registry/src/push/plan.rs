//! What belongs to an image, found by reading its manifests.

use std::collections::HashSet;

use content::Store;
use oci::media_type::{
    DOCKER_LAYER_FOREIGN, DOCKER_LAYER_FOREIGN_GZIP, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX,
    OCI_LAYER_FOREIGN, OCI_LAYER_FOREIGN_GZIP, OCI_LAYER_FOREIGN_ZSTD, OCI_MANIFEST,
};
use oci::{Descriptor, Digest};
use serde::Deserialize;

use crate::error::Error;

/// What to push besides the root.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Configs, layers, statements; each once.
    pub(super) blobs: Vec<Descriptor>,
    /// Children before parents, without the root.
    pub(super) manifests: Vec<Descriptor>,
}

/// What manifests and indexes have in common.
#[derive(Deserialize)]
struct Children {
    #[serde(default)]
    config: Option<Descriptor>,
    /// An empty list may be written as null.
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// Finds all that hangs on `root`, which is a manifest or an index.
pub(super) fn plan(root: &Descriptor, store: &Store) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    let mut seen = HashSet::from([root.digest.clone()]);
    for child in children(&root.digest, store)? {
        visit(child, store, &mut seen, &mut plan)?;
    }
    Ok(plan)
}

fn visit(
    next: Descriptor,
    store: &Store,
    seen: &mut HashSet<Digest>,
    plan: &mut Plan,
) -> Result<(), Error> {
    if !seen.insert(next.digest.clone()) || is_foreign(&next.media_type) {
        return Ok(());
    }
    if !is_manifest(&next.media_type) {
        plan.blobs.push(next);
        return Ok(());
    }
    for child in children(&next.digest, store)? {
        visit(child, store, seen, plan)?;
    }
    plan.manifests.push(next);
    Ok(())
}

fn children(manifest: &Digest, store: &Store) -> Result<Vec<Descriptor>, Error> {
    let bytes = store.read(manifest)?;
    let children: Children = serde_json::from_slice(&bytes).map_err(|source| Error::Manifest {
        digest: manifest.clone(),
        source,
    })?;
    let lists = [children.layers, children.manifests];
    let lists = lists.into_iter().flatten().flatten();
    Ok(children.config.into_iter().chain(lists).collect())
}

fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST
    )
}

/// Layers that may not be distributed stay where they are.
fn is_foreign(media_type: &str) -> bool {
    matches!(
        media_type,
        OCI_LAYER_FOREIGN
            | OCI_LAYER_FOREIGN_GZIP
            | OCI_LAYER_FOREIGN_ZSTD
            | DOCKER_LAYER_FOREIGN
            | DOCKER_LAYER_FOREIGN_GZIP
    )
}

/// The repository with the most leading components in common with `ours`, of equals the last; never `ours`.
pub(super) fn nearest(ours: &str, candidates: impl Iterator<Item = String>) -> Option<String> {
    let common = |other: &str| {
        let pairs = ours.split('/').zip(other.split('/'));
        pairs.take_while(|(a, b)| a == b).count()
    };
    candidates
        .filter(|candidate| candidate != ours)
        .max_by_key(|candidate| common(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::media_type::{OCI_CONFIG, OCI_LAYER_GZIP};

    #[test]
    fn the_nearest_repository_is_mounted_from() {
        let near = |all: &[&str]| nearest("a/b/c", all.iter().map(|one| (*one).to_owned()));
        assert_eq!(near(&["x/y", "a/b/d", "a/z"]).as_deref(), Some("a/b/d"));
        assert_eq!(near(&["x", "y"]).as_deref(), Some("y"));
        assert_eq!(near(&["a/b/c"]), None);
    }

    #[test]
    fn children_come_before_parents_and_blobs_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        let blob = |media_type: &str, text: &str| {
            let digest = Digest::of(text);
            Descriptor::new(media_type, digest, text.len() as i64)
        };
        let put = |media_type: &str, value: &serde_json::Value| {
            let text = value.to_string();
            let digest = store.put(&text).expect("stored");
            Descriptor::new(media_type, digest, text.len() as i64)
        };
        let shared = blob(OCI_LAYER_GZIP, "shared");
        let foreign = blob(OCI_LAYER_FOREIGN_GZIP, "foreign");
        let image = |name: &str| {
            let config = blob(OCI_CONFIG, name);
            let value = serde_json::json!({"config": config, "layers": [shared, foreign]});
            put(OCI_MANIFEST, &value)
        };
        let (one, two) = (image("one"), image("two"));
        let root = put(OCI_INDEX, &serde_json::json!({"manifests": [one, two]}));
        let plan = plan(&root, &store).expect("a plan");
        assert_eq!(plan.manifests, [one, two]);
        assert_eq!(
            plan.blobs,
            [
                blob(OCI_CONFIG, "one"),
                shared.clone(),
                blob(OCI_CONFIG, "two")
            ]
        );
    }
}
