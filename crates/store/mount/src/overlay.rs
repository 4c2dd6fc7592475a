//! Overlay mounts through the new mount API.
//!
//! One `lowerdir+` per layer lifts the page limit of `mount(2)`. The kernel stacks at most 500 layers; a longer chain
//! gets its bottom mounted as a read-only overlay that serves as the last layer of the upper one (one level deep:
//! that is what the kernel allows).

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::attach::{Attached, place};
use crate::{Upper, fuse, legacy, probe};

/// The kernel refuses more lower directories than this.
const MAX_LOWER: usize = 500;
/// Longest value `fsconfig` takes, with its NUL.
const MAX_VALUE: usize = 256;

/// A detached overlay mount.
pub(crate) fn create(
    lower: &[PathBuf],
    upper: Option<&Upper>,
    options: &[String],
) -> io::Result<OwnedFd> {
    if fuse::is_asked_for(options) {
        return fuse::create(lower, upper, options).map_err(|err| explain(err, lower.len(), upper));
    }
    forget_volatile(upper, options);
    match create_new(lower, upper, options) {
        Some(created) => created,
        None => legacy::create(lower, upper, options),
    }
    .map_err(|err| explain(err, lower.len(), upper))
}

/// An overlay mount at `target`.
pub(crate) fn attach(
    lower: &[PathBuf],
    upper: Option<&Upper>,
    options: &[String],
    target: &Path,
) -> io::Result<Attached> {
    if fuse::is_asked_for(options) {
        place(&create(lower, upper, options)?, target)?;
        return Ok(Attached::new(target));
    }
    forget_volatile(upper, options);
    match create_new(lower, upper, options) {
        Some(created) => created.and_then(|mount| place(&mount, target)),
        None => legacy::mount_at(lower, upper, options, target),
    }
    .map_err(|err| explain(err, lower.len(), upper))?;
    Ok(Attached::new(target))
}

/// Options for `mount(2)` and external runtimes.
pub(crate) fn classic_options(
    lower: &[PathBuf],
    upper: Option<&Upper>,
    options: &[String],
) -> Vec<String> {
    let mut all = options.to_vec();
    if let Some(upper) = upper {
        all.push(format!("workdir={}", escape(&upper.work)));
        all.push(format!("upperdir={}", escape(&upper.dir)));
    }
    let lower: Vec<String> = lower
        .iter()
        .map(|path| escape(path).replace(':', "\\:"))
        .collect();
    all.push(format!("lowerdir={}", lower.join(":")));
    all
}

fn escape(path: &Path) -> String {
    path.to_string_lossy()
        .replace('\\', "\\\\")
        .replace(',', "\\,")
}

/// A `volatile` overlay leaves a mark that keeps its upper directory from being mounted again, because after a power
/// cut it may be half-written. Whoever asks for `volatile` a second time has made sure of that.
fn forget_volatile(upper: Option<&Upper>, options: &[String]) {
    if let Some(upper) = upper
        && options.iter().any(|option| option == "volatile")
    {
        // Usually there is no mark; if it cannot be removed, the mount fails and says so.
        let _ = std::fs::remove_dir_all(upper.work.join("work/incompat"));
    }
}

/// `None` where the kernel (or a filter in front of it) does not know how.
fn create_new(
    lower: &[PathBuf],
    upper: Option<&Upper>,
    options: &[String],
) -> Option<io::Result<OwnedFd>> {
    if !probe::has_layers_one_by_one() {
        return None;
    }
    let created = if lower.len() <= MAX_LOWER {
        create_flat(lower, None, upper, options)
    } else {
        let (near, bottom) = lower.split_at(MAX_LOWER - 1);
        create_flat(bottom, None, None, options)
            .and_then(|bottom| create_flat(near, Some(bottom.as_fd()), upper, options))
    };
    match created {
        Err(err) if err.raw_os_error() == Some(libc::ENOSYS) => None,
        other => Some(other),
    }
}

/// One overlay of at most [`MAX_LOWER`] layers: `lower`, and below them what `deepest` refers to.
fn create_flat(
    lower: &[PathBuf],
    deepest: Option<BorrowedFd<'_>>,
    upper: Option<&Upper>,
    options: &[String],
) -> io::Result<OwnedFd> {
    let context = Context {
        fd: rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?,
    };
    // External tools show the source of a mount.
    context.string("source", OsStr::new("overlay"))?;
    // Descriptors of directories with long names stay open until the mount stands.
    let mut held = Vec::new();
    for path in lower {
        let value = short(path, &mut held)?;
        context.string("lowerdir+", value.as_os_str())?;
    }
    if let Some(fd) = deepest {
        context.string(
            "lowerdir+",
            OsStr::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())),
        )?;
    }
    if let Some(upper) = upper {
        let value = short(&upper.dir, &mut held)?;
        context.string("upperdir", value.as_os_str())?;
        let value = short(&upper.work, &mut held)?;
        context.string("workdir", value.as_os_str())?;
    }
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => context.string(key, OsStr::new(value))?,
            // Compat: `volatile` makes no sense without an upper directory and is refused then.
            None if option == "volatile" && upper.is_none() => {}
            None => context.flag(option)?,
        }
    }
    rustix::mount::fsconfig_create(context.fd.as_fd()).map_err(|err| context.failure(err))?;
    let attributes = match upper {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    Ok(rustix::mount::fsmount(
        context.fd.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// The path itself, or one through a descriptor where it is too long for `fsconfig`.
fn short(path: &Path, held: &mut Vec<OwnedFd>) -> io::Result<PathBuf> {
    if path.as_os_str().as_bytes().len() < MAX_VALUE {
        return Ok(path.to_owned());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    held.push(fd);
    Ok(through)
}

/// A filesystem being configured.
struct Context {
    fd: OwnedFd,
}

impl Context {
    fn string(&self, key: &str, value: &OsStr) -> io::Result<()> {
        rustix::mount::fsconfig_set_string(self.fd.as_fd(), key, value)
            .map_err(|err| self.failure(err))
    }

    fn flag(&self, key: &str) -> io::Result<()> {
        rustix::mount::fsconfig_set_flag(self.fd.as_fd(), key).map_err(|err| self.failure(err))
    }

    /// The error with what the kernel says about it, if it says anything.
    fn failure(&self, err: rustix::io::Errno) -> io::Error {
        let plain = io::Error::from(err);
        let mut said = String::new();
        let mut buffer = [0_u8; 512];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut buffer[..]) {
            let line = String::from_utf8_lossy(&buffer[..length]);
            if let Some(text) = line.strip_prefix("e ") {
                said.push_str(text.trim_end());
                said.push_str(": ");
            }
        }
        if said.is_empty() {
            return plain;
        }
        io::Error::new(plain.kind(), format!("{said}{plain}"))
    }
}

fn explain(err: io::Error, layers: usize, upper: Option<&Upper>) -> io::Error {
    let place = upper.map_or_else(String::new, |upper| format!(" at {}", upper.dir.display()));
    io::Error::new(
        err.kind(),
        format!("mount overlay of {layers} layers{place}: {err}"),
    )
}
