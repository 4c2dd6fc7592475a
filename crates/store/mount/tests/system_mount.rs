//! Mounts through the real kernel.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use mount::{Mount, Tmpfs, Tree, Upper};

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

fn dir(path: PathBuf) -> PathBuf {
    std::fs::create_dir_all(&path).expect("made");
    path
}

fn read(root: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(root.join(name)).ok()
}

/// Layers `0..count`, each with a file of its own and one that all have; nearest (highest) first.
fn layers(root: &Path, count: usize) -> Vec<PathBuf> {
    (0..count)
        .rev()
        .map(|index| {
            let layer = dir(root.join(format!("{index}/fs")));
            std::fs::write(layer.join(format!("own-{index}")), "").expect("written");
            std::fs::write(layer.join("common"), index.to_string()).expect("written");
            layer
        })
        .collect()
}

fn overlay(lower: Vec<PathBuf>, upper: Option<Upper>) -> Mount {
    Mount::Overlay {
        lower,
        upper,
        options: mount::probe::overlay_options(),
    }
}

fn upper(root: &Path) -> Upper {
    Upper {
        dir: dir(root.join("upper")),
        work: dir(root.join("work")),
    }
}

fn mounts_below(path: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("read");
    table
        .lines()
        .filter(|line| line.contains(&path.display().to_string()))
        .count()
}

#[test]
fn three_hundred_layers_are_one_tree() {
    testkit::require!(root);
    let scratch = scratch();
    let mount = overlay(layers(scratch.path(), 300), Some(upper(scratch.path())));
    let tree = mount.detached().expect("mounted");
    let root = tree.path();
    assert_eq!(read(&root, "common").as_deref(), Some("299"));
    assert!(root.join("own-0").exists() && root.join("own-150").exists());
    std::fs::write(root.join("common"), "new").expect("written");
    std::fs::remove_file(root.join("own-7")).expect("removed");
    assert_eq!(mounts_below(scratch.path()), 0);
    drop(tree);
    assert_eq!(
        read(&scratch.path().join("upper"), "common").as_deref(),
        Some("new")
    );
    assert!(scratch.path().join("7/fs/own-7").exists());
}

#[test]
fn more_layers_than_the_kernel_stacks_work_too() {
    testkit::require!(root);
    let scratch = scratch();
    let lower = layers(scratch.path(), 720);
    let mount = overlay(lower.clone(), Some(upper(scratch.path())));
    let tree = mount.detached().expect("mounted");
    assert_eq!(read(&tree.path(), "common").as_deref(), Some("719"));
    assert!((0..720).all(|index| tree.path().join(format!("own-{index}")).exists()));
    drop(tree);
    let tree = overlay(lower, None).detached().expect("mounted");
    assert!(
        std::fs::write(tree.path().join("file"), "").is_err(),
        "read-only"
    );
}

#[test]
fn directories_with_long_names_can_be_layers() {
    testkit::require!(root);
    let scratch = scratch();
    let deep = scratch.path().join("x".repeat(200)).join("y".repeat(200));
    let mount = overlay(layers(&deep, 3), Some(upper(&deep)));
    let tree = mount.detached().expect("mounted");
    assert_eq!(read(&tree.path(), "common").as_deref(), Some("2"));
}

#[test]
fn a_tree_can_be_listed_and_opened_from() {
    testkit::require!(root);
    let scratch = scratch();
    let lower = layers(scratch.path(), 2);
    for tree in [
        overlay(lower.clone(), None).detached().expect("mounted"),
        Mount::readonly(lower[0].clone())
            .detached()
            .expect("opened"),
        Tree::open(&lower[0]).expect("opened"),
    ] {
        let names = rustix::fs::Dir::read_from(tree.fd()).expect("read").count();
        assert!(names >= 4, "{names}");
        let flags = rustix::fs::OFlags::RDONLY;
        rustix::fs::openat(tree.as_fd(), "common", flags, rustix::fs::Mode::empty())
            .expect("opened");
    }
}

#[test]
fn an_attached_mount_goes_with_its_guard() {
    testkit::require!(root);
    let scratch = scratch();
    let target = dir(scratch.path().join("target"));
    let mount = overlay(layers(scratch.path(), 2), Some(upper(scratch.path())));
    let attached = mount.attach(&target).expect("mounted");
    assert_eq!(attached.path(), target);
    assert_eq!(read(&target, "common").as_deref(), Some("1"));
    attached.unmount().expect("unmounted");
    assert_eq!((read(&target, "common"), mounts_below(&target)), (None, 0));
    drop(mount.attach(&target).expect("mounted again"));
    assert_eq!(mounts_below(&target), 0);
}

