//! Steps of a daemon that is root in a user namespace only.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use common::{Sandbox, run};
use executor::Settings;
use runtime::Runtime;

/// Runs the test below in a user namespace, which is what makes it one.
#[test]
fn steps_run_without_being_root_of_the_machine() {
    testkit::require!(root, busybox);
    let this = std::env::current_exe().expect("known");
    let script = "echo made; read go && exec \"$0\" --ignored --exact inside";
    let mut child = Command::new("/bin/busybox")
        .args(["unshare", "-U", "-m", "/bin/busybox", "sh", "-c", script])
        .arg(this)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("busybox runs");
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("readable");
    assert_eq!(line, "made\n", "no user namespace");
    for map in ["uid_map", "gid_map"] {
        // The same ids, but not all of them: files of root stay in reach, and the namespace is another all the same.
        let path = format!("/proc/{}/{map}", child.id());
        std::fs::write(path, "0 0 65536").expect("root may map what it likes");
    }
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(b"go\n").expect("it waits");
    let rest: Vec<String> = said.lines().map_while(Result::ok).collect();
    let status = child.wait().expect("ended");
    assert!(status.success(), "{}", rest.join("\n"));
    assert!(
        rest.iter().any(|line| line.contains("1 passed")),
        "{rest:?}"
    );
}

#[tokio::test]
#[ignore = "run in a user namespace by the test above"]
async fn inside() {
    assert!(mount::probe::in_user_namespace());
    let sandbox = Sandbox::new();
    let settings = Settings {
        rootless: true,
        ..sandbox.settings("embedded")
    };
    let embedded = Runtime::new(settings.clone()).expect("starts");
    let script = "id -u; readlink /proc/self/root; echo x > /dev/null; head -c3 /dev/zero | wc -c; \
        ls /proc/1/fd > /dev/null && echo proc; echo $$; ls -d /sys 2>/dev/null; stat -c %F /dev/tty /dev/ptmx; \
        echo x > /proc/sys/kernel/domainname || echo closed; mount -t tmpfs none /tmp 2>/dev/null || echo forbidden";
    let out = run(&embedded, sandbox.shell(script)).await.ok();
    assert_eq!(
        out,
        "0\n/\n3\nproc\n1\ncharacter special file\nsymbolic link\nclosed\nforbidden\n"
    );

    let mut step = sandbox.shell("id; touch /tmp/f && stat -c %U /tmp/f");
    step.process.user = "bob".to_owned();
    let out = run(&embedded, step).await.ok();
    assert_eq!(
        out,
        "uid=1234(bob) gid=3000(g1) groups=3000(g1),3001(g2),3002(g3)\nbob\n"
    );

    let overlay = sandbox.path("overlay");
    for name in ["upper", "work"] {
        std::fs::create_dir_all(overlay.join(name)).expect("writable");
    }
    let mut step = sandbox.shell("rm -r /home && mkdir /home && echo 1 > /home/new");
    step.root = mount::Mount::Overlay {
        lower: vec![sandbox.root()],
        upper: Some(mount::Upper {
            dir: overlay.join("upper"),
            work: overlay.join("work"),
        }),
        options: mount::probe::overlay_options(),
    };
    run(&embedded, step).await.ok();
    assert!(overlay.join("upper/home/new").exists() && sandbox.root().join("home/bob").exists());

    let settings = Settings {
        no_process_sandbox: true,
        ..settings
    };
    let shared = Runtime::new(settings).expect("starts");
    let out = run(
        &shared,
        sandbox.shell("readlink /proc/self/ns/pid; cat /proc/version | wc -l"),
    )
    .await
    .ok();
    let own = std::fs::read_link("/proc/self/ns/pid").expect("a link");
    assert_eq!(out, format!("{}\n1\n", own.display()));
}
