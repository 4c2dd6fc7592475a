//! The file system view of a container, put together in the mount namespace of its thread.
//!
//! Every mount is detached at first and moved to a descriptor of its mount point, which was resolved inside the new
//! root; no path of the image is ever followed by name. What shows the child's own namespaces (/proc, the unified
//! control group hierarchy) is only prepared here: the child mounts it itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use executor::rootfs::{Make, Root, Walk};
use executor::spec::{self, NamespaceKind, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use crate::cgroup::Group;
use crate::options::{self, Options};
use crate::plan::has;
use crate::sys::{self, MountAttr};
use crate::trees::{Trees, clone_fd};
use crate::{Setup, devices};

/// Mode of mount points that are made.
const MOUNT_POINT: Mode = Mode::from_raw_mode(0o755);

/// A mount left to the child: its mount point and attributes.
#[derive(Debug)]
pub(crate) struct Late {
    pub target: OwnedFd,
    pub attributes: u64,
}

/// What is left to the child.
#[derive(Debug, Default)]
pub(crate) struct LateMounts {
    pub proc: Option<Late>,
    pub cgroup: Option<Late>,
}

/// Makes all mounts of a container below its root, which must be attached in this thread's namespace.
pub(crate) fn build(
    root: &Root,
    spec: &Spec,
    mut trees: Trees,
    group: &Group,
) -> Result<LateMounts, Setup> {
    let mut late = LateMounts::default();
    let kcore = trees.kcore;
    let cgroups = std::mem::take(&mut trees.cgroups);
    let devices = trees.devices.take();
    for (mount, tree) in spec.mounts.iter().zip(trees.mounts) {
        let done = match (mount.kind.as_str(), tree) {
            ("cgroup", _) => cgroup(root, spec, mount, group, &cgroups, &mut late),
            (_, tree) => one(root, mount, tree, &mut late),
        };
        done.map_err(|err| {
            Setup::new(
                format!("mount {} to {}", mount.kind, mount.destination),
                err,
            )
        })?;
    }
    if needs_devices(spec) {
        let made = match &devices {
            None => devices::make(root, &spec.linux.devices),
            Some(devices) => devices::bind(root, devices),
        };
        made.and_then(|()| devices::link(root, kcore))
            .map_err(|err| Setup::new("create device nodes".into(), err))?;
    }
    Ok(late)
}

/// A bind mount that covers /dev brings its own devices.
fn needs_devices(spec: &Spec) -> bool {
    !spec
        .mounts
        .iter()
        .any(|mount| mount.kind == "bind" && mount.destination.trim_end_matches('/') == "/dev")
}

fn one(
    root: &Root,
    mount: &spec::Mount,
    tree: Option<OwnedFd>,
    late: &mut LateMounts,
) -> io::Result<()> {
    let destination = Path::new(&mount.destination);
    if late.proc.is_some() && destination.starts_with("/proc") {
        // Compat: runc refuses this too, the few files it lets pass aside.
        let text = "cannot be mounted because it is inside /proc";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if let Some(tree) = tree {
        let stat = rustix::fs::fstat(&tree)?;
        let make = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Make::Dir,
            _ => Make::File,
        };
        return attach(&tree, mount_point(root, destination, make)?.as_fd());
    }
    let mut options = options::parse(&mount.options);
    let walk = root.walk(destination)?;
    if mount.kind == "tmpfs"
        && walk.exists()
        && !options.data.iter().any(|(name, _)| name == "mode")
    {
        // Compat: memory over a directory has that directory's mode.
        let mode = rustix::fs::fstat(walk.at())?.st_mode & 0o7777;
        options
            .data
            .push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    let target = walk.complete(Make::Dir, MOUNT_POINT, None)?;
    if mount.kind == "proc" {
        late.proc = Some(Late {
            target,
            attributes: options.set,
        });
        return Ok(());
    }
    attach(
        &filesystem(&mount.kind, &mount.source, &options)?,
        target.as_fd(),
    )
}

/// A filesystem of its own.
pub(crate) fn filesystem(kind: &str, source: &str, options: &Options) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !source.is_empty() {
        fsconfig_set_string(context.as_fd(), "source", source)?;
    }
    for (name, value) in &options.data {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), name.as_str(), value.as_str())?,
            None => fsconfig_set_flag(context.as_fd(), name.as_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(options.set as u32);
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// The container's part of the control group hierarchies.
fn cgroup(
    root: &Root,
    spec: &Spec,
    mount: &spec::Mount,
    group: &Group,
    trees: &[OwnedFd],
    late: &mut LateMounts,
) -> io::Result<()> {
    let options = options::parse(&mount.options);
    let target = mount_point(root, Path::new(&mount.destination), Make::Dir)?;
    if group.is_unified() {
        if has(spec, NamespaceKind::Cgroup) {
            late.cgroup = Some(Late {
                target,
                attributes: options.set,
            });
            return Ok(());
        }
        return trees
            .iter()
            .try_for_each(|tree| attach(tree, target.as_fd()));
    }
    let inside = Options {
        set: options.set & !libc::MOUNT_ATTR_RDONLY,
        data: vec![("mode".to_owned(), Some("755".to_owned()))],
        ..Options::default()
    };
    let top = filesystem("tmpfs", "tmpfs", &inside)?;
    attach(&top, target.as_fd())?;
    for (hierarchy, tree) in group.hierarchies().zip(trees) {
        rustix::fs::mkdirat(&top, hierarchy.name(), MOUNT_POINT)?;
        for alias in hierarchy.aliases() {
            rustix::fs::symlinkat(hierarchy.name(), &top, alias)?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&top, hierarchy.name(), flags, Mode::empty())?;
        attach(tree, place.as_fd())?;
    }
    Ok(())
}

/// The place a mount goes to, made if it is missing.
pub(crate) fn mount_point(root: &Root, destination: &Path, make: Make) -> io::Result<OwnedFd> {
    root.walk(destination)?.complete(make, MOUNT_POINT, None)
}

/// Moves a detached mount to its place.
pub(crate) fn attach(tree: &OwnedFd, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", target, "", flags)?)
}

/// Covers and closes paths outside /proc; those below it are for the child.
pub(crate) fn protect(root: &Root, spec: &Spec) -> Result<(), Setup> {
    let outside = |path: &&String| !path.starts_with("/proc");
    for path in spec.linux.readonly_paths.iter().filter(outside) {
        close(root, path).map_err(|err| Setup::new(format!("make {path} read-only"), err))?;
    }
    for path in spec.linux.masked_paths.iter().filter(outside) {
        cover(root, path).map_err(|err| Setup::new(format!("mask {path}"), err))?;
    }
    if spec.root.readonly {
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        sys::mount_setattr(root.fd(), false, &attr)
            .map_err(|err| Setup::new("make the root read-only".into(), err))?;
    }
    Ok(())
}

fn existing<'a>(root: &'a Root, path: &str) -> io::Result<Option<Walk<'a>>> {
    let walk = root.walk(Path::new(path))?;
    Ok(walk.exists().then_some(walk))
}

fn close(root: &Root, path: &str) -> io::Result<()> {
    let Some(walk) = existing(root, path)? else {
        return Ok(());
    };
    let tree = clone_fd(walk.at(), true)?;
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    sys::mount_setattr(tree.as_fd(), true, &attr)?;
    attach(&tree, walk.at())
}

fn cover(root: &Root, path: &str) -> io::Result<()> {
    let Some(walk) = existing(root, path)? else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(walk.at())?;
    let tree = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let data = vec![("ro".to_owned(), None)];
        let options = Options {
            set: libc::MOUNT_ATTR_RDONLY,
            data,
            ..Options::default()
        };
        filesystem("tmpfs", "tmpfs", &options)?
    } else {
        let null = root.open_at(Path::new("/dev/null"), OFlags::PATH)?;
        clone_fd(null.as_fd(), false)?
    };
    attach(&tree, walk.at())
}
