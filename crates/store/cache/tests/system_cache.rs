//! The cache over real overlay mounts.

use std::path::{Path, PathBuf};

use cache::{Cache, Error, MutableRef, Options, RecordOptions, RecordType, Ref, SnapshotterKind};
use progress::Progress;
use tasks::Cx;

struct Fixture {
    dir: tempfile::TempDir,
    cx: Cx,
    kind: SnapshotterKind,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a scratch folder"),
            cx: Cx::root(),
            kind: SnapshotterKind::Auto,
        }
    }

    fn open(&self) -> Cache {
        let mut options = Options::new(self.dir.path());
        options.snapshotter = self.kind;
        Cache::open(options).expect("a cache")
    }

    async fn mutable(&self, cache: &Cache, parent: Option<&Ref>) -> MutableRef {
        cache
            .new_mutable(&self.cx, parent, RecordOptions::default())
            .await
            .expect("a tree")
    }

    /// A record that holds these files on top of `parent`; a name with a leading `-` is removed.
    async fn layer(&self, cache: &Cache, parent: Option<&Ref>, files: &[(&str, &str)]) -> Ref {
        let tree = self.mutable(cache, parent).await;
        write(&tree.tree(&self.cx).await.expect("mounted").path(), files);
        tree.commit(&self.cx, "a layer").await.expect("committed")
    }

    async fn files(&self, tree: &Ref) -> Vec<String> {
        tree.ensure(&self.cx, &Progress::none())
            .await
            .expect("unpacked");
        listing(&tree.tree(&self.cx).await.expect("mounted").path())
    }

    fn trees(&self) -> usize {
        let snapshots = self.dir.path().join("snapshots-overlayfs-v1");
        std::fs::read_dir(snapshots).expect("read").count()
    }
}

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        if let Some(name) = name.strip_prefix('-') {
            let path = root.join(name);
            if path.is_dir() {
                std::fs::remove_dir_all(path).expect("removed");
            } else {
                std::fs::remove_file(path).expect("removed");
            }
            continue;
        }
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, content).expect("written");
    }
}

/// `path=content`, sorted.
fn listing(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(at).expect("read") {
            let entry = entry.expect("read");
            let path: PathBuf = entry.path();
            let name = path
                .strip_prefix(root)
                .expect("below")
                .display()
                .to_string();
            if entry.file_type().expect("known").is_dir() {
                walk(root, &path, found);
            } else {
                found.push(format!(
                    "{name}={}",
                    std::fs::read_to_string(&path).expect("read")
                ));
            }
        }
    }
    let mut found = Vec::new();
    walk(root, root, &mut found);
    found.sort();
    found
}

#[tokio::test]
async fn layers_stand_on_each_other() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture
        .layer(&cache, None, &[("etc/os", "v1"), ("bin/sh", "sh")])
        .await;
    let next = fixture
        .layer(&cache, Some(&base), &[("etc/os", "v2"), ("-bin/sh", "")])
        .await;
    assert_eq!(fixture.files(&base).await, ["bin/sh=sh", "etc/os=v1"]);
    assert_eq!(fixture.files(&next).await, ["etc/os=v2"]);
    assert_eq!(next.parent().expect("a parent").id(), base.id());
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture.layer(&cache, None, &[("a", "1")]).await;
    let top = fixture.layer(&cache, Some(&base), &[("b", "2")]).await;
    top.set_meta("note", b"kept").expect("kept");
    let (id, created) = (top.id().clone(), top.created());
    drop((base, top, cache));

    let cache = fixture.open();
    let top = cache.get(&id).expect("found");
    assert_eq!(fixture.files(&top).await, ["a=1", "b=2"]);
    assert_eq!(
        (top.description().as_str(), top.created()),
        ("a layer", created)
    );
    assert_eq!(top.meta("note").as_deref(), Some(&b"kept"[..]));
    cache.settle_removals().await;
    assert_eq!(fixture.trees(), 2);
}

