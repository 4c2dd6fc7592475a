//! What the new process does between clone and exec.
//!
//! It runs in the daemon's memory while other threads go on, perhaps holding the allocator's lock. So it takes a
//! [`Plan`] in which everything is prepared (paths as C strings, descriptors, filter, pointers for exec) and does
//! nothing but raw system calls on it: no allocation, no lock, no libc, no panic. A failure is written into the plan,
//! which the parent reads when the child is gone.

#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use syscalls::{Errno, Sysno, syscall};

use crate::sys::MountAttr;

/// Where a child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)]
pub(crate) enum Stage {
    None = 0,
    Cgroup,
    CgroupNamespace,
    MountCgroup,
    MountProc,
    ReadonlyPath,
    MaskPath,
    Keyring,
    OomScore,
    Rlimit,
    Session,
    AppArmor,
    Seccomp,
    Stdio,
    Descriptors,
    Bounding,
    Groups,
    Gid,
    Uid,
    Chdir,
    Capabilities,
    Ambient,
    DeathSignal,
    Signals,
    Lookup,
    Exec,
}

/// All stages, to turn a number back into one.
const STAGES: [Stage; 26] = {
    use Stage::*;
    [
        None,
        Cgroup,
        CgroupNamespace,
        MountCgroup,
        MountProc,
        ReadonlyPath,
        MaskPath,
        Keyring,
        OomScore,
        Rlimit,
        Session,
        AppArmor,
        Seccomp,
        Stdio,
        Descriptors,
        Bounding,
        Groups,
        Gid,
        Uid,
        Chdir,
        Capabilities,
        Ambient,
        DeathSignal,
        Signals,
        Lookup,
        Exec,
    ]
};

/// Capability sets as bits.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)]
pub(crate) struct CapSets {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// A filesystem the child mounts itself, because it shows the child's own namespaces.
#[derive(Debug)]
pub(crate) struct OwnMount {
    /// Descriptor of the mount point.
    pub target: RawFd,
    /// `MOUNT_ATTR_…`.
    pub attributes: u64,
}

/// A limit, as `prlimit64` takes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// Everything a child needs. Descriptors stay owned by the parent.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// `cgroup.procs` files to join.
    pub cgroups: Vec<RawFd>,
    /// Make a control group namespace after joining.
    pub cgroup_namespace: bool,
    /// Mount of the unified control group hierarchy, after that.
    pub cgroup_mount: Option<OwnMount>,
    /// Mount of /proc.
    pub proc: Option<OwnMount>,
    /// Paths below /proc that become read-only.
    pub readonly: Vec<CString>,
    /// Paths below /proc that are covered.
    pub masked: Vec<CString>,
    /// Name of the session keyring.
    pub keyring: Option<CString>,
    /// Text for `oom_score_adj`.
    pub oom_score: Option<CString>,
    /// AppArmor command.
    pub apparmor: Option<CString>,
    /// Resource limits.
    pub rlimits: Vec<(u32, Limit)>,
    /// Filter.
    pub seccomp: Option<Arc<Vec<libc::sock_filter>>>,
    /// Standard streams.
    pub stdio: [RawFd; 3],
    /// The terminal at descriptor 0 becomes the controlling one.
    pub terminal: bool,
    /// Capabilities.
    pub caps: CapSets,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Working directory.
    pub cwd: CString,
    /// Where the program may be, in order.
    pub candidates: Vec<CString>,
    /// Arguments and environment.
    pub argv: CStrings,
    pub envp: CStrings,
    /// What went wrong.
    pub report: Report,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    stage: AtomicU32,
    errno: AtomicI32,
    detail: AtomicU32,
}

/// A null-terminated list of C strings.
#[derive(Debug)]
pub(crate) struct CStrings {
    // Owns what the pointers point to.
    _texts: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    pub(crate) fn new(texts: Vec<CString>) -> Self {
        let pointers = texts
            .iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect();
        Self {
            _texts: texts,
            pointers,
        }
    }
}

impl Default for CStrings {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Why a child could not become the program.
#[derive(Debug)]
pub(crate) struct Failure {
    pub stage: Stage,
    pub error: io::Error,
    /// Position in the list the stage works on.
    pub detail: usize,
}

impl Plan {
    /// What the child reported before it ended; nothing if it became the program.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let number = self.report.stage.load(Ordering::Acquire) as usize;
        let stage = *STAGES.get(number)?;
        (stage != Stage::None).then(|| Failure {
            stage,
            error: io::Error::from_raw_os_error(self.report.errno.load(Ordering::Acquire)),
            detail: self.report.detail.load(Ordering::Acquire) as usize,
        })
    }
}

#[cfg(not(target_arch = "aarch64"))]
const STAT_AT: Sysno = Sysno::newfstatat;
#[cfg(target_arch = "aarch64")]
const STAT_AT: Sysno = Sysno::fstatat;

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

fn become_user(plan: &Plan) -> Step {
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

fn become_program(plan: &Plan) -> Step {
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
        let (argv, envp) = (plan.argv.pointers.as_ptr(), plan.envp.pointers.as_ptr());
        // SAFETY: a C string and two null-terminated lists of C strings, all owned by the plan.
        let Err(errno) = (unsafe { syscall!(Sysno::execve, path.as_ptr(), argv, envp) }) else {
            continue;
        };
        return Err(Failed(Stage::Exec, errno, index as u32));
    }
    Err(last)
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
