//! What operations can be told, one by one: through the socket, with definitions no frontend makes.

use std::collections::BTreeMap;
use std::path::Path;

use e2e::{Build, Daemon};
use oci::Digest;
use prost::Message as _;
use proto::pb;
use tempfile::TempDir;
use testkit::require;

/// A folder that is a root file system with a shell.
fn root() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for path in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir(dir.path().join(path)).expect("made");
    }
    for name in ["sh", "busybox"] {
        std::fs::copy("/bin/busybox", dir.path().join("bin").join(name)).expect("copied");
    }
    dir
}

/// A step on that root, and what its definition says of it.
#[derive(Default)]
struct Step {
    exec: pb::ExecOp,
    about: pb::OpMetadata,
}

impl Step {
    fn new(script: &str) -> Self {
        let args = ["/bin/sh", "-c", script].map(str::to_owned);
        let mount = pb::Mount {
            dest: "/".to_owned(),
            ..pb::Mount::default()
        };
        Self {
            exec: pb::ExecOp {
                meta: Some(pb::Meta {
                    args: args.to_vec(),
                    cwd: "/".to_owned(),
                    ..pb::Meta::default()
                }),
                mounts: vec![mount],
                ..pb::ExecOp::default()
            },
            about: pb::OpMetadata::default(),
        }
    }

    fn meta(mut self, change: impl FnOnce(&mut pb::Meta)) -> Self {
        change(self.exec.meta.get_or_insert_default());
        self
    }

    fn mount(mut self, mount: pb::Mount) -> Self {
        self.exec.mounts.push(pb::Mount {
            input: -1,
            output: -1,
            ..mount
        });
        self
    }
}

/// A chain of steps, each on the root of the one before. The first stands on a copy, which is a step too.
fn chain(steps: Vec<Step>) -> pb::Definition {
    let mut definition = pb::Definition::default();
    let mut last = String::new();
    let mut add = |op: pb::Op, about: pb::OpMetadata| {
        let bytes = proto::encode::marshal_op(&op);
        let digest = Digest::of(&bytes).to_string();
        definition.def.push(bytes.into());
        definition.metadata.insert(digest.as_str().into(), about);
        digest
    };
    let input = |digest: &str| pb::Input {
        digest: digest.to_owned(),
        index: 0,
    };
    let source = pb::SourceOp {
        identifier: "local://context".to_owned(),
        attrs: BTreeMap::new(),
    };
    let op = pb::Op {
        op: Some(pb::op::Op::Source(source)),
        ..pb::Op::default()
    };
    last.push_str(&add(op, pb::OpMetadata::default()));
    // What a step may write to is known by where it comes from, and a copy by what is in it.
    let copy = pb::FileActionCopy {
        src: "/".to_owned(),
        dest: "/".to_owned(),
        dir_copy_contents: true,
        mode: -1,
        timestamp: -1,
        ..pb::FileActionCopy::default()
    };
    let action = pb::FileAction {
        input: -1,
        secondary_input: 0,
        action: Some(pb::file_action::Action::Copy(copy)),
        ..pb::FileAction::default()
    };
    let op = pb::Op {
        inputs: vec![input(&last)],
        op: Some(pb::op::Op::File(pb::FileOp {
            actions: vec![action],
        })),
        ..pb::Op::default()
    };
    last = add(op, pb::OpMetadata::default());
    for step in steps {
        let op = pb::Op {
            inputs: vec![input(&last)],
            op: Some(pb::op::Op::Exec(step.exec)),
            ..pb::Op::default()
        };
        last = add(op, step.about);
    }
    let head = pb::Op {
        inputs: vec![input(&last)],
        ..pb::Op::default()
    };
    add(head, pb::OpMetadata::default());
    definition
}

fn build(daemon: &Daemon, root: &Path, steps: Vec<Step>, args: &[&str]) -> Build {
    let local = format!("--local=context={}", root.display());
    let args = [&[&*local], args].concat();
    daemon.build_llb(&chain(steps).encode_to_vec(), &args)
}

/// What the steps leave in `/out`.
fn out(daemon: &Daemon, root: &Path, steps: Vec<Step>) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", dir.path().display());
    build(daemon, root, steps, &[&output]).ok();
    std::fs::read_to_string(dir.path().join("out")).expect("the output")
}

#[test]
fn other_exit_codes_than_zero_may_be_right() {
    require!(root, busybox);
    let (daemon, root) = (Daemon::start(), root());
    let step = |code: i32, valid: &[i32]| {
        Step::new(&format!("exit {code}")).meta(|meta| meta.valid_exit_codes = valid.to_vec())
    };
    let run = |code, valid: &[i32]| build(&daemon, root.path(), vec![step(code, valid)], &[]);
    run(7, &[3, 7]).ok();
    run(7, &[3]).fails_with("exit code: 7");
    run(0, &[3]).fails_with("exit code: 0");
    run(0, &[]).ok();
}

