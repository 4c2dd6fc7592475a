//! Control groups of containers: made before the run, joined by the child, removed afterwards.
//!
//! Three kinds of hosts: the old hierarchies (one per controller), the same with a unified hierarchy beside them that
//! only groups processes, and the unified hierarchy alone. Groups are what keeps a container from the host's devices,
//! so one that cannot be made is an error.

mod bpf;
mod devices;
mod layout;
mod limits;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use executor::spec::Resources;
use rustix::io::Errno;

pub(crate) use layout::Hierarchies;

/// Where a group is below the root of any hierarchy.
pub(crate) fn relative(path: &str) -> String {
    layout::relative(path.trim_start_matches('/'))
        .display()
        .to_string()
}

/// The group of one container.
#[derive(Debug, Default)]
pub(crate) struct Group {
    dirs: Vec<Member>,
    /// The unified hierarchy is the only one.
    unified: bool,
}

/// The group's directory in one hierarchy.
#[derive(Debug)]
pub(crate) struct Member {
    name: String,
    aliases: Vec<String>,
    dir: PathBuf,
    /// What the child writes itself into, or the directory when it is cloned into that.
    entry: File,
    kind: Kind,
}

/// The ways into a group, for as long as it exists.
#[derive(Debug)]
pub(crate) struct Entries {
    files: Vec<OwnedFd>,
    clone_into: Option<OwnedFd>,
}

impl Entries {
    /// Files a child writes itself into.
    pub(crate) fn to_join(&self) -> Vec<RawFd> {
        self.files.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// The group a child is cloned into.
    pub(crate) fn to_clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.clone_into.as_ref().map(AsFd::as_fd)
    }
}

/// What a hierarchy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Old, with controllers.
    Old,
    /// Unified, beside old ones.
    Beside,
    /// Unified, alone.
    Unified,
}

impl Member {
    /// Name of its directory in a container.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Controllers that share it under other names.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(String::as_str)
    }

    /// Where it is on the host.
    fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Group {
    /// Makes a group at `path` in all hierarchies and sets its limits.
    pub(crate) fn create(
        hierarchies: &Hierarchies,
        path: &str,
        resources: Option<&Resources>,
    ) -> io::Result<Self> {
        let mut group = Self {
            dirs: Vec::new(),
            unified: hierarchies.is_unified(),
        };
        let Some(resources) = resources.filter(|_| !path.is_empty()) else {
            return Ok(group);
        };
        match group.fill(hierarchies, path, resources) {
            Ok(()) => Ok(group),
            Err(err) => {
                group.remove();
                Err(err)
            }
        }
    }

    fn fill(
        &mut self,
        hierarchies: &Hierarchies,
        path: &str,
        resources: &Resources,
    ) -> io::Result<()> {
        let relative = path.trim_start_matches('/');
        if hierarchies.iter().next().is_none() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "no cgroup mount found",
            ));
        }
        for hierarchy in hierarchies.iter() {
            let dir = hierarchy.root.join(layout::relative(relative));
            make(hierarchies, hierarchy, &dir)?;
            let entry = match hierarchy.kind {
                // Not `cgroup.procs`: moving a single thread, oneself, is the one case in which the kernel does not
                // wait for all processors first, which takes milliseconds.
                Kind::Old => OpenOptions::new().write(true).open(dir.join("tasks"))?,
                _ if crate::sys::CAN_CLONE_INTO_CGROUP => File::open(&dir)?,
                _ => OpenOptions::new()
                    .write(true)
                    .open(dir.join("cgroup.procs"))?,
            };
            self.dirs.push(Member {
                name: hierarchy.name.clone(),
                aliases: hierarchy.aliases.clone(),
                dir: dir.clone(),
                entry,
                kind: hierarchy.kind,
            });
            match hierarchy.kind {
                Kind::Old => limits::old(&dir, hierarchy, resources)?,
                Kind::Beside => {}
                Kind::Unified => {
                    let opened = File::open(&dir)?;
                    hierarchies
                        .programs
                        .attach(opened.as_fd(), &resources.devices)?;
                    limits::unified(&dir, resources)?;
                }
            }
        }
        Ok(())
    }

    /// The unified hierarchy's directory when it is the only one.
    fn unified(&self) -> Option<&Path> {
        if !self.unified {
            return None;
        }
        self.dirs.first().map(Member::dir)
    }

    /// Whether there is only the unified hierarchy.
    pub(crate) fn is_unified(&self) -> bool {
        self.unified
    }

    /// Directories a container sees of it, unless it has a namespace of its own.
    pub(crate) fn dirs_to_show(&self) -> impl Iterator<Item = &Path> {
        self.dirs
            .iter()
            .filter(|member| member.kind != Kind::Beside)
            .map(Member::dir)
    }

    /// The old hierarchies.
    pub(crate) fn hierarchies(&self) -> impl Iterator<Item = &Member> {
        self.dirs.iter().filter(|member| member.kind == Kind::Old)
    }

    /// Files the child writes itself into.
    pub(crate) fn to_join(&self) -> Vec<RawFd> {
        let by_file =
            |member: &&Member| member.kind == Kind::Old || !crate::sys::CAN_CLONE_INTO_CGROUP;
        self.dirs
            .iter()
            .filter(by_file)
            .map(|member| member.entry.as_raw_fd())
            .collect()
    }

    /// The group a child is cloned into.
    pub(crate) fn to_clone_into(&self) -> Option<BorrowedFd<'_>> {
        let unified = self.dirs.iter().find(|member| member.kind != Kind::Old)?;
        crate::sys::CAN_CLONE_INTO_CGROUP.then(|| unified.entry.as_fd())
    }

    /// What a process needs to join the group later.
    pub(crate) fn entries(&self) -> io::Result<Entries> {
        let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let by_file =
            |member: &&Member| member.kind == Kind::Old || !crate::sys::CAN_CLONE_INTO_CGROUP;
        let files = self.dirs.iter().filter(by_file);
        Ok(Entries {
            files: files
                .map(|member| own(member.entry.as_fd()))
                .collect::<io::Result<_>>()?,
            clone_into: self.to_clone_into().map(own).transpose()?,
        })
    }

    /// Whether the kernel killed something in it for memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let Some(dir) = self.unified() else {
            return false;
        };
        match std::fs::read_to_string(dir.join("memory.events")) {
            Ok(text) => killed_for_memory(&text),
            Err(err) if err.kind() == io::ErrorKind::NotFound => false,
            Err(err) => {
                tracing::warn!(error = %err, "failed to read oom_kill event");
                false
            }
        }
    }

    /// Kills everything in it, and waits until it is gone.
    pub(crate) fn kill(&self) {
        let Some(member) = self.dirs.first() else {
            return;
        };
        for _ in 0..1000 {
            let procs =
                std::fs::read_to_string(member.dir.join("cgroup.procs")).unwrap_or_default();
            if procs.is_empty() {
                return;
            }
            kill_all(&procs);
            std::thread::sleep(Duration::from_millis(1));
        }
        tracing::warn!(dir = %member.dir.display(), "processes of a step stay behind");
    }

    /// Takes the group away. Its processes must be gone.
    pub(crate) fn remove(self) {
        for member in &self.dirs {
            remove_dir(&member.dir);
        }
    }
}

