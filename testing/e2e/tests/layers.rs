//! How the layers of exported images are made: compressions with an index, squashing, and bytes that do not change.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use e2e::{Daemon, context, on_base};
use serde_json::Value;
use tempfile::TempDir;
use testkit::fixture::list;
use testkit::registry::Registry;
use testkit::require;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const EPOCH: &str = "--opt=build-arg:SOURCE_DATE_EPOCH=1700000000";

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// A file larger than a block of any compression, and small ones.
fn large_context(dockerfile: &str) -> TempDir {
    let dir = on_base(dockerfile, "//- x\nhello\n//- d/y\nthere");
    let lines: String = (0..400_000).map(|number| format!("{number}\n")).collect();
    std::fs::write(dir.path().join("large"), lines).expect("written");
    dir
}

fn manifest(registry: &Registry, name: &str) -> Value {
    let body = registry.get(&format!("/v2/{name}/manifests/v1"), OCI_MANIFEST);
    serde_json::from_slice(body.as_ref()).expect("JSON")
}

/// What an image has in it, as a build on top of it sees it.
fn tree(daemon: &Daemon, name: &str) -> String {
    let next = context(&format!("//- Dockerfile\nFROM {name}\n"));
    let out = temp();
    let output = format!("--output=type=local,dest={}", out.path().display());
    daemon.build(next.path(), &[&output]).ok();
    list(out.path()).expect("listed")
}

#[test]
fn layers_with_an_index_can_be_built_on() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let (daemon, other) = (Daemon::start(), Daemon::start());
    let context = large_context("FROM scratch\nCOPY x large /\nCOPY d /d/");
    let out = temp();
    let output = format!("--output=type=local,dest={}", out.path().display());
    daemon.build(context.path(), &[&output]).ok();
    let wanted = list(out.path()).expect("listed");
    let estargz = [
        "containerd.io/snapshot/stargz/toc.digest",
        "io.containers.estargz.uncompressed-size",
    ];
    let chunked = [
        "io.github.containers.zstd-chunked.manifest-checksum",
        "io.github.containers.zstd-chunked.manifest-position",
    ];
    let all = [
        ("estargz", "gzip", estargz),
        ("zstd:chunked", "zstd", chunked),
    ];
    // Upstream has no zstd:chunked.
    for (compression, plain, told) in all.into_iter().take(if e2e::is_ours() { 2 } else { 1 }) {
        let name = format!("indexed/{plain}");
        let full = format!("{}/{name}:v1", registry.host());
        let attrs = format!("compression={compression},force-compression=true");
        let push = format!("--output=type=image,name={full},push=true,{attrs}");
        daemon.build(context.path(), &[&push]).ok();
        let manifest = manifest(&registry, &name);
        let layers = manifest["layers"].as_array().expect("layers");
        assert_eq!(layers.len(), 2);
        for layer in layers {
            let media_type = layer["mediaType"].as_str().expect("a type");
            assert!(
                media_type.ends_with(&format!("tar+{plain}")),
                "{media_type}"
            );
            for key in told {
                assert!(layer["annotations"][key].is_string(), "{layer}");
            }
        }
        assert_eq!(tree(&other, &full), wanted, "{compression}");
    }
    let push = "--output=type=image,compression=estargz,oci-mediatypes=false";
    daemon.build(context.path(), &[push]).fails_with(
        "exporter option \"compression=estargz\" conflicts with \"oci-mediatypes=false\"",
    );
}

