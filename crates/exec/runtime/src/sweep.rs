//! Notes about running containers, and what to do with those an earlier daemon left.

use std::io;
use std::path::{Path, PathBuf};

use crate::cgroup::{self, Hierarchies};

/// Directory of the notes.
const RUNNING: &str = "running";

/// Empty directory on which each container's namespace mounts its root. On the host nothing is ever mounted there.
pub(crate) const ROOT: &str = "rootfs";

/// Directory of overlays several containers share, on kernels that need one.
pub(crate) const OVERLAYS: &str = "overlays";

/// A note that a container runs; its text is the control group. Goes away with this value.
#[derive(Debug)]
pub(crate) struct Note {
    path: PathBuf,
}

impl Note {
    pub(crate) fn write(root: &Path, id: &str, cgroup: &str) -> io::Result<Self> {
        let path = root.join(RUNNING).join(id);
        std::fs::write(&path, cgroup)?;
        Ok(Self { path })
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Err(err) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), error = %err, "note stays behind");
        }
    }
}

/// Removes what an earlier daemon left (processes, control groups, files of single steps, places of mounts), and makes
/// the directories containers need.
pub(crate) fn sweep(root: &Path, hierarchies: &Hierarchies) {
    let running = root.join(RUNNING);
    for entry in entries(&running) {
        if let Ok(group) = std::fs::read_to_string(&entry)
            && !group.is_empty()
        {
            cgroup::sweep(hierarchies, &group);
        }
        remove(std::fs::remove_file(&entry), &entry);
    }
    for entry in entries(root) {
        let name = entry
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with("hosts.") || name.ends_with(".new") {
            remove(std::fs::remove_file(&entry), &entry);
        }
    }
    executor::overlays::sweep(&root.join(OVERLAYS));
    for dir in [running, root.join(ROOT)] {
        if let Err(err) = std::fs::create_dir_all(&dir) {
            tracing::warn!(path = %dir.display(), error = %err, "containers will not start");
        }
    }
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

fn remove(result: io::Result<()>, path: &Path) {
    if let Err(err) = result {
        tracing::warn!(path = %path.display(), error = %err, "left by an earlier daemon, cannot be removed");
    }
}