#[tokio::test]
async fn what_was_not_committed_is_removed() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let tree = fixture.mutable(&cache, None).await;
    assert_eq!(fixture.trees(), 1);
    assert!(!cache.exists(tree.id()));
    drop(tree);
    cache.settle_removals().await;
    assert_eq!(fixture.trees(), 0);
    std::fs::create_dir_all(fixture.dir.path().join("snapshots-overlayfs-v1/900/fs"))
        .expect("made");
    fixture.layer(&cache, None, &[]).await;
    drop(cache);
    let cache = fixture.open();
    cache.settle_removals().await;
    assert_eq!(
        fixture.trees(),
        1,
        "a tree without a record is swept at start"
    );
}

#[tokio::test]
async fn steps_that_change_nothing_are_not_mounted() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture.layer(&cache, None, &[("a", "1")]).await;
    let mut top = base.clone();
    for _ in 0..600 {
        top = fixture.layer(&cache, Some(&top), &[]).await;
    }
    assert_eq!(
        top.mount().expect("mounted"),
        base.mount().expect("mounted")
    );
    let changed = fixture.mutable(&cache, Some(&top)).await;
    let root = changed.tree(&fixture.cx).await.expect("mounted").path();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(root, mode).expect("changed");
    let changed = changed
        .commit(&fixture.cx, "chmod 700 /")
        .await
        .expect("committed");
    assert_ne!(
        changed.mount().expect("mounted"),
        base.mount().expect("mounted")
    );
}

#[tokio::test]
async fn a_step_keeps_mode_and_owner_of_the_root_directory() {
    testkit::require!(root);
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let fixture = Fixture::new();
    let cache = fixture.open();
    let tree = fixture.mutable(&cache, None).await;
    let root = tree.tree(&fixture.cx).await.expect("mounted").path();
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o555)).expect("changed");
    chown(&root, Some(5), Some(6)).expect("changed");
    let base = tree.commit(&fixture.cx, "").await.expect("committed");
    let top = fixture.layer(&cache, Some(&base), &[("a", "1")]).await;
    let meta =
        std::fs::metadata(top.tree(&fixture.cx).await.expect("mounted").path()).expect("read");
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o555, 5, 6)
    );
}

#[tokio::test]
async fn a_mutable_with_an_index_key_is_found_by_one_at_a_time() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let tree = fixture.mutable(&cache, None).await;
    tree.set_index("cache-dir:/root").expect("kept");
    write(
        &tree.tree(&fixture.cx).await.expect("mounted").path(),
        &[("f", "1")],
    );
    let id = tree.id().clone();
    assert!(cache.find_mutable("cache-dir:/root").is_none(), "held");
    assert!(cache.get(&id).is_none(), "not immutable");
    drop((tree, cache));
    let cache = fixture.open();
    let tree = cache.find_mutable("cache-dir:/root").expect("found");
    assert_eq!(tree.id(), &id);
    assert_eq!(
        listing(&tree.tree(&fixture.cx).await.expect("mounted").path()),
        ["f=1"]
    );
    assert!(cache.find_mutable("cache-dir:/root").is_none(), "held");
    tree.discard();
    assert!(cache.find_mutable("cache-dir:/root").is_none(), "discarded");
    cache.settle_removals().await;
    assert_eq!(fixture.trees(), 0);
}