#[test]
fn a_step_sees_what_its_meta_says() {
    require!(root, busybox);
    let (daemon, root) = (Daemon::start(), root());
    let script = "{ /bin/busybox hostname; /bin/busybox grep far /etc/hosts; ulimit -n; pwd; \
                  echo $HTTP_PROXY $http_proxy $no_proxy $A; } > /out";
    let step = Step::new(script).meta(|meta| {
        meta.hostname = "here".to_owned();
        meta.cwd = "/tmp".to_owned();
        meta.env = vec!["A=b".to_owned(), "PATH=/bin".to_owned()];
        meta.extra_hosts = vec![pb::HostIp {
            host: "far".to_owned(),
            ip: "10.1.2.3".to_owned(),
        }];
        meta.ulimit = vec![pb::Ulimit {
            name: "nofile".to_owned(),
            soft: 77,
            hard: 99,
        }];
        meta.proxy_env = Some(pb::ProxyEnv {
            http_proxy: "http://p".to_owned(),
            no_proxy: "n".to_owned(),
            ..pb::ProxyEnv::default()
        });
    });
    assert_eq!(
        out(&daemon, root.path(), vec![step]),
        "here\n10.1.2.3\tfar\n77\n/tmp\nhttp://p http://p n b\n"
    );
}

#[test]
fn proxies_and_addresses_of_hosts_are_no_part_of_the_key() {
    require!(root, busybox);
    let (daemon, root) = (Daemon::start(), root());
    let step = |proxy: &str, host: &str, ip: &str| {
        let step = Step::new("/bin/busybox true").meta(|meta| {
            meta.proxy_env = Some(pb::ProxyEnv {
                https_proxy: proxy.to_owned(),
                ..pb::ProxyEnv::default()
            });
            meta.extra_hosts = vec![pb::HostIp {
                host: host.to_owned(),
                ip: ip.to_owned(),
            }];
        });
        build(&daemon, root.path(), vec![step], &[]).ok().cached()
    };
    assert_eq!(step("http://a", "h", "10.0.0.1"), 0);
    assert_eq!(step("http://b", "h", "10.0.0.1"), 2);
    assert_eq!(step("http://b", "h", "10.0.0.2"), 2);
    assert_eq!(step("http://b", "other", "10.0.0.2"), 1);
}

#[test]
fn cache_mounts_are_shared_as_they_say() {
    require!(root, busybox);
    let (daemon, root) = (Daemon::start(), root());
    for sharing in [
        pb::CacheSharingOpt::Shared,
        pb::CacheSharingOpt::Private,
        pb::CacheSharingOpt::Locked,
    ] {
        let step = |script: &str| {
            Step::new(script).mount(pb::Mount {
                dest: "/cache".to_owned(),
                mount_type: pb::MountType::Cache.into(),
                cache_opt: Some(pb::CacheOpt {
                    id: format!("{sharing:?}"),
                    sharing: sharing.into(),
                }),
                ..pb::Mount::default()
            })
        };
        let steps = vec![
            step("echo kept > /cache/f"),
            step("/bin/busybox cat /cache/f > /out"),
        ];
        assert_eq!(out(&daemon, root.path(), steps), "kept\n", "{sharing:?}");
    }
}

#[test]
fn a_step_may_be_kept_out_of_remote_caches() {
    require!(root, busybox);
    if e2e::skipped_unless(
        e2e::is_ours(),
        "the stock daemon exports the last step all the same",
    ) {
        return;
    }
    let (first, second, root) = (Daemon::start(), Daemon::start(), root());
    let cache = tempfile::tempdir().expect("a temporary directory");
    let steps = |seen: bool| {
        let mut last = Step::new("echo b > /b");
        last.about.export_cache = Some(pb::ExportCache { value: seen });
        vec![Step::new("echo a > /a"), last]
    };
    for seen in [false, true] {
        let place = cache.path().join(seen.to_string());
        let export = format!(
            "--export-cache=type=local,dest={},mode=max",
            place.display()
        );
        build(&first, root.path(), steps(seen), &[&export]).ok();
        let import = format!("--import-cache=type=local,src={}", place.display());
        let done = build(&second, root.path(), steps(seen), &[&import]).ok();
        let lines = done.text.lines();
        let mut of_step = lines.filter(|line| line.ends_with("echo b > /b"));
        let line = of_step.next().expect("the step is shown");
        let number = line.split(' ').next().unwrap_or_default();
        let cached = done.text.contains(&format!("\n{number} CACHED"));
        assert_eq!(cached, seen, "{}", done.text);
        second.client(&["prune", "--all"]).output().expect("pruned");
    }
}

#[test]
fn limits_and_the_parent_of_the_control_group_are_kept() {
    require!(root, busybox);
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        eprintln!("SKIPPED: a step sees its own group only where the old hierarchies are mounted");
        return;
    }
    let (daemon, root) = (Daemon::start(), root());
    let mut step = Step::new(
        "{ /bin/busybox cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares; \
         /bin/busybox grep -c :/e2e-parent/ /proc/self/cgroup; } > /out",
    )
    .meta(|meta| meta.cgroup_parent = "e2e-parent".to_owned());
    let limits = pb::LinuxResources {
        memory: 64 << 20,
        cpu_shares: 512,
        ..pb::LinuxResources::default()
    };
    step.about.linux_resources = Some(limits.into());
    let text = out(&daemon, root.path(), vec![step]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["67108864", "512"], "{text}");
    assert_ne!(lines[2], "0", "{text}");
}
