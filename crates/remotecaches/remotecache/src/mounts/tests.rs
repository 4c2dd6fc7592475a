//! Mounts packed, unpacked, limited, damaged.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use content::Provider;
use fstree::Root;
use progress::Progress;
use session::Group;
use tasks::Cx;
use tempfile::TempDir;

use super::tree::{Entry, Kind, Name, Writer};
use super::*;

fn temp() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Blobs of a store of another daemon.
#[derive(Clone)]
struct There(Store);

#[async_trait]
impl Provider for There {
    async fn fetch(
        &self,
        _: &Cx,
        blob: &Descriptor,
        store: &Store,
        _: &Progress,
    ) -> Result<(), content::Error> {
        store.put(self.0.read(&blob.digest)?)?;
        Ok(())
    }
}

impl Origin for There {
    fn provider(&self, _: &Group) -> Arc<dyn Provider> {
        Arc::new(self.clone())
    }
}

fn place(root: &Path) -> Place {
    Place {
        id: "/x".to_owned(),
        root: Root::open(root).expect("a folder"),
        base: None,
    }
}

fn packed(root: &Path, limit: u64, store: &Store) -> Packed {
    pack(&Cx::root(), &[place(root)], limit, store).expect("packed")
}

async fn restore(listed: &Listed, from: &Store, into: &Path) -> Result<(), Error> {
    let spool = temp();
    let work = Work {
        cx: Cx::root(),
        progress: Progress::none(),
        sessions: session::Manager::new().group(Vec::<String>::new()),
        store: Store::open(spool.path()).expect("a store"),
    };
    let origin: Arc<dyn Origin> = Arc::new(There(from.clone()));
    let incoming = Incoming::new(&listed.tree, &origin);
    let root = Root::open(into).expect("a folder");
    incoming.restore(&work, listed, root).await
}

fn store() -> (TempDir, Store) {
    let dir = temp();
    let store = Store::open(dir.path()).expect("a store");
    (dir, store)
}

fn set_time(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    let times = std::fs::FileTimes::new()
        .set_modified(time)
        .set_accessed(time);
    let file = std::fs::File::open(path).expect("a file");
    file.set_times(times).expect("set");
}

#[tokio::test]
async fn what_is_packed_comes_back() {
    let (from, to) = (temp(), temp());
    let at = from.path();
    std::fs::create_dir_all(at.join("a/b")).expect("made");
    std::fs::write(at.join("a/b/big"), vec![7; 3 << 20]).expect("written");
    std::fs::write(at.join("a/empty"), "").expect("written");
    std::fs::write(at.join("z"), "z").expect("written");
    std::fs::hard_link(at.join("z"), at.join("zz")).expect("linked");
    symlink("a/b", at.join("link")).expect("linked");
    let mode = std::fs::Permissions::from_mode(0o751);
    std::fs::set_permissions(at.join("z"), mode).expect("set");
    set_time(&at.join("z"), 1_000_000);
    set_time(&at.join("a/b"), 2_000_000);
    let (_dir, store) = store();
    let packed = packed(at, u64::MAX, &store);
    assert_eq!(
        (packed.bytes, packed.too_much, packed.busy),
        ((3 << 20) + 1, 0, 0)
    );
    restore(&packed.mounts[0], &store, to.path())
        .await
        .expect("restored");
    let at = to.path();
    let read = |path: &str| std::fs::read(at.join(path)).expect(path);
    assert!(read("a/b/big") == vec![7; 3 << 20]);
    assert_eq!(read("a/empty"), b"");
    assert_eq!(read("zz"), b"z");
    let meta = |path: &str| std::fs::symlink_metadata(at.join(path)).expect(path);
    assert_eq!(meta("z").ino(), meta("zz").ino());
    assert_eq!(meta("z").mode() & 0o7777, 0o751);
    assert_eq!(
        (meta("z").mtime(), meta("z").mtime_nsec()),
        (1_000_000, 123_456_789)
    );
    assert_eq!(meta("a/b").mtime(), 2_000_000);
    assert_eq!(
        std::fs::read_link(at.join("link")).expect("a link"),
        Path::new("a/b")
    );
    // What was restored is the same mount.
    let again = self::packed(at, u64::MAX, &store);
    assert_eq!(again.mounts, packed.mounts);
}

