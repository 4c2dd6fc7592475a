//! What steps see and may do: the embedded runtime and runc must agree on every case.

mod common;

use std::path::PathBuf;

use common::{Ran, Sandbox, run, tree};
use executor::runc::Runc;
use executor::{Executor, MountSource, NetMode, Security, Step, StepMount, Ulimit};
use runtime::Runtime;

/// The two executors, each with a root of its own.
struct Pair {
    sandbox: Sandbox,
    embedded: Runtime,
    runc: Runc,
}

impl Pair {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let embedded = Runtime::new(sandbox.settings("embedded")).expect("starts");
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let runc = Runc::new(sandbox.settings("runc"), None, &path).expect("runc is installed");
        Self {
            sandbox,
            embedded,
            runc,
        }
    }

    /// Runs a step with both and compares code and output.
    async fn agree(&self, name: &str, step: &Step) -> Ran {
        self.agree_by(name, step, |text| text.to_owned()).await
    }

    async fn agree_by(&self, name: &str, step: &Step, normal: impl Fn(&str) -> String) -> Ran {
        let [ours, theirs] = self.both(step).await;
        assert_eq!(
            ours.code(),
            theirs.code(),
            "{name}: exit codes\n{ours:?}\n{theirs:?}"
        );
        assert_eq!(
            normal(&ours.stdout),
            normal(&theirs.stdout),
            "{name}: output, ours and theirs"
        );
        ours
    }

    async fn both(&self, step: &Step) -> [Ran; 2] {
        let mut ran = Vec::new();
        for executor in [&self.embedded as &dyn Executor, &self.runc] {
            let before = tree(&self.sandbox.root());
            let step = Step {
                id: identity::new_id(),
                ..step.clone()
            };
            ran.push(run(executor, step).await);
            let fresh: Vec<_> = tree(&self.sandbox.root())
                .into_iter()
                .filter(|path| !before.contains(path))
                .collect();
            // Compat: those a runtime makes in an image without them stay.
            let fresh: Vec<_> = fresh
                .iter()
                .filter(|path| !["dev", "proc", "sys"].contains(&path.as_str()))
                .collect();
            assert!(fresh.is_empty(), "left in the root: {fresh:?}");
        }
        let [ours, theirs] = <[Ran; 2]>::try_from(ran).expect("two executors");
        [ours, theirs]
    }
}

