//! Builds through the socket: what comes out, what is cached, what is said.

use std::path::Path;

use e2e::{Daemon, context, on_base};
use testkit::fixture::list;
use testkit::require;

/// Builds and returns the exported tree as text.
fn tree_of(daemon: &Daemon, context: &Path, args: &[&str]) -> (String, tempfile::TempDir) {
    let out = tempfile::tempdir().expect("a temporary directory");
    let output = format!("--output=type=local,dest={}", out.path().display());
    daemon
        .build(context, &[&[output.as_str()], args].concat())
        .ok();
    (list(out.path()).expect("listed"), out)
}

/// One case: a Dockerfile on the shell base, further files, and the tree that comes out.
fn check(dockerfile: &str, files: &str, args: &[&str], expected: &str) {
    let daemon = Daemon::start();
    let context = on_base(dockerfile, files);
    let (tree, _out) = tree_of(&daemon, context.path(), args);
    assert_eq!(tree, expected);
}

#[test]
fn a_multi_stage_build_exports_what_the_last_stage_copied() {
    require!(root, busybox);
    check(
        "FROM base AS build\nWORKDIR /src\nCOPY a.txt .\nRUN cat a.txt a.txt > b.txt\nFROM scratch\nCOPY --from=build /src/b.txt /out/",
        "//- a.txt\nhello",
        &[],
        "out/ 0755\nout/b.txt 0644 12",
    );
}

#[test]
fn modes_links_and_directories_are_kept() {
    require!(root, busybox);
    check(
        "FROM scratch\nCOPY d /d\nCOPY --chmod=0600 d/x /y",
        "//- d/x mode=0755\nx\n//- d/l -> x\n//- d/sub/ mode=0700",
        &[],
        "d/ 0755\nd/l -> x\nd/sub/ 0700\nd/x 0755 2\ny 0600 2",
    );
}

#[test]
fn arguments_and_environment_reach_the_process() {
    require!(root, busybox);
    check(
        "ARG A=default\nARG B\nENV C=\"$A-c\"\nRUN mkdir /out && echo -n \"$A $B $C\" > /out/r\nFROM scratch\nCOPY --from=base /out /",
        "",
        &["--opt=build-arg:A=12", "--opt=build-arg:B=345"],
        "r 0644 11",
    );
}

#[test]
fn a_target_other_than_the_last_stage_can_be_chosen() {
    require!(root, busybox);
    check(
        "FROM scratch AS one\nCOPY x /one\nFROM scratch AS two\nCOPY x /two",
        "//- x\n1",
        &["--opt=target=one"],
        "one 0644 2",
    );
}

#[test]
fn excluded_files_are_not_in_the_context() {
    require!(root, busybox);
    check(
        "FROM scratch\nCOPY . /",
        "//- .dockerignore\n*\n!keep\n//- keep/a\na\n//- drop/b\nb",
        &[],
        "keep/ 0755\nkeep/a 0644 2",
    );
}

#[test]
fn wildcards_pick_files() {
    require!(root, busybox);
    check(
        "FROM scratch\nCOPY *.txt sub?/ /o/",
        "//- a.txt\na\n//- b.txt\nb\n//- c.md\nc\n//- sub1/z\nz",
        &[],
        "o/ 0755\no/a.txt 0644 2\no/b.txt 0644 2\no/z 0644 2",
    );
}

#[test]
fn a_step_sees_what_earlier_steps_removed_and_replaced() {
    require!(root, busybox);
    check(
        "RUN mkdir -p /d/e && echo 1 > /d/f && echo 2 > /d/e/g\nRUN rm -r /d/e && echo 333 > /d/f && ln -s f /d/l\nFROM scratch\nCOPY --from=base /d /d",
        "",
        &[],
        "d/ 0755\nd/f 0644 4\nd/l -> f",
    );
}

#[test]
fn users_and_owners_by_name() {
    require!(root, busybox);
    check(
        "RUN mkdir -p /etc && echo 'bob:x:1001:1002::/:/bin/sh' > /etc/passwd && echo 'staff:x:1002:' > /etc/group\nCOPY --chown=bob:staff x /x\nRUN mkdir -m 777 /w\nUSER bob\nRUN id -u > /w/u && id -g >> /w/u && stat -c %u:%g /x >> /w/u\nFROM scratch\nCOPY --from=base /w/u /",
        "//- x\n1",
        &[],
        "u 0644 20",
    );
}

#[test]
fn the_second_build_is_cached_also_after_a_restart() {
    require!(root, busybox);
    let mut daemon = Daemon::start();
    let context = on_base("WORKDIR /w\nCOPY a a\nRUN echo $RANDOM > b", "//- a\n1");
    let first = daemon.build(context.path(), &[]).ok();
    assert_eq!(first.cached(), 0, "{}", first.text);
    let second = daemon.build(context.path(), &[]).ok();
    assert_eq!(second.cached(), 5, "{}", second.text);
    daemon.restart();
    let third = daemon.build(context.path(), &[]).ok();
    assert_eq!(third.cached(), 5, "{}", third.text);
}

#[test]
fn a_changed_file_runs_what_depends_on_it_and_nothing_else() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN echo 1 > /one\nCOPY a /a\nRUN cat /a > /b", "//- a\n1");
    daemon.build(context.path(), &[]).ok();
    std::fs::write(context.path().join("a"), "2").expect("written");
    let second = daemon.build(context.path(), &[]).ok();
    assert_eq!(second.cached(), 3, "{}", second.text);
    std::fs::write(context.path().join("unused"), "2").expect("written");
    let third = daemon.build(context.path(), &[]).ok();
    assert_eq!(third.cached(), 5, "{}", third.text);
}

