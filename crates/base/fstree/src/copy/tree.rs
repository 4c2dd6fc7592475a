//! A whole tree with everything that can be preserved.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use super::batch::Batch;
use super::task::{Attributes, Existing, Task, copy_xattrs};
use crate::error::Error;
use crate::path;
use crate::root::Root;
use crate::walk::Walk;

/// Copies everything in `source` into the directory `target`, which is empty: content, owners, modes, attributes, times
/// and hard links. With `share`, regular files become further names of the source's inodes where they can.
///
/// The directory `target` itself gets owner, mode, attributes and times of `source`.
pub fn tree(source: &Root, target: &Root, share: bool) -> Result<(), Error> {
    let mut batch = Batch::new();
    let mut dirs: Vec<(PathBuf, Attributes)> = Vec::new();
    let mut first_names: HashMap<(u64, u64), PathBuf> = HashMap::new();
    let mut links: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut current: Option<(PathBuf, Arc<OwnedFd>)> = None;
    dress_dir(source, target, Path::new(""), &mut dirs)?;
    for entry in Walk::new(source)? {
        let entry = entry?;
        if entry.meta.is_dir() {
            dress_dir(source, target, &entry.path, &mut dirs)?;
            continue;
        }
        if entry.meta.nlink > 1 && !share {
            if let Some(first) = first_names.get(&entry.meta.inode()) {
                links.push((first.clone(), entry.path));
                continue;
            }
            first_names.insert(entry.meta.inode(), entry.path.clone());
        }
        let above = entry.path.parent().unwrap_or(Path::new(""));
        let to_dir = match &current {
            Some((at, dir)) if at == above => dir.clone(),
            _ => {
                let dir = Arc::new(open_dir(target, above).map_err(failed("open", above))?);
                current = Some((above.to_owned(), dir.clone()));
                dir
            }
        };
        let name = entry.name().to_owned();
        batch.push(Task {
            share: share.then(|| (entry.shared_dir(), name.clone())),
            from_dir: entry.shared_dir(),
            from_name: name.clone(),
            to_dir,
            to_name: name,
            attributes: Attributes::of(&entry.meta),
            meta: entry.meta,
            at: entry.path,
            existing: Existing::Replace,
        })?;
    }
    batch.finish()?;
    for (first, second) in links {
        link(target, &first, &second).map_err(failed("link", &second))?;
    }
    for (at, attributes) in dirs.iter().rev() {
        set_times(target, at, attributes).map_err(failed("utimes", at))?;
    }
    Ok(())
}

fn failed(op: &'static str, at: &Path) -> impl FnOnce(io::Error) -> Error {
    let at = path::rooted(at);
    move |err| Error::new(op, at, err)
}

fn open_dir(root: &Root, at: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    root.open_with(at, flags, Mode::empty())
}

/// Makes the directory unless it is the root, with all but its times.
fn dress_dir(
    source: &Root,
    target: &Root,
    at: &Path,
    dirs: &mut Vec<(PathBuf, Attributes)>,
) -> Result<(), Error> {
    let make = || -> io::Result<Attributes> {
        let from = open_dir(source, at)?;
        let attributes = Attributes::of(&(&rustix::fs::fstat(&from)?).into());
        let parent = target.parent(at)?;
        if parent.name() != c"." {
            rustix::fs::mkdirat(&parent.dir, parent.name(), Mode::from_raw_mode(0o700))?;
        }
        let to = open_dir(target, at)?;
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::fchown(&to, Some(uid), Some(gid))?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(attributes.mode))?;
        copy_xattrs(&from, &to);
        Ok(attributes)
    };
    let attributes = make().map_err(failed("mkdir", at))?;
    dirs.push((at.to_owned(), attributes));
    Ok(())
}

fn link(root: &Root, first: &Path, second: &Path) -> io::Result<()> {
    let (from, to) = (root.parent(first)?, root.parent(second)?);
    rustix::fs::linkat(&from.dir, from.name(), &to.dir, to.name(), AtFlags::empty())?;
    Ok(())
}