#[test]
fn a_small_change_makes_few_new_blobs() {
    let from = temp();
    let mut state: u32 = 1;
    for number in 0..400 {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let bytes: Vec<u8> = (0..50_000).map(|_| next()).collect();
        std::fs::write(from.path().join(format!("{number:03}")), bytes).expect("written");
    }
    let (_dir, store) = store();
    let before = packed(from.path(), u64::MAX, &store).mounts.remove(0);
    assert!(before.chunks.len() > 8, "{}", before.chunks.len());
    std::fs::write(from.path().join("200"), "another").expect("written");
    std::fs::write(from.path().join("200a"), "one more").expect("written");
    set_time(&from.path().join("300"), 1);
    let after = packed(from.path(), u64::MAX, &store).mounts.remove(0);
    let new = |chunk: &&Part| !before.chunks.contains(chunk);
    let new = after.chunks.iter().filter(new).count();
    assert!((1..=2).contains(&new), "{new}");
}

#[test]
fn the_files_used_last_have_room() {
    let from = temp();
    for (name, seconds) in [("old", 1_000), ("new", 3_000), ("middle", 2_000)] {
        let path = from.path().join(name);
        std::fs::write(&path, vec![1; 1000]).expect("written");
        set_time(&path, seconds);
    }
    let (_dir, store) = store();
    let left = |limit| {
        let packed = packed(from.path(), limit, &store);
        let tree = store.read(&packed.mounts[0].tree.digest).expect("a tree");
        let files = tree::read(&tree).expect("a tree");
        let files = files.map(|entry| entry.expect("an entry"));
        let files = files.filter(|entry| entry.kind == Kind::File);
        let names: Vec<_> = files
            .map(|entry| entry.path.path().display().to_string())
            .collect();
        (names, packed.too_much)
    };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(left(3000), (names(&["middle", "new", "old"]), 0));
    assert_eq!(left(2999), (names(&["middle", "new"]), 1));
    assert_eq!(left(1000), (names(&["new"]), 2));
    assert_eq!(left(0), (Vec::new(), 3));
}

/// A mount made by hand.
fn by_hand(entries: &[(Kind, &str, &str)], store: &Store) -> Listed {
    let mut writer = Writer::new().expect("a writer");
    for (kind, path, link) in entries {
        let entry = Entry {
            path: Name::of(Path::new(path)),
            kind: *kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
            link: Name::of(Path::new(link)),
            attributes: Vec::new(),
        };
        writer.add(&entry).expect("added");
    }
    let tree = writer.finish().expect("a tree");
    store.put(&tree).expect("put");
    Listed {
        id: "/x".to_owned(),
        base: None,
        tree: Part::of(&tree),
        chunks: Vec::new(),
    }
}

#[tokio::test]
async fn nothing_is_written_beside_the_mount() {
    let (outer, (_dir, store)) = (temp(), store());
    let inside = outer.path().join("inside");
    std::fs::create_dir(&inside).expect("made");
    let up = outer.path().display().to_string();
    let cases: [&[(Kind, &str, &str)]; 4] = [
        &[(Kind::File, "../a", "")],
        &[(Kind::File, "/../../a", "")],
        &[(Kind::Symlink, "l", &up), (Kind::File, "l/a", "")],
        &[(Kind::Symlink, "m", ".."), (Kind::Dir, "m/a", "")],
    ];
    for case in cases {
        // It may fail or not.
        let _ = restore(&by_hand(case, &store), &store, &inside).await;
        let names: Vec<_> = std::fs::read_dir(outer.path()).expect("listed").collect();
        assert_eq!(names.len(), 1, "{case:?}");
    }
}

#[tokio::test]
async fn a_chunk_that_is_missing_is_an_error() {
    let (from, to, (_dir, store)) = (temp(), temp(), store());
    std::fs::write(from.path().join("a"), "a").expect("written");
    let mut listed = packed(from.path(), u64::MAX, &store).mounts.remove(0);
    store.remove(&listed.chunks[0].digest).expect("removed");
    assert!(restore(&listed, &store, to.path()).await.is_err());
    listed.chunks.clear();
    let err = restore(&listed, &store, to.path()).await;
    assert!(err.is_err());
}
