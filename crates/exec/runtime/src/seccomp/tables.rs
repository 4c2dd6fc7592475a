//! System call tables by the names the specification gives them.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A system call table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Table {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
    Riscv64,
    S390x,
}

/// The bit that marks x32 calls; they share the processor's identity with x86-64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// Calls that have numbers of their own in the x32 table, from [`X32_FIRST`] on in this order.
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];
const X32_FIRST: u32 = 512;

type Numbers = HashMap<&'static str, u32>;

macro_rules! numbers {
    ($arch:ident) => {
        LazyLock::new(|| {
            syscalls::$arch::Sysno::iter()
                .chain([syscalls::$arch::Sysno::last()])
                .filter_map(|call| Some((call.name(), u32::try_from(call.id()).ok()?)))
                .collect::<Numbers>()
        })
    };
}

static X86_64: LazyLock<Numbers> = numbers!(x86_64);
static X86: LazyLock<Numbers> = numbers!(x86);
static AARCH64: LazyLock<Numbers> = numbers!(aarch64);
static ARM: LazyLock<Numbers> = numbers!(arm);
static RISCV64: LazyLock<Numbers> = numbers!(riscv64);
static S390X: LazyLock<Numbers> = numbers!(s390x);

impl Table {
    /// The table of this name. `None` inside: known, but no kernel this program runs on serves it.
    pub(super) fn named(name: &str) -> Option<Option<Self>> {
        Some(match name {
            "SCMP_ARCH_X86_64" => Some(Self::X86_64),
            "SCMP_ARCH_X86" => Some(Self::X86),
            "SCMP_ARCH_X32" => Some(Self::X32),
            "SCMP_ARCH_AARCH64" => Some(Self::Aarch64),
            "SCMP_ARCH_ARM" => Some(Self::Arm),
            "SCMP_ARCH_RISCV64" => Some(Self::Riscv64),
            "SCMP_ARCH_S390X" => Some(Self::S390x),
            "SCMP_ARCH_S390"
            | "SCMP_ARCH_MIPS"
            | "SCMP_ARCH_MIPS64"
            | "SCMP_ARCH_MIPS64N32"
            | "SCMP_ARCH_MIPSEL"
            | "SCMP_ARCH_MIPSEL64"
            | "SCMP_ARCH_MIPSEL64N32"
            | "SCMP_ARCH_PPC"
            | "SCMP_ARCH_PPC64"
            | "SCMP_ARCH_PPC64LE"
            | "SCMP_ARCH_LOONGARCH64" => None,
            _ => return None,
        })
    }

    /// The table native programs use.
    pub(super) fn native() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "x86" => Some(Self::X86),
            "aarch64" => Some(Self::Aarch64),
            "arm" => Some(Self::Arm),
            "riscv64" => Some(Self::Riscv64),
            "s390x" => Some(Self::S390x),
            _ => None,
        }
    }

    /// What the kernel calls the processor.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::Riscv64 => 0xc000_00f3,
            Self::S390x => 0x8000_0016,
        }
    }

    /// The first number that is the table's own.
    pub(super) fn first(self) -> u32 {
        if self == Self::X32 { X32_FIRST } else { 0 }
    }

    /// The number of a call; nothing when the table does not have it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        match self {
            Self::X86_64 => X86_64.get(name).copied(),
            Self::X86 => X86.get(name).copied(),
            Self::Aarch64 => AARCH64.get(name).copied(),
            Self::Arm => ARM.get(name).copied(),
            Self::Riscv64 => RISCV64.get(name).copied(),
            Self::S390x => S390X.get(name).copied(),
            Self::X32 => {
                if let Some(at) = X32_OWN.iter().position(|&own| own == name) {
                    return Some(X32_BIT | (X32_FIRST + u32::try_from(at).ok()?));
                }
                X86_64.get(name).map(|number| X32_BIT | number)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_the_numbers_of_their_table() {
        assert_eq!(Table::X86_64.number("read"), Some(0));
        assert_eq!(Table::X86_64.number("execve"), Some(59));
        assert_eq!(Table::X86.number("execve"), Some(11));
        assert_eq!(Table::X32.number("execve"), Some(0x4000_0208));
        assert_eq!(Table::X32.number("pwritev2"), Some(0x4000_0223));
        assert_eq!(Table::X32.number("read"), Some(0x4000_0000));
        assert_eq!(Table::Aarch64.number("openat"), Some(56));
        assert_eq!(Table::Aarch64.number("open"), None);
        assert_eq!(Table::X86_64.number("socketcall"), None);
        assert!(Table::X86.number("socketcall").is_some());
    }
}