/// Runs scripts that must give the same with both.
async fn scripts(cases: &[(&str, &str)]) {
    let pair = Pair::new();
    let mut differences = String::new();
    for (name, script) in cases {
        let [ours, theirs] = pair.both(&pair.sandbox.shell(script)).await;
        if (ours.code(), &ours.stdout) != (theirs.code(), &theirs.stdout) {
            differences += &format!("=== {name}\n--- ours\n{}{}\n", ours.stdout, ours.stderr);
            differences += &format!("--- theirs\n{}{}\n", theirs.stdout, theirs.stderr);
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

#[tokio::test]
async fn what_a_plain_step_sees() {
    testkit::require!(root, busybox, runc);
    scripts(&[
        ("identity", "id; whoami; cat /proc/self/loginuid; echo $$"),
        ("capabilities", "grep -E '^(Cap|NoNewPrivs|Seccomp|Groups|Uid|Gid|Umask|SigBlk|SigCgt)' /proc/1/status"),
        ("environment", "env | sort; cat /proc/1/environ | tr '\\0' '\\n'"),
        ("hostname", "hostname; cat /proc/sys/kernel/domainname"),
        ("files", "cat /etc/hosts /etc/resolv.conf"),
        ("devices", "cd /dev; for f in $(find . | sort); do stat -c '%n %F %a %u %g %t %T' $f; readlink $f; done"),
        ("limits", "cat /proc/1/limits; cat /proc/1/oom_score_adj"),
        ("session", "cut -d' ' -f3,5-8 /proc/1/stat"),
        ("descriptors", "for n in 0 1 2 3 4 5 6 7 8 9; do stat -c '%n %A %U' /proc/1/fd/$n; done; cat; read x; echo $?; [ -p /dev/stdin ] && echo pipe"),
        ("root", "ls -la / | grep -vE ' (proc|sys|\\.|\\.\\.|dev)$' | tr -s ' ' | cut -d' ' -f1-4,9-"),
        ("proc", "ls /proc | grep -vE '^[0-9]+$'; ls /proc/acpi /proc/keys /proc/timer_list /sys/firmware; cat /proc/keys"),
        ("working directory", "pwd; readlink /proc/1/cwd; readlink /proc/1/root"),
        ("cgroup names", "ls /sys/fs/cgroup; cat /sys/fs/cgroup/devices/devices.list; cat /sys/fs/cgroup/cpuset/cpuset.cpus"),
        ("namespaces", "for n in net time user; do readlink /proc/self/ns/$n; done"),
        ("scheduling", "cut -d' ' -f18,19,40,41 /proc/1/stat; cat /proc/1/personality"),
    ])
    .await;
}

#[tokio::test]
async fn mount_tables_are_the_same() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let normal = |text: &str| -> String {
        let mut lines: Vec<String> = text.lines().map(mount_line).collect();
        lines.sort();
        lines.join("\n")
    };
    let mut step = pair.sandbox.shell("cat /proc/self/mountinfo");
    pair.agree_by("plain", &step, normal).await;
    step.root_readonly = true;
    pair.agree_by("read-only root", &step, normal).await;
    step.root_readonly = false;
    step.process.security = Security::Insecure;
    pair.agree_by("insecure", &step, normal).await;
}

/// Mount point, options, filesystem, without numbers and names of this run.
fn mount_line(line: &str) -> String {
    let fields: Vec<&str> = line.split(' ').collect();
    let root = fields[3].split('/').map(|name| {
        if name.len() == 25 || name.starts_with(".tmp") {
            "*"
        } else {
            name
        }
    });
    let root = root.map(|name| {
        if ["embedded", "runc"].contains(&name) {
            "executor"
        } else {
            name
        }
    });
    let dash = fields
        .iter()
        .position(|field| *field == "-")
        .expect("has a dash");
    format!(
        "{} {} {} {}",
        root.collect::<Vec<_>>().join("/"),
        fields[4],
        fields[5],
        fields[dash..].join(" ")
    )
}

#[tokio::test]
async fn how_steps_end() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    std::fs::write(pair.sandbox.root().join("bin/noformat"), "\u{7f}nothing").expect("writable");
    std::fs::write(pair.sandbox.root().join("bin/noexec"), "#!/bin/sh\n").expect("writable");
    let mode = |name: &str, mode| {
        use std::os::unix::fs::PermissionsExt;
        let path = pair.sandbox.root().join("bin").join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("ours");
    };
    mode("noformat", 0o755);
    mode("noexec", 0o644);
    let shell = |script: &str| pair.sandbox.shell(script);
    for (name, step, code) in [
        ("success", shell("true"), 0),
        ("a code", shell("exit 42"), 42),
        ("255", shell("exit 255"), 255),
        ("killed by itself", shell("kill -9 $$; echo not dead"), 0),
        ("terminated", shell("sh -c 'kill -TERM $$'; exit $?"), 143),
        ("a child killed", shell("sh -c 'kill -9 $$'; echo $?"), 0),
        ("a broken pipe", shell("yes | head -1"), 0),
        ("no such path", pair.sandbox.step(&["/nope"]), 1),
        ("no such name", pair.sandbox.step(&["nope"]), 1),
        ("a directory", pair.sandbox.step(&["/etc"]), 1),
        ("not executable", pair.sandbox.step(&["/bin/noexec"]), 1),
        ("no known format", pair.sandbox.step(&["/bin/noformat"]), 1),
        ("by name", pair.sandbox.step(&["echo", "hello"]), 0),
        (
            "by relative path",
            pair.sandbox.step(&["bin/echo", "hello"]),
            0,
        ),
    ] {
        let ran = pair.agree(name, &step).await;
        assert_eq!(ran.code(), code, "{name}: {ran:?}");
    }
}

#[tokio::test]
async fn messages_of_programs_that_cannot_start() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    for (program, text) in [
        (
            "/nope",
            "exec: \"/nope\": stat /nope: no such file or directory",
        ),
        ("nope", "exec: \"nope\": executable file not found in $PATH"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ] {
        for ran in pair.both(&pair.sandbox.step(&[program])).await {
            assert!(ran.stderr.contains(text), "{program}: {ran:?}");
        }
    }
}

#[tokio::test]
async fn users_and_groups() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    for user in ["", "root", "bob", "bob:g2", "4321", "1234:77", ":g3", "0:0"] {
        let script = "id; env | grep HOME; grep -E '^(Cap|Groups|Uid|Gid)' /proc/self/status; pwd; \
                      echo hi > /dev/stdout; echo there > /dev/stderr; touch /root/x 2>/dev/null; echo $?; \
                      ls -la /proc/self/fd/1 | cut -d' ' -f1; rm -f /root/x";
        let mut step = pair.sandbox.shell(script);
        step.process.user = user.to_owned();
        let ran = pair.agree(user, &step).await;
        assert_eq!(ran.code(), 0, "{user}: {ran:?}");
        step.process.env.push("HOME=/elsewhere".to_owned());
        pair.agree(user, &step).await;
    }
    let mut step = pair.sandbox.shell("true");
    step.process.user = "nobody-here".to_owned();
    for ran in pair.both(&step).await {
        let err = ran.result.expect_err("no such user");
        assert_eq!(
            err.to_string(),
            "unable to find user nobody-here: no matching entries in passwd file"
        );
        assert_eq!(err.exit_code(), 255);
    }
}