#[tokio::test]
async fn a_view_locks_its_mutable_until_it_is_gone() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let tree = fixture.mutable(&cache, None).await;
    tree.set_index("local:ctx").expect("kept");
    write(
        &tree.tree(&fixture.cx).await.expect("mounted").path(),
        &[("f", "1")],
    );
    let view = tree.freeze(&fixture.cx).await.expect("frozen");
    let id = view.id().clone();
    drop(tree);
    assert_eq!(fixture.files(&view).await, ["f=1"]);
    assert!(
        cache.find_mutable("local:ctx").is_none(),
        "locked by the view"
    );
    drop(view);
    assert!(cache.exists(&id), "nobody wrote to it since");
    drop(cache);

    let cache = fixture.open();
    let view = cache.get(&id).expect("found");
    assert!(
        cache.find_mutable("local:ctx").is_none(),
        "locked by the view"
    );
    drop(view);
    let tree = cache.find_mutable("local:ctx").expect("free");
    assert!(!cache.exists(&id), "about to change");
    write(
        &tree.tree(&fixture.cx).await.expect("mounted").path(),
        &[("g", "2")],
    );
    let view = tree.freeze(&fixture.cx).await.expect("frozen");
    drop(tree);
    assert_eq!(fixture.files(&view).await, ["f=1", "g=2"]);
}

#[tokio::test]
async fn a_view_that_is_built_on_keeps_the_tree() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let tree = fixture.mutable(&cache, None).await;
    tree.set_index("local:ctx").expect("kept");
    write(
        &tree.tree(&fixture.cx).await.expect("mounted").path(),
        &[("f", "1")],
    );
    let view = tree.freeze(&fixture.cx).await.expect("frozen");
    let top = fixture.layer(&cache, Some(&view), &[("g", "2")]).await;
    let id = top.id().clone();
    drop((tree, view, top));
    assert!(cache.find_mutable("local:ctx").is_none(), "given away");
    drop(cache);
    let cache = fixture.open();
    cache.settle_removals().await;
    assert_eq!(
        fixture.files(&cache.get(&id).expect("found")).await,
        ["f=1", "g=2"]
    );
    assert_eq!(fixture.trees(), 2);
}

#[tokio::test]
async fn discarding_a_tree_that_is_shown_leaves_it_to_the_view() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let tree = fixture.mutable(&cache, None).await;
    write(
        &tree.tree(&fixture.cx).await.expect("mounted").path(),
        &[("f", "1")],
    );
    let view = tree.freeze(&fixture.cx).await.expect("frozen");
    tree.discard();
    cache.settle_removals().await;
    assert_eq!(fixture.files(&view).await, ["f=1"]);
}

async fn merges_and_differences(kind: SnapshotterKind) {
    let mut fixture = Fixture::new();
    fixture.kind = kind;
    let cache = fixture.open();
    let options = RecordOptions::default;
    let diff = async |lower: Option<&Ref>, upper: Option<&Ref>| {
        cache
            .diff(&fixture.cx, lower, upper, options(), &Progress::none())
            .await
            .expect("made")
    };
    let base = fixture
        .layer(
            &cache,
            None,
            &[("etc/os", "1"), ("gone", "x"), ("dir/old", "x")],
        )
        .await;
    let upper = &[("-gone", ""), ("-dir", ""), ("dir/new", "2")];
    let upper = fixture.layer(&cache, Some(&base), upper).await;
    let other = fixture
        .layer(&cache, None, &[("gone", "y"), ("dir/mine", "3")])
        .await;
    let delta = diff(Some(&base), Some(&upper)).await.expect("something");
    assert_eq!(
        fixture.files(&delta).await,
        ["dir/new=2"],
        "marks of deletions do not show"
    );
    let merge = |refs: &[Ref]| {
        cache
            .merge(refs, options())
            .expect("made")
            .expect("something")
    };
    let merged = merge(&[other.clone(), delta.clone()]);
    let id = merged.id().clone();
    // Compat: a directory that was removed and made again hides what it removed, and nothing else.
    let expected: &[&str] = &["dir/mine=3", "dir/new=2"];
    assert_eq!(
        fixture.files(&merged).await,
        expected,
        "deletions apply to what is below"
    );
    let linked = merge(&[base.clone(), other.clone()]);
    let all = ["dir/mine=3", "dir/old=x", "etc/os=1", "gone=y"];
    assert_eq!(fixture.files(&linked).await, all);
    let on_top = fixture
        .layer(&cache, Some(&linked), &[("-etc/os", ""), ("new", "4")])
        .await;
    assert_eq!(
        fixture.files(&on_top).await,
        ["dir/mine=3", "dir/old=x", "gone=y", "new=4"]
    );
    let both = fixture.files(&merge(&[on_top.clone(), delta])).await;
    assert!(
        both.contains(&"dir/new=2".to_owned()) && both.contains(&"new=4".to_owned()),
        "{both:?}"
    );
    assert!(!both.contains(&"gone=y".to_owned()), "{both:?}");

    assert!(diff(Some(&base), Some(&base)).await.is_none());
    assert_eq!(
        diff(None, Some(&base)).await.expect("something").id(),
        base.id()
    );
    let unrelated = diff(Some(&upper), Some(&other)).await.expect("something");
    assert_eq!(fixture.files(&unrelated).await, ["dir/mine=3", "gone=y"]);
    assert_eq!(
        fixture.files(&merge(&[on_top, unrelated])).await,
        ["dir/mine=3", "dir/old=x", "gone=y", "new=4"]
    );
    let emptied = diff(Some(&base), None).await.expect("something");
    assert!(
        fixture
            .files(&merge(&[base.clone(), emptied]))
            .await
            .is_empty()
    );
    assert!(
        cache.content().list().expect("listed").is_empty(),
        "nothing is left of the work"
    );
    drop((merged, linked, base, upper, other));
    drop(cache);
    let cache = fixture.open();
    assert_eq!(
        fixture.files(&cache.get(&id).expect("found")).await,
        expected
    );
}

