//! What `docker buildx` users do, with the binary that `E2E_BUILDX` names.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{Daemon, context, on_base, skipped_unless};
use tempfile::TempDir;
use testkit::fixture::list;
use testkit::require;

/// buildx, told of one daemon.
struct Buildx {
    binary: OsString,
    home: TempDir,
}

impl Buildx {
    /// None, and it says so, where nobody names the binary.
    fn of(daemon: &Daemon) -> Option<Self> {
        let binary = std::env::var_os("E2E_BUILDX");
        skipped_unless(binary.is_some(), "E2E_BUILDX does not say where buildx is");
        let binary = binary?;
        let home = tempfile::tempdir().expect("a temporary directory");
        let buildx = Self { binary, home };
        let address = daemon.address();
        buildx.run(
            Path::new("/"),
            &["create", "--name=e2e", "--driver=remote", &address],
        );
        Some(buildx)
    }

    /// What it prints on standard output. It must succeed.
    fn run(&self, dir: &Path, args: &[&str]) -> String {
        let output = Command::new(&self.binary)
            .args(args)
            .current_dir(dir)
            .env("HOME", self.home.path())
            .env("BUILDX_BUILDER", "e2e")
            .env("E2E_WORD", "from the environment")
            .stdin(Stdio::null())
            .output()
            .expect("buildx runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).expect("text")
    }
}

#[test]
fn builds_get_secrets_contexts_caches_and_documents() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let Some(buildx) = Buildx::of(&daemon) else {
        return;
    };
    let files = on_base(
        "RUN --mount=type=secret,id=file --mount=type=secret,id=word,env=WORD mkdir /o && cat /run/secrets/file > /o/secret && echo \"$WORD\" > /o/word\n\
         RUN --mount=type=cache,target=/c echo x >> /c/f && cp /c/f /o/cached\n\
         RUN <<EOF\necho one > /o/document\necho two >> /o/document\nEOF\n\
         FROM scratch\nCOPY --from=base /o /\nCOPY --from=more data /data\nCOPY --from=layout /a /layout\n",
        "//- secret\ns\n//- more/data\nd\n//- first/Dockerfile\nFROM scratch\nCOPY a /a\n//- first/a\na\n",
    );
    let run = |args: &[&str]| buildx.run(files.path(), args);
    run(&[
        "build",
        "--provenance=false",
        "-otype=oci,dest=layout,tar=false,name=x:v1",
        "first",
    ]);
    run(&[
        "build",
        "--secret=id=file,src=secret",
        "--secret=id=word,env=E2E_WORD",
        "--build-context=more=more",
        "--build-context=layout=oci-layout://layout:v1",
        "-otype=local,dest=out",
        ".",
    ]);
    let read = |name: &str| {
        let path = files.path().join("out").join(name);
        std::fs::read_to_string(path).expect("it is there")
    };
    assert_eq!(read("secret"), "s\n");
    assert_eq!(read("word"), "from the environment\n");
    assert_eq!(read("cached"), "x\n");
    assert_eq!(read("document"), "one\ntwo\n");
    assert_eq!(
        (read("data"), read("layout")),
        ("d\n".to_owned(), "a\n".to_owned())
    );
}

#[test]
fn calls_are_answered() {
    require!(root);
    let daemon = Daemon::start();
    let Some(buildx) = Buildx::of(&daemon) else {
        return;
    };
    let files = context(
        "//- Dockerfile\n# VERSION of it\nARG VERSION=1\n# app is all\nFROM scratch AS app\nARG VERSION\nCOPY a /\n//- a\n",
    );
    let call = |call: &str| {
        let call = format!("--call={call}");
        buildx.run(files.path(), &["build", "--progress=quiet", &call, "."])
    };
    assert_eq!(call("check"), "Check complete, no warnings found.\n");
    assert_eq!(
        call("targets"),
        "TARGET        DESCRIPTION\napp (default) is all\n"
    );
    assert_eq!(
        call("outline"),
        "TARGET:      app\nDESCRIPTION: is all\n\nBUILD ARG   VALUE   DESCRIPTION\nVERSION     1       of it\n\n"
    );
}

#[test]
fn a_file_of_targets_with_a_matrix_is_baked() {
    require!(root);
    let daemon = Daemon::start();
    let Some(buildx) = Buildx::of(&daemon) else {
        return;
    };
    let files = context(
        r#"//- Dockerfile
FROM scratch AS tool
COPY a /tool
FROM scratch AS app
COPY --from=shared /tool /app
FROM scratch AS doc
ARG FORMAT LANGUAGE
COPY a /doc-${LANGUAGE}.${FORMAT}
//- a
1
//- docker-bake.hcl
group "default" {
  targets = ["app", "tool", "doc"]
}
target "tool" {
  target = "tool"
  output = ["type=local,dest=out/tool"]
}
target "app" {
  target = "app"
  contexts = { shared = "target:tool" }
  output = ["type=local,dest=out/app"]
}
target "doc" {
  name = "doc-${format}-${language}"
  matrix = {
    format = ["html", "txt"]
    language = ["de", "en"]
  }
  target = "doc"
  args = { FORMAT = format, LANGUAGE = language }
  output = ["type=local,dest=out/docs-${format}-${language}"]
}
"#,
    );
    buildx.run(files.path(), &["bake", "--allow=fs=*", "--progress=plain"]);
    let tree = list(&files.path().join("out")).expect("listed");
    for file in [
        "tool/tool",
        "app/app",
        "docs-html-de/doc-de.html",
        "docs-html-en/doc-en.html",
        "docs-txt-de/doc-de.txt",
        "docs-txt-en/doc-en.txt",
    ] {
        assert!(
            tree.lines()
                .any(|line| line.starts_with(&format!("{file} "))),
            "{file}: {tree}"
        );
    }
}
