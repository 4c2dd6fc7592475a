//! Notes about running containers, and what to do with those an earlier daemon left.
//!
//! The notes are lines added to one file, because making and removing a file per container takes longer than many a
//! container runs. A crash leaves lines of containers that did not end; nothing needs to reach the disk in order.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use crate::cgroup::{self, Group, Hierarchies};

/// File of the notes.
const RUNNING: &str = "running";

/// Empty directory for making the template namespace. On the host nothing is ever mounted there.
pub(crate) const ROOT: &str = "rootfs";

/// Directory of overlays several containers share, on kernels that need one.
pub(crate) const OVERLAYS: &str = "overlays";

/// Length from which the file of notes is emptied once nothing runs.
const LONG: u64 = 64 * 1024;

/// Notes about running containers.
#[derive(Debug)]
pub(crate) struct Notes {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    running: usize,
}

/// A container runs in this control group. When this value goes away, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Note {
    notes: Arc<Notes>,
    cgroup: String,
}

impl Notes {
    /// Begins an empty file of notes.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        let file = File::create(root.join(RUNNING))?;
        Ok(Self {
            state: Mutex::new(State { file, running: 0 }),
        })
    }

    fn end(&self, cgroup: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.running -= 1;
        if state.running == 0 && state.file.stream_position()? > LONG {
            state.file.set_len(0)?;
            return state.file.rewind();
        }
        state.file.write_all(format!("-{cgroup}\n").as_bytes())
    }
}

impl Note {
    /// Notes that a container begins.
    pub(crate) fn begin(notes: &Arc<Notes>, cgroup: &str) -> io::Result<Self> {
        let mut state = notes.state.lock();
        state.file.write_all(format!("+{cgroup}\n").as_bytes())?;
        state.running += 1;
        drop(state);
        Ok(Self {
            notes: notes.clone(),
            cgroup: cgroup.to_owned(),
        })
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        if let Err(err) = self.notes.end(&self.cgroup) {
            tracing::warn!(error = %err, "note of a container stays behind");
        }
    }
}

/// Control groups of containers that began and did not end.
fn unfinished(notes: &str) -> Vec<&str> {
    let mut open: Vec<&str> = Vec::new();
    for line in notes.lines() {
        match line.split_at_checked(1) {
            Some(("+", cgroup)) => open.push(cgroup),
            Some(("-", cgroup)) => open.retain(|other| *other != cgroup),
            _ => {}
        }
    }
    open.retain(|cgroup| !cgroup.is_empty());
    open
}

/// Removes control groups of containers that have ended, so that nobody waits for it. Dropping it waits for all.
#[derive(Debug)]
pub(crate) struct Janitor {
    work: Option<Sender<(Group, Note)>>,
    thread: Option<JoinHandle<()>>,
}

impl Janitor {
    pub(crate) fn new() -> io::Result<Self> {
        let (work, todo) = channel::<(Group, Note)>();
        let thread = std::thread::Builder::new()
            .name("janitor".to_owned())
            .spawn(move || {
                for (group, note) in todo {
                    group.remove();
                    drop(note);
                }
            })?;
        Ok(Self {
            work: Some(work),
            thread: Some(thread),
        })
    }

    /// Removes a group soon.
    pub(crate) fn remove(&self, group: Group, note: Note) {
        let left = match &self.work {
            Some(work) => work.send((group, note)).err().map(|unsent| unsent.0),
            None => Some((group, note)),
        };
        if let Some((group, note)) = left {
            group.remove();
            drop(note);
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that removes control groups died");
        }
    }
}

/// Removes what an earlier daemon left (processes, control groups, files of single steps, places of mounts), and makes
/// the directories containers need.
pub(crate) fn sweep(root: &Path, hierarchies: &Hierarchies) {
    let notes = std::fs::read_to_string(root.join(RUNNING)).unwrap_or_default();
    unfinished(&notes)
        .into_iter()
        .for_each(|group| cgroup::sweep(hierarchies, group));
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
    let place = root.join(ROOT);
    if let Err(err) = std::fs::create_dir_all(&place) {
        tracing::warn!(path = %place.display(), error = %err, "containers will not start");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_and_did_not_end_is_found() {
        assert_eq!(unfinished("+/b/1\n+/b/2\n-/b/1\n+\n"), ["/b/2"]);
        assert!(unfinished("").is_empty());
    }

    #[test]
    fn notes_do_not_grow_for_ever() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let notes = Arc::new(Notes::new(dir.path()).expect("writable"));
        let path = "/buildkit/0123456789abcdefghijklmno";
        for _ in 0..5000 {
            drop(Note::begin(&notes, path).expect("writable"));
        }
        let text = std::fs::read_to_string(dir.path().join(RUNNING)).expect("readable");
        assert!(text.len() < 80_000 && unfinished(&text).is_empty());
    }
}
