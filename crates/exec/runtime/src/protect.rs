//! Keeping the daemon's own program file out of reach of what it runs.
//!
//! For a moment, a new container's first process is the daemon's memory in the container's namespaces, and whatever
//! it executes then may reach the daemon's program as /proc/self/exe: through a script that names it as interpreter,
//! for instance. A process that got hold of the file could write to it once nobody runs it any more. So the daemon
//! starts itself again from a mount of the file that cannot be written through.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, StatVfsMountFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::sys::{self, MountAttr};

/// Starts this program again so that nothing can write to its file through it. Returns if that has been done already,
/// or when it is not possible.
///
/// To be called first thing in `main`: everything the process has set up until then is lost.
pub fn protect_program() -> io::Result<()> {
    let stat = rustix::fs::statvfs("/proc/self/exe")?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = open_tree(CWD, "/proc/self/exe", flags)?;
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY,
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    sys::mount_setattr(file.as_fd(), false, &attr)?;
    let texts = |list: Vec<Vec<u8>>| {
        list.into_iter()
            .map(CString::new)
            .collect::<Result<Vec<_>, _>>()
    };
    let args = texts(std::env::args_os().map(OsStringExt::into_vec).collect())?;
    let env =
        std::env::vars_os().map(|(name, value)| [name.into_vec(), value.into_vec()].join(&b'='));
    let env = texts(env.collect())?;
    let pointers = |list: &[CString]| {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect::<Vec<_>>()
    };
    let (args, env) = (pointers(&args), pointers(&env));
    // SAFETY: a descriptor with an empty path, and two null-terminated lists of C strings that live until the call is
    // over; if it succeeds, this program is.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}