#[tokio::test]
async fn what_is_forbidden() {
    testkit::require!(root, busybox, runc);
    scripts(&[
        ("mount", "mount -t tmpfs none /tmp 2>&1; echo $?"),
        ("umount", "umount /proc 2>&1; echo $?"),
        ("remount", "mount -o remount,rw /sys 2>&1; echo $?"),
        ("sysctl", "echo 1 > /proc/sys/vm/drop_caches; echo $?; echo x > /proc/sys/kernel/hostname; echo $?"),
        ("sysrq", "echo h > /proc/sysrq-trigger; echo $?"),
        ("sysfs", "echo 1 > /sys/kernel/profiling; mkdir /sys/fs/cgroup/x; echo $?"),
        ("cgroup files", "echo 1 > /sys/fs/cgroup/cpu/cgroup.procs; echo $?; mkdir /sys/fs/cgroup/memory/x; echo $?"),
        ("hostname", "hostname other 2>&1; echo $?"),
        ("disk", "mknod /tmp/disk b 254 0; head -c1 /tmp/disk; echo $?; rm -f /tmp/disk"),
        ("memory device", "mknod /tmp/mem c 1 1; head -c1 /tmp/mem; echo $?; rm -f /tmp/mem"),
        ("tun is allowed", "mkdir -p /tmp/n; mknod /tmp/n/tun c 10 200; head -c1 /tmp/n/tun; echo $?; rm -rf /tmp/n"),
        ("fuse", "mknod /tmp/fuse c 10 229; true < /tmp/fuse; echo $?; rm -f /tmp/fuse"),
        ("loop", "mknod /tmp/lc c 10 237; true < /tmp/lc; echo $?; rm -f /tmp/lc; true < /dev/zero; echo $?"),
        ("host processes", "set -- /proc/[0-9]*; echo $#; read comm < /proc/1/comm; echo $comm"),
        ("kill host", "kill -0 2 2>&1; echo $?"),
        ("unshare", "unshare -m true 2>&1; echo $?; unshare -U true 2>&1; echo $?; unshare -n true 2>&1; echo $?"),
        ("chroot", "chroot / /bin/true; echo $?"),
        ("swap", "swapon /etc/passwd 2>&1; echo $?"),
        ("clock", "date -s '2001-01-01' 2>&1 | head -1; echo $?"),
        ("kernel log", "dmesg 2>&1 | head -1"),
        ("module", "insmod /etc/passwd 2>&1; echo $?"),
        ("reboot", "reboot -f 2>&1; echo $?"),
        ("own files", "echo x > /tmp/f; chown 1:2 /tmp/f; chmod 4755 /tmp/f; stat -c '%u %g %a' /tmp/f; rm /tmp/f"),
        ("low ports", "nc -l -p 0 -w 1 127.0.0.1 < /dev/null 2>&1; echo $?"),
        ("resolv.conf", "echo x >> /etc/resolv.conf; echo $?; rm /etc/hosts 2>&1; echo $?"),
 ("memory of others", "sleep 9 & head -c1 /proc/1/mem 2>&1; echo $?; echo x > /proc/1/oom_score_adj; echo $?; kill $!"),
        ("signals to the first process", "kill -TERM 1; kill -INT 1; kill -STOP 1; echo $?; trap 'echo told' USR1; kill -USR1 $$; echo after"),
        ("writing below /proc", "echo 0 > /proc/sys/kernel/randomize_va_space; echo $?; echo x > /proc/irq/default_smp_affinity; echo $?; echo x > /proc/self/comm; cat /proc/self/comm"),
        ("keys", "cat /proc/key-users 2>&1 | head -1 | cut -c1-1; keyctl show 2>&1 | head -1"),
        ("raise limits", "ulimit -n 30000 2>&1; echo $?; ulimit -n"),
    ])
    .await;
}

