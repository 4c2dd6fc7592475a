//! The promises of a snapshotter, kept by each of them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use snapshot::{Chain, Key, Native, Overlay, Snapshotter};

fn all(root: &Path) -> Vec<Box<dyn Snapshotter>> {
    vec![
        Box::new(Overlay::open(&root.join("overlay")).expect("opened")),
        Box::new(Native::open(&root.join("native")).expect("opened")),
    ]
}

fn chain(keys: &[u64]) -> Chain {
    Chain {
        keys: keys.iter().copied().map(Key).collect(),
        cut: false,
    }
}

/// Fills snapshot `key` through its mount.
fn edit(snapshots: &dyn Snapshotter, key: u64, below: Option<&Chain>, work: impl FnOnce(&Path)) {
    snapshots.prepare(Key(key), below).expect("prepared");
    let tree = snapshots.edit(Key(key), below).detached().expect("mounted");
    work(&tree.path());
}

fn names(snapshots: &dyn Snapshotter, chain: &Chain) -> Vec<String> {
    let tree = snapshots.view(chain).detached().expect("mounted");
    let mut names: Vec<_> = std::fs::read_dir(tree.path())
        .expect("read")
        .map(|entry| {
            entry
                .expect("read")
                .file_name()
                .into_string()
                .expect("text")
        })
        .collect();
    names.sort();
    names
}

#[test]
fn changes_stay_in_the_snapshot_they_were_made_in() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    for snapshots in all(dir.path()) {
        changes_stay(snapshots.as_ref());
    }
}

fn changes_stay(snapshots: &dyn Snapshotter) {
    edit(snapshots, 1, None, |root| {
        std::fs::write(root.join("a"), "1").expect("written");
        std::fs::write(root.join("b"), "1").expect("written");
    });
    edit(snapshots, 2, Some(&chain(&[1])), |root| {
        std::fs::remove_file(root.join("a")).expect("removed");
        std::fs::write(root.join("b"), "2").expect("written");
        std::fs::write(root.join("c"), "2").expect("written");
    });
    assert_eq!(
        names(snapshots, &chain(&[1])),
        ["a", "b"],
        "{}",
        snapshots.name()
    );
    assert_eq!(
        names(snapshots, &chain(&[2, 1])),
        ["b", "c"],
        "{}",
        snapshots.name()
    );
    assert_eq!(
        std::fs::read(snapshots.directory(Key(1)).join("b")).expect("read"),
        b"1"
    );
}

#[test]
fn a_snapshot_begins_with_the_root_directory_of_what_is_below() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    for snapshots in all(dir.path()) {
        begins_with_root(snapshots.as_ref());
    }
}

fn begins_with_root(snapshots: &dyn Snapshotter) {
    edit(snapshots, 1, None, |root| {
        assert_eq!(
            std::fs::metadata(root).expect("read").mode() & 0o7777,
            0o755
        );
        chown(root, Some(3), Some(4)).expect("changed");
        std::fs::set_permissions(root, PermissionsExt::from_mode(0o1711)).expect("changed");
    });
    edit(snapshots, 2, Some(&chain(&[1])), |root| {
        let meta = std::fs::metadata(root).expect("read");
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (3, 4, 0o1711)
        );
    });
}

#[test]
fn a_removed_snapshot_is_gone_and_may_be_removed_again() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    for snapshots in all(dir.path()) {
        removed_is_gone(snapshots.as_ref());
    }
}

fn removed_is_gone(snapshots: &dyn Snapshotter) {
    edit(snapshots, 1, None, |_| {});
    edit(snapshots, 2, Some(&chain(&[1])), |root| {
        std::fs::create_dir_all(root.join("deep/er")).expect("made");
    });
    let mut keys = snapshots.keys().expect("listed");
    keys.sort();
    assert_eq!(keys, [Key(1), Key(2)]);
    snapshots.remove(Key(2)).expect("removed");
    snapshots.remove(Key(2)).expect("nothing to do");
    assert_eq!(snapshots.keys().expect("listed"), [Key(1)]);
    assert!(
        snapshots.prepare(Key(1), None).is_err(),
        "a key is never used twice"
    );
    assert_eq!(snapshots.keys().expect("listed"), [Key(1)]);
}

#[test]
fn only_a_change_that_a_mount_would_show_is_one() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    changes_count(&Overlay::open(dir.path()).expect("opened"));
}

