//! Actions in a layer alone, compared with the same in an overlay mount.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use common::tree;
use fileop::{Adding, Copy, Mkdir, Mkfile, Symlink, copy, mkdir, mkfile, prepare_alone, symlink};
use fstree::{Root, Time};
use mount::{Mount, Upper};
use tasks::Cx;

/// What layers hold, the nearest first: a directory with attributes, one hidden by a nearer mark, links.
struct Below {
    dirs: Vec<tempfile::TempDir>,
}

impl Below {
    fn new() -> Self {
        let (near, _) = tree(&["both/near=1", "near/f=1", "gone/again/new=1"]);
        let (far, _) = tree(&[
            "both/far=2",
            "far/deep/f=2",
            "far/link->deep",
            "file=2",
            "gone/again/old=2",
            "gone/away/f=2",
        ]);
        let set = |dir: &tempfile::TempDir, path: &str, mode: u32, owner: u32| {
            common::set_mode(dir, path, mode);
            std::os::unix::fs::chown(dir.path().join(path), Some(owner), Some(owner + 1))
                .expect("chown");
            let dir = std::fs::File::open(dir.path().join(path)).expect("open");
            let time = std::time::UNIX_EPOCH + std::time::Duration::new(u64::from(owner), 7);
            dir.set_modified(time).expect("times");
        };
        set(&far, "far/deep", 0o2711, 1000);
        set(&far, "far", 0o1777, 2000);
        set(&near, "both", 0o750, 3000);
        let root = Root::open(near.path()).expect("open");
        let gone = root.open_dir("gone").expect("open");
        let opaque = b"trusted.overlay.opaque";
        fstree::xattr::set_of_entry(gone.fd(), b"again", opaque, b"y").expect("a mark");
        let device = rustix::fs::makedev(0, 0);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(gone.fd(), "away", kind, 0o600.into(), device).expect("a mark");
        fstree::xattr::set_of_entry(
            Root::open(far.path()).expect("open").fd(),
            b"far",
            b"user.note",
            b"kept",
        )
        .expect("an attribute");
        Self {
            dirs: vec![near, far],
        }
    }

    fn roots(&self) -> Vec<Root> {
        let open = |dir: &tempfile::TempDir| Root::open(dir.path()).expect("open");
        self.dirs.iter().map(open).collect()
    }

    fn paths(&self) -> Vec<PathBuf> {
        self.dirs.iter().map(|dir| dir.path().to_owned()).collect()
    }
}

fn run(adding: Adding<'_>, target: &Root) {
    match adding {
        Adding::Copy(source, action) => copy(&Cx::root(), source, target, action, None),
        Adding::Mkfile(action) => mkfile(target, action),
        Adding::Mkdir(action) => mkdir(target, action),
        Adding::Symlink(action) => symlink(target, action),
    }
    .expect("done");
}

/// Paths with mode, owner, content or target, and attributes; times of directories that were there before.
fn listed(root: &Path, known: &[&str]) -> BTreeMap<String, String> {
    let walk = fstree::Walk::new(&Root::open(root).expect("open")).expect("walk");
    let mut found = BTreeMap::new();
    for entry in walk {
        let entry = entry.expect("entry");
        let path = entry.path.display().to_string();
        let meta = &entry.meta;
        let mut line = format!("{:o} {}:{}", meta.mode, meta.uid, meta.gid);
        if meta.is_file() {
            let content = std::fs::read(root.join(&path)).expect("read");
            line += &format!(" {}", String::from_utf8_lossy(&content));
        }
        if meta.is_symlink() {
            line += &format!(" -> {}", entry.link.display());
        }
        for (name, value) in entry.xattrs().expect("attributes") {
            if !name.as_encoded_bytes().starts_with(b"trusted.overlay.") {
                line += &format!(" {name:?}={value:?}");
            }
        }
        if known.contains(&path.as_str()) {
            let time = std::fs::symlink_metadata(root.join(&path)).expect("there");
            line += &format!(" at {}", time.mtime());
        }
        found.insert(path, line);
    }
    found
}

