//! Layers that nobody mounted give the same changes as the kernel's overlay of them.

use std::fs::{FileTimes, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use fstree::Root;
use layer::{Base, Change, Compression, Layers, Listing, Options};
use mount::Mount;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use tasks::Cx;

/// Something in a layer.
#[derive(Debug, Clone)]
enum Node {
    File {
        content: u8,
        mode: u32,
        time: Duration,
    },
    Link(u8),
    Fifo,
    /// The mark of a deletion.
    Mark,
    Device,
    Dir {
        opaque: Option<&'static [u8]>,
        mode: u32,
        children: Vec<(u8, Node)>,
    },
}

fn node() -> impl Strategy<Value = Node> {
    let mode = || prop_oneof![9 => Just(0o755_u32), 1 => Just(0o700)];
    // Equal times, with and without a fraction, are what decides whether content is compared.
    let time = prop_oneof![
        Just(Duration::from_secs(1)),
        Just(Duration::from_secs(2)),
        Just(Duration::new(1, 5)),
    ];
    let file = (0..2_u8, mode(), time).prop_map(|(content, mode, time)| Node::File {
        content,
        mode,
        time,
    });
    let leaf = prop_oneof![
        6 => file,
        1 => (0..2_u8).prop_map(Node::Link),
        1 => Just(Node::Fifo),
        4 => Just(Node::Mark),
        1 => Just(Node::Device),
    ];
    leaf.prop_recursive(3, 24, 3, move |inner| {
        let opaque = prop_oneof![
            6 => Just(None),
            2 => Just(Some(&b"y"[..])),
            1 => Just(Some(&b"n"[..])),
        ];
        let children = prop::collection::vec((0..3_u8, inner), 0..4);
        (opaque, mode(), children).prop_map(|(opaque, mode, children)| Node::Dir {
            opaque,
            mode,
            children,
        })
    })
}

fn layer() -> impl Strategy<Value = Vec<(u8, Node)>> {
    prop::collection::vec((0..3_u8, node()), 0..4)
}

fn fill(at: &Path, children: &[(u8, Node)]) {
    for (name, node) in children {
        let path = at.join(char::from(b'a' + name).to_string());
        if path.symlink_metadata().is_err() {
            make(&path, node);
        }
    }
}

fn make(path: &Path, node: &Node) {
    let device = |number| {
        let made = rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, number);
        made.expect("a device");
    };
    match node {
        Node::File {
            content,
            mode,
            time,
        } => {
            std::fs::write(path, [b'0' + content]).expect("written");
            std::fs::set_permissions(path, Permissions::from_mode(*mode)).expect("changed");
            let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + *time);
            let file = std::fs::File::open(path).expect("opened");
            file.set_times(times).expect("changed");
        }
        Node::Link(target) => {
            std::os::unix::fs::symlink(format!("{target}"), path).expect("a link");
        }
        Node::Fifo => {
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
        }
        Node::Mark => device(0),
        Node::Device => device(rustix::fs::makedev(1, 3)),
        Node::Dir {
            opaque,
            mode,
            children,
        } => {
            std::fs::create_dir(path).expect("made");
            fill(path, children);
            if let Some(value) = opaque {
                let name = "trusted.overlay.opaque";
                rustix::fs::setxattr(path, name, value, XattrFlags::empty()).expect("marked");
            }
            std::fs::set_permissions(path, Permissions::from_mode(*mode)).expect("changed");
        }
    }
}

fn store_at(path: &Path) -> content::Store {
    content::Store::open(path).expect("a store")
}

/// The names and the bytes of a layer; what failed if it cannot be made.
fn made(store: &content::Store, lower: Base, upper: &Path) -> Result<Vec<u8>, String> {
    let change = Change::Overlay {
        lower: Some(lower),
        upper: Root::open(upper).expect("open"),
    };
    let options = Options {
        compression: Compression::Uncompressed,
        ..Options::default()
    };
    let made = layer::diff(&Cx::root(), &change, &options, store);
    let made = made.map_err(|err| fault::chain(&err))?;
    Ok(store.read(&made.descriptor.digest).expect("read").to_vec())
}

/// A stack in a folder, the nearest layer first, and what is written on it.
struct Stack {
    dir: tempfile::TempDir,
    below: Vec<std::path::PathBuf>,
    mounts: Arc<AtomicUsize>,
}

impl Stack {
    fn new(layers: usize) -> Self {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let below: Vec<_> = (0..layers)
            .map(|layer| dir.path().join(layer.to_string()))
            .collect();
        let upper = dir.path().join("upper");
        for path in below.iter().chain([&upper]) {
            std::fs::create_dir(path).expect("made");
        }
        Self {
            dir,
            below,
            mounts: Arc::default(),
        }
    }

