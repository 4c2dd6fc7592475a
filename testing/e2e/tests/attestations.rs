//! What is said about results: where they come from, and what is in them.

use std::collections::BTreeSet;
use std::path::Path;

use e2e::{Daemon, on_base};
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::registry::Registry;
use testkit::require;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What buildx asks for unless its user says otherwise.
const DEFAULT: &str = "attest:provenance=mode=min,inline-only=true";

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn parse(body: impl AsRef<[u8]>) -> Value {
    serde_json::from_slice(body.as_ref()).expect("JSON")
}

fn read(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|err| panic!("{}: {err}", path.display()));
    parse(bytes)
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[test]
fn a_pushed_image_says_where_it_comes_from() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let daemon = Daemon::start();
    let name = format!("{}/team/app:v1", registry.host());
    let dir = on_base("FROM base\nARG WHO\nRUN echo $WHO > /who", "");
    let output = format!("--output=type=image,name={name},push=true");
    let args = [&output, "--opt", DEFAULT, "--opt", "build-arg:WHO=me"];
    daemon.build(dir.path(), &args).ok();
    let index = parse(registry.get("/v2/team/app/manifests/v1", INDEX));
    let listed = index["manifests"].as_array().expect("a list");
    assert_eq!(listed.len(), 2, "{index:#}");
    let (image, about) = (&listed[0], &listed[1]);
    assert_eq!(
        about["platform"],
        json!({"architecture": "unknown", "os": "unknown"})
    );
    assert_eq!(
        about["annotations"]["vnd.docker.reference.digest"],
        image["digest"]
    );
    let path = format!("/v2/team/app/manifests/{}", text(&about["digest"]));
    let manifest = parse(registry.get(&path, MANIFEST));
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
    let path = format!("/v2/team/app/blobs/{}", text(&layer["digest"]));
    let statement = parse(registry.get(&path, "*/*"));
    assert_eq!(
        statement["predicateType"],
        layer["annotations"]["in-toto.io/predicate-type"]
    );
    let subject = &statement["subject"][0];
    let wanted = format!("sha256:{}", text(&subject["digest"]["sha256"]));
    assert_eq!(image["digest"], wanted);
    assert!(text(&subject["name"]).contains("/team/app@v1?platform=linux%2F"));
    let request = &statement["predicate"]["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    // What users pass to their builds is nobody's business in this mode.
    assert!(!statement.to_string().contains("WHO"), "{statement:#}");
}

#[test]
fn the_layers_of_steps_are_told_for_each_platform() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let name = format!("{}/app:1", registry.host());
    // Layers that platforms have in common, and those that they have not.
    let dir = on_base(
        "FROM --platform=$BUILDPLATFORM base AS tool\nARG TARGETARCH\nRUN echo $TARGETARCH > /arch\n\
         FROM scratch\nCOPY x /x\nCOPY x /y\nCOPY --from=tool /arch /arch\nCOPY x /z",
        "//- x\n1",
    );
    let output = format!("--output=type=image,name={name},push=true");
    let args = [
        &output,
        "--opt=platform=linux/amd64,linux/arm64",
        "--opt=attest:provenance=mode=max",
    ];
    Daemon::start().build(dir.path(), &args).ok();
    let index = parse(registry.get("/v2/app/manifests/1", INDEX));
    let listed = index["manifests"].as_array().expect("a list");
    let manifest = |entry: &Value| {
        let path = format!("/v2/app/manifests/{}", text(&entry["digest"]));
        parse(registry.get(&path, MANIFEST))
    };
    let digests = |layers: &Value| -> Vec<String> {
        let layers = layers.as_array().expect("layers").iter();
        layers
            .map(|layer| text(&layer["digest"]).to_owned())
            .collect()
    };
    let mut seen = 0;
    for about in listed {
        let of = &about["annotations"]["vnd.docker.reference.digest"];
        let Some(image) = listed.iter().find(|image| image["digest"] == *of) else {
            continue;
        };
        let layer = &manifest(about)["layers"][0]["digest"];
        let statement = parse(registry.get(&format!("/v2/app/blobs/{}", text(layer)), "*/*"));
        let layers =
            &statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["layers"];
        let chains = layers.as_object().expect("chains").values();
        let chains: BTreeSet<_> = chains.map(|chains| digests(&chains[0])).collect();
        let whole = digests(&manifest(image)["layers"]);
        let wanted: BTreeSet<_> = (1..=whole.len())
            .map(|height| whole[..height].to_vec())
            .collect();
        assert_eq!(chains, wanted, "{}", image["platform"]);
        seen += 1;
    }
    assert_eq!(seen, 2, "{index}");
}

#[test]
fn a_directory_gets_statements_about_its_files() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let dir = on_base("FROM scratch\nCOPY x /x", "//- x\nhello");
    let out = temp();
    let output = format!(
        "--output=type=local,dest={},attestation-prefix=p-",
        out.path().display()
    );
    daemon.build(dir.path(), &[&output, "--opt", DEFAULT]).ok();
    assert!(!out.path().join("p-provenance.json").exists());
    let args = [&output, "--opt", "attest:provenance=mode=max,version=v0.2"];
    daemon.build(dir.path(), &args).ok();
    let statement = read(&out.path().join("p-provenance.json"));
    assert_eq!(
        statement["predicateType"],
        "https://slsa.dev/provenance/v0.2"
    );
    assert_eq!(statement["subject"][0]["name"], "x");
    let predicate = &statement["predicate"];
    let steps = predicate["buildConfig"]["llbDefinition"].as_array();
    assert_eq!(steps.expect("steps").len(), 3);
    let locals = &predicate["invocation"]["parameters"]["locals"];
    assert_eq!(
        locals,
        &json!([{"name": "context"}, {"name": "dockerfile"}])
    );
    assert_eq!(predicate["metadata"]["completeness"]["materials"], false);
}