fn set_times(root: &Root, at: &Path, attributes: &Attributes) -> io::Result<()> {
    let parent = root.parent(at)?;
    let name: CString = parent.name().to_owned();
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(&parent.dir, &*name, &attributes.times(), flags)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn source() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let at = dir.path();
        std::fs::create_dir_all(at.join("a/b")).expect("mkdir");
        for number in 0..200 {
            std::fs::write(at.join(format!("a/b/{number}")), vec![b'x'; number * 300])
                .expect("write");
        }
        std::fs::hard_link(at.join("a/b/1"), at.join("z")).expect("link");
        symlink("nowhere", at.join("link")).expect("symlink");
        let mode = std::fs::Permissions::from_mode(0o1711);
        std::fs::set_permissions(at.join("a"), mode).expect("chmod");
        let root = Root::open(at).expect("open");
        (dir, root)
    }

    /// Everything a copy must keep, as text.
    fn listing(root: &Root) -> Vec<String> {
        let walk = Walk::new(root).expect("walk");
        walk.map(|entry| {
            let entry = entry.expect("entry");
            let crate::Meta {
                mode,
                uid,
                gid,
                size,
                mtime,
                ..
            } = entry.meta;
            let size = if entry.meta.is_dir() { 0 } else { size };
            let (path, link) = (entry.path.display(), entry.link.display());
            format!("{path} {link} {mode:o} {uid} {gid} {size} {mtime:?}")
        })
        .collect()
    }

    /// More files than run at once.
    fn many() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        for number in 0..5000 {
            let at = dir.path().join(format!("d{}", number % 7));
            std::fs::create_dir_all(&at).expect("mkdir");
            std::fs::write(at.join(number.to_string()), number.to_string()).expect("write");
        }
        let root = Root::open(dir.path()).expect("open");
        (dir, root)
    }

    #[test]
    fn files_that_run_while_others_are_found_all_arrive() {
        for share in [false, true] {
            let (_from, source) = many();
            let to = tempfile::tempdir().expect("a scratch folder");
            let target = Root::open(to.path()).expect("open");
            tree(&source, &target, share).expect("copy");
            assert_eq!(listing(&source), listing(&target));
        }
    }

    #[test]
    fn a_file_that_failed_is_told_however_many_come_after_it() {
        let (_from, source) = many();
        let to = tempfile::tempdir().expect("a scratch folder");
        let target = Root::open(to.path()).expect("open");
        let dir = Arc::new(open_dir(&target, Path::new("")).expect("open"));
        let mut batch = Batch::new();
        let mut ended = Ok(());
        for (number, entry) in Walk::new(&source).expect("walk").enumerate() {
            let entry = entry.expect("entry");
            if entry.meta.is_dir() {
                continue;
            }
            let from_name = match number {
                1 => c"no such file".to_owned(),
                _ => entry.name().to_owned(),
            };
            ended = ended.and_then(|()| {
                batch.push(Task {
                    from_dir: entry.shared_dir(),
                    from_name,
                    to_dir: dir.clone(),
                    to_name: entry.name().to_owned(),
                    attributes: Attributes::of(&entry.meta),
                    meta: entry.meta,
                    at: entry.path,
                    existing: Existing::Replace,
                    share: None,
                })
            });
        }
        let err = ended.and_then(|()| batch.finish()).expect_err("it failed");
        assert_eq!((err.op, err.path), ("open", PathBuf::from("/d0/0")));
    }

    #[test]
    fn a_copied_tree_equals_its_source_with_and_without_sharing() {
        for share in [false, true] {
            let (from, source) = source();
            let to = tempfile::tempdir().expect("a scratch folder");
            let target = Root::open(to.path()).expect("open");
            tree(&source, &target, share).expect("copy");
            assert_eq!(listing(&source), listing(&target));
            let inode = |path: &str| std::fs::metadata(to.path().join(path)).expect("stat").ino();
            assert_eq!(inode("a/b/1"), inode("z"));
            let original = std::fs::metadata(from.path().join("z"))
                .expect("stat")
                .ino();
            assert_eq!(inode("z") == original, share);
            for number in [0, 1, 2, 60, 199] {
                let name = format!("a/b/{number}");
                assert_eq!(
                    std::fs::read(from.path().join(&name)).expect("read"),
                    std::fs::read(to.path().join(&name)).expect("read"),
                );
            }
        }
    }
}
