//! Sizes that are true, limits that hold.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use cache::{
    Cache, Depth, Options, Problem, Pruned, RecordOptions, RecordType, Ref, RefId, Rule, Usage,
};
use filters::Filter;
use progress::Progress;
use tasks::Cx;

const MB: u64 = 1 << 20;

struct Fixture {
    dir: tempfile::TempDir,
    cx: Cx,
    now: Arc<Mutex<SystemTime>>,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a scratch folder"),
            cx: Cx::root(),
            now: Arc::new(Mutex::new(SystemTime::now())),
        }
    }

    fn open(&self) -> Cache {
        self.open_at(self.dir.path())
    }

    fn open_at(&self, root: &Path) -> Cache {
        let mut options = Options::new(root);
        let now = self.now.clone();
        options.clock = Arc::new(move || *now.lock().expect("a clock"));
        Cache::open(options).expect("a cache")
    }

    /// A cache on a small disk of its own, in memory: what others give back to a disk would hide what is taken.
    fn open_in_memory(&self) -> (Cache, std::path::PathBuf, Unmount) {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=100m", "none"])
            .arg(self.dir.path())
            .status();
        assert!(mounted.expect("mount runs").success());
        let unmount = Unmount(self.dir.path().to_owned());
        let root = self.dir.path().join("state");
        (self.open_at(&root), root, unmount)
    }

    /// Has the cache measure itself. The database's file comes into being with its first flush.
    async fn measure(&self, cache: &Cache) {
        cache.db().sync().expect("flushed");
        self.list(cache).await;
    }

    fn pass(&self, time: Duration) {
        *self.now.lock().expect("a clock") += time;
    }

    /// A record of so many bytes on top of `parent`.
    async fn record(&self, cache: &Cache, parent: Option<&Ref>, bytes: u64) -> Ref {
        let tree = cache
            .new_mutable(&self.cx, parent, RecordOptions::default())
            .await
            .expect("a tree");
        let content = vec![7; usize::try_from(bytes).expect("not so many")];
        let path = tree.layer_directory().expect("a directory");
        std::fs::write(path.join("content"), content).expect("written");
        tree.commit(&self.cx, "a layer").await.expect("committed")
    }

    async fn list(&self, cache: &Cache) -> Vec<Usage> {
        cache.list(&self.cx).await.expect("listed")
    }

    async fn records(&self, cache: &Cache) -> Vec<RefId> {
        let list = self.list(cache).await.into_iter();
        list.filter(|usage| !["state", "documents"].contains(&usage.id.as_str()))
            .map(|usage| usage.id)
            .collect()
    }

    async fn prune(&self, cache: &Cache, rule: Rule) -> Pruned {
        cache.prune(&self.cx, &[rule], drop).await.expect("pruned")
    }
}

/// As `du -sx --block-size=1`.
fn du(path: &Path) -> u64 {
    let output = std::process::Command::new("du")
        .args(["-sx", "--block-size=1"])
        .arg(path)
        .output()
        .expect("du runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let number = text.split_whitespace().next().expect("a number");
    number.parse().expect("a number")
}

fn total(list: &[Usage]) -> u64 {
    list.iter().map(|usage| usage.size).sum()
}

fn near(what: &str, told: u64, real: u64) {
    let off = told.abs_diff(real);
    assert!(
        off * 50 <= real,
        "{what}: {told} told, {real} on disk, {off} off"
    );
}

#[tokio::test]
async fn the_sum_of_ten_thousand_records_is_what_the_filesystem_says() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture.record(&cache, None, 100_000).await;
    let mut last = base.clone();
    for number in 0..10_000_u64 {
        let parent = match number % 10 {
            0..5 => Some(&last),
            5..8 => Some(&base),
            _ => None,
        };
        let made = fixture.record(&cache, parent, (number * 37) % 9000).await;
        // Some files are shared between trees.
        if number % 20 == 0 {
            let from = made.layer_directories().expect("there")[0].join("content");
            let tree = cache
                .new_mutable(&fixture.cx, None, RecordOptions::default())
                .await
                .expect("a tree");
            let to = tree.layer_directory().expect("there").join("copy");
            std::fs::hard_link(from, to).expect("linked");
            drop(tree.commit(&fixture.cx, "a copy").await.expect("committed"));
        }
        if number % 50 == 0 {
            let options = layer::Options::default();
            let blobs = made.layers(&fixture.cx, &options, &Progress::none()).await;
            assert!(!blobs.expect("made").is_empty());
            cache.content().put(number.to_le_bytes()).expect("stored");
        }
        last = if number % 100 == 0 {
            base.clone()
        } else {
            made
        };
    }
    // Half-written things count too.
    let writing = cache
        .new_mutable(&fixture.cx, None, RecordOptions::default())
        .await
        .expect("a tree");
    let path = writing.layer_directory().expect("there");
    std::fs::write(path.join("half"), vec![1; 3_000_000]).expect("written");
    std::fs::write(fixture.dir.path().join("orphan"), vec![1; 500_000]).expect("written");
    let orphan = fixture.dir.path().join("snapshots-overlayfs-v1/900000/fs");
    std::fs::create_dir_all(&orphan).expect("made");
    std::fs::write(orphan.join("file"), vec![1; 500_000]).expect("written");

    let began = Instant::now();
    let list = fixture.list(&cache).await;
    eprintln!("first list: {:?}", began.elapsed());
    assert!(list.len() > 10_000);
    near("first", total(&list), du(fixture.dir.path()));
    let began = Instant::now();
    let list = fixture.list(&cache).await;
    eprintln!("second list: {:?}", began.elapsed());
    near("second", total(&list), du(fixture.dir.path()));

    // Half of what can go goes; what is left is right again.
    drop((writing, last, base));
    let half = Rule {
        max_used: total(&list) / 2,
        ..Rule::default()
    };
    let began = Instant::now();
    let pruned = fixture.prune(&cache, half).await;
    eprintln!("{} records pruned: {:?}", pruned.records, began.elapsed());
    assert!(pruned.records > 3000, "{pruned:?}");
    let list = fixture.list(&cache).await;
    near("pruned", total(&list), du(fixture.dir.path()));
    let report = cache.verify(&fixture.cx, Depth::Content).await;
    let report = report.expect("walked");
    assert_eq!(report.problems, [Problem::OrphanTree(900_000)]);
    let began = Instant::now();
    let rest = fixture.prune(&cache, Rule::default()).await;
    eprintln!("{} records pruned: {:?}", rest.records, began.elapsed());
    // A second on a machine that does nothing else.
    assert!(began.elapsed() < Duration::from_secs(300));
    assert!(fixture.records(&cache).await.is_empty());
    assert!(fixture.list(&cache).await.is_empty(), "nothing is left");
}

