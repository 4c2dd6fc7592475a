//! From a step to the OCI runtime specification. Pure: what is known about machine, user and files comes in.

use std::path::Path;

use crate::host::Host;
use crate::settings::{DefaultNetwork, Settings};
use crate::spec::{
    Capabilities, Cpu, Device, DeviceRule, Linux, Memory, Mount, Namespace, NamespaceKind,
    Resources, Rlimit, Root, Spec,
};
use crate::user::User;
use crate::{
    DEFAULT_HOSTNAME, Error, MountSource, NetMode, Process, Security, Step, StepMount, caps,
    seccomp, spec,
};

const OCI_VERSION: &str = "1.3.0";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

const READONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What a specification is made from, besides the step.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Configuration.
    pub settings: &'a Settings,
    /// Machine.
    pub host: &'a Host,
    /// The resolved user.
    pub user: &'a User,
    /// Host path of the root filesystem.
    pub root_path: &'a Path,
    /// Host path of the hosts file.
    pub hosts: &'a Path,
    /// Host path of resolv.conf.
    pub resolv_conf: &'a Path,
    /// First loop device that is free; asked for confined steps too, used for others only.
    pub free_loop: u32,
}

/// Which network a step ends up with.
pub fn network(settings: &Settings, mode: NetMode) -> DefaultNetwork {
    match mode {
        NetMode::Host => DefaultNetwork::Host,
        NetMode::None => DefaultNetwork::None,
        NetMode::Sandbox => settings.network.clone(),
    }
}

/// The specification of a step.
pub fn spec(step: &Step, facts: &Facts<'_>) -> Result<Spec, Error> {
    let process = &step.process;
    let insecure = process.security == Security::Insecure;
    let capabilities = capabilities(facts.host, insecure);
    let mut linux = Linux {
        resources: Some(resources(process, insecure)),
        cgroups_path: cgroups_path(&step.id, process, facts.settings),
        namespaces: namespaces(process, facts),
        ..Linux::default()
    };
    if insecure {
        if !facts.host.user_namespace {
            linux.devices = privileged_devices(facts.free_loop);
        }
    } else {
        if facts.host.seccomp {
            linux.seccomp = Some(seccomp::default_filter(facts.host, &capabilities.bounding));
        }
        let keep = |path: &&str| !(facts.settings.no_process_sandbox && path.starts_with("/proc"));
        linux.masked_paths = MASKED
            .iter()
            .filter(|path| keep(path))
            .map(|&path| path.to_owned())
            .collect();
        linux.readonly_paths = READONLY
            .iter()
            .filter(|path| keep(path))
            .map(|&path| path.to_owned())
            .collect();
    }
    if facts.settings.rootless {
        linux.resources = None;
        linux.cgroups_path = String::new();
    }
    Ok(Spec {
        oci_version: OCI_VERSION,
        process: spec::Process {
            terminal: process.tty,
            user: spec::User {
                uid: facts.user.uid,
                gid: facts.user.gid,
                additional_gids: facts.user.all_groups(),
            },
            args: process.args.clone(),
            env: env(process, facts.settings),
            cwd: process.cwd.clone(),
            capabilities: Some(capabilities),
            rlimits: rlimits(process),
            apparmor_profile: apparmor(facts, insecure)?,
            oom_score_adj: facts.settings.oom_score_adj,
            selinux_label: None,
        },
        root: Root {
            path: facts.root_path.display().to_string(),
            readonly: step.root_readonly,
        },
        hostname: if process.hostname.is_empty() {
            DEFAULT_HOSTNAME.to_owned()
        } else {
            process.hostname.clone()
        },
        mounts: mounts(step, facts, insecure),
        hooks: None,
        linux,
    })
}

fn apparmor(facts: &Facts<'_>, insecure: bool) -> Result<Option<String>, Error> {
    match &facts.settings.apparmor_profile {
        Some(profile) if !insecure => {
            if !facts.host.apparmor {
                return Err(Error::start(format!(
                    "AppArmor is not supported on this host, but the profile '{profile}' was specified"
                )));
            }
            Ok(Some(profile.clone()))
        }
        _ => Ok(None),
    }
}