#[tokio::test]
async fn the_outside_is_out_of_reach() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let outside = std::process::id();
    let script = format!(
        "for name in comm environ maps mem ns/mnt root; do stat /proc/{outside}/$name 2>/dev/null; echo $?; done; \
         kill -0 {outside} 2>&1; kill -9 {outside} 2>&1; nsenter -t {outside} -m true 2>&1; chroot /proc/{outside}/root true 2>&1; echo $?"
    );
    let ran = pair
        .agree("the process that started it", &pair.sandbox.shell(&script))
        .await;
    assert!(ran.stdout.starts_with("1\n1\n1\n1\n1\n1\n"), "{ran:?}");
}

#[tokio::test]
async fn devices_of_a_step() {
    testkit::require!(root, busybox, runc);
    let mut pair = Pair::new();
    let place = pair.sandbox.path("cdi");
    std::fs::create_dir(&place).expect("writable");
    std::fs::write(pair.sandbox.path("from-host"), "of the host\n").expect("writable");
    let document = format!(
        "cdiVersion: 0.7.0\nkind: v.com/d\ndevices:\n\
         - name: one\n  containerEdits:\n    env: [ONE=1, PATH=/bin]\n    deviceNodes:\n\
         \x20   - {{path: /dev/fuse, type: c, major: 10, minor: 229, fileMode: 0640, gid: 7}}\n\
         \x20   - {{path: /dev/deep/nothing, hostPath: /dev/null, permissions: r}}\n\
         \x20   - {{path: /dev/fifo, type: p, fileMode: 0622}}\n\
         \x20   additionalGids: [77]\n\
         \x20   mounts: [{{hostPath: {}, containerPath: /opt/d/file, options: [ro, nosuid, nodev, rbind, rprivate]}}]\n\
         - name: two\n  containerEdits: {{env: [TWO=2]}}\n\
         - name: hooked\n  containerEdits: {{hooks: [{{hookName: createRuntime, path: /bin/busybox, args: [busybox, 'true']}}]}}\n\
         containerEdits: {{env: [ALL=yes]}}\n",
        pair.sandbox.path("from-host").display(),
    );
    std::fs::write(place.join("d.yaml"), document).expect("writable");
    let registry = std::sync::Arc::new(executor::cdi::Registry::new(vec![place], []));
    let settings = |name: &str| executor::Settings {
        devices: Some(registry.clone()),
        ..pair.sandbox.settings(name)
    };
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    pair.embedded = Runtime::new(settings("embedded-cdi")).expect("starts");
    pair.runc = Runc::new(settings("runc-cdi"), None, &path).expect("runc is installed");

    let wanted = |name: &str| executor::cdi::Wanted {
        name: name.to_owned(),
        optional: false,
    };
    let script = "env | sort; id; ls -la /opt/d | tr -s ' ' | cut -d' ' -f1-4,9; cat /opt/d/file; echo x > /opt/d/file; \
         stat -c '%n %F %a %u %g %t %T' /dev/fuse /dev/deep /dev/deep/nothing /dev/fifo; true < /dev/fuse; echo $?; \
         head -c1 /dev/deep/nothing; echo $?; cat /sys/fs/cgroup/devices/devices.list 2>/dev/null | sort; true";
    let mut step = pair.sandbox.shell(script);
    for (name, user, devices) in [
        ("none", "", &[][..]),
        ("one", "", &["v.com/d=one"]),
        ("one of a user", "bob", &["v.com/d=one"]),
        ("all but hooks", "", &["v.com/d=two", "v.com/d=one"]),
    ] {
        step.process.user = user.to_owned();
        step.process.devices = devices.iter().map(|&name| wanted(name)).collect();
        let ran = pair.agree(name, &step).await;
        assert_eq!(
            ran.stdout.contains("of the host"),
            !devices.is_empty(),
            "{name}: {ran:?}"
        );
        assert_eq!(ran.code(), 0, "{name}: {ran:?}");
    }

    step.process.devices = vec![wanted("v.com/d=hooked")];
    let [ours, theirs] = pair.both(&step).await;
    assert_eq!(theirs.code(), 0, "{theirs:?}");
    let refused = ours.result.expect_err("no hooks").to_string();
    assert!(refused.starts_with("unimplemented: hooks"), "{refused}");
    assert!(refused.contains("--oci-worker-binary=runc"), "{refused}");

    step.process.devices = vec![wanted("v.com/d=none")];
    let text = "CDI device injection failed: required device \"v.com/d=none\" is not registered";
    for ran in pair.both(&step).await {
        assert_eq!(ran.result.expect_err("no such device").to_string(), text);
    }
    step.process.devices[0].optional = true;
    pair.agree("optional", &step).await.ok();
}

