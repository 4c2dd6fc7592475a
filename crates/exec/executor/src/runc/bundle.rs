//! What an external runtime is given: a directory with the specification, the root mounted, every mount at a path.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mount::{Attached, Mount};
use rustix::fs::{Mode, OFlags};

use crate::overlays::{Overlay, Overlays};
use crate::prepare::{Prepared, Shared};
use crate::rootfs::{Root, open_in};
use crate::spec::{self, NamespaceKind};
use crate::{Error, MountSource, Step, StepMount};

/// Directory of the mounts of one container besides its root, in its bundle.
const MOUNTS: &str = "mounts";

/// Directory of overlays several containers may share.
pub(super) const OVERLAYS: &str = "overlays";

/// A container's bundle. [`Bundle::remove`] takes everything away; dropping leaves files, but no mounts.
#[derive(Debug)]
pub(super) struct Bundle {
    id: String,
    path: PathBuf,
    cgroups_path: Option<String>,
    prepared: Option<Prepared>,
    root: Option<Root>,
    /// Unmounted in this order: binds before what they show, the root last.
    mounts: Vec<Attached>,
    overlays: Vec<Arc<Overlay>>,
    root_mount: Option<Attached>,
}

impl Bundle {
    /// Makes the bundle of a step. Blocking.
    pub(super) fn create(shared: &Shared, overlays: &Overlays, step: &Step) -> Result<Self, Error> {
        let path = shared.settings.root.join(&step.id);
        let mut bundle = Self {
            id: step.id.clone(),
            path,
            cgroups_path: None,
            prepared: None,
            root: None,
            mounts: Vec::new(),
            overlays: Vec::new(),
            root_mount: None,
        };
        match bundle.fill(shared, overlays, step) {
            Ok(()) => Ok(bundle),
            Err(err) => {
                bundle.remove();
                Err(err)
            }
        }
    }

    fn fill(&mut self, shared: &Shared, overlays: &Overlays, step: &Step) -> Result<(), Error> {
        let failed = |doing: &'static str| move |err| Error::start_io(doing, err);
        let rootfs = self.path.join("rootfs");
        let dir = |path: &Path, mode| std::fs::DirBuilder::new().mode(mode).create(path);
        dir(&self.path, 0o711).map_err(failed("failed to create bundle"))?;
        dir(&rootfs, 0o700).map_err(failed("failed to create bundle"))?;
        let mounted = step
            .root
            .attach(&rootfs)
            .map_err(failed("failed to mount the root filesystem"))?;
        self.root_mount = Some(mounted);
        let root = Root::open(&rootfs).map_err(failed("failed to open the root filesystem"))?;
        let prepared = shared.prepare(step, &root, &rootfs);
        self.root = Some(root);
        let mut prepared = prepared?;
        for mount in &mut prepared.spec.mounts {
            let Some(wanted) = mount.step.and_then(|index| step.mounts.get(index)) else {
                continue;
            };
            if let Some(source) = self.source(overlays, wanted)? {
                let read_only = wanted.readonly
                    || matches!(&wanted.source, MountSource::Snapshot(mount) if mount.is_readonly());
                if mount.kind != "bind" {
                    mount.kind = "bind".to_owned();
                    let access = if read_only { "ro" } else { "rw" };
                    mount.options = vec![access.to_owned(), "rbind".to_owned()];
                }
                mount.source = source.display().to_string();
            }
        }
        let spec = serde_json::to_string(&prepared.spec)
            .map_err(|err| Error::start_io("failed to write the specification", err.into()))?;
        let unified = prepared
            .spec
            .linux
            .namespaces
            .iter()
            .any(|ns| ns.kind == NamespaceKind::Cgroup);
        self.cgroups_path = unified.then(|| prepared.spec.linux.cgroups_path.clone());
        self.prepared = Some(prepared);
        std::fs::write(self.path.join("config.json"), spec + "\n")
            .map_err(failed("failed to write the specification"))
    }

