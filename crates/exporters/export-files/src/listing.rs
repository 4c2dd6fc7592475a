//! The tree of one platform as it goes out: below a directory of its own or not, at one time or as it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use diagnostics::Failure;
use export::{Error, Input, Part, Work};
use filesync::{Content, Emit, Item, Listing, Tree};
use fstree::Root;
use oci::Timestamp;
use proto::fsutil::Stat;

use crate::attest::{self, Statements};
use crate::options::Options;

const DIRECTORY: u32 = 1 << 31 | 0o755;
const SYMLINK: u32 = 1 << 27;

/// Which platform brought which file, when several share one directory.
pub(crate) type Owners = Arc<Mutex<HashMap<String, String>>>;

/// One platform's tree.
pub(crate) struct PlatformTree {
    id: String,
    /// Nothing for an empty result.
    root: Option<Root>,
    /// The directory it goes below.
    below: Option<String>,
    /// Every entry gets this time, in seconds.
    epoch: Option<i64>,
    owners: Option<Owners>,
    said: Statements,
}

impl PlatformTree {
    /// The platform's id, for those who see it.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

/// The trees of a result, in the order of their directories; `split`: each platform has one.
pub(crate) async fn trees(
    work: &Work,
    input: &Input,
    options: &Options,
    split: bool,
) -> Result<Vec<PlatformTree>, Error> {
    let started = Timestamp::from(SystemTime::now()).seconds();
    let parts = input.parts()?;
    let owners = (!split && parts.len() > 1).then(Owners::default);
    let mut trees = Vec::with_capacity(parts.len());
    for part in parts {
        let epoch = options.epoch.seconds(input, &part.id, work.epoch)?;
        let root = open(work, &part).await?;
        let time = epoch.unwrap_or(started);
        let said = attest::statements(work, input, options, &part, root.as_ref(), time);
        trees.push(PlatformTree {
            said: said.await?,
            root,
            below: split.then(|| part.id.replace('/', "_")),
            id: part.id,
            epoch,
            owners: owners.clone(),
        });
    }
    trees.sort_by(|left, right| left.below.cmp(&right.below));
    Ok(trees)
}

async fn open(work: &Work, part: &Part) -> Result<Option<Root>, Error> {
    let Some(result) = &part.result else {
        return Ok(None);
    };
    let ensured = result.ensure(&work.cx, &work.progress).await;
    ensured.map_err(|err| Error::new(&err))?;
    let tree = result.tree(&work.cx).await;
    let tree = tree.map_err(|err| Error::new(&err))?;
    // The root's own descriptor keeps a mount alive that is attached nowhere.
    let root = Root::from_borrowed(tree.fd()).map_err(|err| Error {
        message: format!("open result: {}", fstree::errno_text(&err)),
        class: fault::Classify::class(&err),
    })?;
    Ok(Some(root))
}

impl Listing for PlatformTree {
    fn list(self, emit: Emit<'_>) -> Result<(), filesync::Error> {
        let Self {
            id,
            root,
            below,
            epoch,
            owners,
            said,
        } = self;
        let time = epoch.map(|seconds| seconds.saturating_mul(1_000_000_000));
        if let Some(below) = &below {
            emit(Item {
                stat: Stat {
                    path: below.clone(),
                    mode: DIRECTORY,
                    mod_time: time.unwrap_or(0),
                    ..Stat::default()
                },
                content: Content::None,
            })?;
        }
        let tree = |emit: Emit<'_>| match root {
            Some(root) => Tree::new(root).list(emit),
            None => Ok(()),
        };
        said.with(tree, &mut |mut item| {
            if let Some(owners) = &owners {
                claim(owners, &id, &item.stat)?;
            }
            if let Some(below) = &below {
                lower(&mut item.stat, below);
            }
            if let Some(time) = time {
                item.stat.mod_time = time;
            }
            emit(item)
        })
    }
}

/// Moves an entry below a directory. Links that meant the tree keep meaning it.
fn lower(stat: &mut Stat, below: &str) {
    stat.path = format!("{below}/{}", stat.path);
    if stat.mode & SYMLINK != 0 {
        if stat.linkname.starts_with('/') {
            stat.linkname = format!("/{below}{}", stat.linkname);
        }
    } else if !stat.linkname.is_empty() {
        stat.linkname = format!("{below}/{}", stat.linkname);
    }
}