#[tokio::test]
async fn mounts_of_a_step() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let dir = |name: &str| -> PathBuf {
        let path = pair.sandbox.path(name);
        std::fs::create_dir_all(path.join("sub/deep")).expect("writable");
        std::fs::write(path.join("sub/file"), "inside\n").expect("writable");
        std::os::unix::fs::symlink("/sub", path.join("link")).expect("writable");
        std::os::unix::fs::symlink("../../../../../../etc", path.join("out")).expect("writable");
        path
    };
    let cache = dir("cache");
    let secret = pair.sandbox.path("secret");
    std::fs::write(&secret, "hush\n").expect("writable");
    let made = |dest: &str, source: MountSource, selector: Option<&str>, readonly| StepMount {
        dest: dest.to_owned(),
        source,
        selector: selector.map(str::to_owned),
        readonly,
    };
    let snapshot = || MountSource::Snapshot(mount::Mount::writable(&cache));
    let frozen = || MountSource::Snapshot(mount::Mount::readonly(&cache));
    let options = |list: &[&str]| {
        list.iter()
            .map(|&option| option.to_owned())
            .collect::<Vec<_>>()
    };
    let mut step = pair.sandbox.shell(
        "cat /mnt/a/sub/file; echo x > /mnt/a/w; echo $?; ls /mnt/a; rm /mnt/a/w; \
         ls -R /ro; touch /ro/x; echo $?; cat /sel/file; touch /sel/y; echo $?; rm -f /sel/y; \
         ls /link; touch /link/z; echo $?; cat /run/secrets/s; echo x > /run/secrets/s; echo $?; cp /bin/busybox /t/ && /t/busybox echo runs; \
         df /t | tail -1 | tr -s ' ' | cut -d' ' -f1,2; stat -c %a /t /tmp /w/x; \
         grep -E ' /(mnt/a|ro|sel|link|run/secrets/s|t|tmp|w/x) ' /proc/self/mountinfo | cut -d' ' -f5-6",
    );
    step.mounts = vec![
        made("/mnt/a", snapshot(), None, false),
        made("/ro", frozen(), None, false),
        made("/sel", snapshot(), Some("sub"), false),
        made("/link", frozen(), Some("/link"), true),
        made(
            "/run/secrets/s",
            MountSource::Path {
                path: secret,
                options: options(&["nosuid", "nodev", "noexec"]),
            },
            None,
            true,
        ),
        made(
            "/t",
            MountSource::Tmpfs {
                size: 4 << 20,
                options: vec![],
            },
            None,
            false,
        ),
        made(
            "/tmp",
            MountSource::Tmpfs {
                size: 0,
                options: vec![],
            },
            None,
            false,
        ),
        made(
            "/w/x",
            MountSource::Tmpfs {
                size: 0,
                options: options(&["mode=0700"]),
            },
            None,
            false,
        ),
    ];
    let ran = pair.agree("mounts", &step).await;
    assert_eq!(ran.code(), 0, "{ran:?}");
    assert!(ran.stdout.starts_with("inside\n0\n"), "{ran:?}");
    step.mounts = vec![made("/x", snapshot(), Some("out/passwd"), true)];
    for ran in pair.both(&step).await {
        assert_ne!(ran.code(), 0, "leads outside: {ran:?}");
    }
}

