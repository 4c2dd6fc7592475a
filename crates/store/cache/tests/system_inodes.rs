//! Files that trees share, in merges.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use cache::{Cache, Options, RecordOptions, Ref, Shares};
use progress::Progress;
use tasks::Cx;

struct Fixture {
    dir: tempfile::TempDir,
    cx: Cx,
    cache: Cache,
}

fn inode(path: &Path) -> (u64, u64) {
    let meta = std::fs::symlink_metadata(path).expect("there");
    (meta.dev(), meta.ino())
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let cache = Cache::open(Options::new(dir.path())).expect("a cache");
        let cx = Cx::root();
        Self { dir, cx, cache }
    }

    /// A layer with a file of its own.
    async fn layer(&self, parent: Option<&Ref>, name: &str) -> Ref {
        let tree = self
            .cache
            .new_mutable(&self.cx, parent, RecordOptions::default());
        let tree = tree.await.expect("a tree");
        std::fs::write(tree.layer_directory().expect("known").join(name), name).expect("written");
        tree.commit(&self.cx, "").await.expect("committed")
    }

    /// A layer that shares a file, under these names.
    async fn sharing(&self, source: &Ref, file: &str, names: &[&str]) -> Ref {
        let tree = self
            .cache
            .new_mutable(&self.cx, None, RecordOptions::default());
        let tree = tree.await.expect("a tree");
        let from = source.layer_directories().expect("known")[0].join(file);
        for name in names {
            let to = tree.layer_directory().expect("known").join(name);
            std::fs::hard_link(&from, to).expect("linked");
        }
        let (dev, ino) = inode(&from);
        let inodes = [dev.to_le_bytes(), ino.to_le_bytes()].concat();
        let mut origins = source.shares().origins.expect("known");
        origins.extend(source.snapshots());
        tree.set_shares(&inodes, Some(&origins)).expect("kept");
        tree.commit(&self.cx, "").await.expect("committed")
    }

    fn merge(&self, refs: &[&Ref]) -> Ref {
        let refs: Vec<Ref> = refs.iter().map(|one| (*one).clone()).collect();
        let merged = self.cache.merge(&refs, RecordOptions::default());
        merged.expect("merged").expect("something")
    }

    /// The inodes behind these names, numbered in the order they come.
    async fn told_apart(&self, tree: &Ref, names: &[&str]) -> Vec<usize> {
        tree.ensure(&self.cx, &Progress::none())
            .await
            .expect("here");
        let tree = tree.tree(&self.cx).await.expect("mounted");
        let inodes: Vec<_> = names
            .iter()
            .map(|name| inode(&tree.path().join(name)))
            .collect();
        let place = |inode| inodes.iter().position(|other| other == inode);
        inodes.iter().filter_map(place).collect()
    }

    fn trees(&self) -> usize {
        let snapshots = self.dir.path().join("snapshots-overlayfs-v1");
        std::fs::read_dir(snapshots).expect("read").count()
    }
}

#[tokio::test]
async fn a_layer_in_a_merge_shares_nothing_with_what_is_below() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let stage = fixture.layer(None, "f").await;
    let linked = fixture.sharing(&stage, "f", &["g", "h"]).await;
    let merged = fixture.merge(&[&stage, &linked]);
    // The link within the layer is somebody's.
    assert_eq!(
        fixture.told_apart(&merged, &["f", "g", "h"]).await,
        [0, 1, 1]
    );
    // It comes the other way as well.
    let merged = fixture.merge(&[&linked, &stage]);
    assert_eq!(fixture.told_apart(&merged, &["g", "f"]).await, [0, 1]);
    // And by way of a third tree.
    let further = fixture.sharing(&linked, "g", &["i"]).await;
    let merged = fixture.merge(&[&stage, &further]);
    assert_eq!(fixture.told_apart(&merged, &["f", "i"]).await, [0, 1]);
}

#[tokio::test]
async fn layers_that_share_with_the_same_tree_are_told_apart() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let context = fixture.layer(None, "f").await;
    let (one, two) = (
        fixture.sharing(&context, "f", &["a"]).await,
        fixture.sharing(&context, "f", &["b"]).await,
    );
    let other = fixture.layer(None, "x").await;
    let merged = fixture.merge(&[&other, &one, &two]);
    assert_eq!(
        fixture.told_apart(&merged, &["x", "a", "b"]).await,
        [0, 1, 2]
    );
    // One copy is enough, for other merges as well.
    let trees = fixture.trees();
    let merged = fixture.merge(&[&one, &two]);
    assert_eq!(fixture.told_apart(&merged, &["a", "b"]).await, [0, 1]);
    assert_eq!(fixture.trees(), trees);
    // Who shares with the copy is told apart from it too.
    let copy = fixture.sharing(&merged, "b", &["c"]).await;
    let merged = fixture.merge(&[&copy, &two]);
    assert_eq!(fixture.told_apart(&merged, &["c", "b"]).await, [0, 1]);
}

#[tokio::test]
async fn nothing_is_copied_without_need() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let context = fixture.layer(None, "f").await;
    let base = fixture.layer(None, "x").await;
    let linked = fixture.sharing(&context, "f", &["g"]).await;
    let trees = fixture.trees();
    let merged = fixture.merge(&[&base, &linked]);
    assert_eq!(fixture.told_apart(&merged, &["x", "g"]).await, [0, 1]);
    assert_eq!(fixture.trees(), trees);
}

#[tokio::test]
async fn what_a_merge_shares_is_what_all_of_it_does() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let (one, two) = (
        fixture.layer(None, "f").await,
        fixture.layer(None, "x").await,
    );
    let all = fixture.merge(&[
        &fixture.sharing(&one, "f", &["g"]).await,
        &fixture.sharing(&two, "x", &["y"]).await,
    ]);
    let top = fixture.layer(Some(&all), "z").await;
    let Shares { inodes, origins } = top.shares();
    assert_eq!(inodes.len(), 2);
    let both: BTreeSet<u64> = one.snapshots().union(&two.snapshots()).copied().collect();
    assert_eq!(origins, Some(both));
    let nothing = one.shares();
    assert_eq!(
        (nothing.inodes.len(), nothing.origins),
        (0, Some(BTreeSet::new()))
    );
}
