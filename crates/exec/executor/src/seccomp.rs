//! The default system call filter: data with conditions, reduced to what a container on this machine gets.
//!
//! Turning the result into a program for the kernel is the runtime's job.

use std::sync::LazyLock;

use serde::Deserialize;

use crate::host::Host;
use crate::spec::{Action, ArgCondition, Seccomp, SyscallRule};

/// Error number of what is refused.
const EPERM: u32 = 1;

#[derive(Debug, Deserialize)]
struct Profile {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    names: Vec<String>,
    action: Action,
    errno: Option<u32>,
    #[serde(default)]
    args: Vec<ArgCondition>,
    #[serde(default)]
    only_if: Condition,
    #[serde(default)]
    unless: Condition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    arches: Vec<String>,
    caps: Vec<String>,
    kernel: Option<(u32, u32)>,
}

impl Condition {
    /// Everything that is asked for is there.
    fn holds(&self, host: &Host, bounding: &[String]) -> bool {
        (self.arches.is_empty()
            || self
                .arches
                .iter()
                .any(|arch| arch == host.arch.seccomp_name()))
            && self.caps.iter().all(|cap| bounding.contains(cap))
            && self.kernel.is_none_or(|least| host.kernel >= least)
    }

    /// Anything of what is named is there.
    fn touches(&self, host: &Host, bounding: &[String]) -> bool {
        self.arches
            .iter()
            .any(|arch| arch == host.arch.seccomp_name())
            || self.caps.iter().any(|cap| bounding.contains(cap))
            || self.kernel.is_some_and(|least| host.kernel >= least)
    }
}

static PROFILE: LazyLock<Profile> = LazyLock::new(|| {
    serde_json::from_str(include_str!("seccomp/default.json"))
        .expect("the embedded profile is well formed")
});

/// The default filter for a container with these capabilities in its bounding set.
pub fn default_filter(host: &Host, bounding: &[String]) -> Seccomp {
    let syscalls = PROFILE
        .rules
        .iter()
        .filter(|rule| rule.only_if.holds(host, bounding) && !rule.unless.touches(host, bounding))
        .map(|rule| SyscallRule {
            names: rule.names.clone(),
            action: rule.action,
            errno_ret: rule.errno,
            args: rule.args.clone(),
        })
        .collect();
    Seccomp {
        default_action: Action::Errno,
        default_errno_ret: Some(EPERM),
        architectures: host
            .arch
            .seccomp_tables()
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
        syscalls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps;

    #[test]
    fn the_filter_of_a_plain_step_equals_the_recorded_one() {
        let text = include_str!("../../../../testing/vectors/exec/seccomp-as-written-amd64.json");
        let expected: serde_json::Value = serde_json::from_str(text).expect("vector is JSON");
        let filter = default_filter(&Host::for_tests(), &caps::sandbox());
        assert_eq!(serde_json::to_value(filter).expect("plain data"), expected);
    }

    #[test]
    fn a_capability_opens_the_calls_that_need_it() {
        let mut bounding = caps::sandbox();
        bounding.push("CAP_SYS_ADMIN".into());
        let filter = default_filter(&Host::for_tests(), &bounding);
        let clone3: Vec<_> = filter
            .syscalls
            .iter()
            .filter(|rule| rule.names.iter().any(|name| name == "clone3"))
            .map(|rule| rule.action)
            .collect();
        assert_eq!(clone3, [Action::Allow]);
    }
}
