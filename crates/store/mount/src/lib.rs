//! Descriptions of mounts, and the system calls that make them real.
//!
//! A [`Mount`] is a plain value: nothing happens until somebody looks inside. [`Mount::detached`] makes a mount that
//! is attached nowhere and lives as long as its [`Tree`]; [`Mount::attach`] puts one at a path for as long as the
//! [`Attached`] guard lives; [`Mount::movable`] is for runtimes that place it in another mount namespace.
//!
//! The new mount API is used (`fsopen`, one `lowerdir+` per layer, no page limit); kernels before 6.7 get `mount(2)`
//! with short relative names, and where the kernel has none of it a program can do it ([`fuse`]). What the layers are and
//! who owns them is `snapshot`'s business, not ours.

#![allow(unsafe_code)]

mod attach;
pub mod fuse;
mod legacy;
mod overlay;
pub mod probe;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

pub use attach::{Attached, Tmpfs, attach, bind, movable_at};
pub use tree::Tree;

/// What to mount. Cheap to clone compared to mounting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A directory (or file) as it is.
    Bind {
        /// Absolute path.
        source: PathBuf,
        /// Nothing can be written through the mount.
        readonly: bool,
    },
    /// Directories on top of each other.
    Overlay {
        /// Lower directories, the nearest first. At least one.
        lower: Vec<PathBuf>,
        /// Where changes go; absent: read-only, and at least two lower directories.
        upper: Option<Upper>,
        /// Further options, as in `index=off` or `userxattr`; [`fuse::FUSE_OVERLAYFS`].
        options: Vec<String>,
    },
}

/// The writable side of an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    /// Receives what is written.
    pub dir: PathBuf,
    /// Scratch space of the kernel, on the same filesystem.
    pub work: PathBuf,
}

/// A mount in the words of the OCI runtime specification and of mount(8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciMount {
    /// `bind` or `overlay`.
    pub kind: String,
    /// Source path, or `overlay`.
    pub source: PathBuf,
    /// Options.
    pub options: Vec<String>,
}

impl Mount {
    /// A bind mount that can be written.
    pub fn writable(source: impl Into<PathBuf>) -> Self {
        Self::Bind {
            source: source.into(),
            readonly: false,
        }
    }

    /// A bind mount that cannot be written.
    pub fn readonly(source: impl Into<PathBuf>) -> Self {
        Self::Bind {
            source: source.into(),
            readonly: true,
        }
    }

    /// Whether nothing can be written through this mount.
    pub fn is_readonly(&self) -> bool {
        match self {
            Self::Bind { readonly, .. } => *readonly,
            Self::Overlay { upper, .. } => upper.is_none(),
        }
    }

    /// The tree behind this mount, mounted nowhere. For a bind mount the directory is just opened, and `readonly` is
    /// not enforced: the tree is for those who keep their own promises.
    pub fn detached(&self) -> io::Result<Tree> {
        match self {
            Self::Bind { source, .. } => Tree::open(source),
            Self::Overlay { .. } => Tree::of_mount(self.movable()?),
        }
    }

    /// A mount that is attached nowhere yet, to be moved to its place with `move_mount`, also into another mount
    /// namespace. Enforces `readonly`; its propagation is private. Closing the descriptor before that unmounts it.
    pub fn movable(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Bind { source, readonly } => attach::clone_tree(source, *readonly),
            Self::Overlay {
                lower,
                upper,
                options,
            } => overlay::create(lower, upper.as_ref(), options),
        }
    }

    /// Mounts at `target` until the guard is dropped.
    pub fn attach(&self, target: &Path) -> io::Result<Attached> {
        match self {
            Self::Bind { source, readonly } => attach::bind(source, target, *readonly),
            Self::Overlay {
                lower,
                upper,
                options,
            } => overlay::attach(lower, upper.as_ref(), options, target),
        }
    }

    /// The same in the words of external runtimes.
    pub fn options(&self) -> OciMount {
        match self {
            Self::Bind { source, readonly } => OciMount {
                kind: "bind".to_owned(),
                source: source.clone(),
                options: vec![
                    "rbind".to_owned(),
                    if *readonly { "ro" } else { "rw" }.to_owned(),
                ],
            },
            Self::Overlay {
                lower,
                upper,
                options,
            } => OciMount {
                kind: "overlay".to_owned(),
                source: PathBuf::from("overlay"),
                options: overlay::classic_options(lower, upper.as_ref(), options),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_lists_its_nearest_layer_first() {
        let mount = Mount::Overlay {
            lower: vec!["/s/2/fs".into(), "/s/1/fs".into()],
            upper: Some(Upper {
                dir: "/s/3/fs".into(),
                work: "/s/3/work".into(),
            }),
            options: vec!["index=off".to_owned()],
        };
        assert!(!mount.is_readonly());
        assert_eq!(
            mount.options().options,
            [
                "index=off",
                "workdir=/s/3/work",
                "upperdir=/s/3/fs",
                "lowerdir=/s/2/fs:/s/1/fs"
            ]
        );
    }

    #[test]
    fn a_read_only_bind_says_so() {
        let mount = Mount::readonly("/s/1/fs");
        assert!(mount.is_readonly());
        assert_eq!(mount.options().options, ["rbind", "ro"]);
    }
}