#[test]
fn squashed_images_have_fewer_layers_and_the_same_tree() {
    require!(root, busybox, registry);
    if !e2e::is_ours() {
        eprintln!("SKIPPED: upstream squashes nothing");
        return;
    }
    let registry = Registry::start();
    let daemon = Daemon::start();
    let push = |context: &TempDir, name: &str, more: &str| {
        let full = format!("{}/{name}:v1", registry.host());
        let output = format!("--output=type=image,name={full},push=true{more}");
        daemon.build(context.path(), &[&output]).ok();
        full
    };
    let base = push(
        &on_base(
            "RUN echo 1 > /one && echo 2 > /two\nRUN echo 3 > /three",
            "",
        ),
        "base",
        "",
    );
    let above = context(&format!(
        "//- Dockerfile\nFROM {base}\nRUN echo 4 > /four\nENV A=b\nRUN rm /one /four && echo changed > /two\nCOPY x /\n\
         //- x\nhello"
    ));
    let plain = push(&above, "plain", "");
    let wanted = tree(&daemon, &plain);
    let of_base = manifest(&registry, "base");
    let of_base = of_base["layers"].as_array().expect("layers");
    for (squash, kept) in [("base", of_base.len()), ("all", 0)] {
        let name = format!("squashed/{squash}");
        let full = push(&above, &name, &format!(",squash={squash}"));
        let manifest = manifest(&registry, &name);
        let layers = manifest["layers"].as_array().expect("layers");
        assert_eq!(layers[..kept], of_base[..kept], "{squash}");
        assert_eq!(layers.len(), kept + 1, "{squash}");
        let config = manifest["config"]["digest"].as_str().expect("a digest");
        let config = registry.get(&format!("/v2/{name}/blobs/{config}"), "*/*");
        let config: Value = serde_json::from_slice(config.as_ref()).expect("JSON");
        let steps = config["history"].as_array().expect("steps");
        let made = steps.iter().filter(|step| step["empty_layer"] != true);
        assert_eq!(made.count(), layers.len(), "{steps:?}");
        let diff_ids = config["rootfs"]["diff_ids"].as_array();
        assert_eq!(diff_ids.map(Vec::len), Some(layers.len()));
        let other = Daemon::start();
        assert_eq!(tree(&other, &full), wanted, "{squash}");
    }
    let converted = ",squash=base,compression=estargz,force-compression=true";
    let full = push(&above, "squashed/converted", converted);
    let converted = manifest(&registry, "squashed/converted");
    let layers = converted["layers"].as_array().map(Vec::len);
    assert_eq!(layers, Some(of_base.len() + 1));
    assert_eq!(tree(&Daemon::start(), &full), wanted);
    let wrong = "--output=type=image,squash=true";
    daemon
        .build(above.path(), &[wrong])
        .fails_with("invalid value \"true\" specified for squash");
}

/// Every file below with its bytes and time.
fn files(dir: &Path) -> BTreeMap<String, (i64, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(at) = pending.pop() {
        for entry in std::fs::read_dir(&at).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("metadata");
            if meta.is_dir() {
                pending.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                let name = path.strip_prefix(dir).expect("below").display().to_string();
                all.insert(name, (meta.mtime(), bytes));
            }
        }
    }
    all
}

/// This thread, and what it starts from now on.
fn stay_on_one_processor() {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("a status");
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first = allowed.and_then(|list| list.trim().split([',', '-']).next());
    let me = std::fs::read_link("/proc/thread-self").expect("a link");
    let me = me.file_name().and_then(|id| id.to_str()).expect("a number");
    let pinned = Command::new("taskset")
        .args(["-pc", first.expect("a processor"), me])
        .output()
        .expect("taskset runs");
    assert!(pinned.status.success(), "{pinned:?}");
}

#[test]
fn with_an_epoch_every_output_has_the_same_bytes_on_any_number_of_processors() {
    require!(root, busybox);
    let context =
        large_context("RUN echo 1 > /made\nFROM scratch\nCOPY x large /\nCOPY d /d/\nWORKDIR /w");
    let on_base = large_context("RUN echo 1 > /made && mkdir /empty\nCOPY large /");
    let mut outputs = vec![
        "type=oci",
        "type=oci,compression=uncompressed,force-compression=true",
        "type=oci,compression=zstd,force-compression=true",
        "type=docker,name=example.com/a:b",
        "type=tar",
    ];
    if e2e::is_ours() {
        outputs.push("type=oci,compression=estargz,force-compression=true");
        outputs.push("type=oci,compression=zstd:chunked,force-compression=true");
        outputs.push("type=oci,squash=all");
    }
    let build = |one_processor: bool| {
        if one_processor {
            stay_on_one_processor();
        }
        let daemon = Daemon::start();
        let dir = temp();
        for (number, output) in outputs.iter().enumerate() {
            let rewrite = match *output {
                "type=tar" => "",
                _ => ",rewrite-timestamp=true",
            };
            let mut contexts = vec![(&context, "files")];
            if matches!(*output, "type=oci" | "type=oci,squash=all") {
                contexts.push((&on_base, "run"));
            }
            for (context, kind) in contexts {
                let file = dir.path().join(format!("{kind}-{number}"));
                let output = format!("--output={output}{rewrite},dest={}", file.display());
                daemon.build(context.path(), &[EPOCH, &output]).ok();
            }
        }
        let local = dir.path().join("local");
        let output = format!("--output=type=local,dest={}", local.display());
        daemon.build(context.path(), &[EPOCH, &output]).ok();
        let times = files(&local);
        assert!(times.values().all(|(time, _)| *time == 1_700_000_000));
        let mut all = files(dir.path());
        for (name, (time, _)) in &mut all {
            if !name.starts_with("local/") {
                *time = 0;
            }
        }
        all
    };
    let (many, one) = (build(false), build(true));
    assert!(many.len() > outputs.len() + 3);
    let differing: Vec<_> = many
        .keys()
        .filter(|name| many.get(*name) != one.get(*name))
        .collect();
    assert!(differing.is_empty(), "{differing:?} of {outputs:?}");
}

