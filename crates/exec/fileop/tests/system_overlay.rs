//! Copies between overlay mounts, as layers make them.

mod common;

use std::path::{Path, PathBuf};

use common::{inode, lines, tree};
use fileop::{Copy, SharedInodes, Sharing, copy};
use fstree::Root;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tasks::Cx;

/// An overlay mount, gone when dropped.
struct Overlay {
    at: PathBuf,
}

impl Overlay {
    fn new(base: &Path, lower: &[&Path], upper: Option<&Path>) -> Self {
        let at = base.join("merged");
        std::fs::create_dir_all(&at).expect("mkdir");
        let lower: Vec<_> = lower.iter().map(|dir| dir.display().to_string()).collect();
        let mut data = format!("lowerdir={}", lower.join(":"));
        if let Some(upper) = upper {
            let work = base.join("work");
            std::fs::create_dir_all(&work).expect("mkdir");
            data += &format!(
                ",upperdir={},workdir={},index=off",
                upper.display(),
                work.display()
            );
        }
        let data = std::ffi::CString::new(data).expect("no zero bytes");
        mount("overlay", &at, "overlay", MountFlags::empty(), &*data).expect("mount");
        Self { at }
    }

    fn root(&self) -> Root {
        Root::open(&self.at).expect("open")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

fn action(src: &str, dest: &str) -> Copy {
    Copy {
        src: src.to_owned(),
        dest: dest.to_owned(),
        create_dest_path: true,
        dir_copy_contents: true,
        ..Copy::default()
    }
}

struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn path(&self, name: &str) -> PathBuf {
        let at = self.dir.path().join(name);
        std::fs::create_dir_all(&at).expect("mkdir");
        at
    }
}

#[test]
fn files_of_layers_are_shared_into_new_directories_of_an_overlay() {
    testkit::require!(root);
    let (one, one_root) = tree(&["d/a=1", "d/b=old", "d/e/c=3"]);
    let (two, two_root) = tree(&["d/b=2", "d/e/l->c"]);
    let (lower, _) = tree(&["x/old=0", "here/a=gone"]);
    let case = Case {
        dir: tempfile::tempdir().expect("a scratch folder"),
    };
    let (source_base, target_base) = (case.path("source"), case.path("target"));
    let source = Overlay::new(&source_base, &[two.path(), one.path()], None);
    let upper = case.path("upper");
    let layer = Root::open(&upper).expect("open");
    let layers = [two_root, one_root];
    let mut used = SharedInodes::new();
    let mut run = |dest: &str| {
        let target = Overlay::new(&target_base, &[lower.path()], Some(&upper));
        let sharing = Sharing {
            source_layers: &layers,
            target_layer: &layer,
            used: &mut used,
            linked: &mut Vec::new(),
        };
        let action = action("/d", dest);
        let (from, to) = (source.root(), target.root());
        copy(&Cx::root(), &from, &to, &action, Some(sharing)).expect("copied");
        // The same mount sees what was put into its upper directory.
        assert!(lines(&to).contains(&format!("{}/e/c=3", &dest[1..])));
    };
    run("/new/deep");
    run("/here");
    run("/x/again");

    let shown = Overlay::new(&target_base, &[lower.path()], Some(&upper));
    let copied = |at: &str| {
        [
            format!("{at}/a=1"),
            format!("{at}/b=2"),
            format!("{at}/e/"),
            format!("{at}/e/c=3"),
            format!("{at}/e/l->c"),
        ]
    };
    let mut wanted = vec!["here/".to_owned()];
    wanted.extend(copied("here"));
    wanted.extend(["new/".to_owned(), "new/deep/".to_owned()]);
    wanted.extend(copied("new/deep"));
    wanted.extend(["x/".to_owned(), "x/again/".to_owned()]);
    wanted.extend(copied("x/again"));
    wanted.push("x/old=0".to_owned());
    assert_eq!(lines(&shown.root()), wanted);

    // Everything in new directories is shared, but once.
    let upper = case.dir;
    assert_eq!(inode(&upper, "upper/new/deep/a"), inode(&one, "d/a"));
    assert_eq!(inode(&upper, "upper/new/deep/b"), inode(&two, "d/b"));
    assert_eq!(inode(&upper, "upper/new/deep/e/c"), inode(&one, "d/e/c"));
    assert_ne!(inode(&upper, "upper/x/again/e/c"), inode(&one, "d/e/c"));
    assert_ne!(inode(&upper, "upper/here/e/c"), inode(&one, "d/e/c"));
    // Attributes of the overlay do not travel.
    let entries = fstree::xattr::of_entry(layer.fd(), b"new").expect("attributes");
    assert!(
        entries
            .iter()
            .all(|(name, _)| name != "trusted.overlay.opaque")
    );
}

#[test]
fn a_mount_sees_files_that_were_shared_into_directories_it_knows() {
    testkit::require!(root);
    let (one, source) = tree(&["f=1", "g=2", "d/h=3"]);
    let (lower, _) = tree(&["x/old=0"]);
    let case = Case {
        dir: tempfile::tempdir().expect("a scratch folder"),
    };
    let upper = case.path("upper");
    let layer = Root::open(&upper).expect("open");
    let mount = Overlay::new(&case.path("target"), &[lower.path()], Some(&upper));
    let target = mount.root();
    let mut used = SharedInodes::new();
    for (src, dest) in [
        ("/f", "/new/f"),
        ("/g", "/new/"),
        ("/d", "/new/d"),
        ("/f", "/x/f"),
    ] {
        let sharing = Sharing {
            source_layers: std::slice::from_ref(&source),
            target_layer: &layer,
            used: &mut used,
            linked: &mut Vec::new(),
        };
        let action = action(src, dest);
        copy(&Cx::root(), &source, &target, &action, Some(sharing)).expect("copied");
    }
    let wanted = [
        "new/",
        "new/d/",
        "new/d/h=3",
        "new/f=1",
        "new/g=2",
        "x/",
        "x/f=1",
        "x/old=0",
    ];
    assert_eq!(lines(&target), wanted);
    assert_eq!(inode(&case.dir, "upper/new/f"), inode(&one, "f"));
    let gone = fileop::Remove {
        path: "/new/f".to_owned(),
        ..fileop::Remove::default()
    };
    fileop::remove(&target, &gone).expect("the mount knows the file");
}
