//! What mounts of a container show, taken from the host's mount namespace while the thread is still in it.
//!
//! Every tree is a detached, private copy; nothing is mounted anywhere yet. Descriptors are the only thing that goes
//! into the container's namespace, where no path of the host means anything.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use executor::overlays::{Overlay, Overlays};
use executor::rootfs::open_in;
use executor::spec::Spec;
use executor::{MountSource, StepMount};
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::cgroup::Group;
use crate::devices::{self, Bound};
use crate::options::{self, Options};
use crate::sys::{self, MountAttr};
use crate::{Setup, errors};

/// From this version on, kernels clone mounts that are attached nowhere.
const CLONES_DETACHED: (u32, u32) = (6, 15);

/// What a container's mounts show.
#[derive(Debug, Default)]
pub(crate) struct Trees {
    /// In the order of the specification; nothing for filesystems that are made inside.
    pub mounts: Vec<Option<OwnedFd>>,
    /// The container's control groups.
    pub cgroups: Vec<OwnedFd>,
    /// The host's devices, when none can be made.
    pub devices: Option<Vec<Bound>>,
    /// The host has /proc/kcore.
    pub kcore: bool,
}

/// Takes everything the specification's mounts need from the host. `held` goes with the step's mounts.
pub(crate) fn gather(
    spec: &Spec,
    mounts: &[StepMount],
    held: &[Option<Held>],
    group: &Group,
    may_make_devices: bool,
) -> Result<Trees, Setup> {
    let mut trees = Trees {
        kcore: Path::new("/proc/kcore").exists(),
        ..Trees::default()
    };
    if !may_make_devices {
        let bound = devices::of_host(&spec.linux.devices);
        trees.devices = Some(bound.map_err(|err| Setup::new("bind devices".into(), err))?);
    }
    for mount in &spec.mounts {
        let options = options::parse(&mount.options);
        let wanted = mount
            .step
            .and_then(|index| Some((mounts.get(index)?, held.get(index)?.as_ref())));
        let tree = match (mount.kind.as_str(), wanted) {
            ("tmpfs", _) => Ok(None),
            ("cgroup", _) => {
                let dirs = group.dirs_to_show();
                let clones = dirs
                    .map(|dir| of_path(dir, &options))
                    .collect::<io::Result<_>>();
                clones.map(|clones| {
                    trees.cgroups = clones;
                    None
                })
            }
            (_, Some((wanted, held))) => of_step(wanted, held, &options).map(Some),
            ("bind", None) => of_path(Path::new(&mount.source), &options).map(Some),
            _ => Ok(None),
        };
        let name = if mount.source.is_empty() {
            &mount.kind
        } else {
            &mount.source
        };
        let failed = |err| Setup::new(format!("mount {name} to {}", mount.destination), err);
        trees.mounts.push(tree.map_err(failed)?);
    }
    Ok(trees)
}

/// A mount of the step.
fn of_step(wanted: &StepMount, held: Option<&Held>, options: &Options) -> io::Result<OwnedFd> {
    let (whole, read_only) = match &wanted.source {
        MountSource::Snapshot(mount) => (
            match (mount, held) {
                (mount::Mount::Bind { source, .. }, _) => open_path(source)?,
                (_, Some(held)) => held.open()?,
                (_, None) => mount.movable()?,
            },
            mount.is_readonly(),
        ),
        MountSource::Path { path, .. } => (open_path(path)?, false),
        MountSource::Tmpfs { .. } => return Err(rustix::io::Errno::INVAL.into()),
    };
    let whole = match &wanted.selector {
        None => whole,
        Some(selector) => {
            open_in(whole.as_fd(), Path::new(selector), OFlags::PATH).map_err(|err| {
                io::Error::new(
                    err.kind(),
                    format!("lstat {selector}: {}", errors::text(&err)),
                )
            })?
        }
    };
    let tree = clone_fd(whole.as_fd(), true)?;
    let set = options.set
        | if read_only {
            libc::MOUNT_ATTR_RDONLY
        } else {
            0
        };
    set_attributes(&tree, set, options.clear)?;
    Ok(tree)
}

