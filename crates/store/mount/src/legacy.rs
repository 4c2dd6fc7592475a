//! Overlay mounts through `mount(2)`, for kernels that do not know `lowerdir+`.
//!
//! All options together must fit in one page, so a helper thread with a working directory of its own mounts from the
//! common parent of all layers with short relative names.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags};
use rustix::thread::UnshareFlags;

use crate::Upper;
use crate::overlay::classic_options;

/// One page, less what the kernel wants for itself.
const MAX_DATA: usize = 4096 - 512;

/// Mounts at `target`.
pub(crate) fn mount_at(
    lower: &[PathBuf],
    upper: Option<&Upper>,
    options: &[String],
    target: &Path,
) -> io::Result<()> {
    let target = std::path::absolute(target)?;
    let mut all: Vec<PathBuf> = lower.to_vec();
    if let Some(upper) = upper {
        all.extend([upper.dir.clone(), upper.work.clone()]);
    }
    let base = common_parent(&all);
    let lower: Vec<PathBuf> = lower.iter().map(|path| relative(path, &base)).collect();
    let upper = upper.map(|upper| Upper {
        dir: relative(&upper.dir, &base),
        work: relative(&upper.work, &base),
    });
    let mut data = classic_options(&lower, upper.as_ref(), options);
    if upper.is_none() {
        data.retain(|option| option != "volatile");
    }
    let data = data.join(",");
    if data.len() > MAX_DATA {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} layers do not fit in one page of options on this kernel",
                lower.len()
            ),
        ));
    }
    let data =
        CString::new(data).map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))?;
    let flags = if upper.is_none() {
        MountFlags::RDONLY
    } else {
        MountFlags::empty()
    };
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new()
            .name("overlay mount".to_owned())
            .spawn_scoped(scope, || -> io::Result<()> {
                // SAFETY: only the working directory (and umask) of this short-lived thread is split off; it shares
                // descriptors and memory with the others as before.
                unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
                rustix::process::chdir(&base)?;
                Ok(rustix::mount::mount(
                    "overlay",
                    &target,
                    "overlay",
                    flags,
                    data.as_c_str(),
                )?)
            })?;
        match helper.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A detached mount: made at a temporary place, cloned, and taken down there.
pub(crate) fn create(
    lower: &[PathBuf],
    upper: Option<&Upper>,
    options: &[String],
) -> io::Result<OwnedFd> {
    let place = tempfile::Builder::new().prefix("overlay-").tempdir()?;
    mount_at(lower, upper, options, place.path())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, place.path(), flags);
    rustix::mount::unmount(place.path(), UnmountFlags::DETACH)?;
    Ok(tree?)
}

/// The deepest directory above all `paths`.
fn common_parent(paths: &[PathBuf]) -> PathBuf {
    let mut base = match paths.first().and_then(|path| path.parent()) {
        Some(parent) => parent.to_owned(),
        None => return PathBuf::from("/"),
    };
    for path in paths {
        while !path.starts_with(&base) {
            if !base.pop() {
                return PathBuf::from("/");
            }
        }
    }
    base
}

fn relative(path: &Path, base: &Path) -> PathBuf {
    path.strip_prefix(base).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_parent_is_above_all() {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        let check = |list: &[&str], expected: &str| {
            assert_eq!(common_parent(&paths(list)), Path::new(expected), "{list:?}");
        };
        check(&["/s/1/fs", "/s/12/fs", "/s/3/work"], "/s");
        check(&["/s/1/fs"], "/s/1");
        check(&["/a/x", "/b/y"], "/");
    }

    #[test]
    fn the_old_call_stacks_more_layers_than_absolute_names_allow() {
        testkit::require!(root);
        let scratch = tempfile::tempdir().expect("a scratch folder");
        let dir = |name: &str| {
            let path = scratch.path().join(name);
            std::fs::create_dir_all(&path).expect("made");
            path
        };
        let lower: Vec<PathBuf> = (0..250)
            .rev()
            .map(|index| dir(&format!("{index}/fs")))
            .collect();
        std::fs::write(lower[249].join("deepest"), "found").expect("written");
        let upper = Upper {
            dir: dir("999/fs"),
            work: dir("999/work"),
        };
        let options = crate::probe::overlay_options();
        let before = std::env::current_dir().expect("known");
        let mount = create(&lower, Some(&upper), &options).expect("mounted");
        assert_eq!(std::env::current_dir().expect("known"), before);
        let tree = crate::Tree::of_mount(mount).expect("opened");
        assert_eq!(
            std::fs::read(tree.path().join("deepest")).expect("read"),
            b"found"
        );
        std::fs::write(tree.path().join("new"), "").expect("written");
        assert!(upper.dir.join("new").exists());
        drop(tree);
        let target = dir("target");
        mount_at(&lower, None, &options, &target).expect("mounted");
        assert!(target.join("deepest").exists());
        rustix::mount::unmount(&target, UnmountFlags::DETACH).expect("unmounted");
    }
}