#[tokio::test]
async fn a_layer_hides_in_a_merge_only_what_it_removed_from_its_own_parent() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let below = &[
        ("dir/a/1", ""),
        ("dir/a/2", ""),
        ("dir/b/1", ""),
        ("old/x", ""),
    ];
    let below = fixture.layer(&cache, None, below).await;
    let changes = &[
        ("-dir", ""),
        ("dir/a/1", "new"),
        ("dir/c/1", "new"),
        ("-old", ""),
        ("old", "a file now"),
        ("fresh/made/here", "x"),
    ];
    let changed = fixture.layer(&cache, Some(&below), changes).await;
    let again = fixture
        .layer(
            &cache,
            Some(&changed),
            &[("-fresh", ""), ("fresh/again", "y")],
        )
        .await;
    let other = &[
        ("dir/a/1", "other"),
        ("dir/a/2", "other"),
        ("dir/a/3", "other"),
        ("dir/b/1", "other"),
        ("dir/c/2", "other"),
        ("fresh/mine", "other"),
        ("fresh/made/mine", "other"),
    ];
    let other = fixture.layer(&cache, None, other).await;
    let merged = cache
        .merge(&[other.clone(), again.clone()], RecordOptions::default())
        .expect("made")
        .expect("something");
    let expected = [
        "dir/a/1=new",
        "dir/a/3=other",
        "dir/c/1=new",
        "dir/c/2=other",
        "fresh/again=y",
        "fresh/mine=other",
        "old=a file now",
    ];
    assert_eq!(fixture.files(&merged).await, expected);
    assert_eq!(
        fixture.files(&again).await,
        [
            "dir/a/1=new",
            "dir/c/1=new",
            "fresh/again=y",
            "old=a file now"
        ],
        "by itself it is as it was"
    );
    let trees = fixture.trees();
    let (id, parts) = (merged.id().clone(), [other, again, changed, below]);
    let ids = parts.each_ref().map(|part| part.id().clone());
    drop((merged, parts, cache));
    let cache = fixture.open();
    cache.settle_removals().await;
    assert_eq!(fixture.trees(), trees, "all of that is named by records");
    let merged = cache.get(&id).expect("found");
    assert_eq!(fixture.files(&merged).await, expected);
    drop(merged);
    for id in [id].iter().chain(&ids) {
        cache.remove(id).expect("removed");
    }
    cache.settle_removals().await;
    assert_eq!(fixture.trees(), 0);
}