#[tokio::test]
async fn pruning_keeps_what_the_rule_keeps() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let mut ids = Vec::new();
    for _ in 0..5 {
        fixture.pass(Duration::from_secs(3600));
        let made = fixture.record(&cache, None, MB).await;
        ids.push(made.id().clone());
    }
    let base = fixture.record(&cache, None, MB).await;
    let top = fixture.record(&cache, Some(&base), MB).await;
    base.set_record_type(RecordType::Internal).expect("changed");
    let (base_id, top_id) = (base.id().clone(), top.id().clone());
    let young = Rule {
        keep_duration: Duration::from_secs(3 * 3600 + 60),
        ..Rule::default()
    };
    assert_eq!(fixture.prune(&cache, young).await.records, 1);
    assert!(!cache.exists(&ids[0]));
    // Room for four of what is left, and what is in use counts.
    let all = total(&fixture.list(&cache).await);
    let limit = Rule {
        max_used: all - MB,
        ..Rule::default()
    };
    fixture.prune(&cache, limit).await;
    assert!(!cache.exists(&ids[1]) && cache.exists(&ids[3]));
    let filter = Filter::parse(&[format!("id=={}", ids[3])]).expect("a filter");
    let one = Rule {
        filter,
        ..Rule::default()
    };
    assert_eq!(fixture.prune(&cache, one).await.records, 1);
    assert!(!cache.exists(&ids[3]) && cache.exists(&ids[4]));
    let reserved = Rule {
        reserved: all,
        max_used: 1,
        ..Rule::default()
    };
    assert_eq!(fixture.prune(&cache, reserved).await.records, 0);
    drop((base, top));
    fixture.prune(&cache, Rule::default()).await;
    assert_eq!(
        fixture.records(&cache).await,
        std::slice::from_ref(&base_id),
        "internal ones stay"
    );
    assert!(!cache.exists(&top_id));
    let everything = Rule {
        all: true,
        ..Rule::default()
    };
    assert_eq!(fixture.prune(&cache, everything).await.records, 1);
    assert!(!cache.exists(&base_id));
}

#[tokio::test]
async fn what_stands_below_is_as_young_as_what_was_removed_above() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    let base = fixture.record(&cache, None, 1).await;
    let (low, top) = (
        base.id().clone(),
        fixture.record(&cache, Some(&base), 1).await,
    );
    drop(base);
    fixture.pass(Duration::from_secs(10 * 3600));
    let high = top.id().clone();
    drop(top);
    let cache_mount = cache
        .new_mutable(&fixture.cx, None, RecordOptions::default())
        .await
        .expect("a tree");
    cache_mount.set_index("mount").expect("kept");
    drop(cache_mount);
    cache.remove(&high).expect("removed");
    fixture.pass(Duration::from_secs(3600));
    let young = Rule {
        keep_duration: Duration::from_secs(2 * 3600),
        ..Rule::default()
    };
    assert_eq!(fixture.prune(&cache, young.clone()).await.records, 0);
    fixture.pass(Duration::from_secs(2 * 3600));
    assert_eq!(fixture.prune(&cache, young).await.records, 2);
    assert!(!cache.exists(&low) && fixture.records(&cache).await.is_empty());
}

