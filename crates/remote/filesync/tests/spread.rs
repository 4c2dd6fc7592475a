//! Where directories lie while they are filled, on filesystems that can be told.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use filesync::{Differ, Observer, ReceiveOptions};
use fstree::Root;
use futures::stream::{self, StreamExt};
use proto::fsutil::packet::PacketType;
use proto::fsutil::{Packet, Stat};
use rustix::fs::IFlags;

const DIR: u32 = 1 << 31 | 0o755;

fn is_spread(dir: &Path) -> bool {
    let dir = File::open(dir).expect("a directory");
    rustix::fs::ioctl_getflags(dir).is_ok_and(|flags| flags.contains(IFlags::TOPDIR))
}

/// Notes of each directory above the one that was just made whether its children are spread.
struct Looks {
    root: PathBuf,
    seen: Arc<Mutex<Vec<(String, bool)>>>,
}

impl Observer for Looks {
    fn changed(&mut self, path: &[u8], _: contenthash::Change<'_>) {
        let path = String::from_utf8(path.to_vec()).expect("a name");
        let above = self.root.join(&path);
        let above = above.parent().expect("a parent");
        let mut seen = self.seen.lock().expect("no panic");
        seen.push((path, is_spread(above)));
    }

    fn removed(&mut self, _: &[u8]) {}
}

#[tokio::test]
async fn children_of_new_directories_lie_far_from_each_other_until_all_is_there() {
    let dirs = tempfile::tempdir().expect("a scratch folder");
    let to = dirs.path().join("to");
    fs::create_dir_all(to.join("old")).expect("mkdir");
    fs::create_dir(dirs.path().join("probe")).expect("mkdir");
    let probe = File::open(dirs.path().join("probe")).expect("a directory");
    fstree::dir::spread_children(probe);
    let can = is_spread(&dirs.path().join("probe"));

    let owner = fs::metadata(&to).expect("metadata");
    let packet = |path: &str| Packet {
        r#type: PacketType::PacketStat.into(),
        stat: Some(Stat {
            path: path.to_owned(),
            mode: DIR,
            uid: owner.uid(),
            gid: owner.gid(),
            mod_time: 1_600_000_000_000_000_000,
            ..Stat::default()
        }),
        ..Packet::default()
    };
    let names = ["new", "new/a", "new/a/x", "new/b", "old", "old/c"];
    let end = Packet {
        r#type: PacketType::PacketStat.into(),
        ..Packet::default()
    };
    let listing = stream::iter(names.map(packet).into_iter().chain([end]).map(Ok));
    let (replies, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let fin = stream::once(async move {
        answers.recv().await;
        Ok(Packet {
            r#type: PacketType::PacketFin.into(),
            ..Packet::default()
        })
    });
    let seen = Arc::new(Mutex::new(Vec::new()));
    let looks = Looks {
        root: to.clone(),
        seen: seen.clone(),
    };
    let options = ReceiveOptions {
        differ: Differ::Metadata,
        merge: true,
        ..ReceiveOptions::default()
    };
    let root = Root::open(&to).expect("open");
    let cx = tasks::Cx::root();
    let incoming = Box::pin(listing.chain(fin));
    let received = filesync::receive(&cx, incoming, replies, root, options, Some(looks), |_| {});
    received.await.expect("received");

    let seen = std::mem::take(&mut *seen.lock().expect("no panic"));
    let spread = [false, can, can, can, false, false];
    let expected: Vec<_> = names.map(str::to_owned).into_iter().zip(spread).collect();
    assert_eq!(seen, expected, "what was there stays as it is");
    for name in names {
        assert!(!is_spread(&to.join(name)), "{name}");
        let time = fs::metadata(to.join(name)).expect("metadata").mtime();
        assert_eq!(time, 1_600_000_000, "{name}");
    }
}
