//! From the specification to the plan of the child.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use executor::spec::{NamespaceKind, Process, Spec};
use executor::{Error, caps};

use crate::child::{CStrings, CapSets, Failure, Limit, OwnMount, Plan, Stage};
use crate::mounts::{Late, LateMounts};
use crate::seccomp::Program;
use crate::{Setup, errors};

/// What a plan is made from, besides the specification.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub id: &'a str,
    pub home: &'a str,
    /// `cgroup.procs` files to join.
    pub cgroups: Vec<RawFd>,
    /// A process whose control group namespace is joined.
    pub join: Option<RawFd>,
    pub late: &'a LateMounts,
    pub filter: Option<Program>,
    pub stdio: [RawFd; 3],
}

/// Whether a namespace of this kind is made or joined.
pub(crate) fn has(spec: &Spec, kind: NamespaceKind) -> bool {
    spec.linux
        .namespaces
        .iter()
        .any(|namespace| namespace.kind == kind)
}

/// Refuses what only external runtimes can do.
pub(crate) fn refuse(spec: &Spec) -> Result<(), Error> {
    let wanted = [
        ("hooks of CDI devices", spec.hooks.is_some()),
        (
            "netDevices of CDI devices",
            !spec.linux.net_devices.is_empty(),
        ),
        ("intelRdt of CDI devices", spec.linux.intel_rdt.is_some()),
        ("SELinux labels", spec.linux.mount_label.is_some()),
    ];
    match wanted.iter().find(|(_, wanted)| *wanted) {
        Some((what, _)) => Err(Error::start(format!(
            "unimplemented: {what} in the embedded runtime; start the daemon with --oci-worker-binary=runc"
        ))),
        None => Ok(()),
    }
}

/// The plan of a container's child.
pub(crate) fn plan(spec: &Spec, parts: Parts<'_>) -> Result<Plan, Setup> {
    let bad = |what: &str| Setup::new(what.to_owned(), rustix::io::Errno::INVAL.into());
    let process = &spec.process;
    let text = |what: &str, text: &str| CString::new(text).map_err(|_| bad(what));
    let texts = |what: &str, list: &[String]| {
        list.iter()
            .map(|entry| text(what, entry))
            .collect::<Result<Vec<_>, _>>()
    };
    let below_proc = |paths: &[String]| {
        let paths: Vec<String> = paths
            .iter()
            .filter(|path| path.starts_with("/proc"))
            .cloned()
            .collect();
        texts("path", &paths)
    };
    named(&process.env)?;
    let env = environment(process, parts.home);
    let own = |late: &Option<Late>| {
        late.as_ref().map(|late| OwnMount {
            target: late.target.as_raw_fd(),
            attributes: late.attributes,
        })
    };
    let apparmor = process
        .apparmor_profile
        .as_ref()
        .map(|profile| format!("exec {profile}"));
    Ok(Plan {
        cgroups: parts.cgroups,
        join_cgroup_namespace: parts.join,
        cgroup_namespace: has(spec, NamespaceKind::Cgroup),
        cgroup_mount: own(&parts.late.cgroup),
        proc: own(&parts.late.proc),
        readonly: below_proc(&spec.linux.readonly_paths)?,
        masked: below_proc(&spec.linux.masked_paths)?,
        keyring: Some(text("id", &format!("_ses.{}", parts.id))?),
        oom_score: process
            .oom_score_adj
            .map(|score| text("score", &score.to_string()))
            .transpose()?,
        apparmor: apparmor
            .map(|command| text("AppArmor profile", &command))
            .transpose()?,
        rlimits: rlimits(process)?,
        seccomp: parts.filter,
        stdio: parts.stdio,
        terminal: process.terminal,
        caps: cap_sets(process),
        uid: process.user.uid,
        gid: process.user.gid,
        groups: process.user.additional_gids.clone(),
        cwd: text("working directory", &process.cwd)?,
        candidates: texts("program", &candidates(process, &env))?,
        argv: CStrings::new(texts("argument", &process.args)?),
        envp: CStrings::new(texts("environment variable", &env)?),
        ..Plan::default()
    })
}

