//! Real steps in real overlays: the layers are those the stock daemon made of the same steps.

mod support;

use std::path::Path;
use std::process::Command;

use fstree::Root;
use layer::{Base, Change, Compression, Options, Target};
use mount::{Mount, Upper};
use tasks::Cx;

const EPOCH: i64 = 1_600_000_000;

fn options() -> Options {
    Options {
        compression: Compression::Uncompressed,
        ..Options::default()
    }
}

/// A root folder with a shell that can do what the recorded steps do.
fn base(at: &Path) {
    std::fs::create_dir_all(at.join("bin")).expect("mkdir");
    std::fs::copy("/bin/busybox", at.join("bin/busybox")).expect("copy");
    let install = Command::new("chroot")
        .arg(at)
        .args(["/bin/busybox", "--install", "-s", "/bin"])
        .status();
    assert!(install.expect("chroot").success());
}

#[test]
fn recorded_steps_give_the_recorded_layers() {
    testkit::require!(root, busybox);
    let dir = tempfile::tempdir().expect("a scratch folder");
    let at = |name: &str| dir.path().join(name);
    base(&at("base"));
    let store = content::Store::open(&at("content")).expect("a store");
    let cx = Cx::root();
    let mut below = vec![at("base")];
    let recorded = support::vector("daemon-run-layers.json");
    for (number, step) in recorded["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .enumerate()
    {
        let (upper, work) = (at(&format!("upper{number}")), at(&format!("work{number}")));
        std::fs::create_dir(&upper).expect("mkdir");
        std::fs::create_dir(&work).expect("mkdir");
        let root = at("root");
        std::fs::create_dir_all(&root).expect("mkdir");
        let mounted = Mount::Overlay {
            lower: below.clone(),
            upper: Some(Upper {
                dir: upper.clone(),
                work,
            }),
            options: mount::probe::overlay_options(),
        }
        .attach(&root)
        .expect("an overlay");
        let run = step["run"].as_str().expect("a command");
        let status = Command::new("chroot")
            .arg(&root)
            .args(["/bin/sh", "-c", run])
            .env_clear()
            .env("PATH", "/bin:/usr/sbin:/usr/bin:/sbin")
            .status();
        assert!(status.expect("chroot").success(), "{run}");
        drop(mounted);
        let lower = match below.as_slice() {
            [only] => Mount::readonly(only),
            several => Mount::Overlay {
                lower: several.to_vec(),
                upper: None,
                options: mount::probe::overlay_options(),
            },
        };
        let lower = lower.detached().expect("a tree");
        let change = Change::Overlay {
            lower: Some(Base::Tree(Root::from_borrowed(lower.fd()).expect("open"))),
            upper: Root::open(&upper).expect("open"),
        };
        let blob = layer::diff(&cx, &change, &options(), &store).expect("a layer");
        let clamped =
            layer::clamp_times(&cx, &store, &blob.descriptor, EPOCH, &options()).expect("a layer");
        let names: Vec<String> = names(&store, &clamped);
        let entries = step["entries"].as_array().expect("entries").iter();
        let wanted: Vec<&str> = entries
            .map(|entry| entry["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(names, wanted, "{run}");
        assert_eq!(clamped.diff_id.as_str(), step["diff_id"], "{run}");
        below.insert(0, upper.clone());
        assert_same_after_unpacking(&cx, &store, &blob, &upper, &at(&format!("again{number}")));
    }
}

fn names(store: &content::Store, blob: &layer::LayerBlob) -> Vec<String> {
    let bytes = store.read(&blob.descriptor.digest).expect("a blob");
    let mut reader = layer::archive::Reader::new(&*bytes);
    let mut names = Vec::new();
    while let Some(member) = reader.next_member().expect("readable") {
        names.push(String::from_utf8(member.name).expect("text"));
    }
    names
}

/// The layer, unpacked as an upper directory, has every file and deletion of the directory it was made of.
fn assert_same_after_unpacking(
    cx: &Cx,
    store: &content::Store,
    blob: &layer::LayerBlob,
    upper: &Path,
    again: &Path,
) {
    std::fs::create_dir(again).expect("mkdir");
    let target = Target::Overlay {
        upper: again.to_owned(),
        lower: Vec::new(),
    };
    layer::apply(cx, store, &blob.descriptor, Some(&blob.diff_id), &target).expect("unpacked");
    let files = |at: &Path| -> Vec<String> {
        let lines = support::describe(at).into_iter();
        lines
            .filter_map(|line| {
                let mut words = line.split(' ').map(str::to_owned);
                let (name, kind) = (words.next()?, words.next()?);
                (kind == "file" || kind == "fifo").then_some(format!("{name} {kind}"))
            })
            .collect()
    };
    let original = files(upper);
    for file in files(again) {
        assert!(original.contains(&file), "{file} not among {original:?}");
    }
}
