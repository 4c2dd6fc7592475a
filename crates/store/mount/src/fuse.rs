//! Overlays made by the program fuse-overlayfs, for kernels and users without overlay mounts of their own.
//!
//! We make the mount and hand the program its end of it. So such a mount can be attached nowhere as any other, and the
//! program ends by itself when the mount does, however that comes about: nothing has to be told or killed. It becomes a
//! child of the machine's first process then; where that is the daemon itself, as in a container without an init, what is
//! left of each of them stays until the daemon ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::FdFlags;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::{Upper, overlay};

/// The program.
const PROGRAM: &str = "fuse-overlayfs";
/// The kernel's side.
const DEVICE: &str = "/dev/fuse";

/// An option of [`crate::Mount::Overlay`] that asks for the program in place of the kernel.
pub const FUSE_OVERLAYFS: &str = "fuse-overlayfs";

/// Whether these options ask for the program.
pub(crate) fn is_asked_for(options: &[String]) -> bool {
    options.iter().any(|option| option == FUSE_OVERLAYFS)
}

/// A detached mount, served by a process of its own.
pub(crate) fn create(
    lower: &[PathBuf],
    upper: Option<&Upper>,
    options: &[String],
) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|errno| {
        let err = io::Error::from(errno);
        io::Error::new(err.kind(), format!("{DEVICE}: {err}"))
    })?;
    let mount = connect(&device, upper.is_none())?;
    let others = options.iter().filter(|option| *option != FUSE_OVERLAYFS);
    let others: Vec<String> = others
        .filter(|option| upper.is_some() || *option != "volatile")
        .cloned()
        .collect();
    serve(&device, &overlay::classic_options(lower, upper, &others))?;
    Ok(mount)
}

/// A mount whose requests arrive at `device`.
fn connect(device: &OwnedFd, readonly: bool) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let number = device.as_raw_fd().to_string();
    for (name, value) in [
        ("source", PROGRAM),
        ("fd", &number),
        ("rootmode", "40000"),
        ("user_id", "0"),
        ("group_id", "0"),
    ] {
        rustix::mount::fsconfig_set_string(context.as_fd(), name, value)?;
    }
    // Modes and owners count, for everybody.
    for name in ["allow_other", "default_permissions"] {
        rustix::mount::fsconfig_set_flag(context.as_fd(), name)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = if readonly {
        MountAttrFlags::MOUNT_ATTR_RDONLY
    } else {
        MountAttrFlags::empty()
    };
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Starts the process that answers. It goes on in the background when it is ready, which is when this returns.
fn serve(device: &OwnedFd, options: &[String]) -> io::Result<()> {
    let number: RawFd = device.as_raw_fd();
    let mut command = Command::new(PROGRAM);
    command
        .arg("-o")
        .arg(options.join(","))
        .arg(format!("/dev/fd/{number}"))
        .stdin(Stdio::null())
        .current_dir("/");
    let keep = move || {
        // SAFETY: the device outlives the start of the process, which has a copy of it under the same number.
        let device = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        Ok(rustix::io::fcntl_setfd(device, FdFlags::empty())?)
    };
    // SAFETY: between fork and exec one system call is made, and nothing is allocated.
    unsafe { command.pre_exec(keep) };
    let output = command.output().map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => io::Error::new(err.kind(), missing()),
        _ => err,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let text = format!("{PROGRAM}: {}: {}", output.status, said.trim());
    Err(io::Error::other(text))
}

fn missing() -> String {
    format!(
        "{PROGRAM} is not installed; install it (on Debian: apt-get install {PROGRAM}), or choose another snapshotter"
    )
}

/// What keeps the program from being used here; nothing if all is there.
pub fn obstacle() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).any(|dir| dir.join(PROGRAM).is_file());
    if !installed {
        return Some(missing());
    }
    let access = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
    let failed = rustix::fs::access(DEVICE, access).err()?;
    let err = io::Error::from(failed);
    Some(format!(
        "{DEVICE}: {err}; load the kernel module fuse and open the device to this user, or choose another snapshotter"
    ))
}
