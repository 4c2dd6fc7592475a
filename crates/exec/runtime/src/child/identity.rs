//! The last steps: credentials, capabilities, signals, and the program.

use std::ffi::{CString, c_int};

use syscalls::{Errno, Sysno, syscall};

use super::plan::{CapSets, Plan, Stage};
use super::{Failed, Step, at};

#[cfg(not(target_arch = "aarch64"))]
const STAT_AT: Sysno = Sysno::newfstatat;
#[cfg(target_arch = "aarch64")]
const STAT_AT: Sysno = Sysno::fstatat;

pub(super) fn become_user(plan: &Plan) -> Step {
    /// Bits of capabilities a kernel may know.
    const LAST_CAP: u32 = 63;
    for cap in (0..=LAST_CAP).filter(|cap| plan.caps.bounding & (1 << cap) == 0) {
        // SAFETY: plain integers.
        match unsafe { syscall!(Sysno::prctl, libc::PR_CAPBSET_DROP, cap, 0, 0, 0) } {
            // Beyond the last one this kernel knows.
            Err(Errno::EINVAL) => break,
            other => at(Stage::Bounding, cap as usize, other)?,
        };
    }
    // SAFETY: plain integers.
    at(Stage::Capabilities, 0, unsafe {
        syscall!(Sysno::prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0)
    })?;
    let inside = match chdir(plan) {
        // Perhaps only the user itself may go there.
        Err(Errno::EACCES | Errno::EPERM) => false,
        other => at(Stage::Chdir, 0, other).map(|()| true)?,
    };
    // SAFETY: pointer and length are those of a live list of 32-bit ids.
    at(Stage::Groups, 0, unsafe {
        syscall!(Sysno::setgroups, plan.groups.len(), plan.groups.as_ptr())
    })?;
    // SAFETY: plain integers. Only this process changes: it shares memory with the daemon, not credentials.
    at(Stage::Gid, 0, unsafe {
        syscall!(Sysno::setresgid, plan.gid, plan.gid, plan.gid)
    })?;
    // SAFETY: as above.
    at(Stage::Uid, 0, unsafe {
        syscall!(Sysno::setresuid, plan.uid, plan.uid, plan.uid)
    })?;
    if !inside {
        at(Stage::Chdir, 0, chdir(plan))?;
    }
    // SAFETY: plain integers.
    at(Stage::Capabilities, 0, unsafe {
        syscall!(Sysno::prctl, libc::PR_SET_KEEPCAPS, 0, 0, 0, 0)
    })?;
    set_caps(&plan.caps)
}

fn chdir(plan: &Plan) -> Result<(), Errno> {
    // SAFETY: a C string owned by the plan.
    unsafe { syscall!(Sysno::chdir, plan.cwd.as_ptr()) }.map(drop)
}

fn set_caps(caps: &CapSets) -> Step {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let half = |shift: u32| Data {
        effective: (caps.effective >> shift) as u32,
        permitted: (caps.permitted >> shift) as u32,
        inheritable: (caps.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout of this version, and live until the call returns.
    let set = unsafe { syscall!(Sysno::capset, &raw const header, data.as_ptr()) };
    at(Stage::Capabilities, 0, set)?;
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: plain integers.
    at(Stage::Ambient, 0, unsafe {
        syscall!(Sysno::prctl, libc::PR_CAP_AMBIENT, clear, 0, 0, 0)
    })?;
    for cap in (0..64_u32).filter(|cap| caps.ambient & (1 << cap) != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE;
        // SAFETY: plain integers.
        let raised = unsafe { syscall!(Sysno::prctl, libc::PR_CAP_AMBIENT, raise, cap, 0, 0) };
        at(Stage::Ambient, cap as usize, raised)?;
    }
    Ok(())
}

pub(super) fn become_program(plan: &Plan) -> Step {
    // After the change of user, which clears it.
    let kill = libc::SIGKILL;
    // SAFETY: plain integers.
    at(Stage::DeathSignal, 0, unsafe {
        syscall!(Sysno::prctl, libc::PR_SET_PDEATHSIG, kill, 0, 0, 0)
    })?;
    default_signals()?;
    let mut last = Failed(Stage::Lookup, Errno::ENOENT, 0);
    for (index, path) in plan.candidates.iter().enumerate() {
        match may_execute(path) {
            Ok(()) => {}
            Err(errno) => {
                last = Failed(Stage::Lookup, errno, index as u32);
                continue;
            }
        }
        return Err(Failed(Stage::Exec, execute(plan, path), index as u32));
    }
    Err(last)
}

/// Comes back only with the reason why it could not.
///
/// A file that was written a moment ago may still be open for writing in some other child of the daemon, between its
/// clone and its exec. That passes.
fn execute(plan: &Plan, path: &CString) -> Errno {
    const ATTEMPTS: usize = 300;
    let pause = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    let (argv, envp) = (plan.argv.pointers.as_ptr(), plan.envp.pointers.as_ptr());
    let mut attempt = 0;
    loop {
        // SAFETY: a C string and two null-terminated lists of C strings, all owned by the plan.
        let errno = match unsafe { syscall!(Sysno::execve, path.as_ptr(), argv, envp) } {
            Err(errno) => errno,
            Ok(_) => Errno::EIO,
        };
        attempt += 1;
        if errno != Errno::ETXTBSY || attempt == ATTEMPTS {
            return errno;
        }
        // What we inherited ourselves may be what another child waits for.
        // SAFETY: plain integers; the parent keeps its own table of descriptors.
        let _ = unsafe { syscall!(Sysno::close_range, 3, u32::MAX, 0) };
        let null = std::ptr::null_mut::<libc::timespec>();
        // SAFETY: a live structure; the rest of an interrupted pause is not asked for.
        let _ = unsafe { syscall!(Sysno::nanosleep, &raw const pause, null) };
    }
}

/// Whether this user may run a file: not a directory, some execute bit set, and access granted.
fn may_execute(path: &CString) -> Result<(), Errno> {
    // SAFETY: an all-zero `stat` is valid: it is made of integers.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a C string of the plan, and a live structure the kernel fills.
    unsafe { syscall!(STAT_AT, libc::AT_FDCWD, path.as_ptr(), &raw mut stat, 0) }?;
    if stat.st_mode & libc::S_IFMT == libc::S_IFDIR || stat.st_mode & 0o111 == 0 {
        return Err(Errno::EACCES);
    }
    // SAFETY: as above.
    match unsafe {
        syscall!(
            Sysno::faccessat2,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS
        )
    } {
        Err(Errno::ENOSYS | Errno::EPERM) | Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// What the daemon ignores or handles is nothing to the program.
fn default_signals() -> Step {
    /// Size of a signal set in the kernel.
    const SET: usize = 8;
    // Handler, flags, restorer, mask: all zero is the default action.
    let default = [0_u64; 4];
    for signal in (1..=64).filter(|&signal| signal != libc::SIGKILL && signal != libc::SIGSTOP) {
        // SAFETY: the structure is live and at least as large as the kernel's.
        let set = unsafe { syscall!(Sysno::rt_sigaction, signal, default.as_ptr(), 0, SET) };
        at(Stage::Signals, signal as usize, set)?;
    }
    let empty = 0_u64;
    // SAFETY: a live set of the size that is passed.
    let set = unsafe {
        syscall!(
            Sysno::rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const empty,
            0,
            SET
        )
    };
    at(Stage::Signals, 0, set)?;
    Ok(())
}