#[test]
fn a_folder_with_an_image_gets_only_what_it_lacks() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let dir = temp();
    let export = |dockerfile: &str| {
        let context = on_base(dockerfile, "//- x\nhello\n//- y\nthere");
        let to = dir.path().display();
        let output = format!("--output=type=oci,tar=false,name=example.com/a:b,dest={to}");
        daemon.build(context.path(), &[EPOCH, &output]).ok();
        let blobs = std::fs::read_dir(dir.path().join("blobs/sha256")).expect("blobs");
        let inode = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.expect("an entry");
            let meta = entry.metadata().expect("metadata");
            (entry.file_name(), (meta.ino(), meta.mtime_nsec()))
        };
        blobs.map(inode).collect::<BTreeMap<_, _>>()
    };
    let first = export("FROM scratch\nCOPY x /");
    assert_eq!(first.len(), 3);
    assert_eq!(export("FROM scratch\nCOPY x /"), first);
    let second = export("FROM scratch\nCOPY x /\nCOPY y /");
    assert_eq!(second.len(), 6, "a layer, a config and a manifest are new");
    assert!(
        first
            .iter()
            .all(|(name, inode)| second.get(name) == Some(inode))
    );
    let index = std::fs::read(dir.path().join("index.json")).expect("an index");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_local_output_keeps_or_removes_what_was_there() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("FROM scratch\nCOPY x /", "//- x\n1");
    for (mode, wanted) in [
        ("", "old 0644 1\nx 0644 2"),
        (",mode=copy", "old 0644 1\nx 0644 2"),
        (",mode=delete", "x 0644 2"),
    ] {
        let out = temp();
        std::fs::write(out.path().join("old"), "o").expect("written");
        let output = format!("--output=type=local,dest={}{mode}", out.path().display());
        daemon.build(context.path(), &[&output]).ok();
        assert_eq!(list(out.path()).expect("listed"), wanted, "{mode}");
    }
    let out = temp();
    let output = format!("--output=type=local,dest={},mode=all", out.path().display());
    daemon
        .build(context.path(), &[&output])
        .fails_with("invalid local exporter mode \"all\"");
}

#[test]
fn what_is_copied_is_no_link_to_what_it_was_copied_from() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let dockerfile = "FROM base AS s
RUN echo u >/u
FROM s AS merged
COPY --link --from=s /u /g
COPY --link x /h
COPY --link x /i
COPY x /j
RUN [ ! /u -ef /g ] && [ ! /h -ef /i ] && [ ! /h -ef /j ] && [ ! /i -ef /j ]
FROM scratch AS other
COPY --from=s /u /k
FROM s AS chain
COPY --from=other /k /l
RUN [ ! /u -ef /l ]
FROM scratch
COPY --from=merged / /a/
COPY --from=chain /u /l /
RUN --mount=from=base,target=/base [\"/base/bin/busybox\", \"sh\", \"-c\", \"[ ! /u -ef /l ] && [ ! /a/h -ef /a/i ]\"]
";
    let context = on_base(dockerfile, "//- x\nhello");
    daemon.build(context.path(), &[]).ok();
}