fn changes_count(snapshots: &Overlay) {
    let base = chain(&[1]);
    edit(snapshots, 1, None, |root| {
        std::fs::write(root.join("a"), "").expect("written")
    });
    type Work = fn(&Path);
    let cases: [(bool, Work); 5] = [
        (true, |_| {}),
        (true, |root| {
            std::fs::write(root.join("tmp"), "").expect("written");
            std::fs::remove_file(root.join("tmp")).expect("removed");
        }),
        (false, |root| {
            std::fs::remove_file(root.join("a")).expect("removed")
        }),
        (false, |root| chown(root, Some(9), None).expect("changed")),
        (false, |root| {
            let flags = rustix::fs::XattrFlags::CREATE;
            rustix::fs::setxattr(root, "user.note", b"x", flags).expect("set");
        }),
    ];
    for (number, (unchanged, work)) in (2..).zip(cases) {
        edit(snapshots, number, Some(&base), work);
        let found = snapshots.is_unchanged(Key(number), &base).expect("looked");
        assert_eq!(found, unchanged, "case {number}");
    }
}

#[test]
fn marks_of_deletions_made_by_hand_are_not_listed() {
    testkit::require!(root);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let snapshots = Overlay::open(dir.path()).expect("opened");
    snapshots
        .prepare(Key(2), Some(&chain(&[])))
        .expect("prepared");
    let layer = snapshots.directory(Key(2));
    std::fs::create_dir(layer.join("dir")).expect("made");
    std::fs::write(layer.join("dir/kept"), "").expect("written");
    for mark in ["gone", "dir/gone"] {
        let (kind, mode) = (
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
        );
        rustix::fs::mknodat(rustix::fs::CWD, layer.join(mark), kind, mode, 0).expect("made");
    }
    snapshots.adopt(Key(2)).expect("put in order");
    let cut = Chain {
        cut: true,
        ..chain(&[2])
    };
    let tree = snapshots.view(&cut).detached().expect("mounted");
    let list = |name: &str| {
        std::fs::read_dir(tree.path().join(name))
            .expect("read")
            .count()
    };
    assert_eq!((list("."), list("dir")), (1, 1));
}

#[test]
fn fuse_overlayfs_keeps_the_same_promises() {
    testkit::require!(root, fuse);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let fuse = |name: &str| Overlay::open_with_fuse(&dir.path().join(name)).expect("opened");
    assert!(Overlay::is_possible_with_fuse(dir.path()));
    assert_eq!(fuse("a").name(), "fuse-overlayfs");
    changes_stay(&fuse("a"));
    begins_with_root(&fuse("b"));
    removed_is_gone(&fuse("c"));
    changes_count(&fuse("d"));
}

#[test]
fn fuse_overlayfs_leaves_nothing_but_the_marks_of_overlayfs() {
    testkit::require!(root, fuse);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let snapshots = Overlay::open_with_fuse(dir.path()).expect("opened");
    let base = chain(&[1]);
    edit(&snapshots, 1, None, |root| {
        std::fs::create_dir(root.join("dir")).expect("made");
        std::fs::write(root.join("dir/old"), "1").expect("written");
        std::fs::write(root.join("file"), "1").expect("written");
    });
    edit(&snapshots, 2, Some(&base), |root| {
        std::fs::remove_dir_all(root.join("dir")).expect("removed");
        std::fs::create_dir(root.join("dir")).expect("made");
        std::fs::write(root.join("dir/new"), "2").expect("written");
        std::fs::set_permissions(root.join("file"), std::fs::Permissions::from_mode(0o600))
            .expect("changed");
    });
    assert!(!snapshots.is_unchanged(Key(2), &base).expect("looked"));
    let layer = snapshots.directory(Key(2));
    let list = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("read");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("read").file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(list(&layer), ["dir", "file"]);
    assert_eq!(list(&layer.join("dir")), ["new"]);
    let attributes = |name: &str| {
        let mut names = vec![0; 1024];
        let length = rustix::fs::listxattr(layer.join(name), names.as_mut_slice()).expect("listed");
        String::from_utf8_lossy(&names[..length]).into_owned()
    };
    assert_eq!(attributes("file"), "");
    assert_eq!(attributes("dir"), "trusted.overlay.opaque\0");
    // What is there means the same to the kernel.
    let kernel = mount::Mount::Overlay {
        lower: vec![layer.clone(), snapshots.directory(Key(1))],
        upper: None,
        options: mount::probe::overlay_options(),
    };
    let tree = kernel.detached().expect("mounted");
    assert_eq!(list(&tree.path().join("dir")), ["new"]);
}

#[test]
fn the_program_ends_when_its_mount_does() {
    testkit::require!(root, fuse);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let snapshots = Overlay::open_with_fuse(dir.path()).expect("opened");
    let place = dir.path().display().to_string();
    edit(&snapshots, 1, None, |_| {});
    edit(&snapshots, 2, Some(&chain(&[1])), |_| {
        assert_eq!(serving(&place), 1);
    });
    // It takes the time the process needs to notice.
    let gone = (0..60_000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        serving(&place) == 0
    });
    assert!(gone, "a process stays behind");
}

/// How many programs serve mounts of what is below `place`.
fn serving(place: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("mounted").flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    lines
        .filter(|line| line.starts_with("fuse-overlayfs") && line.contains(place))
        .count()
}
