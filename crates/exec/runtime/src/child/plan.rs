//! Everything a child needs, prepared by its parent, and the place where it tells what went wrong.

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

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
    /// Join the control group namespace of this process instead.
    pub join_cgroup_namespace: Option<RawFd>,
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
    pub(super) stage: AtomicU32,
    pub(super) errno: AtomicI32,
    pub(super) detail: AtomicU32,
}

/// A null-terminated list of C strings.
#[derive(Debug)]
pub(crate) struct CStrings {
    // Owns what the pointers point to.
    _texts: Vec<CString>,
    pub(super) pointers: Vec<*const c_char>,
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
