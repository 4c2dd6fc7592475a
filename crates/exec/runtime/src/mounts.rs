//! The file system view of a container, put together in the mount namespace of its thread.
//!
//! Every mount is made detached and moved to a descriptor of its mount point, which was resolved inside the new root;
//! no path of the image is ever followed by name. What shows the child's own namespaces (/proc, the unified control
//! group hierarchy) is only prepared here: the child mounts it itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use executor::rootfs::{Make, Root, Walk, open_in};
use executor::spec::{self, Spec};
use executor::{MountSource, Step};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::cgroup::Group;
use crate::options::{self, Options};
use crate::shared::SharedOverlays;
use crate::sys::{self, MountAttr};
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

/// What mounts are made from, besides the specification.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub step: &'a Step,
    pub group: &'a Group,
    pub overlays: &'a SharedOverlays,
    /// The child gets a control group namespace.
    pub cgroup_namespace: bool,
}

/// Makes all mounts of a container below its root, which must be attached in this thread's namespace.
pub(crate) fn build(root: &Root, spec: &Spec, sources: &Sources<'_>) -> Result<LateMounts, Setup> {
    let mut late = LateMounts::default();
    for mount in &spec.mounts {
        one(root, mount, sources, &mut late).map_err(|err| {
            Setup::new(
                format!("mount {} to {}", name(mount), mount.destination),
                err,
            )
        })?;
    }
    if needs_devices(spec) {
        devices::make(root, &spec.linux.devices)
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

fn name(mount: &spec::Mount) -> &str {
    if mount.source.is_empty() {
        &mount.kind
    } else {
        &mount.source
    }
}

fn one(
    root: &Root,
    mount: &spec::Mount,
    sources: &Sources<'_>,
    late: &mut LateMounts,
) -> io::Result<()> {
    let destination = Path::new(&mount.destination);
    let options = options::parse(&mount.options);
    let below_proc = late.proc.is_some() && destination.starts_with("/proc");
    if below_proc {
        // Compat: runc refuses this too, the few files it lets pass aside.
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "cannot be mounted because it is inside /proc",
        ));
    }
    if let Some(index) = mount.step
        && mount.kind != "tmpfs"
    {
        let wanted = sources
            .step
            .mounts
            .get(index)
            .ok_or(rustix::io::Errno::INVAL)?;
        let tree = source_tree(wanted, &options, sources.overlays)?;
        set_attributes(&tree, &options)?;
        return place(root, destination, tree);
    }
    match mount.kind.as_str() {
        "bind" => {
            let tree = clone_path(Path::new(&mount.source), options.recursive)?;
            set_attributes(&tree, &options)?;
            place(root, destination, tree)
        }
        "proc" => {
            let target = mount_point(root, destination, Make::Dir)?;
            late.proc = Some(Late {
                target,
                attributes: options.set,
            });
            Ok(())
        }
        "cgroup" => cgroup(root, destination, &options, sources, late),
        "tmpfs" => tmpfs(root, destination, mount, options),
        kind => {
            let tree = filesystem(kind, &mount.source, &options)?;
            place(root, destination, tree)
        }
    }
}