/// Directories may come from several platforms, anything else from one.
fn claim(owners: &Owners, id: &str, stat: &Stat) -> Result<(), filesync::Error> {
    if stat.mode & (1 << 31) != 0 {
        return Ok(());
    }
    let mut owners = owners.lock().unwrap_or_else(PoisonError::into_inner);
    match owners.insert(stat.path.clone(), id.to_owned()) {
        None => Ok(()),
        Some(first) => Err(filesync::Error::Call(Failure::user(format!(
            "cannot overwrite {} from {first} with {id} when split option is disabled",
            stat.path
        )))),
    }
}

/// All trees as one: those below directories of their own one after the other, others merged.
pub(crate) struct Together(pub Vec<PlatformTree>);

impl Listing for Together {
    fn list(self, emit: Emit<'_>) -> Result<(), filesync::Error> {
        let merge = self.0.iter().any(|tree| tree.owners.is_some());
        if !merge {
            return self.0.into_iter().try_for_each(|tree| tree.list(emit));
        }
        let mut all = Vec::new();
        for tree in self.0 {
            tree.list(&mut |item| {
                all.push(item);
                Ok(())
            })?;
        }
        // A directory that several platforms have is sent once, as the first of them has it.
        all.sort_by(|left, right| {
            fstree::path::walk_order(left.stat.path.as_bytes(), right.stat.path.as_bytes())
        });
        all.dedup_by(|later, first| later.stat.path == first.stat.path);
        all.into_iter().try_for_each(emit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, mode: u32, linkname: &str) -> Stat {
        Stat {
            path: path.to_owned(),
            mode,
            linkname: linkname.to_owned(),
            ..Stat::default()
        }
    }

    #[test]
    fn links_move_with_their_platform() {
        for (mode, linkname, wanted) in [
            (SYMLINK | 0o777, "/etc/x", "/linux_arm_v7/etc/x"),
            (SYMLINK | 0o777, "../x", "../x"),
            (0o644, "a/first", "linux_arm_v7/a/first"),
            (0o644, "", ""),
        ] {
            let mut stat = entry("a/b", mode, linkname);
            lower(&mut stat, "linux_arm_v7");
            assert_eq!(stat.path, "linux_arm_v7/a/b");
            assert_eq!(stat.linkname, wanted);
        }
    }

    #[test]
    fn two_platforms_may_share_directories_but_no_files() {
        let owners = Owners::default();
        let claim = |id, mode| super::claim(&owners, id, &entry("bin", mode, ""));
        assert!(claim("linux/amd64", DIRECTORY).is_ok());
        assert!(claim("linux/arm64", DIRECTORY).is_ok());
        assert!(claim("linux/amd64", 0o644).is_ok());
        let refused = claim("linux/arm64", 0o644).expect_err("taken");
        assert_eq!(
            crate::failed(refused).message,
            "cannot overwrite bin from linux/amd64 with linux/arm64 when split option is disabled"
        );
    }

    fn tree(dir: &std::path::Path, id: &str, owners: Option<Owners>, below: bool) -> PlatformTree {
        PlatformTree {
            id: id.to_owned(),
            root: Some(Root::open(dir).expect("open")),
            below: below.then(|| id.replace('/', "_")),
            epoch: Some(7),
            owners,
            said: Statements::default(),
        }
    }

    fn paths(listing: impl Listing) -> Vec<String> {
        let mut paths = Vec::new();
        let listed = listing.list(&mut |item| {
            assert_eq!(item.stat.mod_time, 7_000_000_000);
            paths.push(item.stat.path);
            Ok(())
        });
        listed.expect("listed");
        paths
    }

    #[test]
    fn trees_together_are_in_the_order_of_a_walk() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        for (name, file) in [("one", "a/x"), ("two", "a/b"), ("two", "c")] {
            let path = dir.path().join(name).join(file);
            std::fs::create_dir_all(path.parent().expect("below")).expect("mkdir");
            std::fs::write(path, "").expect("write");
        }
        let at = |name: &str| dir.path().join(name);
        let owners = Owners::default();
        let merged = Together(vec![
            tree(&at("one"), "linux/amd64", Some(owners.clone()), false),
            tree(&at("two"), "linux/arm64", Some(owners), false),
        ]);
        assert_eq!(paths(merged), ["a", "a/b", "a/x", "c"]);
        let split = Together(vec![
            tree(&at("one"), "linux/amd64", None, true),
            tree(&at("two"), "linux/arm64", None, true),
        ]);
        assert_eq!(
            paths(split),
            [
                "linux_amd64",
                "linux_amd64/a",
                "linux_amd64/a/x",
                "linux_arm64",
                "linux_arm64/a",
                "linux_arm64/a/b",
                "linux_arm64/c"
            ]
        );
    }
}