const SCANNER: &str = r#"//- scan.sh mode=0755
#!/bin/sh
cat > $BUILDKIT_SCAN_DESTINATION/sbom.spdx.json <<E
{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://spdx.dev/Document","predicate":{"spdxVersion":"SPDX-2.3","name":"$BUILDKIT_SCAN_TITLE","files":[{"fileName":"$(cd $BUILDKIT_SCAN_SOURCE && echo *)"}]}}
E
"#;

#[test]
fn any_image_may_scan() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let daemon = Daemon::start();
    let scanner = format!("{}/scan:1", registry.host());
    let dir = on_base(
        "FROM base\nCOPY --chmod=755 scan.sh /scan.sh\nENTRYPOINT [\"/bin/sh\", \"/scan.sh\"]",
        SCANNER,
    );
    let output = format!("--output=type=image,name={scanner},push=true");
    daemon.build(dir.path(), &[&output]).ok();
    let dir = on_base("FROM scratch\nCOPY x /x", "//- x\nhello");
    let out = temp();
    let output = format!("--output=type=local,dest={}", out.path().display());
    let scan = format!("attest:sbom=generator={scanner},TITLE=mine");
    daemon.build(dir.path(), &[&output, "--opt", &scan]).ok();
    let statement = read(&out.path().join("sbom.spdx.json"));
    assert_eq!(statement["predicateType"], "https://spdx.dev/Document");
    assert_eq!(statement["predicate"]["name"], "mine");
    assert_eq!(statement["predicate"]["files"][0]["fileName"], "x");

    let name = format!("{}/scanned:1", registry.host());
    let output = format!("--output=type=image,name={name},push=true");
    daemon.build(dir.path(), &[&output, "--opt", &scan]).ok();
    let index = parse(registry.get("/v2/scanned/manifests/1", INDEX));
    let digest = text(&index["manifests"][1]["digest"]);
    let manifest = parse(registry.get(&format!("/v2/scanned/manifests/{digest}"), MANIFEST));
    let digest = text(&manifest["layers"][0]["digest"]);
    let statement = parse(registry.get(&format!("/v2/scanned/blobs/{digest}"), "*/*"));
    let comment = text(&statement["predicate"]["files"][0]["comment"]);
    assert!(comment.starts_with("layerID: sha256:"), "{comment}");
}

#[test]
fn wrong_wishes_are_refused_before_anything_runs() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let dir = on_base("FROM scratch\nCOPY x /x", "//- x\nhello");
    for (wish, wanted) in [
        ("attest:lies=", "unknown attestation type \"lies\""),
        (
            "attest:provenance=version=v9",
            "invalid provenance SLSA version: v9",
        ),
        (
            "attest:provenance=complete-materials=true",
            "Uncaptured local sources:",
        ),
    ] {
        let built = daemon.build(dir.path(), &["--opt", wish]);
        built.fails_with(wanted);
    }
}

#[test]
fn what_steps_and_the_machine_used_is_said_on_demand() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let dir = on_base("RUN i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done", "");
    let out = temp();
    let output = format!("--output=type=local,dest={}", out.path().display());
    let steps = |wish: &str| {
        daemon
            .build(dir.path(), &[&output, "--opt", wish, "--no-cache"])
            .ok();
        let statement = read(&out.path().join("provenance.json"));
        let predicate = &statement["predicate"];
        let about = &predicate["runDetails"]["metadata"]["buildkit_metadata"];
        let config = &predicate["buildDefinition"]["internalParameters"]["buildConfig"];
        let steps = config["llbDefinition"].as_array().expect("steps").clone();
        let used = steps.into_iter().map(|step| step["resourceUsage"].clone());
        let used: Vec<Value> = used.filter(|used| !used.is_null()).collect();
        (used, about["sysUsage"].clone())
    };
    let (none, machine) = steps("attest:provenance=mode=max");
    assert_eq!((none.len(), machine), (0, Value::Null));
    let (used, machine) = steps("attest:provenance=mode=max,capture-usage=true");
    let last = machine
        .as_array()
        .and_then(|all| all.last())
        .expect("a sample");
    assert!(last["memoryStat"]["total"].is_u64(), "{last:#}");
    assert!(last["cpuStat"]["user"].is_number(), "{last:#}");
    // The stock daemon keeps account only where the unified hierarchy is the only one.
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    if e2e::is_ours() || unified {
        assert_eq!(used.len(), 2, "both RUN: {used:#?}");
        for used in &used {
            let last = used["samples"].as_array().and_then(|all| all.last());
            let last = last.expect("a sample");
            assert!(last["cpuStat"]["usageNanos"].is_u64(), "{last:#}");
            assert!(used["sysCPUStat"]["user"].is_number(), "{used:#}");
        }
    }
}