/// Compat: a variable without a name is refused, where the C library would lose it.
fn named(env: &[String]) -> Result<(), Setup> {
    match env.iter().find(|entry| entry.starts_with('=')) {
        // The rest may be a secret.
        Some(_) => Err(Setup::because(
            "error during container init: environment variable name can't be empty".to_owned(),
        )),
        None => Ok(()),
    }
}

/// The environment as the program sees it: of equal names the last value counts, at the first position; HOME is that
/// of the user unless it is set.
fn environment(process: &Process, home: &str) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = Vec::with_capacity(process.env.len() + 1);
    for entry in process.env.iter().filter(|entry| entry.contains('=')) {
        match env.iter_mut().find(|earlier| name(earlier) == name(entry)) {
            Some(earlier) => earlier.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    match env.iter_mut().find(|entry| entry.starts_with("HOME=")) {
        Some(entry) if entry == "HOME=" => *entry = format!("HOME={home}"),
        Some(_) => {}
        None => env.push(format!("HOME={home}")),
    }
    env
}

/// Where the program may be.
fn candidates(process: &Process, env: &[String]) -> Vec<String> {
    let Some(program) = process.args.first() else {
        return Vec::new();
    };
    if program.contains('/') {
        return vec![program.clone()];
    }
    let path = env
        .iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or_default();
    path.split(':')
        .map(|dir| {
            if dir.is_empty() {
                format!("./{program}")
            } else {
                format!("{dir}/{program}")
            }
        })
        .collect()
}

fn cap_sets(process: &Process) -> CapSets {
    let Some(sets) = &process.capabilities else {
        return CapSets::default();
    };
    let sets = CapSets {
        bounding: caps::bits(&sets.bounding),
        effective: caps::bits(&sets.effective),
        permitted: caps::bits(&sets.permitted),
        inheritable: caps::bits(&sets.inheritable),
        ambient: caps::bits(&sets.ambient),
    };
    // What the daemon itself may not do it cannot pass on.
    let own = rustix::thread::capabilities(None).map_or(u64::MAX, |own| own.permitted.bits());
    CapSets {
        bounding: sets.bounding,
        effective: sets.effective & own,
        permitted: sets.permitted & own,
        inheritable: sets.inheritable & own,
        ambient: sets.ambient & sets.inheritable & own,
    }
}

fn rlimits(process: &Process) -> Result<Vec<(u32, Limit)>, Setup> {
    let number = |kind: &str| -> Result<u32, Setup> {
        #[allow(
            clippy::cast_lossless,
            clippy::unnecessary_cast,
            reason = "the type differs between C libraries"
        )]
        let number = match kind {
            "RLIMIT_AS" => libc::RLIMIT_AS as u32,
            "RLIMIT_CORE" => libc::RLIMIT_CORE as u32,
            "RLIMIT_CPU" => libc::RLIMIT_CPU as u32,
            "RLIMIT_DATA" => libc::RLIMIT_DATA as u32,
            "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE as u32,
            "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS as u32,
            "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK as u32,
            "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE as u32,
            "RLIMIT_NICE" => libc::RLIMIT_NICE as u32,
            "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE as u32,
            "RLIMIT_NPROC" => libc::RLIMIT_NPROC as u32,
            "RLIMIT_RSS" => libc::RLIMIT_RSS as u32,
            "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO as u32,
            "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME as u32,
            "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING as u32,
            "RLIMIT_STACK" => libc::RLIMIT_STACK as u32,
            _ => {
                return Err(Setup::new(
                    format!("invalid rlimit type {kind}"),
                    rustix::io::Errno::INVAL.into(),
                ));
            }
        };
        Ok(number)
    };
    let limit = |rlimit: &executor::spec::Rlimit| Limit {
        soft: rlimit.soft,
        hard: rlimit.hard,
    };
    process
        .rlimits
        .iter()
        .map(|rlimit| Ok((number(&rlimit.kind)?, limit(rlimit))))
        .collect()
}