#[tokio::test]
async fn overlays_of_a_step() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let base = pair.sandbox.dir.path().join("ovl");
    for name in ["lower/sub", "upper", "work", "rootupper", "rootwork"] {
        std::fs::create_dir_all(base.join(name)).expect("writable");
    }
    std::fs::write(base.join("lower/sub/file"), "below\n").expect("writable");
    let overlay = |lower: Vec<PathBuf>, upper: &str, work: &str| mount::Mount::Overlay {
        lower,
        upper: Some(mount::Upper {
            dir: base.join(upper),
            work: base.join(work),
        }),
        options: vec![],
    };
    let cache = overlay(vec![base.join("lower")], "upper", "work");
    let mut step = pair.sandbox.shell("cat /c/sub/file /s/file; echo new > /s/new; cat /c/sub/new; rm /s/new; mkdir /made; ls /made; rmdir /made");
    step.root = overlay(vec![pair.sandbox.root()], "rootupper", "rootwork");
    let source = || MountSource::Snapshot(cache.clone());
    step.mounts = vec![
        StepMount {
            dest: "/c".into(),
            source: source(),
            selector: None,
            readonly: false,
        },
        StepMount {
            dest: "/s".into(),
            source: source(),
            selector: Some("sub".into()),
            readonly: false,
        },
    ];
    let ran = pair.agree("overlays", &step).await;
    assert_eq!(ran.ok(), "below\nbelow\nnew\n");
    let left = tree(&base.join("rootupper"));
    let left: Vec<_> = left
        .iter()
        .filter(|path| !["dev", "proc", "sys", "etc"].contains(&path.as_str()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn settings_of_a_step() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let mut step = pair.sandbox.shell("cat /etc/hosts; hostname; ulimit -n; ulimit -Hn; ulimit -u; df /dev/shm | tail -1 | tr -s ' ' | cut -d' ' -f2");
    step.process.hostname = "hst".to_owned();
    step.process.extra_hosts = vec![("foo".to_owned(), "10.0.0.1".parse().expect("an address"))];
    let limit = |name: &str, soft, hard| Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    };
    step.process.ulimits = vec![limit("nofile", 1024, 2048), limit("nproc", 10, 20)];
    step.mounts = vec![StepMount {
        dest: "/dev/shm".to_owned(),
        source: MountSource::Tmpfs {
            size: 1 << 20,
            options: vec![],
        },
        selector: None,
        readonly: false,
    }];
    let ran = pair.agree("settings", &step).await;
    assert!(
        ran.stdout
            .ends_with("10.0.0.1\tfoo\nhst\n1024\n2048\n10\n1024\n"),
        "{ran:?}"
    );

    let mut step = pair.sandbox.shell("pwd; stat -c '%u %g %a' . ..");
    step.process.cwd = "/made/here".to_owned();
    step.process.user = "bob".to_owned();
    for ran in pair.both_keeping(&step).await {
        assert_eq!(ran.ok(), "/made/here\n1234 3000 755\n1234 3000 755\n");
    }

    let mut step = pair.sandbox.shell("exit 7");
    step.process.valid_exit_codes = vec![7];
    assert_eq!(pair.agree("valid code", &step).await.code(), 0);
    step.process.args[2] = "exit 0".to_owned();
    assert!(
        pair.agree("code 0 that is not listed", &step)
            .await
            .result
            .is_err()
    );
}