#[tokio::test]
async fn a_chain_of_merges_is_there_while_its_records_are() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let mut chain = fixture.layer(&cache, None, &[("f0", "")]).await;
    let mut ids = vec![chain.id().clone()];
    for number in 1..20 {
        let file = format!("f{number}");
        let next = fixture.layer(&cache, None, &[(&*file, "")]).await;
        let merged = cache.merge(&[chain, next.clone()], RecordOptions::default());
        chain = merged.expect("made").expect("something");
        ids.push(chain.id().clone());
    }
    drop((chain, cache));
    let cache = fixture.open();
    for _ in 0..2 {
        assert!(ids.iter().rev().all(|id| cache.exists(id)));
    }
    let top = ids.pop().expect("the last");
    cache.remove(&top).expect("removed");
    assert!(!cache.exists(&top));
    assert!(ids.iter().all(|id| cache.exists(id)));
}

#[tokio::test]
async fn a_difference_shows_only_what_changed() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let below = &[("etc/os", "1"), ("same", "x"), ("dir/kept", "x")];
    let base = fixture.layer(&cache, None, below).await;
    let tree = fixture.mutable(&cache, Some(&base)).await;
    let root = tree.tree(&fixture.cx).await.expect("mounted").path();
    // Copied up and put back as it was.
    let times = std::fs::metadata(root.join("same")).expect("there");
    std::fs::write(root.join("same"), "x").expect("written");
    let file = std::fs::File::options().write(true).open(root.join("same"));
    file.and_then(|file| file.set_modified(times.modified()?))
        .expect("set");
    let times = std::fs::metadata(root.join("etc")).expect("there");
    std::fs::write(root.join("etc/passing"), "x").expect("written");
    std::fs::remove_file(root.join("etc/passing")).expect("removed");
    let dir = std::fs::File::open(root.join("etc")).expect("opened");
    dir.set_modified(times.modified().expect("known"))
        .expect("set");
    std::fs::write(root.join("new"), "y").expect("written");
    let top = tree
        .commit(&fixture.cx, "a layer")
        .await
        .expect("committed");
    let diff = cache
        .diff(
            &fixture.cx,
            Some(&base),
            Some(&top),
            RecordOptions::default(),
            &Progress::none(),
        )
        .await
        .expect("made")
        .expect("something");
    diff.ensure(&fixture.cx, &Progress::none())
        .await
        .expect("unpacked");
    let root = diff.tree(&fixture.cx).await.expect("mounted").path();
    let names = std::fs::read_dir(root).expect("read");
    let names: Vec<_> = names
        .map(|entry| entry.expect("read").file_name())
        .collect();
    assert_eq!(names, ["new"]);
}

#[tokio::test]
async fn a_merge_shows_all_and_a_diff_what_came_on_top() {
    testkit::require!(root);
    merges_and_differences(SnapshotterKind::Overlay).await;
}

#[tokio::test]
async fn whole_trees_can_be_merged_and_compared_too() {
    testkit::require!(root);
    merges_and_differences(SnapshotterKind::Native).await;
}

#[tokio::test]
async fn only_what_nobody_needs_can_be_removed() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture.layer(&cache, None, &[("a", "1")]).await;
    let top = fixture.layer(&cache, Some(&base), &[("b", "2")]).await;
    let (low, high) = (base.id().clone(), top.id().clone());
    assert!(matches!(cache.remove(&high), Err(Error::InUse { .. })));
    drop((base, top));
    assert!(
        matches!(cache.remove(&low), Err(Error::InUse { .. })),
        "something stands on it"
    );
    let mut list = cache.list(&fixture.cx).await.expect("listed");
    list.retain(|usage| usage.id.as_str() != "state");
    assert_eq!(list.len(), 2);
    assert!(
        list.iter()
            .all(|usage| !usage.in_use && usage.size >= 4096 && usage.usage_count > 0)
    );
    assert!(cache.remove(&high).expect("removed") >= 4096);
    cache.remove(&low).expect("removed");
    assert!(matches!(cache.remove(&low), Err(Error::NotFound { .. })));
    cache.settle_removals().await;
    assert_eq!((fixture.trees(), cache.exists(&low)), (0, false));
}