    fn upper(&self) -> std::path::PathBuf {
        self.dir.path().join("upper")
    }

    fn mount(&self) -> Mount {
        Mount::Overlay {
            lower: self.below.clone(),
            upper: None,
            options: mount::probe::overlay_options(),
        }
    }

    /// The layers, unless they had better be mounted.
    fn layers(&self) -> Option<Layers> {
        let listing = |path: &Path| {
            Listing::of(path.to_owned(), &mount::probe::overlay_options()).expect("a listing")
        };
        let layers = self.below.iter().map(|path| Arc::new(listing(path)));
        let (mount, mounts) = (self.mount(), self.mounts.clone());
        Layers::below(&listing(&self.upper()), layers.collect(), move || {
            mounts.fetch_add(1, Ordering::Relaxed);
            Root::from_borrowed(mount.detached()?.fd())
        })
    }

    /// What the kernel says, and what the layers say.
    fn both(&self) -> (Result<Vec<u8>, String>, Result<Vec<u8>, String>) {
        let store = store_at(&self.dir.path().join("content"));
        let tree = self.mount().detached().expect("mounted");
        let tree = Base::Tree(Root::from_borrowed(tree.fd()).expect("open"));
        let layers = Base::Layers(self.layers().expect("few names"));
        let upper = self.upper();
        (made(&store, tree, &upper), made(&store, layers, &upper))
    }
}

#[test]
fn layers_say_what_the_kernel_says() {
    testkit::require!(root);
    let stacks = prop::collection::vec((layer(), prop::bool::weighted(0.2)), 2..6);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(100));
    let ran = runner.run(&(stacks, layer()), |(layers, upper)| {
        let stack = Stack::new(layers.len());
        for (path, (children, large)) in stack.below.iter().zip(&layers) {
            fill(path, children);
            for number in 0..if *large { 140 } else { 0 } {
                std::fs::write(path.join(format!("more-{number}")), "").expect("written");
            }
        }
        fill(&stack.upper(), &upper);
        let (kernel, layers) = stack.both();
        prop_assert_eq!(kernel, layers);
        Ok(())
    });
    ran.expect("the same");
}

fn file(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, text).expect("written");
}

#[test]
fn few_names_are_found_without_a_mount() {
    testkit::require!(root);
    let stack = Stack::new(3);
    file(&stack.below[2].join("usr/lib/old"), "1");
    file(&stack.below[0].join("usr/bin/tool"), "1");
    file(&stack.upper().join("usr/lib/new"), "1");
    let (kernel, layers) = stack.both();
    assert_eq!(kernel, layers);
    assert_eq!(stack.mounts.load(Ordering::Relaxed), 0);
}

#[test]
fn a_directory_that_replaces_another_is_compared_with_a_mount() {
    testkit::require!(root);
    let stack = Stack::new(2);
    file(&stack.below[1].join("usr/old"), "1");
    let upper = stack.upper().join("usr");
    file(&upper.join("new"), "1");
    let name = "trusted.overlay.opaque";
    rustix::fs::setxattr(&upper, name, b"y", XattrFlags::empty()).expect("marked");
    let (kernel, layers) = stack.both();
    assert_eq!(kernel, layers);
    assert_eq!(stack.mounts.load(Ordering::Relaxed), 1);
}

#[test]
fn a_directory_that_was_renamed_in_place_is_looked_up_in_a_mount() {
    testkit::require!(root);
    let stack = Stack::new(2);
    file(&stack.below[1].join("was/deep/file"), "1");
    std::fs::create_dir(stack.below[0].join("is")).expect("made");
    let renamed = stack.below[0].join("is");
    let name = "trusted.overlay.redirect";
    rustix::fs::setxattr(&renamed, name, b"was", XattrFlags::empty()).expect("marked");
    std::fs::create_dir_all(stack.upper().join("is/deep")).expect("made");
    let gone = stack.upper().join("is/deep/file");
    make(&gone, &Node::Mark);
    let (kernel, layers) = stack.both();
    assert_eq!(kernel, layers);
    assert!(kernel.expect("a layer").len() > 1024, "the deletion counts");
    assert_eq!(stack.mounts.load(Ordering::Relaxed), 1);
}

#[test]
fn many_names_in_large_layers_are_left_to_a_mount() {
    testkit::require!(root);
    let stack = Stack::new(3);
    for number in 0..200 {
        for layer in &stack.below {
            file(&layer.join(format!("file-{number}")), "");
        }
    }
    for number in 0..50 {
        file(&stack.upper().join(format!("new-{number}")), "");
    }
    assert!(stack.layers().is_some(), "150 questions");
    for number in 50..100 {
        file(&stack.upper().join(format!("new-{number}")), "");
    }
    assert!(stack.layers().is_none(), "300 questions");
}
