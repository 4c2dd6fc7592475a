//! The recorded specifications, met field by field and in their order.

use std::path::PathBuf;

use serde_json::Value;

use super::*;
use crate::{StepMount, Ulimit};

const ROOT: &str = "<EXECUTOR_ROOT>";
const ID: &str = "<CONTAINER_ID>";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn shell(script: &str) -> Step {
    Step {
        id: ID.to_owned(),
        root: mount::Mount::writable("/unused"),
        root_readonly: false,
        usage: None,
        mounts: Vec::new(),
        process: Process {
            args: strings(&["/bin/sh", "-c", script]),
            env: strings(&[PATH]),
            cwd: "/".to_owned(),
            trace_env: strings(&["TRACEPARENT=00-<TRACE_ID>-<SPAN_ID>-01"]),
            ..Process::default()
        },
    }
}

fn root_user() -> User {
    User {
        uid: 0,
        gid: 0,
        groups: vec![10, 3002],
    }
}

fn check(case: &str, step: &Step, user: &User) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../testing/vectors/exec");
    let text = std::fs::read_to_string(format!("{dir}/spec-{case}.json")).expect("vector is there");
    let expected: Value = serde_json::from_str(&text).expect("vector is JSON");
    let settings = Settings {
        root: PathBuf::from(ROOT),
        tracing_socket: Some(PathBuf::from("<RUN_DIR>/otel-grpc.sock")),
        ..Settings::default()
    };
    let resolv_conf = match step.process.network {
        NetMode::Host => "<EXECUTOR_ROOT>/resolv-host.conf",
        _ => "<EXECUTOR_ROOT>/resolv.conf",
    };
    let spec = spec(
        step,
        &Facts {
            settings: &settings,
            host: &Host::for_tests(),
            user,
            root_path: Path::new("<EXECUTOR_ROOT>/<CONTAINER_ID>/rootfs"),
            hosts: Path::new("<EXECUTOR_ROOT>/hosts.<RANDOM_ID>"),
            resolv_conf: Path::new(resolv_conf),
            free_loop: 0,
        },
    );
    let mut got = serde_json::to_value(spec.expect("complete")).expect("plain data");
    if let Some(filter) = got["linux"].get_mut("seccomp") {
        // The filter has a test and a vector of its own.
        *filter = serde_json::json!({"$same_as": "seccomp-as-written-amd64.json"});
    }
    assert_eq!(got, expected["config"], "{case}");
    assert_eq!(
        got.to_string(),
        expected["config"].to_string(),
        "{case}: order of fields"
    );
    let hosts = crate::files::hosts(&step.process.hostname, &step.process.extra_hosts);
    assert_eq!(hosts, expected["hosts_file"], "{case}");
}

#[test]
fn plain() {
    check("plain", &shell("true plain"), &root_user());
}

#[test]
fn extra_hosts_and_hostname() {
    let mut step = shell("true plain");
    step.process.hostname = "hst".to_owned();
    step.process.extra_hosts = [("foo", "10.0.0.1"), ("bar", "::2")]
        .map(|(name, ip)| (name.to_owned(), ip.parse().expect("an address")))
        .to_vec();
    check("add-hosts-hostname", &step, &root_user());
}

#[test]
fn a_control_group_parent() {
    let mut step = shell("true plain");
    step.process.cgroup_parent = "/my/parent".to_owned();
    check("cgroup-parent", &step, &root_user());
}

#[test]
fn environment_and_shell() {
    let mut step = shell("true env");
    step.process.args = strings(&["/bin/sh", "-ec", "true env"]);
    step.process.env = strings(&["A=1", "B=2", "PATH=/x", "FOO=bar"]);
    check("env-shell", &step, &root_user());
}

#[test]
fn arguments_as_a_list() {
    check("exec-form", &shell("true execform"), &root_user());
}

#[test]
fn insecure() {
    let mut step = shell("true insecure");
    step.process.security = Security::Insecure;
    check("insecure", &step, &root_user());
}