impl Pair {
    /// As `both`, for steps that are meant to leave something in the root.
    async fn both_keeping(&self, step: &Step) -> [Ran; 2] {
        let ours = run(
            &self.embedded,
            Step {
                id: identity::new_id(),
                ..step.clone()
            },
        )
        .await;
        std::fs::remove_dir_all(self.sandbox.root().join("made")).expect("it was made");
        let theirs = run(
            &self.runc,
            Step {
                id: identity::new_id(),
                ..step.clone()
            },
        )
        .await;
        std::fs::remove_dir_all(self.sandbox.root().join("made")).expect("it was made");
        [ours, theirs]
    }
}

#[tokio::test]
async fn networks() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let mut step = pair
        .sandbox
        .shell("ls /sys/class/net; ip -o addr | grep -o 'inet[^/]*'; readlink /proc/self/ns/net");
    for mode in [NetMode::Sandbox, NetMode::Host] {
        step.process.network = mode;
        pair.agree("shared", &step).await;
    }
    let mut step = pair.sandbox.shell("ls /sys/class/net; ip -o addr | grep -o 'inet[^/]*'; cat /sys/class/net/lo/operstate; ping -c1 -w1 127.0.0.1 > /dev/null; echo $?");
    step.process.network = NetMode::None;
    let ran = pair.agree("none", &step).await;
    assert!(ran.stdout.starts_with("lo\ninet 127.0.0.1\n"), "{ran:?}");
}

#[tokio::test]
async fn insecure_steps() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let mut step = pair.sandbox.shell(
        "grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/1/status; ls /dev /dev/net; true < /dev/fuse; echo $?; cat /sys/fs/cgroup/devices/devices.list; \
         mount -t tmpfs none /tmp && echo mounted; unshare -m true; echo $?; cat /proc/sys/kernel/hostname",
    );
    step.process.security = Security::Insecure;
    pair.agree("root", &step).await;
    step.process.user = "bob".to_owned();
    pair.agree("bob", &step).await;
}

#[tokio::test]
async fn limits_of_the_control_group() {
    testkit::require!(root, busybox, runc);
    if !std::path::Path::new("/sys/fs/cgroup/memory").exists() {
        return;
    }
    let pair = Pair::new();
    let mut step = pair.sandbox.shell(
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us \
         cpuset/cpuset.cpus; sh -c 'tail /dev/zero'; echo $?",
    );
    step.process.resources = executor::Resources {
        memory: 32 << 20,
        cpu_shares: 512,
        cpu_period: 50_000,
        cpu_quota: 25_000,
        cpuset_cpus: "0".to_owned(),
        ..executor::Resources::default()
    };
    let ran = pair.agree("limits", &step).await;
    assert_eq!(
        ran.stdout, "33554432\n512\n25000\n50000\n0\n137\n",
        "{ran:?}"
    );
    step.process.args = ["/bin/tail", "/dev/zero"].map(str::to_owned).to_vec();
    assert_eq!(pair.agree("killed for memory", &step).await.code(), 137);
}