/// A filesystem of its own.
fn filesystem(kind: &str, source: &str, options: &Options) -> io::Result<OwnedFd> {
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

/// Memory. Covers a directory with one of the same mode, unless told otherwise.
fn tmpfs(
    root: &Root,
    destination: &Path,
    mount: &spec::Mount,
    mut options: Options,
) -> io::Result<()> {
    let walk = root.walk(destination)?;
    if walk.exists() && !options.data.iter().any(|(name, _)| name == "mode") {
        let mode = rustix::fs::fstat(walk.at())?.st_mode & 0o7777;
        options
            .data
            .push(("mode".to_owned(), Some(format!("{mode:o}"))));
    }
    let target = walk.complete(Make::Dir, MOUNT_POINT, None)?;
    let tree = filesystem("tmpfs", &mount.source, &options)?;
    attach(&tree, target.as_fd())
}

/// The container's part of the control group hierarchies.
fn cgroup(
    root: &Root,
    destination: &Path,
    options: &Options,
    sources: &Sources<'_>,
    late: &mut LateMounts,
) -> io::Result<()> {
    let target = mount_point(root, destination, Make::Dir)?;
    if let Some(unified) = sources.group.unified() {
        if sources.cgroup_namespace {
            late.cgroup = Some(Late {
                target,
                attributes: options.set,
            });
            return Ok(());
        }
        let tree = clone_path(unified, false)?;
        set_attributes(&tree, options)?;
        return attach(&tree, target.as_fd());
    }
    let inside = Options {
        set: options.set & !libc::MOUNT_ATTR_RDONLY,
        data: vec![("mode".to_owned(), Some("755".to_owned()))],
        ..Options::default()
    };
    let top = filesystem("tmpfs", "tmpfs", &inside)?;
    attach(&top, target.as_fd())?;
    for hierarchy in sources.group.hierarchies() {
        rustix::fs::mkdirat(&top, hierarchy.name(), MOUNT_POINT)?;
        for alias in hierarchy.aliases() {
            rustix::fs::symlinkat(hierarchy.name(), &top, alias)?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&top, hierarchy.name(), flags, Mode::empty())?;
        let tree = clone_path(hierarchy.dir(), false)?;
        set_attributes(&tree, options)?;
        attach(&tree, place.as_fd())?;
    }
    Ok(())
}

/// What a mount of the step shows, mounted nowhere yet.
fn source_tree(
    wanted: &executor::StepMount,
    options: &Options,
    overlays: &SharedOverlays,
) -> io::Result<OwnedFd> {
    let whole = match &wanted.source {
        MountSource::Snapshot(mount @ mount::Mount::Overlay { upper: Some(_), .. }) => {
            overlays.tree(mount)?
        }
        MountSource::Snapshot(mount) => mount.movable()?,
        MountSource::Path { path, .. } => clone_path(path, options.recursive)?,
        MountSource::Tmpfs { .. } => return Err(rustix::io::Errno::INVAL.into()),
    };
    match &wanted.selector {
        None => Ok(whole),
        Some(selector) => selected(whole.as_fd(), wanted, selector),
    }
}

/// A path inside a source, resolved without leaving it.
fn selected(
    whole: BorrowedFd<'_>,
    wanted: &executor::StepMount,
    selector: &str,
) -> io::Result<OwnedFd> {
    let not_found = |err: io::Error| {
        io::Error::new(
            err.kind(),
            format!("lstat {selector}: {}", crate::errors::text(&err)),
        )
    };
    // A plain directory is looked into where it is: kernels before 6.15 do not clone what is mounted nowhere.
    let opened;
    let from = match &wanted.source {
        MountSource::Snapshot(mount::Mount::Bind { source: path, .. })
        | MountSource::Path { path, .. } => {
            opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            opened.as_fd()
        }
        _ => whole,
    };
    let inside = open_in(from, Path::new(selector), OFlags::PATH).map_err(not_found)?;
    let tree = clone_fd(inside.as_fd(), true)?;
    if matches!(&wanted.source, MountSource::Snapshot(mount) if mount.is_readonly()) {
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_RDONLY,
            ..MountAttr::default()
        };
        sys::mount_setattr(tree.as_fd(), true, &attr)?;
    }
    Ok(tree)
}

/// A private copy of what is mounted at a path of the host.
pub(crate) fn clone_path(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    let tree = open_tree(CWD, path, flags).map_err(|err| named(err, path))?;
    make_private(&tree)?;
    Ok(tree)
}

/// As [`clone_path`], of what a descriptor refers to.
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

fn named(err: rustix::io::Errno, path: &Path) -> io::Error {
    let err = io::Error::from(err);
    io::Error::new(
        err.kind(),
        format!("{}: {}", path.display(), crate::errors::text(&err)),
    )
}

fn set_attributes(tree: &OwnedFd, options: &Options) -> io::Result<()> {
    // Clearing read-only would undo what the source itself asks for.
    let clear = options.clear & !libc::MOUNT_ATTR_RDONLY;
    if options.set == 0 && clear == 0 {
        return Ok(());
    }
    let attr = MountAttr {
        set: options.set,
        clear,
        ..MountAttr::default()
    };
    sys::mount_setattr(tree.as_fd(), false, &attr)
}

fn place(root: &Root, destination: &Path, tree: OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(&tree)?;
    let make = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Make::Dir,
        _ => Make::File,
    };
    let target = mount_point(root, destination, make)?;
    attach(&tree, target.as_fd())
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

/// Makes `root` the root of this thread and leaves nothing of the host's mounts in the namespace.
pub(crate) fn pivot(root: &Root) -> Result<(), Setup> {
    let pivot = || -> io::Result<()> {
        rustix::process::fchdir(root.fd())?;
        rustix::process::pivot_root(".", ".")?;
        // The old root is on top of the new one now, at the same place.
        rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
        rustix::process::chdir("/")?;
        Ok(())
    };
    pivot().map_err(|err| Setup::new("pivot_root".into(), err))
}