fn killed_for_memory(events: &str) -> bool {
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .any(|count| count.trim().parse::<u64>().is_ok_and(|count| count > 0))
}

/// Makes a group's directory. Those above it are made and set up the first time, or when somebody removed them.
fn make(hierarchies: &Hierarchies, hierarchy: &layout::Hierarchy, dir: &Path) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(&hierarchy.root);
    if !hierarchies.is_ready(parent) {
        make_parents(hierarchy, parent)?;
        hierarchies.set_ready(parent);
    }
    match make_dir(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            make_parents(hierarchy, parent)?;
            make_dir(dir)
        }
        other => other,
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match rustix::fs::mkdir(dir, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn make_parents(hierarchy: &layout::Hierarchy, dir: &Path) -> io::Result<()> {
    if dir != hierarchy.root {
        if let Some(parent) = dir.parent() {
            make_parents(hierarchy, parent)?;
        }
        make_dir(dir)?;
        if hierarchy.has("cpuset") && hierarchy.kind == Kind::Old {
            limits::inherit_cpuset(dir)?;
        }
    }
    if hierarchy.kind == Kind::Unified {
        limits::delegate(dir);
    }
    Ok(())
}

/// Removes a group's directory, and those an unconfined step made below it. The kernel may need a moment after the last
/// process.
fn remove_dir(dir: &Path) {
    let mut pause = Duration::from_micros(100);
    for _ in 0..12 {
        match std::fs::remove_dir(dir) {
            Ok(()) => return,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return,
            Err(err) if err.raw_os_error() == Some(libc::EBUSY) => {}
            Err(err) => {
                tracing::warn!(dir = %dir.display(), error = %err, "control group stays behind");
                return;
            }
        }
        let below = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = below
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        if below.is_empty() {
            std::thread::sleep(pause);
            pause *= 2;
        }
        below.iter().for_each(|dir| remove_dir(dir));
    }
    tracing::warn!(dir = %dir.display(), "control group stays behind: busy");
}

/// Kills the processes of a `cgroup.procs` file.
fn kill_all(procs: &str) {
    let pids = procs.lines().filter_map(|line| line.parse().ok());
    for pid in pids.filter_map(rustix::process::Pid::from_raw) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Kills what is left in a group of an earlier daemon, and removes it.
pub(crate) fn sweep(hierarchies: &Hierarchies, path: &str) {
    for hierarchy in hierarchies.iter() {
        let dir = hierarchy
            .root
            .join(layout::relative(path.trim_start_matches('/')));
        let Ok(procs) = std::fs::read_to_string(dir.join("cgroup.procs")) else {
            continue;
        };
        kill_all(&procs);
        remove_dir(&dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_for_memory_is_counted() {
        assert!(killed_for_memory("low 0\nhigh 0\noom 1\noom_kill 1\n"));
        assert!(!killed_for_memory("oom 1\noom_kill 0\noom_group_kill 0\n"));
    }
}
