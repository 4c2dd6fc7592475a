//! Where results go: registries, archives, files with metadata, progress for programs.

use std::path::Path;
use std::process::Command;

use e2e::{Build, Daemon, context, on_base};
use serde_json::Value;
use tempfile::TempDir;
use testkit::fixture::list;
use testkit::registry::{Registry, free_port};
use testkit::require;

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    serde_json::from_slice(&bytes).expect("JSON")
}

fn unpack(archive: &Path) -> TempDir {
    let dir = temp();
    let status = Command::new("tar")
        .arg("xf")
        .arg(archive)
        .arg("-C")
        .arg(dir.path())
        .status()
        .expect("tar runs");
    assert!(status.success());
    dir
}

#[test]
fn a_pushed_image_can_be_built_on() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let daemon = Daemon::start();
    let name = format!("{}/team/app:v1", registry.host());
    let dir = temp();
    let metadata = dir.path().join("metadata.json");
    let pushed = on_base("FROM scratch\nCOPY x /x\nENV A=b", "//- x\nhello");
    daemon
        .build(
            pushed.path(),
            &[
                &format!("--output=type=image,name={name},push=true"),
                "--metadata-file",
                &metadata.display().to_string(),
            ],
        )
        .ok();
    let metadata = json(&metadata);
    assert_eq!(metadata["image.name"], name.as_str());
    let descriptor = &metadata["containerimage.descriptor"];
    assert_eq!(descriptor["digest"], metadata["containerimage.digest"]);
    let kind = descriptor["mediaType"].as_str().expect("a media type");
    let body = registry.get("/v2/team/app/manifests/v1", kind);
    assert_eq!(descriptor["size"], body.len());

    let other = Daemon::start();
    let next = context(&format!(
        "//- Dockerfile\nFROM {name}\nCOPY y /y\n//- y\n12"
    ));
    let out = temp();
    let output = format!("--output=type=local,dest={}", out.path().display());
    other.build(next.path(), &[&output]).ok();
    let tree = list(out.path()).expect("listed");
    assert_eq!(tree, "x 0644 6\ny 0644 3");
}

#[test]
fn a_missing_tag_is_said_to_be_missing() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let daemon = Daemon::start();
    let name = format!("{}/no/such:tag", registry.host());
    let context = context(&format!("//- Dockerfile\nFROM {name}\n"));
    let build = daemon.build(context.path(), &[]).fails_with("not found");
    assert!(build.text.contains(&name), "{}", build.text);
    assert!(build.text.contains("Dockerfile:1"), "{}", build.text);
}

#[test]
fn a_registry_that_is_down_is_named() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let host = format!("127.0.0.1:{}", free_port());
    let from = context(&format!("//- Dockerfile\nFROM {host}/a:b\n"));
    let build = daemon
        .build(from.path(), &[])
        .fails_with("connection refused");
    assert!(build.text.contains(&host), "{}", build.text);
    let push = format!("--output=type=image,name={host}/a:b,push=true");
    let build = daemon.build(on_base("", "").path(), &[&push]);
    let build = build.fails_with("connection refused");
    let told = format!("error: failed to solve: failed to push {host}/a:b: ");
    assert!(build.text.contains(&told), "{}", build.text);
}

#[test]
fn a_docker_archive_names_its_image_and_layers() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base(
        "FROM scratch\nCOPY x /x\nCOPY x /y\nCMD [\"/x\"]",
        "//- x\n1",
    );
    let dir = temp();
    let tar = dir.path().join("o.tar");
    let output = format!(
        "--output=type=docker,name=example.com/a/b:c,dest={}",
        tar.display()
    );
    daemon.build(context.path(), &[&output]).ok();
    let tree = unpack(&tar);
    let manifest = json(&tree.path().join("manifest.json"));
    assert_eq!(
        manifest[0]["RepoTags"],
        serde_json::json!(["example.com/a/b:c"])
    );
    let layers = manifest[0]["Layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert!(tree.path().join(layer.as_str().expect("a path")).is_file());
    }
    let config = json(
        &tree
            .path()
            .join(manifest[0]["Config"].as_str().expect("a path")),
    );
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["/x"]));
}

#[test]
fn archives_go_to_standard_output() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("FROM scratch\nCOPY x /x", "//- x\n1");
    let mut client = daemon.client(&["build", "--progress=quiet", "--frontend=dockerfile.v0"]);
    let output = client
        .arg(format!("--local=context={}", context.path().display()))
        .arg(format!("--local=dockerfile={}", context.path().display()))
        .arg("--output=type=tar,dest=-")
        .output()
        .expect("the client runs");
    assert!(output.status.success());
    let dir = temp();
    let tar = dir.path().join("o.tar");
    std::fs::write(&tar, output.stdout).expect("written");
    assert_eq!(list(unpack(&tar).path()).expect("listed"), "x 0644 2");
}

