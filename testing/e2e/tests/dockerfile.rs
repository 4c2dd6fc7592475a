//! What whoever writes Dockerfiles meets: questions about a file, missing paths, several platforms.

use std::path::Path;

use e2e::{Daemon, context, is_ours, skipped_unless};
use testkit::require;

/// What the client prints for a question about the Dockerfile in `dir`.
fn ask(daemon: &Daemon, dir: &Path, request: &str) -> String {
    let mut client = daemon.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
    client.arg(format!("--local=context={}", dir.display()));
    client.arg(format!("--local=dockerfile={}", dir.display()));
    client.arg(format!("--opt=requestid={request}"));
    let output = client.output().expect("the client runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).expect("text")
}

const SERVICES: &str = "\
# VERSION of the release
ARG VERSION=1
# tools are what the rest is made with
FROM scratch AS tools
COPY a /a
# app is what is shipped
FROM tools AS app
ARG VERSION
RUN --mount=type=secret,id=token,required true
";

#[test]
fn questions_about_a_file_are_answered_on_standard_output() {
    require!(root);
    let daemon = Daemon::start();
    let files = context(&format!("//- Dockerfile\n{SERVICES}"));
    let ask = |request: &str| ask(&daemon, files.path(), request);
    assert_eq!(
        ask("frontend.targets"),
        "TARGET        DESCRIPTION\n\
         tools         are what the rest is made with\n\
         app (default) is what is shipped\n"
    );
    assert_eq!(
        ask("frontend.outline"),
        "TARGET:      app\n\
         DESCRIPTION: is what is shipped\n\n\
         BUILD ARG   VALUE   DESCRIPTION\n\
         VERSION     1       of the release\n\n\
         SECRET   REQUIRED\n\
         token    true\n\n"
    );
    assert_eq!(ask("frontend.lint"), "");
    assert!(ask("frontend.convertllb").starts_with("result.json\n{\n  \"def\": {"));
    daemon
        .build(files.path(), &["--opt", "requestid=frontend.nope"])
        .fails_with("unsupported request frontend.nope");
}

#[test]
fn findings_of_a_check_are_shown_with_their_lines() {
    require!(root);
    let daemon = Daemon::start();
    let files = context("//- Dockerfile\nFROM scratch as x\nENV a b\n");
    let shown = ask(&daemon, files.path(), "frontend.lint");
    let first = "\nWARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/\n\
                 'as' and 'FROM' keywords' casing do not match\nDockerfile:1\n";
    assert!(shown.starts_with(first), "{shown}");
    assert!(shown.contains("   2 | >>> ENV a b\n"), "{shown}");
}

#[test]
fn a_missing_path_is_explained() {
    require!(root);
    if skipped_unless(is_ours(), "the stock daemon only knows that it is missing") {
        return;
    }
    let daemon = Daemon::start();
    let files = context(
        "//- Dockerfile\n\
         FROM scratch AS ignored\nCOPY app.log /\n\
         FROM scratch AS inside\nCOPY logs /\n\
         FROM scratch AS similar\nCOPY src/mian.rs /\n\
         FROM scratch AS nothing\nCOPY src/x/y /\n\
         FROM scratch AS have\nCOPY src /src\n\
         FROM scratch AS stage\nCOPY --from=have /src/main.rsx /\n\
         FROM scratch AS named\nCOPY --from=more Makefle /\n\
         //- .dockerignore\n# logs\n\n*.log\nlogs/\n\
         //- app.log\n1\n//- logs/a\n1\n//- src/main.rs\n1\n//- Makefile\n1\n",
    );
    let here = files.path().display().to_string();
    let fails = |target: &str, hint: &str| {
        let target = format!("target={target}");
        let local = format!("more={here}");
        let args = [
            "--opt",
            &target,
            "--opt",
            "context:more=local:more",
            "--local",
            &local,
        ];
        daemon.build(files.path(), &args).fails_with(hint);
    };
    fails(
        "ignored",
        "\"/app.log\": not found (line 3 of .dockerignore excludes it: *.log)",
    );
    fails(
        "inside",
        "\"/logs\": not found (line 4 of .dockerignore excludes it: logs/)",
    );
    fails(
        "similar",
        "\"/src/mian.rs\": not found (did you mean \"/src/main.rs\"?)",
    );
    fails(
        "nothing",
        "\"/src/x/y\": not found (the nearest path that exists is \"/src\")",
    );
    fails(
        "stage",
        "\"/src/main.rsx\": not found (did you mean \"/src/main.rs\"?)",
    );
    fails(
        "named",
        "\"/Makefle\": not found (did you mean \"/Makefile\"?)",
    );
}

#[test]
fn results_of_several_platforms_lie_side_by_side() {
    require!(root);
    let daemon = Daemon::start();
    let files =
        context("//- Dockerfile\nFROM scratch\nARG TARGETARCH\nCOPY a /${TARGETARCH}\n//- a\n1\n");
    let out = tempfile::tempdir().expect("a temporary directory");
    let local = format!("--output=type=local,dest={}", out.path().display());
    let platforms = "platform=linux/amd64,linux/arm/v7";
    daemon
        .build(files.path(), &[&local, "--opt", platforms])
        .ok();
    for file in ["linux_amd64/amd64", "linux_arm_v7/arm"] {
        assert!(out.path().join(file).is_file(), "{file}");
    }
    let names = std::fs::read_dir(out.path()).expect("a folder");
    assert_eq!(names.count(), 2);
}

#[test]
fn the_same_platform_may_be_asked_for_twice() {
    require!(root);
    let daemon = Daemon::start();
    let files = context("//- Dockerfile\nFROM scratch\nCOPY a /\n//- a\n1\n");
    let platforms = "platform=linux/amd64,linux/amd64";
    daemon.build(files.path(), &["--opt", platforms]).ok();
}