#[tokio::test]
async fn a_cache_mount_on_a_base_can_be_used_by_several_steps() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture.layer(&cache, None, &[("a", "1")]).await;
    let options = RecordOptions {
        record_type: RecordType::CacheMount,
        ..RecordOptions::default()
    };
    let tree = cache
        .new_mutable(&fixture.cx, Some(&base), options)
        .await
        .expect("a tree");
    let (one, two) = (
        tree.mount().expect("mounted"),
        tree.mount().expect("mounted"),
    );
    let (one, two) = (
        one.detached().expect("mounted"),
        two.detached().expect("mounted"),
    );
    write(&one.path(), &[("b", "2")]);
    assert_eq!(listing(&two.path()), ["a=1", "b=2"]);
    drop((one, two, tree));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read");
    assert!(!mounts.contains(&fixture.dir.path().display().to_string()));
}

#[tokio::test]
async fn a_checksum_is_kept_with_the_tree() {
    testkit::require!(root);
    use contenthash::Query;
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture
        .layer(&cache, None, &[("a", "1"), ("dir/b", "2")])
        .await;
    let top = fixture.layer(&cache, Some(&base), &[("dir/c", "3")]).await;
    let same = fixture.layer(&cache, Some(&top), &[]).await;
    let sum = async |tree: &Ref, path: &str| {
        tree.checksum(&fixture.cx, &Query::of(path))
            .await
            .expect("a checksum")
    };
    assert_eq!(sum(&base, "/a").await, sum(&top, "/a").await);
    assert_ne!(sum(&base, "/dir").await, sum(&top, "/dir").await);
    let whole = sum(&top, "/").await;
    assert_eq!(sum(&same, "/").await, whole);
    let id = top.id().clone();
    drop((base, top, same, cache));
    let cache = fixture.open();
    // Only what was kept can answer this: the tree is not what it was.
    let written = fixture.dir.path().join("snapshots-overlayfs-v1/2/fs/dir/c");
    std::fs::write(written, "against the rules").expect("written");
    assert_eq!(sum(&cache.get(&id).expect("found"), "/").await, whole);
}

#[tokio::test]
async fn checksums_of_a_client_directory_come_from_its_transfer() {
    testkit::require!(root);
    use contenthash::{Change, Query, Records, Sum};
    let fixture = Fixture::new();
    let cache = fixture.open();
    let tree = fixture.mutable(&cache, None).await;
    tree.set_index("local:ctx").expect("kept");
    assert!(tree.take_checksums().is_empty());
    let mut records = Records::new();
    records.insert(b"f", Change::File(Sum::of_nothing()));
    tree.set_checksums(records.clone());
    let view = tree.freeze(&fixture.cx).await.expect("frozen");
    let asked = view
        .checksum(&fixture.cx, &Query::of("/f"))
        .await
        .expect("a checksum");
    drop((tree, view, cache));
    let cache = fixture.open();
    let tree = cache.find_mutable("local:ctx").expect("found");
    let mut kept = tree.take_checksums();
    assert_eq!(
        kept.known(&Query::of("/f"))
            .expect("known")
            .expect("a checksum"),
        asked
    );
    drop(tree);
    let tree = cache.find_mutable("local:ctx").expect("found");
    assert!(
        tree.take_checksums().is_empty(),
        "nobody said what the tree is like now"
    );
}