/// Carries the action out both ways; whether the layer alone was enough.
#[track_caller]
fn agrees(adding: Adding<'_>, known: &[&str]) -> bool {
    let below = Below::new();
    let alone = tempfile::tempdir().expect("a scratch folder");
    let layer = Root::open(alone.path()).expect("open");
    if !prepare_alone(&layer, &below.roots(), adding).expect("looked at") {
        let left = std::fs::read_dir(alone.path()).expect("read").count();
        assert_eq!(left, 0, "something was made all the same");
        return false;
    }
    run(adding, &layer);

    let mounted = tempfile::tempdir().expect("a scratch folder");
    let (dir, work) = (mounted.path().join("upper"), mounted.path().join("work"));
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::create_dir(&work).expect("mkdir");
    let mount = Mount::Overlay {
        lower: below.paths(),
        upper: Some(Upper {
            dir: dir.clone(),
            work,
        }),
        options: vec![],
    };
    let merged = mount.detached().expect("mounted");
    run(adding, &Root::from_borrowed(merged.fd()).expect("open"));
    drop(merged);
    assert_eq!(listed(alone.path(), known), listed(&dir, known));
    true
}

fn to(src: &str, dest: &str) -> Copy {
    Copy {
        src: src.to_owned(),
        dest: dest.to_owned(),
        create_dest_path: true,
        dir_copy_contents: true,
        allow_wildcard: true,
        ..Copy::default()
    }
}

#[test]
fn a_copy_that_only_adds_names_does_the_same_in_the_layer_alone() {
    testkit::require!(root);
    let (_dir, source) = tree(&["f=new", "d/near=new", "d/sub/x=new", "empty", "l->f"]);
    for (src, dest, enough) in [
        ("/f", "/new", true),
        ("/f", "/", true),
        ("/f", "/new/deep/", true),
        ("/f", "/far/deep/g", true),
        ("/f", "/both/", true),
        ("/d", "/fresh", true),
        ("/d/sub", "/", true),
        ("/d", "/far/deep", true),
        ("/d", "/gone/away/x", true),
        ("/d", "/gone/again/x", true),
        ("/f", "/gone/again/old", true),
        ("/f", "/gone/away", true),
        ("/", "/near/all", true),
        // What is there would be replaced, merged into or followed.
        ("/f", "/file", false),
        ("/f", "/near/", false),
        ("/f", "/far/deep/", false),
        ("/d", "/both", false),
        ("/d", "/", false),
        ("/f", "/far/link/", false),
        ("/f", "/file/x", false),
        ("/empty", "/near", false),
        ("/l", "/near/", false),
        ("/*", "/near/", false),
    ] {
        let action = to(src, dest);
        let known = ["far", "both", "near", "gone"];
        // The last directory on the way gets a new name, so its time is its own.
        let parent = Path::new(dest.trim_end_matches('/'));
        let parents = [parent, parent.parent().unwrap_or(parent)];
        let known: Vec<&str> = known
            .into_iter()
            .filter(|name| parents.iter().all(|at| *at != Path::new("/").join(name)))
            .collect();
        let agreed = agrees(Adding::Copy(&source, &action), &known);
        assert_eq!(agreed, enough, "{src} to {dest}");
    }
}

#[test]
fn directories_files_and_links_are_made_in_the_layer_alone() {
    testkit::require!(root);
    let made = |path: &str| Mkdir {
        path: path.to_owned(),
        mode: 0o755,
        make_parents: true,
        ..Mkdir::default()
    };
    for (path, enough) in [
        ("/new/deep", true),
        ("/far/deep/new", true),
        ("/gone/away", true),
        ("/far/deep", false),
        ("/file", false),
        ("/", false),
    ] {
        assert_eq!(
            agrees(Adding::Mkdir(&made(path)), &["far"]),
            enough,
            "{path}"
        );
    }
    let file = |path: &str| Mkfile {
        path: path.to_owned(),
        mode: 0o640,
        data: b"text".to_vec(),
        timestamp: Some(Time::from_nanos(5)),
        ..Mkfile::default()
    };
    assert!(agrees(Adding::Mkfile(&file("/far/deep/x")), &["far"]));
    assert!(!agrees(Adding::Mkfile(&file("/file")), &[]));
    let link = |path: &str| Symlink {
        old_path: "anywhere".to_owned(),
        new_path: path.to_owned(),
        ..Symlink::default()
    };
    assert!(agrees(Adding::Symlink(&link("/both/l")), &["far"]));
    assert!(!agrees(Adding::Symlink(&link("/file")), &[]));
}