#[test]
fn a_read_only_bind_cannot_be_written() {
    testkit::require!(root);
    let scratch = scratch();
    let source = dir(scratch.path().join("source"));
    let target = dir(scratch.path().join("target"));
    let attached = Mount::readonly(source.clone())
        .attach(&target)
        .expect("mounted");
    let err = std::fs::write(target.join("file"), "").expect_err("refused");
    assert_eq!(err.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    drop(attached);
    let _attached = Mount::writable(source.clone())
        .attach(&target)
        .expect("mounted");
    std::fs::write(target.join("file"), "x").expect("written");
    assert_eq!(read(&source, "file").as_deref(), Some("x"));
}

#[test]
fn a_file_can_be_bound_over_a_file() {
    testkit::require!(root);
    let scratch = scratch();
    let (source, target) = (scratch.path().join("source"), scratch.path().join("target"));
    std::fs::write(&source, "theirs").expect("written");
    std::fs::write(&target, "mine").expect("written");
    let attached = mount::bind(&source, &target, true).expect("mounted");
    assert_eq!(std::fs::read_to_string(&target).expect("read"), "theirs");
    drop(attached);
    assert_eq!(std::fs::read_to_string(&target).expect("read"), "mine");
}

#[test]
fn a_place_inside_a_detached_tree_can_be_mounted() {
    testkit::require!(root);
    let scratch = scratch();
    let lower = layers(scratch.path(), 2);
    dir(lower[1].join("sub"));
    std::fs::write(lower[1].join("sub/file"), "deep").expect("written");
    let tree = overlay(lower, None).detached().expect("mounted");
    let flags = rustix::fs::OFlags::PATH;
    let place = rustix::fs::openat(&tree, "sub", flags, rustix::fs::Mode::empty()).expect("opened");
    let movable = mount::movable_at(place.as_fd(), true).expect("copied");
    drop(tree);
    let target = dir(scratch.path().join("target"));
    let attached = mount::attach(&movable, &target).expect("mounted");
    assert_eq!(read(&target, "file").as_deref(), Some("deep"));
    drop(attached);
}

#[test]
fn memory_has_the_size_and_mode_asked_for() {
    testkit::require!(root);
    use std::os::unix::fs::MetadataExt;
    let scratch = scratch();
    let tmpfs = Tmpfs {
        size: 1 << 20,
        mode: Some(0o1777),
        options: vec!["noexec".to_owned()],
    };
    let _attached = tmpfs.attach(scratch.path()).expect("mounted");
    assert_eq!(
        std::fs::metadata(scratch.path()).expect("read").mode() & 0o7777,
        0o1777
    );
    std::fs::write(scratch.path().join("small"), vec![0; 1 << 19]).expect("written");
    assert!(std::fs::write(scratch.path().join("large"), vec![0; 1 << 20]).is_err());
}

#[test]
fn a_volatile_overlay_can_be_mounted_again() {
    testkit::require!(root);
    let scratch = scratch();
    let lower = layers(scratch.path(), 1);
    let mut options = mount::probe::overlay_options();
    options.push("volatile".to_owned());
    let mount = Mount::Overlay {
        lower,
        upper: Some(upper(scratch.path())),
        options,
    };
    for _ in 0..2 {
        let tree = mount.detached().expect("mounted");
        std::fs::write(tree.path().join("file"), "").expect("written");
    }
}

#[test]
fn a_mount_that_fails_says_what_the_kernel_said() {
    testkit::require!(root);
    let scratch = scratch();
    let mut missing = layers(scratch.path(), 2);
    missing.push(scratch.path().join("missing"));
    let err = overlay(missing, None).detached().expect_err("refused");
    assert_eq!(err.kind(), std::io::ErrorKind::NotFound);
    let text = err.to_string();
    assert!(text.starts_with("mount overlay of 3 layers: "), "{text}");
    let mut options = mount::probe::overlay_options();
    options.push("no_such_option".to_owned());
    let mount = Mount::Overlay {
        lower: layers(scratch.path(), 2),
        upper: None,
        options,
    };
    let text = mount.detached().expect_err("refused").to_string();
    assert!(text.contains("no_such_option"), "{text}");
}