#[tokio::test]
async fn steps_tell_what_they_used() {
    use executor::usage::{Closely, Usage};
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    for executor in [&pair.embedded as &dyn Executor, &pair.runc] {
        for (script, code) in [
            ("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done", 0),
            ("exit 3", 3),
        ] {
            let usage = std::sync::Arc::new(Usage::new(Closely::Always));
            let mut step = pair.sandbox.shell(script);
            step.usage = Some(usage.clone());
            assert_eq!(run(executor, step).await.code(), code);
            let samples = usage.samples().expect("somebody looked");
            let last = samples.samples.last().expect("a last look");
            let processors = last.cpu_stat.as_ref().expect("processors");
            assert!(processors.usage_nanos > Some(0), "{samples:?}");
            assert!(samples.machine.is_some(), "{samples:?}");
        }
        let usage = std::sync::Arc::new(Usage::new(Closely::Always));
        let mut step = pair.sandbox.step(&["/no/such/program"]);
        step.usage = Some(usage.clone());
        assert_ne!(run(executor, step).await.code(), 0);
    }
}

#[tokio::test]
async fn cancelled_steps_end_alike() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    for executor in [&pair.embedded as &dyn Executor, &pair.runc] {
        let step = pair
            .sandbox
            .shell("trap '' TERM; echo up; while :; do sleep 0.1; done");
        let ran = common::run_until(executor, "up\n", step).await;
        assert_eq!(
            ran.result.expect_err("killed").to_string(),
            "exit code: 137: context canceled"
        );
        assert_eq!(ran.stdout, "up\n");
    }
    let left = tree(&pair.sandbox.path("runc"));
    let kept = ["hosts", "resolv.conf", "runc-log.json"];
    assert!(
        left.iter().all(|path| kept.contains(&path.as_str())),
        "{left:?}"
    );
}

#[tokio::test]
async fn abandoned_steps_are_killed_and_removed() {
    testkit::require!(root, busybox, runc);
    let pair = Pair::new();
    let alive = pair.sandbox.root().join("alive");
    for executor in [&pair.embedded as &dyn Executor, &pair.runc] {
        let step = pair
            .sandbox
            .shell("while :; do touch /alive; echo alive; sleep 0.05; done");
        common::abandon_after(executor, "alive\n", step).await;
        common::until_nobody_makes(&alive).await;
    }
    // What is left is removed in the background.
    let begun = std::time::Instant::now();
    loop {
        let left = tree(&pair.sandbox.path("runc"));
        let kept = ["hosts", "resolv.conf", "runc-log.json"];
        if left.iter().all(|path| kept.contains(&path.as_str())) {
            break;
        }
        assert!(begun.elapsed() < common::PATIENCE, "{left:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn steps_without_a_process_namespace() {
    testkit::require!(root, busybox, runc);
    let sandbox = Sandbox::new();
    let settings = executor::Settings {
        no_process_sandbox: true,
        ..sandbox.settings("embedded")
    };
    let runtime = Runtime::new(settings).expect("starts");
    let step = sandbox.shell("readlink /proc/self/ns/pid; (sleep 100; echo late) & echo done");
    let out = run(&runtime, step).await.ok();
    let own = std::fs::read_link("/proc/self/ns/pid").expect("a link");
    assert_eq!(out, format!("{}\ndone\n", own.display()));
}

/// Runs all of the above once more where only the unified hierarchy is seen.
#[test]
fn on_a_host_with_the_unified_hierarchy_alone() {
    testkit::require!(root, busybox, runc);
    if std::path::Path::new("/sys/fs/cgroup/cgroup.subtree_control").exists() {
        return;
    }
    let this = std::env::current_exe().expect("known");
    let script =
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\" --skip unified --skip probe";
    let output = std::process::Command::new("/bin/busybox")
        .args(["unshare", "-m", "/bin/busybox", "sh", "-c", script])
        .arg(this)
        .output()
        .expect("busybox runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
