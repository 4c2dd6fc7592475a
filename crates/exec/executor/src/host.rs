//! What the machine offers, as far as a specification depends on it. Asked once; tests write their own.

use std::path::Path;

/// Facts about this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Processor.
    pub arch: Arch,
    /// First two numbers of the kernel version.
    pub kernel: (u32, u32),
    /// The kernel can filter system calls.
    pub seccomp: bool,
    /// The host runs on the unified control group hierarchy alone.
    pub unified_cgroups: bool,
    /// The kernel has control group namespaces.
    pub cgroup_namespaces: bool,
    /// AppArmor is on.
    pub apparmor: bool,
    /// SELinux is on.
    pub selinux: bool,
    /// The daemon runs in a user namespace.
    pub user_namespace: bool,
    /// The daemon's own capabilities, in the kernel's order.
    pub capabilities: Vec<String>,
}

impl Host {
    /// Looks around.
    pub fn probe() -> Self {
        let uname = rustix::system::uname();
        let effective = rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits());
        Self {
            arch: Arch::native(),
            kernel: kernel_version(&uname.release().to_string_lossy()),
            // Only a kernel without filters answers with an error.
            seccomp: rustix::thread::secure_computing_mode().is_ok(),
            unified_cgroups: Path::new("/sys/fs/cgroup/cgroup.subtree_control").exists(),
            cgroup_namespaces: Path::new("/proc/self/ns/cgroup").exists(),
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with(b"Y")),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            user_namespace: mount::probe::in_user_namespace(),
            capabilities: crate::caps::names(effective),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        // As the machine the vectors were made on: everything but CAP_SYS_RESOURCE.
        Self {
            arch: Arch::Amd64,
            kernel: (6, 18),
            seccomp: true,
            unified_cgroups: false,
            cgroup_namespaces: true,
            apparmor: false,
            selinux: false,
            user_namespace: false,
            capabilities: crate::caps::names(0x1ff_feff_ffff),
        }
    }
}

/// The first two numbers of a release text.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Processors steps run on natively.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Arch {
    Amd64,
    I386,
    Arm,
    Arm64,
    Ppc64le,
    S390x,
    Riscv64,
    Mips64,
    Mips64le,
    Loong64,
    Other,
}

impl Arch {
    /// The one this program was built for.
    pub fn native() -> Self {
        match (std::env::consts::ARCH, cfg!(target_endian = "little")) {
            ("x86_64", _) => Self::Amd64,
            ("x86", _) => Self::I386,
            ("arm", _) => Self::Arm,
            ("aarch64", _) => Self::Arm64,
            ("powerpc64", true) => Self::Ppc64le,
            ("s390x", _) => Self::S390x,
            ("riscv64", _) => Self::Riscv64,
            ("mips64", false) => Self::Mips64,
            ("mips64", true) => Self::Mips64le,
            ("loongarch64", _) => Self::Loong64,
            _ => Self::Other,
        }
    }

    /// The name conditions of the profile use.
    pub(crate) fn seccomp_name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::I386 => "x86",
            Self::Arm => "arm",
            Self::Arm64 => "arm64",
            Self::Ppc64le => "ppc64le",
            Self::S390x => "s390x",
            Self::Riscv64 => "riscv64",
            Self::Mips64 => "mips64",
            Self::Mips64le => "mipsel64",
            Self::Loong64 => "loongarch64",
            Self::Other => "",
        }
    }

    /// The system call tables a native kernel serves besides, its own first.
    pub(crate) fn seccomp_tables(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            Self::Arm64 => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
            Self::S390x => &["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
            Self::Riscv64 => &["SCMP_ARCH_RISCV64"],
            Self::Mips64 => &["SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64N32"],
            Self::Mips64le => &[
                "SCMP_ARCH_MIPSEL64",
                "SCMP_ARCH_MIPSEL",
                "SCMP_ARCH_MIPSEL64N32",
            ],
            Self::I386 | Self::Arm | Self::Ppc64le | Self::Loong64 | Self::Other => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_text_begins_with_the_version() {
        assert_eq!(kernel_version("6.18.44-fc-v445"), (6, 18));
        assert_eq!(kernel_version("4.8-rc1"), (4, 8));
        assert_eq!(kernel_version(""), (0, 0));
    }
}