/// The environment: PATH if there is none, and how to send traces.
fn env(process: &Process, settings: &Settings) -> Vec<String> {
    let mut env = process.env.clone();
    let has = |env: &[String], name: &str| {
        env.iter().any(|entry| {
            entry
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        })
    };
    if !has(&env, "PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if settings.tracing_socket.is_some() {
        for (name, value) in [
            ("OTEL_TRACES_EXPORTER", "otlp"),
            (
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
                "unix:///dev/otel-grpc.sock",
            ),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc"),
        ] {
            if !has(&env, name) {
                env.push(format!("{name}={value}"));
            }
        }
        env.extend(process.trace_env.iter().cloned());
    }
    env
}

fn rlimits(process: &Process) -> Vec<Rlimit> {
    // Compat: -1 stands for no limit, which is the largest number.
    let limit = |value: i64| u64::from_ne_bytes(value.to_ne_bytes());
    process
        .ulimits
        .iter()
        .map(|ulimit| Rlimit {
            kind: format!("RLIMIT_{}", ulimit.name.to_uppercase()),
            hard: limit(ulimit.hard),
            soft: limit(ulimit.soft),
        })
        .collect()
}

fn capabilities(host: &Host, insecure: bool) -> Capabilities {
    let mut all = caps::sandbox();
    let mut passed_on = Vec::new();
    if insecure {
        // Compat: names may appear twice.
        all.extend(host.capabilities.iter().cloned());
        passed_on.clone_from(&host.capabilities);
    }
    Capabilities {
        bounding: all.clone(),
        effective: all.clone(),
        inheritable: passed_on.clone(),
        permitted: all,
        ambient: passed_on,
    }
}

fn resources(process: &Process, insecure: bool) -> Resources {
    let rule = |allow, kind| DeviceRule {
        allow,
        kind,
        major: None,
        minor: None,
        access: "rwm".to_owned(),
    };
    let devices = if insecure {
        vec![rule(true, Some('c')), rule(true, Some('b'))]
    } else {
        vec![rule(false, None)]
    };
    let wanted = &process.resources;
    let set = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|&value| value != 0);
    let memory = Memory {
        limit: set(wanted.memory),
        swap: set(wanted.memory_swap),
    };
    let cpu = Cpu {
        shares: positive(wanted.cpu_shares),
        quota: set(wanted.cpu_quota),
        period: positive(wanted.cpu_period),
        cpus: wanted.cpuset_cpus.clone(),
        mems: wanted.cpuset_mems.clone(),
    };
    Resources {
        devices,
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
    }
}

fn cgroups_path(id: &str, process: &Process, settings: &Settings) -> String {
    let parent = if process.cgroup_parent.is_empty() {
        &settings.cgroup_parent
    } else {
        &process.cgroup_parent
    };
    if parent.is_empty() {
        return format!("/buildkit/{id}");
    }
    if parent.contains(".slice") && parent.ends_with(':') {
        return format!("{parent}{id}");
    }
    clean(&format!("/{parent}/buildkit/{id}"))
}

/// An absolute path without empty, `.` and `..` components.
fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

fn namespaces(process: &Process, facts: &Facts<'_>) -> Vec<Namespace> {
    use NamespaceKind::{Cgroup, Ipc, Mount, Network, Pid, Uts};
    let mut kinds = vec![Pid, Ipc, Uts, Mount];
    if facts.settings.no_process_sandbox {
        kinds.retain(|&kind| kind != Pid);
    }
    if network(facts.settings, process.network) == DefaultNetwork::None {
        kinds.push(Network);
    }
    if facts.host.unified_cgroups && facts.host.cgroup_namespaces {
        kinds.push(Cgroup);
    }
    kinds
        .into_iter()
        .map(|kind| Namespace { kind, path: None })
        .collect()
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        step: None,
    }
}