    /// A path the runtime can bind from, where the mount's own will not do.
    fn source(
        &mut self,
        overlays: &Overlays,
        wanted: &StepMount,
    ) -> Result<Option<PathBuf>, Error> {
        let failed = |err| Error::start_io(format_args!("failed to mount {}", wanted.dest), err);
        let whole = match &wanted.source {
            MountSource::Tmpfs { .. } => return Ok(None),
            MountSource::Path { path, .. } => path.clone(),
            MountSource::Snapshot(Mount::Bind { source, .. }) => source.clone(),
            MountSource::Snapshot(overlay) => {
                let attached = overlays.attach(overlay).map_err(failed)?;
                let path = attached.path().to_owned();
                self.overlays.push(attached);
                path
            }
        };
        let Some(selector) = &wanted.selector else {
            return Ok(Some(whole));
        };
        let target = self.path.join(MOUNTS).join(self.mounts.len().to_string());
        let attached = select(&whole, selector, &target).map_err(failed)?;
        let path = attached.path().to_owned();
        self.mounts.push(attached);
        Ok(Some(path))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The container's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The first process, as the runtime was told.
    pub(super) fn process(&self) -> Option<&spec::Process> {
        self.prepared
            .as_ref()
            .map(|prepared| &prepared.spec.process)
    }

    /// Where its control group is; empty: nowhere.
    pub(super) fn cgroups_path(&self) -> &str {
        let prepared = self.prepared.as_ref();
        prepared.map_or("", |prepared| &prepared.spec.linux.cgroups_path)
    }

    /// Whether the kernel killed something in the container for memory.
    pub(super) fn out_of_memory(&self) -> bool {
        let Some(path) = &self.cgroups_path else {
            return false;
        };
        let file = format!(
            "/sys/fs/cgroup/{}/memory.events",
            path.trim_start_matches('/')
        );
        match std::fs::read_to_string(file) {
            Ok(events) => events.lines().any(|line| {
                line.strip_prefix("oom_kill ")
                    .and_then(|count| count.parse::<u64>().ok())
                    .is_some_and(|n| n > 0)
            }),
            Err(err) => {
                tracing::warn!(error = %err, "failed to read oom_kill event");
                false
            }
        }
    }

    /// Unmounts, removes mount stubs and the directory. Blocking.
    pub(super) fn remove(mut self) {
        self.mounts.drain(..).rev().for_each(drop);
        self.overlays.clear();
        if let (Some(prepared), Some(root)) = (self.prepared.take(), self.root.take()) {
            prepared.finish(&root);
        }
        self.root_mount = None;
        remove_empty(&self.path);
    }
}

/// Binds a path inside a directory, resolved without leaving it, at `target`.
fn select(whole: &Path, selector: &str, target: &Path) -> io::Result<Attached> {
    let not_found = |err: io::Error| io::Error::new(err.kind(), format!("lstat {selector}: {err}"));
    let dir = rustix::fs::open(whole, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let inside = open_in(
        std::os::fd::AsFd::as_fd(&dir),
        Path::new(selector),
        OFlags::PATH,
    )
    .map_err(not_found)?;
    let by_descriptor = PathBuf::from(format!("/proc/self/fd/{}", inside.as_raw_fd()));
    if std::fs::metadata(&by_descriptor)?.is_dir() {
        make_dir(target)?;
    } else {
        target.parent().map_or(Ok(()), make_dir)?;
        std::fs::write(target, "")?;
    }
    mount::bind(&by_descriptor, target, false)
}

fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Removes a bundle without ever touching what may still be mounted in it: directories must be empty.
fn remove_empty(path: &Path) {
    let mounts = path.join(MOUNTS);
    for entry in std::fs::read_dir(&mounts).into_iter().flatten().flatten() {
        let place = entry.path();
        log_failure(
            &place,
            std::fs::remove_dir(&place).or_else(|_| std::fs::remove_file(&place)),
        );
    }
    let spec = path.join("config.json");
    log_failure(&spec, std::fs::remove_file(&spec));
    for dir in [mounts, path.join("rootfs"), path.to_owned()] {
        log_failure(&dir, std::fs::remove_dir(&dir));
    }
}

fn log_failure(path: &Path, result: io::Result<()>) {
    match result {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %err, "part of a bundle stays behind");
        }
        _ => {}
    }
}

/// Unmounts and removes bundles an earlier daemon left.
pub(super) fn sweep(root: &Path) -> io::Result<()> {
    std::fs::create_dir_all(root)?;
    crate::overlays::sweep(&root.join(OVERLAYS));
    for entry in std::fs::read_dir(root)?.flatten() {
        let path = entry.path();
        if !path.join("config.json").exists() {
            continue;
        }
        let places = std::fs::read_dir(path.join(MOUNTS))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for place in places.chain([path.join("rootfs")]) {
            // What is not mounted needs no unmounting.
            let _ = rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH);
        }
        remove_empty(&path);
    }
    Ok(())
}
