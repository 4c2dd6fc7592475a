//! Upstream's answers for trees that arrive by transfer.

mod common;

use common::{Entry, Tree, check, trees};
use contenthash::{Change, FileHasher, FileHeader, Records, Sum};
use tasks::Cx;

fn sum(entry: &Entry) -> Sum {
    let kind = match entry.kind.as_str() {
        "dir" => 0o040_000,
        "symlink" => 0o120_000,
        "char" => 0o020_000,
        "block" => 0o060_000,
        "fifo" => 0o010_000,
        _ => 0o100_000,
    };
    let header = FileHeader {
        mode: kind | entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.content.len() as u64,
        linkname: entry.linkname.as_bytes(),
        devmajor: entry.devmajor.into(),
        devminor: entry.devminor.into(),
    };
    let mut hasher = FileHasher::new(&header, &entry.xattrs);
    for piece in entry.content.chunks(1000) {
        hasher.update(piece);
    }
    hasher.finish()
}

fn insert(records: &mut Records, entry: &Entry) {
    let change = match entry.kind.as_str() {
        "dir" => Change::Dir(sum(entry)),
        "symlink" => Change::Symlink {
            target: entry.linkname.as_bytes(),
            sum: sum(entry),
        },
        "hardlink" => Change::HardLink {
            target: entry.linkname.as_bytes(),
        },
        _ => Change::File(sum(entry)),
    };
    records.insert(entry.path.as_bytes(), change);
}

fn stream(tree: &Tree) -> Records {
    let mut records = Records::new();
    for entry in &tree.entries {
        insert(&mut records, entry);
    }
    records.finish_transfer();
    records
}

fn ask_all(tree: &Tree, mut fresh: impl FnMut() -> Records) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let root = fstree::Root::open(dir.path()).expect("open");
    for asked in tree.queries.iter() {
        // An empty transfer leaves nothing; the disk is asked, and its root has real metadata.
        let wanted = &asked.stream;
        let mut records = fresh();
        let answer = if records.is_empty() {
            continue;
        } else {
            assert!(
                records.known(&asked.query).is_some(),
                "{:?} needs the disk",
                asked.query
            );
            records.query(&Cx::root(), &root, &asked.query)
        };
        let answer = answer.map(|digest| digest.to_string());
        check(
            tree,
            asked,
            answer.map_err(|err| fault::chain(&err)),
            wanted,
        );
    }
}

#[test]
fn transfers_give_upstream_s_digests() {
    let trees = trees();
    assert_eq!(
        trees.iter().map(|tree| tree.queries.len()).sum::<usize>(),
        275
    );
    for tree in &trees {
        ask_all(tree, || stream(tree));
    }
}

#[test]
fn answers_survive_being_stored() {
    for tree in &trees() {
        let mut asked_before = stream(tree);
        for asked in &tree.queries {
            drop(asked_before.known(&asked.query));
        }
        let bytes = asked_before.to_bytes();
        let restored = Records::from_bytes(&bytes).expect("what was written is read");
        assert!(restored == asked_before);
        ask_all(tree, || restored.clone());
        assert!(Records::from_bytes(&bytes[..bytes.len() - 1]).is_none());
    }
}

#[test]
fn files_that_come_in_any_order_give_the_same_digests() {
    for tree in &trees() {
        ask_all(tree, || {
            let mut records = Records::new();
            for entry in tree.entries.iter().filter(|entry| entry.kind == "dir") {
                insert(&mut records, entry);
            }
            let others = tree.entries.iter().rev();
            for entry in others.filter(|entry| entry.kind != "dir") {
                insert(&mut records, entry);
            }
            records.finish_transfer();
            records
        });
    }
}

#[test]
fn changes_on_top_of_another_tree_give_the_digests_of_the_new_one() {
    let trees = trees();
    for pair in trees.windows(2) {
        let (old, new) = (&pair[0], &pair[1]);
        ask_all(new, || {
            let mut records = stream(old);
            drop(records.known(&contenthash::Query::of("/")));
            for entry in &old.entries {
                records.remove(entry.path.as_bytes());
            }
            for entry in &new.entries {
                insert(&mut records, entry);
            }
            records.finish_transfer();
            records
        });
    }
}