/// What a child's failure is called.
pub(crate) fn explain(failure: &Failure, spec: &Spec) -> String {
    let error = errors::text(&failure.error);
    let not_found = failure.error.kind() == io::ErrorKind::NotFound;
    let program = spec
        .process
        .args
        .first()
        .map(String::as_str)
        .unwrap_or_default();
    match failure.stage {
        Stage::Lookup if program.is_empty() => "args must not be empty".to_owned(),
        Stage::Lookup if !program.contains('/') => {
            format!("exec: {program:?}: executable file not found in $PATH")
        }
        Stage::Lookup if not_found => format!("exec: {program:?}: stat {program}: {error}"),
        Stage::Lookup => format!("exec: {program:?}: {error}"),
        Stage::Exec => format!("exec {program}: {error}"),
        Stage::Chdir => format!(
            "chdir to cwd ({:?}) set in config.json failed: {error}",
            spec.process.cwd
        ),
        Stage::Rlimit => {
            let kind = spec
                .process
                .rlimits
                .get(failure.detail)
                .map(|rlimit| rlimit.kind.as_str());
            format!("error setting rlimit {}: {error}", kind.unwrap_or_default())
        }
        stage => format!("{}: {error}", doing(stage)),
    }
}

fn doing(stage: Stage) -> &'static str {
    match stage {
        Stage::Cgroup => "join control group",
        Stage::CgroupNamespace => "make control group namespace",
        Stage::MountCgroup => "mount control groups",
        Stage::MountProc => "mount /proc",
        Stage::ReadonlyPath => "make path read-only",
        Stage::MaskPath => "mask path",
        Stage::Keyring => "join session keyring",
        Stage::OomScore => "set oom score",
        Stage::Session => "start session",
        Stage::AppArmor => "set AppArmor profile",
        Stage::Seccomp => "load seccomp filter",
        Stage::Stdio => "set standard streams",
        Stage::Descriptors => "close descriptors",
        Stage::Bounding => "drop capability",
        Stage::Groups => "setgroups",
        Stage::Gid => "setgid",
        Stage::Uid => "setuid",
        Stage::Capabilities | Stage::Ambient => "set capabilities",
        Stage::DeathSignal => "set parent death signal",
        Stage::Signals => "reset signals",
        Stage::None | Stage::Rlimit | Stage::Chdir | Stage::Lookup | Stage::Exec => "start",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(env: &[&str], program: &str) -> Process {
        Process {
            env: env.iter().map(|&entry| entry.to_owned()).collect(),
            args: vec![program.to_owned()],
            ..Process::default()
        }
    }

    #[test]
    fn home_is_the_users_unless_it_is_set() {
        let env = |list: &[&str]| environment(&process(list, ""), "/root");
        assert_eq!(env(&["A=1", "B=2", "A=3"]), ["A=3", "B=2", "HOME=/root"]);
        assert_eq!(env(&["HOME=/x", "junk"]), ["HOME=/x"]);
        assert_eq!(env(&["HOME=", "A=1"]), ["HOME=/root", "A=1"]);
    }

    #[test]
    fn a_variable_needs_a_name() {
        let env = |entry: &str| named(&["A=1".to_owned(), entry.to_owned()]);
        assert!(env("B=").is_ok());
        let refused = env("=secret").expect_err("no name").text;
        assert_eq!(
            refused,
            "error during container init: environment variable name can't be empty"
        );
    }

    #[test]
    fn a_program_without_slash_is_looked_for() {
        let env = ["PATH=/a:/b:".to_owned()];
        assert_eq!(
            candidates(&process(&[], "x"), &env),
            ["/a/x", "/b/x", "./x"]
        );
        assert_eq!(candidates(&process(&[], "./x"), &env), ["./x"]);
    }
}
