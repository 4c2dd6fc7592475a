//! What the new process does between clone and exec.
//!
//! It runs in the daemon's memory while other threads go on, perhaps holding the allocator's lock. So it takes a
//! [`Plan`] in which everything is prepared (paths as C strings, descriptors, filter, pointers for exec) and does
//! nothing but raw system calls on it: no allocation, no lock, no libc, no panic. A failure is written into the plan,
//! which the parent reads when the child is gone.

#![allow(unsafe_code)]

mod identity;
mod plan;

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::atomic::Ordering;

use syscalls::{Errno, Sysno, syscall};

use crate::sys::MountAttr;
use identity::{become_program, become_user};
pub(crate) use plan::{CStrings, CapSets, Failure, Limit, OwnMount, Plan, Stage};

/// A failure on its way into the report.
struct Failed(Stage, Errno, u32);

type Step = Result<(), Failed>;

fn at<T>(stage: Stage, detail: usize, result: Result<T, Errno>) -> Result<T, Failed> {
    match result {
        Ok(value) => Ok(value),
        Err(errno) => Err(Failed(stage, errno, detail as u32)),
    }
}

/// The entry point for [`crate::sys::spawn`]; `plan` points to a [`Plan`].
pub(crate) extern "C" fn main(plan: *mut c_void) -> c_int {
    // SAFETY: the parent passes a pointer to a plan that outlives this process's use of its memory.
    let plan = unsafe { &*plan.cast::<Plan>() };
    if let Err(Failed(stage, errno, detail)) = run(plan) {
        plan.report.errno.store(errno.into_raw(), Ordering::Release);
        plan.report.detail.store(detail, Ordering::Release);
        plan.report.stage.store(stage as u32, Ordering::Release);
    }
    loop {
        // SAFETY: ends this process; nothing else is touched.
        let _ = unsafe { syscall!(Sysno::exit_group, 1) };
    }
}

fn run(plan: &Plan) -> Step {
    join_cgroups(plan)?;
    mount_own(plan)?;
    protect_proc(plan)?;
    session(plan)?;
    limits(plan)?;
    load_filter(plan)?;
    streams(plan)?;
    become_user(plan)?;
    become_program(plan)
}

fn join_cgroups(plan: &Plan) -> Step {
    for (index, &fd) in plan.cgroups.iter().enumerate() {
        // SAFETY: writes one byte of a constant to a descriptor the plan keeps open.
        at(Stage::Cgroup, index, unsafe {
            syscall!(Sysno::write, fd, c"0".as_ptr(), 1)
        })?;
    }
    if plan.cgroup_namespace {
        // SAFETY: plain integers.
        at(Stage::CgroupNamespace, 0, unsafe {
            syscall!(Sysno::unshare, libc::CLONE_NEWCGROUP)
        })?;
    }
    if let Some(process) = plan.join_cgroup_namespace {
        // SAFETY: plain integers.
        at(Stage::CgroupNamespace, 0, unsafe {
            syscall!(Sysno::setns, process, libc::CLONE_NEWCGROUP)
        })?;
    }
    Ok(())
}

fn mount_own(plan: &Plan) -> Step {
    if let Some(mount) = &plan.cgroup_mount {
        at(
            Stage::MountCgroup,
            0,
            mount_fs(c"cgroup2".as_ptr(), c"cgroup".as_ptr(), mount),
        )?;
    }
    if let Some(mount) = &plan.proc {
        at(
            Stage::MountProc,
            0,
            mount_fs(c"proc".as_ptr(), c"proc".as_ptr(), mount),
        )?;
    }
    Ok(())
}

fn mount_fs(kind: *const c_char, source: *const c_char, mount: &OwnMount) -> Result<(), Errno> {
    /// The same bit for `fsopen` and `fsmount`.
    const CLOEXEC: usize = 1;
    const SET_STRING: usize = 1;
    const CREATE: usize = 6;
    const EMPTY_PATHS: usize = 0x4 | 0x40;
    let null = std::ptr::null::<c_char>();
    // SAFETY: a constant C string.
    let context = unsafe { syscall!(Sysno::fsopen, kind, CLOEXEC) }?;
    // SAFETY: a descriptor from the call before, constant C strings.
    unsafe {
        syscall!(
            Sysno::fsconfig,
            context,
            SET_STRING,
            c"source".as_ptr(),
            source,
            0
        )
    }?;
    // SAFETY: this command takes neither key nor value.
    unsafe { syscall!(Sysno::fsconfig, context, CREATE, null, null, 0) }?;
    // SAFETY: plain integers.
    let made = unsafe { syscall!(Sysno::fsmount, context, CLOEXEC, mount.attributes) }?;
    // SAFETY: two descriptors with empty paths.
    unsafe {
        syscall!(
            Sysno::move_mount,
            made,
            c"".as_ptr(),
            mount.target,
            c"".as_ptr(),
            EMPTY_PATHS
        )
    }?;
    // They would close at exec, but should not be seen in /proc by what is mounted next.
    // SAFETY: made above, not used again.
    let _ = unsafe { syscall!(Sysno::close, made) };
    // SAFETY: made above, not used again.
    let _ = unsafe { syscall!(Sysno::close, context) };
    Ok(())
}

