//! What tests share: prerequisites that are checked loudly, fixture trees, scratch folders.
//!
//! Nothing in here is a test double: real directories, real mounts, real servers.

pub mod certificates;
pub mod fixture;
pub mod frail;
pub mod fuzz;
pub mod registry;
pub mod stores;
pub mod web;

use std::path::{Path, PathBuf};

/// Something of the machine a system test cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)]
pub enum Need {
    /// Effective user 0.
    root,
    /// runc on PATH.
    runc,
    /// A `registry` or `docker-registry` server on PATH.
    registry,
    /// git on PATH.
    git,
    /// /bin/busybox, statically linked.
    busybox,
    /// fuse-overlayfs on PATH, and /dev/fuse.
    fuse,
    /// sshd and ssh-keygen on PATH.
    sshd,
    /// openssl on PATH.
    openssl,
}

impl Need {
    fn met(self) -> bool {
        match self {
            Self::root => rustix::process::geteuid().is_root(),
            Self::runc => on_path("runc").is_some(),
            Self::registry => registry_binary().is_some(),
            Self::git => on_path("git").is_some(),
            Self::busybox => Path::new("/bin/busybox").exists(),
            Self::fuse => on_path("fuse-overlayfs").is_some() && Path::new("/dev/fuse").exists(),
            Self::openssl => on_path("openssl").is_some(),
            Self::sshd => on_path("sshd").is_some() && on_path("ssh-keygen").is_some(),
        }
    }
}

/// Whether a test may go on. Says loudly what is missing; with `CI` set a missing prerequisite is a failure.
pub fn ready(needs: &[Need]) -> bool {
    let missing: Vec<_> = needs.iter().filter(|need| !need.met()).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "prerequisites missing: {missing:?}"
    );
    eprintln!("SKIPPED, prerequisites missing: {missing:?}");
    false
}

/// Ends the test early (loudly; in CI: fails it) unless the machine has what is named.
#[macro_export]
macro_rules! require {
    ($($need:ident),+) => {
        if !$crate::ready(&[$($crate::Need::$need),+]) {
            return;
        }
    };
}

/// The first executable of this name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// The registry server under either of its names.
pub fn registry_binary() -> Option<PathBuf> {
    on_path("registry").or_else(|| on_path("docker-registry"))
}