#[tokio::test]
async fn a_file_with_names_in_two_trees_is_hashed_once() {
    testkit::require!(root);
    use contenthash::{Change, Query, Records, Sum};
    let fixture = Fixture::new();
    let cache = fixture.open();
    let write = |tree: &MutableRef, path: &str| {
        let path = tree.layer_directory().expect("a directory").join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        std::fs::write(path, "content").expect("written");
    };
    let first = fixture.mutable(&cache, None).await;
    write(&first, "d/f");
    let mut records = Records::new();
    // Nothing on disk has this sum.
    records.insert(b"d/f", Change::File(Sum::of_nothing()));
    first.set_checksums(records);
    let first = first.commit(&fixture.cx, "").await.expect("committed");
    let files = || {
        let mut files = fstree::copy::LinkedFiles::new("d".as_ref(), "e".as_ref());
        files.add(c"f");
        files.add(c"unknown");
        vec![files]
    };
    let sum = async |told: bool| {
        let second = fixture.mutable(&cache, None).await;
        write(&second, "e/f");
        second.set_linked(told.then(|| first.linked(files())));
        let second = second.commit(&fixture.cx, "").await.expect("committed");
        let sum = |path| {
            let query = Query::of(path);
            let (second, cx) = (second.clone(), fixture.cx.clone());
            async move { second.checksum(&cx, &query).await.expect("a checksum") }
        };
        (sum("/e/f").await, sum("/").await)
    };
    let (told, looked) = (sum(true).await, sum(false).await);
    assert_eq!(told.0, Sum::of_nothing().digest());
    assert_ne!(looked.0, told.0);
    assert_ne!(looked.1, told.1);
}

#[tokio::test]
async fn after_a_power_cut_only_what_was_synced_is_there() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let open = |boot: &str| {
        let mut options = Options::new(fixture.dir.path());
        options.boot = Some(boot.to_owned());
        options.sync_after = std::time::Duration::from_secs(3600);
        Cache::open(options).expect("a cache")
    };
    let cache = open("first");
    let local = async |key: &str| {
        let options = RecordOptions {
            record_type: RecordType::SourceLocal,
            ..RecordOptions::default()
        };
        let tree = cache
            .new_mutable(&fixture.cx, None, options)
            .await
            .expect("a tree");
        tree.set_index(key).expect("kept");
    };
    let synced = fixture.layer(&cache, None, &[("a", "1")]).await;
    let blob = cache.content().put("synced long ago").expect("stored");
    local("local:ctx").await;
    local("cache-dir:x").await;
    cache.db().sync().expect("synced");
    let young = fixture.layer(&cache, Some(&synced), &[("b", "2")]).await;
    let refs = (synced, young);
    let (synced, young) = (refs.0.id().clone(), refs.1.id().clone());
    drop((refs, cache));

    let cache = open("second");
    assert!(cache.exists(&synced) && !cache.exists(&young));
    assert!(
        !cache.content().contains(&blob),
        "too young to be trusted without a record"
    );
    assert!(
        cache.find_mutable("local:ctx").is_none(),
        "may be half-written"
    );
    assert_eq!(fixture.trees(), 1);
    let again = fixture
        .layer(&cache, cache.get(&synced).as_ref(), &[("c", "3")])
        .await;
    assert_eq!(fixture.files(&again).await, ["a=1", "c=3"]);
    cache.close().expect("closed");
    drop((again, cache));
    let cache = open("third");
    assert!(cache.exists(&synced));
    assert_eq!(fixture.trees(), 2);
}

#[tokio::test]
async fn what_is_written_beside_the_mount_is_seen_by_the_next_one() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture.layer(&cache, None, &[("a", "1")]).await;
    let tree = fixture.mutable(&cache, Some(&base)).await;
    tree.tree(&fixture.cx).await.expect("mounted");
    assert_eq!(base.layer_directories().expect("known").len(), 1);
    let (from, to) = (
        &base.layer_directories().expect("known")[0],
        tree.layer_directory(),
    );
    std::fs::hard_link(from.join("a"), to.expect("known").join("b")).expect("linked");
    tree.look_again().await;
    assert_eq!(
        listing(&tree.tree(&fixture.cx).await.expect("mounted").path()),
        ["a=1", "b=1"]
    );
}
