//! Builds on record, and why steps ran.

use std::io::BufRead as _;
use std::process::Stdio;

use e2e::{Build, Daemon, on_base};
use testkit::require;

fn call(daemon: &Daemon, args: &[&str]) -> Build {
    let output = daemon.client(args).output().expect("the client runs");
    Build::of(output)
}

/// Type and ref of every build, in the order of the list.
fn list(daemon: &Daemon) -> Vec<(String, String)> {
    let text = call(daemon, &["debug", "histories"]).ok().text;
    let row = |line: &str| {
        let mut cells = line.split_whitespace().map(str::to_owned);
        Some((cells.next()?, cells.next()?))
    };
    text.lines().skip(1).filter_map(row).collect()
}

/// The ref of the only build on record.
fn only(daemon: &Daemon) -> String {
    let mut list = list(daemon);
    assert_eq!(list.len(), 1, "{list:?}");
    list.remove(0).1
}

#[test]
fn a_build_is_on_record_with_its_log_and_its_spans() {
    require!(root, busybox);
    let mut daemon = Daemon::start();
    let context = on_base("RUN echo printed", "");
    daemon.build(context.path(), &[]).ok();
    let name = only(&daemon);
    // The spans may take a moment.
    let spans = |daemon: &Daemon| call(daemon, &["debug", "logs", "--trace", &name]);
    let found = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let spans = spans(&daemon);
        spans.code == 0 && spans.text.contains("RUN echo printed")
    });
    assert!(found, "{}", spans(&daemon).text);
    daemon.restart();
    spans(&daemon).ok();
    let log = call(&daemon, &["debug", "logs", "--progress=plain", &name]).ok();
    assert!(log.text.contains(" printed\n"), "{}", log.text);
    call(&daemon, &["debug", "ctl", "--pin", &name]).ok();
    call(&daemon, &["prune-histories"]).ok();
    assert_eq!(only(&daemon), name, "it is pinned");
    call(&daemon, &["debug", "ctl", "--unpin", &name]).ok();
    call(&daemon, &["prune-histories"]).ok();
    assert!(list(&daemon).is_empty());
    // The stock daemon keeps what was followed by name once.
    if e2e::is_ours() {
        call(&daemon, &["debug", "ctl", "--pin", &name]).fails_with("file does not exist");
    }
}

#[test]
fn failures_are_on_record_too() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN echo printed && exit 3\nRUN echo never", "");
    let build = daemon.build(context.path(), &[]).fails_with("exit code: 3");
    if e2e::is_ours() && e2e::is_our_client() {
        assert!(build.text.contains(" SKIPPED\n"), "{}", build.text);
    }
    let name = only(&daemon);
    let log = call(&daemon, &["debug", "logs", "--progress=plain", &name]);
    assert!(log.text.contains("exit code: 3"), "{}", log.text);
    let json = call(&daemon, &["debug", "histories", "--format={{json .}}"]).ok();
    assert!(json.text.contains("externalError"), "{}", json.text);
}

#[test]
fn a_build_whose_client_is_killed_is_on_record_as_cancelled() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN echo begun && sleep 600", "");
    let mut client = daemon
        .client(&["build", "--progress=plain", "--frontend=dockerfile.v0"])
        .args(["context", "dockerfile"].map(|name| {
            let path = context.path().display();
            format!("--local={name}={path}")
        }))
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client runs");
    let out = client.stderr.take().expect("piped");
    let begun = std::io::BufReader::new(out)
        .lines()
        .any(|line| line.is_ok_and(|line| line.ends_with(" begun")));
    assert!(begun, "the step runs");
    assert_eq!(list(&daemon)[0].0, "STARTED");
    client.kill().expect("killed");
    client.wait().expect("gone");
    let ended = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        list(&daemon)[0].0 == "COMPLETE"
    });
    assert!(ended);
    let json = call(&daemon, &["debug", "histories", "--format={{json .}}"]).ok();
    assert!(json.text.contains("context canceled"), "{}", json.text);
}

#[test]
fn a_log_on_record_is_whole() {
    require!(root, busybox);
    if e2e::skipped_unless(e2e::is_ours(), "the stock daemon keeps what it showed") {
        return;
    }
    let daemon = Daemon::start();
    let context = on_base("RUN yes 0123456789 | head -n 500000 && echo last", "");
    let build = daemon.build(context.path(), &[]).ok();
    assert!(
        build.text.contains("[output clipped"),
        "{}",
        build.text.len()
    );
    let name = only(&daemon);
    let log = call(&daemon, &["debug", "logs", "--progress=plain", &name]).ok();
    let lines = log
        .text
        .lines()
        .filter(|line| line.ends_with(" 0123456789"));
    assert_eq!(lines.count(), 500_000);
    assert!(!log.text.contains("[output clipped"));
}