#[test]
fn an_oci_layout_can_be_a_folder() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("FROM scratch\nCOPY x /x", "//- x\n1");
    let dir = temp();
    let output = format!("--output=type=oci,tar=false,dest={}", dir.path().display());
    daemon.build(context.path(), &[&output]).ok();
    let index = json(&dir.path().join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let manifest = json(&dir.path().join("blobs").join(digest.replace(':', "/")));
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    assert!(
        dir.path()
            .join("blobs")
            .join(layer.replace(':', "/"))
            .is_file()
    );
}

#[test]
fn an_image_in_a_folder_can_be_built_on() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let dir = temp();
    let output = format!("--output=type=oci,tar=false,dest={}", dir.path().display());
    let first = on_base("FROM scratch\nCOPY x /x", "//- x\n1");
    daemon.build(first.path(), &[&output]).ok();
    let index = json(&dir.path().join("index.json"));
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let next = context("//- Dockerfile\nFROM first\nCOPY y /y\n//- y\n12");
    let out = temp();
    let other = Daemon::start();
    other
        .build(
            next.path(),
            &[
                &format!("--oci-layout=images={}", dir.path().display()),
                &format!("--opt=context:first=oci-layout://images@{digest}"),
                &format!("--output=type=local,dest={}", out.path().display()),
            ],
        )
        .ok();
    let tree = list(out.path()).expect("listed");
    assert_eq!(tree, "x 0644 2\ny 0644 3");
}

#[test]
fn an_archive_has_folders_for_platforms_exactly_when_there_are_several() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = context("//- Dockerfile\nFROM scratch\nCOPY f /f\n//- f\nx");
    let several = "--opt=platform=linux/amd64,linux/arm64";
    for split in ["true", "false"] {
        for (platforms, file) in [
            ("--opt=platform=linux/amd64", "f"),
            (several, "linux_arm64/f"),
        ] {
            let dir = temp();
            let archive = dir.path().join("a.tar");
            let output = format!(
                "--output=type=tar,dest={},platform-split={split}",
                archive.display()
            );
            daemon.build(context.path(), &[&output, platforms]).ok();
            assert!(
                unpack(&archive).path().join(file).exists(),
                "{split} {file}"
            );
        }
    }
}

#[test]
fn several_outputs_come_from_one_build() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("FROM scratch\nCOPY x /x", "//- x\n1");
    let dir = temp();
    let (tree, tar) = (dir.path().join("tree"), dir.path().join("o.tar"));
    daemon
        .build(
            context.path(),
            &[
                &format!("--output=type=local,dest={}", tree.display()),
                &format!("--output=type=tar,dest={}", tar.display()),
            ],
        )
        .ok();
    assert_eq!(list(&tree).expect("listed"), "x 0644 2");
    assert_eq!(list(unpack(&tar).path()).expect("listed"), "x 0644 2");
}

#[test]
fn progress_for_programs_is_json_by_the_line() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN echo out-of-step", "");
    let build: Build = daemon.build(context.path(), &["--progress=rawjson"]).ok();
    let mut names = Vec::new();
    let mut logged = false;
    for line in build.text.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|err| panic!("{line}: {err}"));
        for vertex in value["vertexes"].as_array().into_iter().flatten() {
            names.push(vertex["name"].as_str().expect("a name").to_owned());
        }
        logged |= value["logs"].is_array();
    }
    assert!(
        names
            .iter()
            .any(|name| name.contains("RUN echo out-of-step")),
        "{names:?}"
    );
    assert!(logged);
}

#[test]
fn what_is_kept_is_told_and_can_be_removed() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("RUN echo 1 > /x", "");
    daemon.build(context.path(), &[]).ok();
    let say = |args: &[&str]| {
        let build = Build::of(daemon.client(args).output().expect("the client runs"));
        build.ok().text
    };
    let table = say(&["du"]);
    assert!(table.starts_with("ID\t"), "{table}");
    assert!(table.contains("Total:"), "{table}");
    assert!(say(&["du", "-v"]).contains("Reclaimable:"));
    assert!(say(&["prune"]).contains("Total:"));
    let left = say(&["du"]);
    assert!(left.lines().count() < table.lines().count(), "{left}");
    assert_eq!(daemon.build(context.path(), &[]).ok().cached(), 0);
}