fn protect_proc(plan: &Plan) -> Step {
    let null = std::ptr::null::<c_char>();
    let attr = MountAttr {
        set: libc::MOUNT_ATTR_RDONLY,
        ..MountAttr::default()
    };
    for (index, path) in plan.readonly.iter().enumerate() {
        let path = path.as_ptr();
        let flags = libc::MS_BIND | libc::MS_REC;
        // SAFETY: C strings owned by the plan; no data.
        match unsafe { syscall!(Sysno::mount, path, path, null, flags, null) } {
            Err(Errno::ENOENT) => continue,
            other => at(Stage::ReadonlyPath, index, other)?,
        };
        let attr = std::ptr::from_ref(&attr);
        // SAFETY: `attr` is live and of the size that is passed.
        let set = unsafe {
            syscall!(
                Sysno::mount_setattr,
                libc::AT_FDCWD,
                path,
                libc::AT_RECURSIVE,
                attr,
                size_of::<MountAttr>()
            )
        };
        at(Stage::ReadonlyPath, index, set)?;
    }
    for (index, path) in plan.masked.iter().enumerate() {
        let path = path.as_ptr();
        // SAFETY: C strings, constant or owned by the plan; no data.
        let bound = unsafe {
            syscall!(
                Sysno::mount,
                c"/dev/null".as_ptr(),
                path,
                null,
                libc::MS_BIND,
                null
            )
        };
        match bound {
            Err(Errno::ENOENT) => {}
            Err(Errno::ENOTDIR) => {
                let tmpfs = c"tmpfs".as_ptr();
                // SAFETY: as above.
                let covered =
                    unsafe { syscall!(Sysno::mount, tmpfs, path, tmpfs, libc::MS_RDONLY, null) };
                at(Stage::MaskPath, index, covered)?;
            }
            other => {
                at(Stage::MaskPath, index, other)?;
            }
        }
    }
    Ok(())
}

fn session(plan: &Plan) -> Step {
    const JOIN_SESSION_KEYRING: usize = 1;
    const SETPERM: usize = 5;
    /// The possessor may do everything, its user look, read, link and search.
    const PERMISSIONS: usize = 0x3f1b_0000;
    // SAFETY: no arguments.
    at(Stage::Session, 0, unsafe { syscall!(Sysno::setsid) })?;
    if let Some(name) = &plan.keyring {
        // SAFETY: a C string owned by the plan.
        match unsafe { syscall!(Sysno::keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) } {
            // A kernel without keys, or a filter around the daemon.
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => {}
            Ok(ring) => {
                // SAFETY: plain integers. Failing leaves the ring more closed than it could be.
                let _ = unsafe { syscall!(Sysno::keyctl, SETPERM, ring, PERMISSIONS) };
            }
            other => {
                at(Stage::Keyring, 0, other)?;
            }
        }
    }
    if let Some(text) = &plan.oom_score {
        at(
            Stage::OomScore,
            0,
            write_file(c"/proc/self/oom_score_adj".as_ptr(), text),
        )?;
    }
    if let Some(text) = &plan.apparmor {
        match write_file(c"/proc/self/attr/apparmor/exec".as_ptr(), text) {
            Err(Errno::ENOENT) => at(
                Stage::AppArmor,
                0,
                write_file(c"/proc/self/attr/exec".as_ptr(), text),
            )?,
            other => at(Stage::AppArmor, 0, other)?,
        }
    }
    Ok(())
}

fn write_file(path: *const c_char, text: &CString) -> Result<(), Errno> {
    // SAFETY: a constant C string.
    let fd = unsafe {
        syscall!(
            Sysno::openat,
            libc::AT_FDCWD,
            path,
            libc::O_WRONLY | libc::O_CLOEXEC
        )
    }?;
    // SAFETY: pointer and length are those of a live string.
    let written = unsafe { syscall!(Sysno::write, fd, text.as_ptr(), text.count_bytes()) };
    // SAFETY: opened above, not used again.
    let _ = unsafe { syscall!(Sysno::close, fd) };
    written.map(drop)
}

fn limits(plan: &Plan) -> Step {
    for (index, (resource, limit)) in plan.rlimits.iter().enumerate() {
        let limit = std::ptr::from_ref(limit);
        // SAFETY: a live structure of the layout the kernel reads; no old value is asked for.
        let set = unsafe { syscall!(Sysno::prlimit64, 0, *resource, limit, 0) };
        at(Stage::Rlimit, index, set)?;
    }
    Ok(())
}

/// Loaded while the process may still do so without `no_new_privs`, which would break setuid programs in steps. What
/// follows are calls that no sensible filter refuses.
fn load_filter(plan: &Plan) -> Step {
    const SET_MODE_FILTER: usize = 1;
    let Some(filter) = &plan.seccomp else {
        return Ok(());
    };
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads the program; pointer and length belong together.
    at(Stage::Seccomp, 0, unsafe {
        syscall!(Sysno::seccomp, SET_MODE_FILTER, 0, &raw const program)
    })?;
    Ok(())
}

fn streams(plan: &Plan) -> Step {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    for (number, &fd) in plan.stdio.iter().enumerate() {
        // SAFETY: plain integers; the parent keeps its own table of descriptors.
        at(Stage::Stdio, number, unsafe {
            syscall!(Sysno::dup3, fd, number, 0)
        })?;
    }
    if plan.terminal {
        // SAFETY: plain integers.
        at(Stage::Stdio, 0, unsafe {
            syscall!(Sysno::ioctl, 0, libc::TIOCSCTTY, 0)
        })?;
    }
    // SAFETY: plain integers. All our descriptors close at exec anyway; this is for those of libraries.
    match unsafe { syscall!(Sysno::close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC) } {
        Err(Errno::ENOSYS | Errno::EINVAL) | Ok(_) => Ok(()),
        Err(errno) => Err(Failed(Stage::Descriptors, errno, 0)),
    }
}
