//! System calls the libraries do not wrap, each behind a function that is safe to call.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_long, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Attributes of a mount, for `mount_setattr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttr {
    /// Flags to set.
    pub set: u64,
    /// Flags to clear.
    pub clear: u64,
    /// New propagation; 0 keeps it.
    pub propagation: u64,
    /// User namespace of an id map; unused.
    pub userns: u64,
}

/// The entry point of a child: raw system calls only, never returns.
pub(crate) type Entry = extern "C" fn(*mut c_void) -> c_int;

/// A child made by [`spawn`].
#[derive(Debug)]
pub(crate) struct Child {
    /// A descriptor of it.
    pub pidfd: OwnedFd,
}

/// Changes the attributes of a mount, or of the whole tree below it.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    recursive: bool,
    attr: &MountAttr,
) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant C string, and `attr` is a live structure of the size that is passed.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    check(rc).map(drop)
}

/// Gives this thread namespaces of its own, and with them a root, working directory and umask of its own.
pub(crate) fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: only namespace flags are passed. The thread belongs to one container and ends with it, so nobody else
    // relies on the file system context it leaves.
    check(unsafe { libc::syscall(libc::SYS_unshare, flags) }).map(drop)
}

/// Joins a namespace.
pub(crate) fn setns(fd: BorrowedFd<'_>, kind: c_int) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_setns, fd.as_raw_fd(), kind) }).map(drop)
}

/// Blocks all signals for this thread. What it clones starts that way too.
pub(crate) fn block_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigfillset` initialises the set it gets a pointer to.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: the set was just initialised; no old set is asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut()) };
}

/// Brings up the loopback interface of this thread's network namespace.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero `ifreq` is valid: it is made of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, &from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: `request` is a live `ifreq` with a terminated name, which is what this request reads and writes.
    check_int(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: the call above stored the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: as above.
    check_int(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) })
}

/// Starts `entry(arg)` on `stack` in a new process that shares all memory with this one, and waits until it has
/// executed a program or ended.
///
/// # Safety
///
/// `arg` must be valid for `entry`, and `entry` must do nothing but raw system calls on data that exists already: it
/// runs in the memory of a process whose other threads go on, possibly holding locks.
pub(crate) unsafe fn spawn(
    flags: c_int,
    cgroup: Option<BorrowedFd<'_>>,
    stack: &mut [MaybeUninit<u8>],
    entry: Entry,
    arg: *mut c_void,
) -> io::Result<Child> {
    let flags = flags | libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    let mut pidfd: RawFd = -1;
    // SAFETY: the caller answers for `entry` and `arg`; stack and pidfd outlive the call, and with CLONE_VFORK the
    // child no longer uses the stack when it returns.
    let result = unsafe { clone3(flags, &mut pidfd, cgroup, stack, entry, arg) };
    match result {
        Err(err)
            if cgroup.is_none()
                && matches!(err.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) =>
        {
            // SAFETY: as above.
            unsafe { clone(flags, &mut pidfd, stack, entry, arg) }?
        }
        other => other?,
    };
    // SAFETY: the call succeeded, so it stored a descriptor nobody else knows.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pidfd })
}

/// The old call, for kernels and filters that refuse the new one.
///
/// # Safety
///
/// As [`spawn`].
unsafe fn clone(
    flags: c_int,
    pidfd: &mut RawFd,
    stack: &mut [MaybeUninit<u8>],
    entry: Entry,
    arg: *mut c_void,
) -> io::Result<c_int> {
    let (base, size) = aligned(stack);
    // SAFETY: the pointer stays inside the slice, or one past it: the stack grows down from there.
    let top = unsafe { base.add(size) }.cast::<c_void>();
    // SAFETY: the caller answers for `entry` and `arg`; `top` is the aligned end of a live stack.
    let pid = unsafe {
        libc::clone(
            entry,
            top,
            flags | libc::SIGCHLD,
            arg,
            std::ptr::from_mut(pidfd),
        )
    };
    check_int(pid)?;
    Ok(pid)
}

/// The 16-byte aligned part of a stack.
fn aligned(stack: &mut [MaybeUninit<u8>]) -> (*mut u8, usize) {
    let base = stack.as_mut_ptr().cast::<u8>();
    let skip = base.align_offset(16);
    // `align_offset` is below 16 for bytes, and stacks are far larger.
    (base.wrapping_add(skip), (stack.len() - skip) & !15)
}

/// # Safety
///
/// As [`spawn`].
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
unsafe fn clone3(
    flags: c_int,
    pidfd: &mut RawFd,
    cgroup: Option<BorrowedFd<'_>>,
    stack: &mut [MaybeUninit<u8>],
    entry: Entry,
    arg: *mut c_void,
) -> io::Result<c_int> {
    let (base, size) = aligned(stack);
    let address = |pointer: *mut u8| pointer.expose_provenance() as u64;
    let mut args = libc::clone_args {
        flags: u64::from(flags.cast_unsigned()),
        pidfd: address(std::ptr::from_mut(pidfd).cast()),
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        stack: address(base),
        stack_size: size as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel gets a live, complete argument structure. In the parent only the registers named change. The
    // child starts on the new stack with a copy of the registers, calls `entry`, and never comes back here.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") &raw const args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") arg,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3 as isize,
            inlateout("x0") &raw const args as isize => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x20") arg,
            in("x21") entry,
        );
    }
    match c_int::try_from(result) {
        Ok(errno) if errno < 0 => Err(io::Error::from_raw_os_error(-errno)),
        Ok(pid) => Ok(pid),
        Err(_) => Err(io::Error::from_raw_os_error(libc::EOVERFLOW)),
    }
}

/// # Safety
///
/// None needed: this processor has no such call here yet.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn clone3(
    _flags: c_int,
    _pidfd: &mut RawFd,
    _cgroup: Option<BorrowedFd<'_>>,
    _stack: &mut [MaybeUninit<u8>],
    _entry: Entry,
    _arg: *mut c_void,
) -> io::Result<c_int> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

/// Beyond the 32 bits of the other flags.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Whether `spawn` can put the child into a control group directly.
pub(crate) const CAN_CLONE_INTO_CGROUP: bool =
    cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Waits for a child and reaps it.
pub(crate) fn wait(child: &Child) -> io::Result<Exit> {
    use std::os::fd::AsFd;
    loop {
        let options = rustix::process::WaitIdOptions::EXITED;
        match rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), options)
        {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(errno) => return Err(errno.into()),
            Ok(Some(status)) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
                });
            }
        }
    }
}

fn check(rc: c_long) -> io::Result<c_long> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

fn check_int(rc: c_int) -> io::Result<()> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