/// A path of the daemon's own.
fn of_path(path: &Path, options: &Options) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if options.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, path, flags).map_err(|errno| named(errno, path))?;
    make_private(&tree)?;
    set_attributes(&tree, options.set, options.clear)?;
    Ok(tree)
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| named(errno, path))
}

/// A private copy of what is mounted at a descriptor.
pub(crate) fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(fd, "", flags)?;
    make_private(&tree)?;
    Ok(tree)
}

fn make_private(tree: &OwnedFd) -> io::Result<()> {
    let attr = MountAttr {
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    sys::mount_setattr(tree.as_fd(), true, &attr)
}

fn set_attributes(tree: &OwnedFd, set: u64, clear: u64) -> io::Result<()> {
    // Clearing read-only would undo what the source itself asks for.
    let clear = clear & !libc::MOUNT_ATTR_RDONLY;
    if set == 0 && clear == 0 {
        return Ok(());
    }
    sys::mount_setattr(
        tree.as_fd(),
        false,
        &MountAttr {
            set,
            clear,
            ..MountAttr::default()
        },
    )
}

fn named(errno: rustix::io::Errno, path: &Path) -> io::Error {
    let err = io::Error::from(errno);
    io::Error::new(
        err.kind(),
        format!("{}: {}", path.display(), errors::text(&err)),
    )
}

/// Overlays in use.
///
/// The kernel must not mount the same upper directory twice. So the first container that needs such a mount makes it,
/// attached nowhere, and the others get clones, for as long as anybody has one. Kernels that cannot clone such mounts
/// get them attached on the host.
#[derive(Debug)]
pub(crate) enum SharedOverlays {
    /// By upper directory.
    Detached(Mutex<HashMap<PathBuf, Weak<OwnedFd>>>),
    Attached(Overlays),
}

/// Keeps an overlay alive.
#[derive(Debug)]
pub(crate) enum Held {
    Detached(Arc<OwnedFd>),
    Attached(Arc<Overlay>),
}

impl Held {
    /// The overlay's root, for cloning.
    fn open(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Detached(fd) => fd.try_clone(),
            Self::Attached(overlay) => open_path(overlay.path()),
        }
    }
}

impl SharedOverlays {
    /// `place` is a directory for mounts, should the kernel need one.
    pub(crate) fn new(kernel: (u32, u32), place: PathBuf) -> Self {
        if kernel < CLONES_DETACHED {
            return Self::Attached(Overlays::new(place));
        }
        Self::Detached(Mutex::default())
    }

    /// Makes sure the overlays among these mounts exist, for as long as the result lives.
    pub(crate) fn hold(&self, mounts: &[StepMount]) -> io::Result<Vec<Option<Held>>> {
        let overlay = |wanted: &StepMount| match &wanted.source {
            MountSource::Snapshot(mount @ mount::Mount::Overlay { .. }) => {
                self.hold_one(mount).map(Some)
            }
            _ => Ok(None),
        };
        mounts.iter().map(overlay).collect()
    }

    fn hold_one(&self, mount: &mount::Mount) -> io::Result<Held> {
        let mounted = match self {
            Self::Attached(overlays) => return overlays.attach(mount).map(Held::Attached),
            Self::Detached(mounted) => mounted,
        };
        let mount::Mount::Overlay {
            upper: Some(upper), ..
        } = mount
        else {
            return mount.movable().map(|fd| Held::Detached(Arc::new(fd)));
        };
        // Invariant: held while mounting, so that nobody mounts the same directory meanwhile.
        let mut mounted = mounted.lock();
        mounted.retain(|_, overlay| overlay.strong_count() > 0);
        if let Some(overlay) = mounted.get(&upper.dir).and_then(Weak::upgrade) {
            return Ok(Held::Detached(overlay));
        }
        let overlay = Arc::new(mount.movable()?);
        mounted.insert(upper.dir.clone(), Arc::downgrade(&overlay));
        Ok(Held::Detached(overlay))
    }
}