#[test]
fn secrets_in_build_arguments_are_not_kept() {
    require!(root, busybox);
    if e2e::skipped_unless(
        e2e::is_ours(),
        "the stock daemon keeps build arguments as they are",
    ) {
        return;
    }
    let daemon = Daemon::start();
    let args = ["--opt=build-arg:API_TOKEN=hush", "--opt=build-arg:V=1.2"];
    daemon.build(on_base("", "").path(), &args).ok();
    let json = call(&daemon, &["debug", "histories", "--format={{json .}}"]).ok();
    assert!(!json.text.contains("hush"), "{}", json.text);
    assert!(json.text.contains("1.2"), "{}", json.text);
}

/// What the last lines of `build --explain` say, from the first step that ran on.
fn explained(daemon: &Daemon, context: &std::path::Path, args: &[&str]) -> String {
    let args = [&["--explain"], args].concat();
    let text = daemon.build(context, &args).ok().text;
    let steps = text.rsplit("\n#").next().unwrap_or_default();
    steps
        .split_once('\n')
        .map_or(String::new(), |(_, rest)| rest.to_owned())
}

#[test]
fn a_miss_explains_itself() {
    require!(root, busybox);
    if e2e::skipped_unless(
        e2e::is_ours() && e2e::is_our_client(),
        "only our daemon explains misses, and only our client asks it to",
    ) {
        return;
    }
    let daemon = Daemon::start();
    let context = on_base(
        "ARG V=1\nRUN echo $V\nCOPY src /src\nRUN cat /src/a",
        "//- src/a\n1\n//- src/b\n1\n//- src/run.sh\n1\n",
    );
    let at = |path: &str| context.path().join("src").join(path);
    daemon.build(context.path(), &[]).ok();
    let none = explained(&daemon, context.path(), &[]);
    assert!(none.contains("no step ran"), "{none}");

    std::fs::write(at("a"), "2\n").expect("written");
    std::fs::write(at("new"), "2\n").expect("written");
    std::fs::remove_file(at("b")).expect("removed");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(at("run.sh"), mode).expect("mode set");
    let text = explained(&daemon, context.path(), &[]);
    let files =
        "   files changed: src/a src/run.sh (mode 0644 -> 0755), added: src/new, removed: src/b\n";
    assert!(text.contains(files), "{text}");
    assert!(
        text.contains("COPY src /src, which was made anew\n"),
        "{text}"
    );
    assert!(!text.contains("echo $V"), "{text}");

    let text = explained(&daemon, context.path(), &["--opt=build-arg:V=2"]);
    let argument = "   variable V changed: \"1\" -> \"2\"\n";
    assert!(text.contains(argument), "{text}");

    let dockerfile = context.path().join("Dockerfile");
    let old = std::fs::read_to_string(&dockerfile).expect("read");
    std::fs::write(&dockerfile, old.replace("cat /src/a", "cat /src/new")).expect("written");
    let text = explained(&daemon, context.path(), &["--opt=build-arg:V=2"]);
    let command = "   command changed: \"cat /src/a\" -> \"cat /src/new\"\n";
    assert!(text.contains(command), "{text}");

    // Any client can ask, and the output of the step has the answer.
    let args = ["--opt=explain=1", "--opt=build-arg:V=3"];
    let text = daemon.build(context.path(), &args).ok().text;
    assert!(text.contains(" explain: variable V changed"), "{text}");
    let name = list(&daemon).pop().map(|(_, name)| name).expect("a build");
    call(&daemon, &["debug", "explain", &name]).ok();
}

#[test]
fn another_base_explains_a_miss() {
    require!(root, busybox, registry);
    if e2e::skipped_unless(
        e2e::is_ours() && e2e::is_our_client(),
        "only our daemon explains misses, and only our client asks it to",
    ) {
        return;
    }
    let registry = testkit::registry::Registry::start();
    let daemon = Daemon::start();
    let name = format!("{}/base:1", registry.host());
    let push = |text: &str| {
        let base = on_base(&format!("RUN echo {text} > /text"), "");
        let output = format!("--output=type=image,name={name},push=true");
        daemon.build(base.path(), &[&output]).ok();
    };
    push("one");
    let context = e2e::context(&format!("//- Dockerfile\nFROM {name}\nRUN cat /text\n"));
    daemon.build(context.path(), &[]).ok();
    push("two");
    let text = explained(&daemon, context.path(), &["--opt=image-resolve-mode=pull"]);
    assert!(text.contains("   base changed: "), "{text}");
    assert!(text.matches("@sha256:").count() >= 2, "{text}");
}