fn mounts(step: &Step, facts: &Facts<'_>, insecure: bool) -> Vec<Mount> {
    let sys_access = if insecure { "rw" } else { "ro" };
    let path = |path: &Path| path.display().to_string();
    let file = ["nosuid", "noexec", "nodev", "rbind", "ro"];
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", sys_access],
        ),
        mount("/etc/resolv.conf", "bind", &path(facts.resolv_conf), &file),
        mount("/etc/hosts", "bind", &path(facts.hosts), &file),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &[sys_access, "nosuid", "noexec", "nodev"],
        ),
    ];
    if facts.settings.no_process_sandbox
        && let Some(proc) = list.first_mut()
    {
        *proc = mount("/proc", "bind", "/proc", &["rbind"]);
    }
    if facts.settings.rootless {
        list.retain(|mount| !mount.destination.starts_with("/sys"));
    }
    let mut wanted: Vec<(usize, &StepMount)> = step.mounts.iter().enumerate().collect();
    wanted.sort_by(|a, b| a.1.dest.as_bytes().cmp(b.1.dest.as_bytes()));
    list.extend(wanted.into_iter().map(|(index, wanted)| Mount {
        step: Some(index),
        ..step_mount(wanted)
    }));
    if let Some(socket) = &facts.settings.tracing_socket {
        list.push(mount(
            "/dev/otel-grpc.sock",
            "bind",
            &path(socket),
            &["ro", "rbind"],
        ));
    }
    without_repetition(list)
}

/// Of mounts at the same place the last one counts, at the position of the first.
fn without_repetition(list: Vec<Mount>) -> Vec<Mount> {
    let mut kept: Vec<Mount> = Vec::with_capacity(list.len());
    for mount in list {
        match kept
            .iter_mut()
            .find(|earlier| earlier.destination == mount.destination)
        {
            Some(earlier) => *earlier = mount,
            None => kept.push(mount),
        }
    }
    kept
}

fn step_mount(wanted: &StepMount) -> Mount {
    let selected = wanted.selector.is_some();
    let read_only = wanted.readonly
        || matches!(&wanted.source, MountSource::Snapshot(mount) if mount.is_readonly());
    match &wanted.source {
        MountSource::Tmpfs { size, options } => {
            let mut all = vec!["nosuid".to_owned()];
            if wanted.readonly {
                all.push("ro".to_owned());
            }
            if *size > 0 {
                all.push(format!("size={size}"));
            }
            all.extend(options.iter().cloned());
            Mount {
                options: all,
                ..mount(&wanted.dest, "tmpfs", "tmpfs", &[])
            }
        }
        // A selected path is bound from a place of its own, found out later.
        _ if selected => {
            let options: &[&str] = if read_only {
                &["rbind", "ro"]
            } else {
                &["rbind"]
            };
            mount(&wanted.dest, "bind", "", options)
        }
        MountSource::Path { path, options } => {
            let first: &[&str] = if read_only {
                &["ro", "rbind"]
            } else {
                &["rbind"]
            };
            let mut made = mount(&wanted.dest, "bind", &path.display().to_string(), first);
            made.options.extend(options.iter().cloned());
            made
        }
        MountSource::Snapshot(mount::Mount::Bind { source, .. }) => {
            let access = if read_only { "ro" } else { "rw" };
            mount(
                &wanted.dest,
                "bind",
                &source.display().to_string(),
                &[access, "rbind"],
            )
        }
        MountSource::Snapshot(overlay) => {
            let words = overlay.options();
            let mut made = mount(
                &wanted.dest,
                &words.kind,
                &words.source.display().to_string(),
                &[],
            );
            made.options = words.options;
            if wanted.readonly && !made.options.iter().any(|option| option == "ro") {
                made.options.push("ro".to_owned());
            }
            made
        }
    }
}

/// Devices of an unconfined step.
fn privileged_devices(free_loop: u32) -> Vec<Device> {
    let device = |path: String, kind, major, minor| Device {
        path,
        kind,
        major,
        minor,
        file_mode: None,
        uid: None,
        gid: None,
    };
    let mut devices: Vec<Device> = [
        ("/dev/kmsg", 1, 11),
        ("/dev/cuse", 10, 203),
        ("/dev/fuse", 10, 229),
        ("/dev/kvm", 10, 232),
        ("/dev/net/tun", 10, 200),
        ("/dev/loop-control", 10, 237),
    ]
    .into_iter()
    .map(|(path, major, minor)| device(path.to_owned(), 'c', major, minor))
    .collect();
    devices.extend(
        (0..free_loop.saturating_add(8)).map(|n| device(format!("/dev/loop{n}"), 'b', 7, n)),
    );
    devices
}

#[cfg(test)]
mod tests;