#[tokio::test]
async fn blobs_without_a_record_are_listed_and_live_for_a_while() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let cache = fixture.open();
    drop(fixture.record(&cache, None, MB).await);
    let digest = cache.content().put("a manifest").expect("stored");
    let list = fixture.list(&cache).await;
    let line = list.iter().find(|usage| usage.id.as_str() == "documents");
    let line = line.expect("a line");
    assert!(line.size >= 4096 && line.record_type == RecordType::Internal);
    fixture.pass(Duration::from_secs(24 * 3600));
    let nothing = Filter::parse(&["id==nothing"]).expect("a filter");
    let nothing = Rule {
        filter: nothing,
        ..Rule::default()
    };
    fixture.prune(&cache, nothing.clone()).await;
    assert!(cache.content().info(&digest).is_ok());
    fixture.pass(Duration::from_secs(25 * 3600));
    fixture.prune(&cache, nothing).await;
    assert!(cache.content().info(&digest).is_err());
}

#[tokio::test]
async fn a_limit_is_kept_while_steps_run() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let (cache, root, unmount) = fixture.open_in_memory();
    drop(fixture.record(&cache, None, MB).await);
    let rule = Rule {
        max_used: 20 * MB,
        ..Rule::default()
    };
    fixture.measure(&cache).await;
    let keeper = cache.keep(vec![rule], || ());
    let mut most = 0;
    for _ in 0..60 {
        fixture.pass(Duration::from_secs(1));
        drop(fixture.record(&cache, None, MB).await);
        most = most.max(du(&root));
    }
    // One step is under way, and what the database says of it.
    assert!(most <= 21 * MB + MB / 8, "{most}");
    assert!(
        fixture.records(&cache).await.len() >= 15,
        "no more goes than has to"
    );
    drop((keeper, cache, unmount));
}

#[tokio::test]
async fn a_limit_holds_again_after_the_database_grew() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let (cache, root, unmount) = fixture.open_in_memory();
    for _ in 0..18 {
        fixture.pass(Duration::from_secs(1));
        drop(fixture.record(&cache, None, MB).await);
    }
    fixture.measure(&cache).await;
    let limit = du(&root) + MB;
    let rule = Rule {
        max_used: limit,
        ..Rule::default()
    };
    let (told, mut hear) = tokio::sync::mpsc::unbounded_channel();
    let keeper = cache.keep(vec![rule], move || told.send(()).expect("heard"));
    let mut batch = db::Batch::new();
    for row in 0..4000_u64 {
        batch.put(db::Table::new("history"), row.to_be_bytes(), vec![1; 1000]);
    }
    cache.db().commit(batch).expect("written");
    cache.db().sync().expect("flushed");
    // Nobody builds, nobody says anything.
    let told = tokio::time::timeout(Duration::from_secs(120), hear.recv()).await;
    told.expect("something goes").expect("it is told");
    assert!(du(&root) <= limit + MB / 8, "{} of {limit}", du(&root));
    drop((keeper, cache, unmount));
}

#[tokio::test]
async fn what_kept_a_limit_from_holding_goes_once_it_is_not_in_use() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let (cache, root, unmount) = fixture.open_in_memory();
    let rule = Rule {
        max_used: 15 * MB,
        ..Rule::default()
    };
    // Among so many a measurement holds for several steps.
    let mut held = Vec::new();
    for _ in 0..2000 {
        held.push(fixture.record(&cache, None, 1).await);
    }
    fixture.measure(&cache).await;
    let keeper = cache.keep(vec![rule], || ());
    for _ in 0..15 {
        fixture.pass(Duration::from_secs(1));
        held.push(fixture.record(&cache, None, MB).await);
    }
    assert!(du(&root) > 20 * MB);
    held.clear();
    for _ in 0..3 {
        drop(fixture.record(&cache, None, MB).await);
        let used = du(&root);
        assert!(used <= 16 * MB + MB / 8, "{used}");
    }
    drop((keeper, cache, unmount));
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_makes_room_for_the_next_step() {
    testkit::require!(root);
    let fixture = Fixture::new();
    let (cache, _, unmount) = fixture.open_in_memory();
    let rule = Rule {
        max_used: 1 << 40,
        reserved: 1 << 30,
        ..Rule::default()
    };
    let keeper = cache.keep(vec![rule], || ());
    for _ in 0..60 {
        drop(fixture.record(&cache, None, 5 * MB).await);
    }
    assert!(fixture.records(&cache).await.len() >= 10);
    drop((keeper, cache, unmount));
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}