#[test]
fn no_cache_runs_everything_again() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN echo 1 > /one", "");
    daemon.build(context.path(), &[]).ok();
    let again = daemon.build(context.path(), &["--no-cache"]).ok();
    assert_eq!(again.cached(), 0, "{}", again.text);
    let third = daemon.build(context.path(), &[]).ok();
    assert_eq!(third.cached(), 3, "{}", third.text);
}

#[test]
fn no_cache_empties_cache_mounts_once() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base(
        "RUN --mount=type=cache,target=/c echo x >> /c/f\nRUN --mount=type=cache,target=/c cat /c/f > /n\nFROM scratch\nCOPY --from=base /n /",
        "",
    );
    for _ in 0..2 {
        let (tree, _out) = tree_of(&daemon, context.path(), &["--no-cache"]);
        assert_eq!(tree, "n 0644 2", "one line, of this build");
    }
}

#[test]
fn a_cache_that_cannot_be_imported_stops_no_build() {
    require!(root, busybox);
    check(
        "FROM scratch\nCOPY x /",
        "//- x\n1",
        &["--import-cache=type=registry,ref=localhost:1/none:latest"],
        "x 0644 2",
    );
}

#[test]
fn a_failing_step_names_itself_and_its_line() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN echo before && exit 42", "");
    let build = daemon.build(context.path(), &[]);
    let build = build.fails_with("did not complete successfully: exit code: 42");
    assert!(build.text.contains("Dockerfile:5"), "{}", build.text);
    assert!(build.text.contains(">>> RUN echo before"), "{}", build.text);
}

#[test]
fn a_missing_source_is_named() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("COPY nope /x", "");
    daemon
        .build(context.path(), &[])
        .fails_with("\"/nope\": not found");
}

#[test]
fn wrong_dockerfiles_are_refused_with_the_line() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let cases = [
        ("RUNN true", "unknown instruction: RUNN (did you mean RUN?)"),
        (
            "COPY --form=base /a /b",
            "unknown flag: --form (did you mean from?)",
        ),
        ("FROM nostage", "nostage"),
        ("COPY a", "COPY requires at least two arguments"),
    ];
    for (line, text) in cases {
        let context = on_base(line, "");
        daemon.build(context.path(), &[]).fails_with(text);
    }
    daemon
        .build(on_base("", "").path(), &["--opt=target=zz"])
        .fails_with("target stage \"zz\" could not be found");
}

#[test]
fn a_folder_without_a_dockerfile_is_refused() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let text = "failed to read dockerfile: open Dockerfile: no such file or directory";
    daemon
        .build(context("//- x\n1").path(), &[])
        .fails_with(text);
}

#[test]
fn unknown_outputs_are_refused() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("", "");
    let start = std::time::Instant::now();
    daemon
        .build(context.path(), &["--output=type=nosuch"])
        .fails_with("exporter \"nosuch\" could not be found");
    // A stock daemon has its clients wait for a build that never comes.
    if e2e::is_ours() {
        let took = start.elapsed();
        assert!(took < std::time::Duration::from_secs(3), "{took:?}");
    }
}

#[test]
fn a_tar_can_be_written() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("FROM scratch\nCOPY x /d/x", "//- x\n1");
    let out = tempfile::tempdir().expect("a temporary directory");
    let tar = out.path().join("o.tar");
    daemon
        .build(
            context.path(),
            &[&format!("--output=type=tar,dest={}", tar.display())],
        )
        .ok();
    let listed = std::process::Command::new("tar")
        .arg("tf")
        .arg(&tar)
        .output()
        .expect("tar runs");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "d/\nd/x\n");
}

#[test]
fn an_oci_archive_holds_the_image() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("FROM scratch\nCOPY x /x\nENV A=b\nCMD [\"/x\"]", "//- x\n1");
    let out = tempfile::tempdir().expect("a temporary directory");
    let tar = out.path().join("o.tar");
    let output = format!(
        "--output=type=oci,name=example.com/a/b:c,dest={}",
        tar.display()
    );
    daemon.build(context.path(), &[&output]).ok();
    let status = std::process::Command::new("tar")
        .arg("xf")
        .arg(&tar)
        .arg("-C")
        .arg(out.path())
        .status()
        .expect("tar runs");
    assert!(status.success());
    let read = |path: &str| -> serde_json::Value {
        let text = std::fs::read(out.path().join(path)).expect("it is there");
        serde_json::from_slice(&text).expect("JSON")
    };
    let blob = |digest: &serde_json::Value| {
        read(
            &digest
                .as_str()
                .expect("a digest")
                .replace("sha256:", "blobs/sha256/"),
        )
    };
    let index = read("index.json");
    let entry = &index["manifests"][0];
    assert_eq!(
        entry["annotations"]["io.containerd.image.name"],
        "example.com/a/b:c"
    );
    let manifest = blob(&entry["digest"]);
    let config = blob(&manifest["config"]["digest"]);
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["/x"]));
    assert_eq!(manifest["layers"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        config["rootfs"]["diff_ids"].as_array().map(Vec::len),
        Some(1)
    );
}

#[test]
fn two_daemons_do_not_share_a_state_directory() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let second = std::process::Command::new(e2e::buildkitd())
        .arg("--root")
        .arg(daemon.root())
        .args(["--addr", "unix:///tmp/never-bound.sock"])
        .output()
        .expect("it runs");
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("could not lock"), "{text}");
}

#[test]
fn workers_and_versions_are_told() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let workers = daemon
        .client(&["debug", "workers"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&workers.stdout).into_owned();
    assert!(text.contains("linux/amd64"), "{text}");
    let info = daemon.client(&["debug", "info"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&info.stdout).into_owned();
    assert!(text.contains("BuildKit:"), "{text}");
}
