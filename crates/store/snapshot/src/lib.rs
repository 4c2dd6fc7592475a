//! Directory trees in layers, and mounts of them.
//!
//! A snapshot is a directory named by a [`Key`]. It is written through a mount on top of the snapshots below it, and
//! once nothing writes to it any more it may itself be below others. A [`Snapshotter`] knows how trees are laid out
//! on disk; which snapshots exist, what is below what, and what may still be written is known to `cache`, which hands
//! in the chain of keys. So there is no metadata here, and a commit is not a matter of this crate at all.
//!
//! Nothing is mounted here either: a [`mount::Mount`] is only a description.

mod error;
mod native;
mod overlay;
mod tidy;
mod usage;
mod whiteouts;

use std::fmt;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use mount::Mount;

pub use error::Error;
pub use native::Native;
pub use overlay::Overlay;
pub use usage::{Usage, usage};

/// Names a snapshot within its snapshotter. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Key {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Committed snapshots that make up one tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The nearest first; at least one.
    pub keys: Vec<Key>,
    /// The lowest one was made on top of others that are not part of this tree: it may hold marks for files of theirs
    /// that it deleted.
    pub cut: bool,
}

/// Stores trees in layers. All calls may block on the disk; none waits for it to be synced.
///
/// 1. `prepare` makes an empty change on top of `below`, and nothing if it fails.
/// 2. What is below is never written by anything done here.
/// 3. `edit` and `view` only describe: they cannot fail and cost nothing.
/// 4. `remove` of what is not there is no error; a removal that was cut short can be repeated.
pub trait Snapshotter: Send + Sync + fmt::Debug {
    /// `overlayfs`, `fuse-overlayfs`, `native`.
    fn name(&self) -> &'static str;

    /// Makes a snapshot that can be written, on top of `below`.
    fn prepare(&self, key: Key, below: Option<&Chain>) -> Result<(), Error>;

    /// The mount through which a snapshot is written.
    fn edit(&self, key: Key, below: Option<&Chain>) -> Mount;

    /// A read-only mount of committed snapshots.
    fn view(&self, chain: &Chain) -> Mount;

    /// Puts a snapshot in order that was filled by hand, without a mount.
    fn adopt(&self, key: Key) -> Result<(), Error>;

    /// Whether the snapshot differs in nothing from what is below. Asked when the last mount that wrote to it is gone:
    /// what such mounts leave for themselves is taken away.
    fn is_unchanged(&self, key: Key, below: &Chain) -> Result<bool, Error>;

    /// The directory of a snapshot's files.
    fn directory(&self, key: Key) -> PathBuf;

    /// Whether that directory holds only what was changed, with the marks of overlayfs for what was deleted. If not,
    /// it holds the whole tree.
    fn is_layered(&self) -> bool;

    /// Options of every overlay mount of such directories: they tell whose marks count.
    fn overlay_options(&self) -> &[String] {
        &[]
    }

    /// The directory of all snapshots.
    fn root(&self) -> &Path;

    /// How much room a snapshot takes, with everything that belongs to it.
    fn usage(&self, key: Key) -> Result<Usage, Error>;

    /// Removes what only those need who write to the snapshot. Nobody will any more.
    fn finish(&self, key: Key) -> Result<(), Error>;

    /// Removes a snapshot.
    fn remove(&self, key: Key) -> Result<(), Error>;

    /// Removes a snapshot by way of `trash`, a directory on the same filesystem. The directory of all snapshots is locked
    /// while something in it is removed, which may take a while, and is needed by whoever makes a snapshot; a rename takes
    /// no time.
    fn remove_through(&self, key: Key, trash: &Path) -> Result<(), Error> {
        let place = trash.join(key.to_string());
        match std::fs::rename(self.root().join(key.to_string()), &place) {
            Ok(()) => remove_home(&place),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => self.remove(key),
        }
    }

    /// All snapshots there are, in no particular order.
    fn keys(&self) -> Result<Vec<Key>, Error>;
}

/// Makes the directory of all snapshots, if need be. Each snapshot is to have a place of its own on the disk.
fn make_root(root: &Path) -> Result<(), Error> {
    let fail = Error::io("prepare", root);
    std::fs::create_dir_all(root).map_err(&fail)?;
    let dir = std::fs::File::open(root).map_err(&fail)?;
    fstree::dir::spread_children(&dir);
    Ok(())
}

/// Removes the directory of a snapshot. What the kernel keeps in there may not be entered by anyone but root.
fn remove_home(home: &Path) -> Result<(), Error> {
    remove(home, &home.join("work/work"))
}

/// Removes a directory. `kernels` is in it and may not be entered by anyone but root.
fn remove(path: &Path, kernels: &Path) -> Result<(), Error> {
    let mut result = std::fs::remove_dir_all(path);
    if result
        .as_ref()
        .is_err_and(|err| err.kind() == io::ErrorKind::PermissionDenied)
    {
        // What matters is whether the second attempt works.
        let _ = std::fs::set_permissions(kernels, Permissions::from_mode(0o700));
        result = std::fs::remove_dir_all(path);
    }
    match result {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(err)),
        _ => Ok(()),
    }
}

/// Keys among the names in a directory; other names are none of ours.
fn keys_in(root: &Path) -> Result<Vec<Key>, Error> {
    let fail = Error::io("list", root);
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(root).map_err(&fail)? {
        let name = entry.map_err(&fail)?.file_name();
        keys.extend(name.to_str().and_then(|name| name.parse::<Key>().ok()));
    }
    Ok(keys)
}