#[test]
fn mounts_of_all_kinds() {
    let mut step = shell("true mounts");
    step.process.env = strings(&[PATH, "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0", "S2=s2\n"]);
    let snapshot = |path: &str| MountSource::Snapshot(mount::Mount::writable(path));
    let path = |path: &str, options: &[&str]| MountSource::Path {
        path: PathBuf::from(path),
        options: strings(options),
    };
    let made = |dest: &str, source, readonly| StepMount {
        dest: dest.to_owned(),
        source,
        selector: None,
        readonly,
    };
    step.mounts = vec![
        made("/c", snapshot("<SNAPSHOTS>/<N>/fs"), false),
        StepMount {
            selector: Some("cache".to_owned()),
            ..made("/cl", snapshot("/x"), false)
        },
        made(
            "/t",
            MountSource::Tmpfs {
                size: 1_048_576,
                options: Vec::new(),
            },
            false,
        ),
        StepMount {
            selector: Some("b".to_owned()),
            ..made("/b", snapshot("/x"), true)
        },
        made("/bb", snapshot("<CACHEMOUNTS>/buildkit<RANDOM>"), false),
        made(
            "/run/secrets/s1",
            path(
                "<TMP>/buildkit-secrets<RANDOM>/<RANDOM_ID>",
                &["nodev", "nosuid", "noexec"],
            ),
            true,
        ),
        made(
            "/run/buildkit/ssh_agent.0",
            path("<TMP>/.buildkit-ssh-sock<RANDOM>/ssh_auth_sock", &[]),
            false,
        ),
    ];
    check_with_sources("mounts", &step);
}

/// The place a selected path is bound from is found by the executor; here it is filled in.
fn check_with_sources(case: &str, step: &Step) {
    let mut step = step.clone();
    for mount in &mut step.mounts {
        if mount.selector.take().is_some() {
            let options = if mount.readonly {
                strings(&["ro"])
            } else {
                Vec::new()
            };
            mount.source = MountSource::Path {
                path: PathBuf::from("<TMP>/buildkit-mount<RANDOM>"),
                options,
            };
            mount.readonly = false;
        }
    }
    check(case, &step, &root_user());
}

#[test]
fn a_selected_path_is_bound_with_its_access_last() {
    let source = MountSource::Snapshot(mount::Mount::readonly("/x"));
    let wanted = StepMount {
        dest: "/b".into(),
        source,
        selector: Some("a".into()),
        readonly: false,
    };
    assert_eq!(step_mount(&wanted).options, ["rbind", "ro"]);
}

#[test]
fn host_network() {
    let mut step = shell("true nethost");
    step.process.network = NetMode::Host;
    check("net-host", &step, &root_user());
}

#[test]
fn no_network() {
    let mut step = shell("true netnone");
    step.process.network = NetMode::None;
    check("net-none", &step, &root_user());
}

#[test]
fn size_of_shared_memory() {
    let mut step = shell("true plain");
    step.mounts = vec![StepMount {
        dest: "/dev/shm".to_owned(),
        source: MountSource::Tmpfs {
            size: 1_048_576,
            options: Vec::new(),
        },
        selector: None,
        readonly: false,
    }];
    check("shm-size", &step, &root_user());
}

#[test]
fn ulimits() {
    let mut step = shell("true plain");
    let limit = |name: &str, soft, hard| Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    };
    step.process.ulimits = vec![limit("nofile", 1024, 2048), limit("nproc", 10, 20)];
    check("ulimits", &step, &root_user());
}

#[test]
fn users() {
    let user = |uid, gid, groups: &[u32]| User {
        uid,
        gid,
        groups: groups.to_vec(),
    };
    check("user-group", &shell("true usergrp"), &user(1234, 3001, &[]));
    check("user-number", &shell("true usernum"), &user(4321, 0, &[]));
    let mut step = shell("true user");
    step.process.cwd = "/home/w/x".to_owned();
    check("user-name", &step, &user(1234, 3000, &[3001, 3002]));
}

#[test]
fn a_systemd_parent_keeps_its_form() {
    let settings = Settings {
        cgroup_parent: "a.slice:buildkit:".to_owned(),
        ..Settings::default()
    };
    assert_eq!(
        cgroups_path("x", &Process::default(), &settings),
        "a.slice:buildkit:x"
    );
    let own = Process {
        cgroup_parent: "../p//q".to_owned(),
        ..Process::default()
    };
    assert_eq!(cgroups_path("x", &own, &settings), "/p/q/buildkit/x");
}
