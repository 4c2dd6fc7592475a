//! Remote caches: what one daemon exported is found by another, on every step.
//!
//! With `E2E_STOCK` (a folder with the stock daemon) caches cross in both directions; caches recorded from it are always
//! looked up.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use e2e::{BASE, Build, Daemon, check_all_cached, context, on_base, stock};
use llb::build::{Defaults, FileOp, Options, State};
use oci::Digest;
use prost::Message as _;
use serde_json::Value;
use tempfile::TempDir;
use testkit::fixture::list;
use testkit::registry::Registry;
use testkit::require;
use testkit::stores::S3;

fn temp() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Where a cache goes and where it is found; `HOST` and `DIR` stand for a registry and a folder.
const FORMS: &[(&str, &[&str], &str)] = &[
    (
        "max",
        &["--export-cache=type=registry,ref=HOST/c:1,mode=max"],
        "type=registry,ref=HOST/c:1",
    ),
    (
        "min",
        &["--export-cache=type=registry,ref=HOST/c:1"],
        "type=registry,ref=HOST/c:1",
    ),
    (
        "index",
        &["--export-cache=type=registry,ref=HOST/c:1,mode=max,image-manifest=false"],
        "type=registry,ref=HOST/c:1",
    ),
    (
        "docker list",
        &["--export-cache=type=registry,ref=HOST/c:1,mode=max,oci-mediatypes=false"],
        "type=registry,ref=HOST/c:1",
    ),
    (
        "zstd",
        &[
            "--export-cache=type=registry,ref=HOST/c:1,mode=max,compression=zstd,force-compression=true",
        ],
        "type=registry,ref=HOST/c:1",
    ),
    (
        "uncompressed",
        &["--export-cache=type=registry,ref=HOST/c:1,mode=max,compression=uncompressed"],
        "type=registry,ref=HOST/c:1",
    ),
    (
        "local",
        &["--export-cache=type=local,dest=DIR/c,mode=max"],
        "type=local,src=DIR/c",
    ),
    (
        "local by tag",
        &["--export-cache=type=local,dest=DIR/c,tag=x"],
        "type=local,src=DIR/c,tag=x",
    ),
    (
        "inline",
        &[
            "--export-cache=type=inline",
            "--output=type=image,name=HOST/i:1,push=true",
        ],
        "type=registry,ref=HOST/i:1",
    ),
];

/// Steps of many kinds; the last tree has `/z`.
const STEPS: &str = r#"FROM base AS a
COPY x /x
RUN cat /x > /y
FROM base AS b
ARG V=1
RUN echo b$V > /b
FROM base AS c
COPY --from=a --chown=1:2 /y /y
COPY --link --from=b /b /bb
RUN --mount=type=cache,target=/c --mount=type=bind,from=b,target=/m cat /y /bb /m/b > /z
WORKDIR /w
COPY --exclude=*.md d /d/
FROM c
RUN echo end >> /z
"#;

/// Builds on one daemon, then with the exported cache on another one that has nothing. Answers what the second said.
fn cross(from: &Daemon, to: &Daemon, context: &Path, form: &(&str, &[&str], &str)) -> String {
    let (name, export, import) = form;
    let (registry, dir, out) = (Registry::start(), temp(), temp());
    let fill = |text: &str| {
        let text = text.replace("HOST", &registry.host());
        text.replace("DIR", &dir.path().display().to_string())
    };
    let export: Vec<String> = export.iter().map(|arg| fill(arg)).collect();
    let export: Vec<&str> = export.iter().map(String::as_str).collect();
    from.build(context, &export).ok();
    let import = format!("--import-cache={}", fill(import));
    let output = format!("--output=type=local,dest={}", out.path().display());
    let build = to.build(context, &[&import, &output]).ok();
    let z = std::fs::read_to_string(out.path().join("z")).expect("the result");
    assert_eq!(z, "1\nb1\nb1\nend\n", "{name}");
    assert!(list(out.path()).expect("listed").contains("d/f"), "{name}");
    build.text
}

#[test]
fn a_cache_hits_on_every_step_of_an_empty_daemon() {
    require!(root, busybox, registry);
    let context = on_base(STEPS, "//- x\n1\n//- d/f\nf\n//- d/g.md\ng");
    for form in FORMS {
        let text = cross(&Daemon::start(), &Daemon::start(), context.path(), form);
        check_all_cached(form.0, &text);
    }
}

#[test]
fn a_cache_that_is_not_there_is_told_of_and_the_build_goes_on() {
    require!(root, busybox, registry);
    let (daemon, registry) = (Daemon::start(), Registry::start());
    let context = context("//- Dockerfile\nFROM scratch\nCOPY x /x\n//- x\n1\n");
    let import = format!(
        "--import-cache=type=registry,ref={}/none:1",
        registry.host()
    );
    let build = daemon.build(context.path(), &[&import]).ok();
    let text = "ERROR: failed to configure registry cache importer: ";
    assert!(build.text.contains(text), "{}", build.text);
    assert!(build.text.contains("/none:1: not found"), "{}", build.text);
}

#[test]
fn caches_cross_between_ours_and_the_stock_daemon() {
    require!(root, busybox, registry);
    let Some(stock) = stock() else {
        eprintln!("SKIPPED: E2E_STOCK names no folder with the stock daemon");
        return;
    };
    let context = on_base(STEPS, "//- x\n1\n//- d/f\nf\n//- d/g.md\ng");
    for form in FORMS {
        let text = cross(
            &Daemon::start(),
            &Daemon::other(&stock),
            context.path(),
            form,
        );
        check_all_cached(&format!("{} to stock", form.0), &text);
        let text = cross(
            &Daemon::other(&stock),
            &Daemon::start(),
            context.path(),
            form,
        );
        check_all_cached(&format!("{} from stock", form.0), &text);
    }
}

/// The Dockerfiles of the recorded caches, on a base that any daemon can make.
#[test]
fn caches_of_many_dockerfiles_cross() {
    require!(root, busybox, registry);
    let Some(stock) = stock() else {
        eprintln!("SKIPPED: E2E_STOCK names no folder with the stock daemon");
        return;
    };
    const USERS: &str = "RUN mkdir -p /etc && echo root:x:0:0:root:/:/bin/sh > /etc/passwd && \
                         echo daemon:x:1:1::/: >> /etc/passwd && echo root:x:0: > /etc/group && \
                         echo daemon:x:1: >> /etc/group\n";
    let mut count = 0;
    for name in recorded_names() {
        let vector = recorded(&name);
        let dockerfile = vector["dockerfile"].as_str().expect("a Dockerfile");
        // What needs an argument before the first stage, or rights, is left out.
        if !dockerfile.starts_with("FROM ") || dockerfile.contains("--network=host") {
            continue;
        }
        let context = context("");
        write_context(context.path(), &vector["context"]);
        let ignored = context.path().join(".dockerignore");
        if let Ok(text) = std::fs::read_to_string(&ignored) {
            std::fs::write(&ignored, text + "\n!busybox\n").expect("written");
        }
        let steps = dockerfile.replace("FROM busybox", "FROM base");
        let text = format!(
            "{BASE}{USERS}{}",
            steps.replace("from=busybox", "from=base")
        );
        std::fs::write(context.path().join("Dockerfile"), text).expect("written");
        for (from, to) in [(None, Some(&stock)), (Some(&stock), None)] {
            let daemon = |which: Option<&std::path::PathBuf>| {
                which.map_or_else(Daemon::start, |binary| Daemon::other(binary))
            };
            let registry = Registry::start();
            let cache = format!("type=registry,ref={}/c:1", registry.host());
            let build = |daemon: Daemon, cache: String| {
                let mut args = vec![cache];
                for (key, value) in vector["frontend_options"].as_object().into_iter().flatten() {
                    args.push(format!("--opt={key}={}", value.as_str().expect("text")));
                }
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                daemon.build(context.path(), &args).ok().text
            };
            build(daemon(from), format!("--export-cache={cache},mode=max"));
            let text = build(daemon(to), format!("--import-cache={cache}"));
            check_all_cached(&name, &text);
        }
        count += 1;
    }
    assert!(count >= 18, "{count}");
}

#[test]
fn a_cache_of_a_cache_is_the_same_cache() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let context = on_base(STEPS, "//- x\n1\n//- d/f\nf\n//- d/g.md\ng");
    let name = |tag: &str| format!("type=registry,ref={}/c:{tag}", registry.host());
    let export = |tag: &str| format!("--export-cache={},mode=max", name(tag));
    Daemon::start().build(context.path(), &[&export("1")]).ok();
    let import = format!("--import-cache={}", name("1"));
    Daemon::start()
        .build(context.path(), &[&import, &export("2")])
        .ok();
    let manifest = |tag: &str| {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let body = registry.get(&format!("/v2/c/manifests/{tag}"), kind);
        serde_json::from_str::<Value>(&body).expect("a manifest")["config"]["digest"].clone()
    };
    assert_eq!(manifest("1"), manifest("2"));
}

#[test]
fn several_caches_are_asked_at_once_and_missing_ones_do_no_harm() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let (one, two) = (
        on_base("FROM base\nRUN echo one > /z", ""),
        on_base("FROM base\nRUN echo two > /z", ""),
    );
    let name = |tag: &str| format!("type=registry,ref={}/c:{tag}", registry.host());
    for (tag, context) in [("one", &one), ("two", &two)] {
        let export = format!("--export-cache={},mode=max", name(tag));
        Daemon::start().build(context.path(), &[&export]).ok();
    }
    let daemon = Daemon::start();
    let imports = ["none", "one", "two"].map(|tag| format!("--import-cache={}", name(tag)));
    let imports = imports.each_ref().map(String::as_str);
    for context in [&one, &two] {
        let build = daemon.build(context.path(), &imports).ok();
        check_all_cached("several", &build.text);
        let missing = format!("importing cache manifest from {}/c:none", registry.host());
        assert!(build.text.contains(&missing), "{}", build.text);
    }
}

#[test]
fn an_export_that_fails_fails_the_build_unless_it_may() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = on_base("", "");
    let port = testkit::registry::free_port();
    let export = format!("--export-cache=type=registry,ref=127.0.0.1:{port}/c:1,mode=max");
    daemon
        .build(context.path(), &[&export])
        .fails_with("connection refused");
    daemon
        .build(context.path(), &[&format!("{export},ignore-error=true")])
        .ok();
    let dir = temp();
    let export = format!(
        "--export-cache=type=local,dest={},image-manifest=true,oci-mediatypes=false",
        dir.path().display()
    );
    daemon
        .build(context.path(), &[&export])
        .fails_with("OCI mediatypes are required for image-manifest cache format");
    daemon
        .build(context.path(), &[&format!("{export},ignore-error=true")])
        .ok();
}

/// Registries may throw away what only a list names; a folder is in the hands of its user.
#[test]
fn a_cache_whose_layers_went_away_is_missed() {
    require!(root, busybox, registry);
    let context = on_base("FROM base\nRUN echo $RANDOM > /r && echo z > /z", "");
    let (registry, dir) = (Registry::start(), temp());
    let from = Daemon::start();
    let name = format!("type=registry,ref={}/c:1", registry.host());
    let folder = dir.path().display();
    let (to_list, to_folder) = (
        format!("--export-cache={name},mode=max,image-manifest=false"),
        format!("--export-cache=type=local,dest={folder},mode=max"),
    );
    from.build(context.path(), &[&to_list]).ok();
    from.build(context.path(), &[&to_folder]).ok();
    let list = "application/vnd.oci.image.index.v1+json";
    let list = registry.get("/v2/c/manifests/1", list);
    let list: Value = serde_json::from_str(&list).expect("an index");
    let mut gone = 0;
    for layer in list["manifests"].as_array().expect("layers") {
        if layer["mediaType"]
            .as_str()
            .is_some_and(|kind| kind.contains("layer"))
        {
            let digest = layer["digest"].as_str().expect("a digest");
            registry.remove_blob(digest);
            let hex = digest.trim_start_matches("sha256:");
            std::fs::remove_file(dir.path().join("blobs/sha256").join(hex)).expect("removed");
            gone += 1;
        }
    }
    assert!(gone > 1, "{list}");
    for import in [name, format!("type=local,src={folder}")] {
        let out = temp();
        let output = format!("--output=type=local,dest={}", out.path().display());
        let import = format!("--import-cache={import}");
        let build = Daemon::start()
            .build(context.path(), &[&import, &output])
            .ok();
        let z = std::fs::read_to_string(out.path().join("z")).expect("the result");
        assert_eq!(z, "z\n", "{import}");
        if e2e::is_ours() {
            let told = "is not used for this step: ";
            assert!(build.text.contains(told), "{import}: {}", build.text);
        }
    }
}

/// A server of documents that writes down what it does not have.
struct Documents {
    port: u16,
    missing: Arc<Mutex<Vec<String>>>,
}

impl Documents {
    fn serve(documents: BTreeMap<String, (String, Vec<u8>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let missing: Arc<Mutex<Vec<String>>> = Arc::default();
        let lost = missing.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (documents, lost) = (documents.clone(), lost.clone());
                std::thread::spawn(move || answer(stream, &documents, &lost));
            }
        });
        Self { port, missing }
    }
}

/// Answers one request.
fn answer(
    mut stream: TcpStream,
    documents: &BTreeMap<String, (String, Vec<u8>)>,
    missing: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let mut words = first.split_whitespace();
    let (method, target) = (words.next()?, words.next()?);
    let path = target.split('?').next()?;
    let Some((kind, body)) = documents.get(path) else {
        // Whether a layer is there may be asked.
        let layer = method == "HEAD" && path.contains("/blobs/");
        if layer {
            return stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n")
                .ok();
        }
        if path != "/v2/" {
            missing.lock().ok()?.push(path.to_owned());
        }
        return stream
            .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok();
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\nConnection: close\r\n\r\n",
        body.len(),
        Digest::of(body)
    );
    stream.write_all(head.as_bytes()).ok()?;
    if method == "GET" {
        stream.write_all(body).ok()?;
    }
    Some(())
}

/// The recorded builds, but for the one that adds a file from an address of that day.
fn recorded_names() -> Vec<String> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../vectors/cachekeys/dockerfiles"
    );
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("the vectors")
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            path.file_stem()
                .expect("a name")
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name != "base-busybox" && name != "19-add-http")
        .collect();
    names.sort();
    names
}

fn recorded(name: &str) -> Value {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../vectors/cachekeys/dockerfiles"
    );
    let text = std::fs::read(format!("{dir}/{name}.json")).expect("a vector");
    serde_json::from_slice(&text).expect("JSON")
}

/// Puts a manifest and its config where a registry has them.
fn publish(
    documents: &mut BTreeMap<String, (String, Vec<u8>)>,
    repository: &str,
    kind: &str,
    manifest: Vec<u8>,
    config: Vec<u8>,
) {
    let json: Value = serde_json::from_slice(&manifest).expect("JSON");
    let listed = json["manifests"].as_array().and_then(|list| list.last());
    let descriptor = listed.unwrap_or(&json["config"]);
    assert_eq!(descriptor["digest"], Digest::of(&config).as_str());
    let digest = Digest::of(&manifest);
    let blob = format!("/v2/{repository}/blobs/{}", Digest::of(&config));
    documents.insert(blob, ("application/octet-stream".to_owned(), config));
    for name in ["latest", digest.as_str()] {
        let path = format!("/v2/{repository}/manifests/{name}");
        documents.insert(path, (kind.to_owned(), manifest.clone()));
    }
}

fn write_context(dir: &Path, files: &Value) {
    use std::os::unix::fs::PermissionsExt as _;
    for (name, file) in files.as_object().expect("files") {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let text = file["content"].as_str().unwrap_or_default();
        match file["type"].as_str() {
            Some("dir") => std::fs::create_dir_all(&path).expect("made"),
            Some("symlink") => {
                let target = file["linkname"].as_str().expect("a target");
                std::os::unix::fs::symlink(target, &path).expect("linked");
                continue;
            }
            _ => match file["content_base64"].as_str() {
                Some(text) => std::fs::write(&path, decode(text)).expect("written"),
                None => std::fs::write(&path, text).expect("written"),
            },
        }
        let mode = file["mode"].as_str().expect("a mode");
        let mode = u32::from_str_radix(mode, 8).expect("an octal number");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("changed");
    }
}

fn decode(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(text).expect("base64")
}

/// Caches that upstream's daemon wrote, without any layer: every step is found, and nothing is asked for but documents.
#[test]
fn recorded_caches_hit_on_every_step_and_nothing_is_fetched() {
    require!(root, busybox);
    let base = recorded("base-busybox");
    let mut count = 0;
    for name in recorded_names() {
        let vector = recorded(&name);
        let context = temp();
        write_context(context.path(), &vector["context"]);
        let dockerfile = vector["dockerfile"].as_str().expect("a Dockerfile");
        // Not in the context, whose every file counts for some steps.
        let beside = temp();
        std::fs::write(beside.path().join("Dockerfile"), dockerfile).expect("written");
        for (kind, export) in vector["exports"].as_object().expect("exports") {
            let Some(config) = export["cacheconfig_raw"].as_str() else {
                continue;
            };
            let mut documents = BTreeMap::new();
            let manifest = serde_json::to_vec_pretty(&base["manifest"]).expect("JSON");
            let image = serde_json::to_vec(&base["config"]).expect("JSON");
            let media = base["media_type"].as_str().expect("a media type");
            publish(&mut documents, "library/busybox", media, manifest, image);
            let manifest = serde_json::to_vec(&export["manifest"]).expect("JSON");
            let media = export["manifest_media_type"]
                .as_str()
                .expect("a media type");
            publish(
                &mut documents,
                "cache",
                media,
                manifest,
                config.as_bytes().to_vec(),
            );
            let server = Documents::serve(documents);
            let options = &vector["frontend_options"];
            let text = look_up(&server, context.path(), beside.path(), options);
            check_all_cached(&format!("{name} {kind}"), &text);
            let missing = server.missing.lock().expect("no panic");
            assert!(missing.is_empty(), "{name} {kind}: asked for {missing:?}");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}

fn look_up(server: &Documents, context: &Path, dockerfile: &Path, options: &Value) -> String {
    let config = temp();
    let path = config.path().join("buildkitd.toml");
    let host = format!("127.0.0.1:{}", server.port);
    let toml = format!(
        "[registry.\"docker.io\"]\nmirrors = [\"{host}\"]\n[registry.\"{host}\"]\nhttp = true\n"
    );
    std::fs::write(&path, toml).expect("written");
    let host_network = "--allow-insecure-entitlement=network.host";
    let daemon = Daemon::with(&["--config", &path.display().to_string(), host_network]);
    let mut args = vec![format!("--import-cache=type=registry,ref={host}/cache")];
    for (key, value) in options.as_object().into_iter().flatten() {
        args.push(format!("--opt={key}={}", value.as_str().expect("text")));
    }
    args.push(format!("--local=context={}", context.display()));
    args.push(format!("--local=dockerfile={}", dockerfile.display()));
    args.push("--allow=network.host".to_owned());
    let mut client = daemon.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
    Build::of(client.args(args).output().expect("the client runs"))
        .ok()
        .text
}

/// A graph as wide as big builds are: the cache of thousands of steps goes out quickly.
#[test]
fn a_cache_of_many_steps_is_exported_quickly() {
    require!(root, busybox, registry);
    let registry = Registry::start();
    let mut dockerfile = String::from(BASE);
    for stage in 0..100 {
        dockerfile += &format!("FROM scratch AS s{stage}\n");
        for step in 0..10 {
            dockerfile += &format!("COPY x /{stage}-{step}\n");
        }
    }
    dockerfile += "FROM scratch\n";
    for stage in 0..100 {
        dockerfile += &format!("COPY --from=s{stage} /{stage}-9 /{stage}\n");
    }
    let context = context(&format!("//- Dockerfile\n{dockerfile}\n//- x\n1"));
    let daemon = Daemon::start();
    daemon.build(context.path(), &[]).ok();
    let export = |mode: &str| {
        let start = std::time::Instant::now();
        let to = format!(
            "--export-cache=type=registry,ref={}/c:{mode},mode={mode}",
            registry.host()
        );
        daemon.build(context.path(), &[&to]).ok();
        start.elapsed()
    };
    let (min, max) = (export("min"), export("max"));
    eprintln!("1,100 steps: min {min:?}, max {max:?}");
    assert!(min.as_secs() < 60, "{min:?}");
}

#[test]
fn layers_are_fetched_when_something_needs_them() {
    require!(root, busybox, registry);
    if e2e::skipped_unless(e2e::is_ours(), "looks into the store of ours") {
        return;
    }
    let registry = Registry::start();
    let context = on_base(
        "FROM base AS a\nRUN echo a > /a && echo more > /more\nFROM base AS b\nRUN echo b > /b\nFROM b\n\
         COPY --from=a /a /a\nARG V\nRUN echo $V > /v\n",
        "",
    );
    let cache = format!("type=registry,ref={}/c:1", registry.host());
    let export = format!("--export-cache={cache},mode=max");
    let first = "--opt=build-arg:V=1";
    Daemon::start()
        .build(context.path(), &[&export, first])
        .ok();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = registry.get("/v2/c/manifests/1", kind);
    let manifest: Value = serde_json::from_str(&manifest).expect("a manifest");
    let layers = manifest["layers"].as_array().expect("layers");
    assert_eq!(layers.len(), 6, "{manifest}");
    let daemon = Daemon::start();
    let fetched = || {
        let here = |layer: &&Value| {
            let digest = layer["digest"].as_str().expect("a digest");
            let path = digest.replace(':', "/");
            daemon.root().join("content-v1/blobs").join(path).exists()
        };
        layers.iter().filter(here).count()
    };
    let import = format!("--import-cache={cache}");
    let build = daemon.build(context.path(), &[&import, first]).ok();
    check_all_cached("the same", &build.text);
    assert_eq!(fetched(), 0);
    // The last step runs on two layers of the base, that of `b` and the copied file; `a` is known by its keys alone.
    let build = daemon.build(context.path(), &[&import, "--opt=build-arg:V=2"]);
    build.ok();
    assert_eq!(fetched(), 4);
}

/// Steps may say that their results are to stay here: M15.
#[test]
fn a_step_that_must_not_be_exported_has_keys_and_no_result() {
    require!(root, registry);
    if e2e::skipped_unless(e2e::is_ours(), "the stock daemon exports what ran just now") {
        return;
    }
    let registry = Registry::start();
    let daemon = Daemon::start();
    let results = |tag: &str, export: Option<bool>| {
        let options = Options {
            export_cache: export,
            ..Options::default()
        };
        let file = |path: &str| FileOp::new().mkfile(path, 0o644, tag.to_owned());
        // The first has no inputs, so its result is never exported.
        let first = State::scratch().file(file("/a"), Options::default());
        let second = first.file(file("/b"), options);
        let third = second.file(file("/c"), Options::default());
        let definition = third.marshal(&Defaults::default());
        let definition = definition.expect("it is complete");
        let host = registry.host();
        let export = format!("--export-cache=type=registry,ref={host}/c:{tag},mode=max");
        daemon
            .build_llb(&definition.encode_to_vec(), &[&export])
            .ok();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let get = |path: &str| serde_json::from_str::<Value>(&registry.get(path, kind));
        let manifest = get(&format!("/v2/c/manifests/{tag}")).expect("a manifest");
        let config = manifest["config"]["digest"].as_str().expect("a digest");
        let config = get(&format!("/v2/c/blobs/{config}")).expect("a document");
        let records = config["records"].as_array().expect("records");
        let with = records.iter().filter(|it| it["layers"].is_array()).count();
        (records.len(), with)
    };
    assert_eq!(results("usual", None), (3, 2));
    assert_eq!(results("kept", Some(false)), (3, 1));
}

/// Steps that fill cache mounts: a common one, one with an owner, which stands on a tree, and one with a name.
const MOUNTS: &str = r#"FROM base AS run
ARG RUN
RUN --mount=type=cache,target=/c --mount=type=cache,target=/o,uid=7,mode=0750 \
    --mount=type=cache,id=named,target=/n,sharing=locked \
    --mount=type=tmpfs,target=/t --mount=type=secret,id=s,target=/s \
    cat /s > /t/s && ls /c /o /n > /seen && stat -c '%u %a' /o >> /seen && \
    echo run$RUN > /c/$RUN && ln -s $RUN /c/link$RUN && echo o > /o/f$RUN && echo n > /n/f$RUN
FROM scratch
COPY --from=run /seen /seen
"#;

/// Builds [`MOUNTS`] and answers what the step saw.
fn run_with_mounts(daemon: &Daemon, run: &str, args: &[&str]) -> (String, Build) {
    let (context, out) = (on_base(MOUNTS, "//- s\nhidden-thing"), temp());
    let mut all = vec![
        format!("--opt=build-arg:RUN={run}"),
        format!("--secret=id=s,src={}/s", context.path().display()),
        format!("--output=type=local,dest={}", out.path().display()),
    ];
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let build = daemon.build(context.path(), &all).ok();
    let seen = std::fs::read_to_string(out.path().join("seen")).expect("the result");
    (seen, build)
}

fn in_bucket(server: &S3) -> String {
    format!(
        "type=s3,bucket=cache,region={},endpoint_url={},use_path_style=true,access_key_id={},secret_access_key={}",
        S3::REGION,
        server.url(),
        S3::ID,
        S3::SECRET
    )
}

#[test]
fn cache_mounts_travel_with_caches_that_are_told_to_take_them() {
    require!(root, busybox, registry);
    if e2e::skipped_unless(e2e::is_ours(), "the stock daemon does not know of this") {
        return;
    }
    let empty = "/c:\n\n/n:\n\n/o:\n7 750\n";
    let full = "/c:\n1\nlink1\n\n/n:\nf1\n\n/o:\nf1\n7 750\n";
    let (registry, bucket, dir) = (Registry::start(), S3::start(), temp());
    let (host, dir) = (registry.host(), dir.path().display().to_string());
    let places = [
        (format!("type=registry,ref={host}/c:1"), String::new()),
        (
            format!("type=registry,ref={host}/c:2"),
            ",image-manifest=false".to_owned(),
        ),
        (format!("type=local,dest={dir}"), String::new()),
        (in_bucket(&bucket), String::new()),
    ];
    for (place, form) in places {
        let import = place.replace("dest=", "src=");
        let from = Daemon::start();
        let export = format!("--export-cache={place}{form},mode=max,cache-mounts=true");
        assert_eq!(run_with_mounts(&from, "1", &[&export]).0, empty, "{place}");
        drop(from);
        let import = format!("--import-cache={import}");
        let meant = format!("{import},cache-mounts=true");
        // Another step, which is not in the cache.
        let (seen, _) = run_with_mounts(&Daemon::start(), "2", &[&meant]);
        assert_eq!(seen, full, "{place}");
        // Nobody asked for them.
        let (seen, _) = run_with_mounts(&Daemon::start(), "2", &[&import]);
        assert_eq!(seen, empty, "{place}");
        let some = format!("{import},cache-mounts=named;/o");
        let (seen, _) = run_with_mounts(&Daemon::start(), "2", &[&some]);
        assert_eq!(seen, "/c:\n\n/n:\nf1\n\n/o:\nf1\n7 750\n", "{place}");
        // What is here already counts.
        let to = Daemon::start();
        run_with_mounts(&to, "0", &[]);
        let (seen, _) = run_with_mounts(&to, "2", &[&meant]);
        assert!(seen.starts_with("/c:\n0\nlink0\n\n"), "{place}: {seen}");
        // They begin empty where the user says so.
        let (seen, _) = run_with_mounts(&Daemon::start(), "2", &[&meant, "--no-cache"]);
        assert_eq!(seen, empty, "{place}");
    }
}

#[test]
fn a_build_that_finds_every_step_keeps_the_cache_mounts() {
    require!(root, busybox, registry);
    if e2e::skipped_unless(e2e::is_ours(), "the stock daemon does not know of this") {
        return;
    }
    let registry = Registry::start();
    let name = |tag: &str| format!("type=registry,ref={}/c:{tag}", registry.host());
    let export = |tag| format!("--export-cache={},mode=max,cache-mounts=true", name(tag));
    let import = |tag| format!("--import-cache={},cache-mounts=true", name(tag));
    run_with_mounts(&Daemon::start(), "1", &[&export("1")]);
    let (_, build) = run_with_mounts(&Daemon::start(), "1", &[&import("1"), &export("2")]);
    check_all_cached("all", &build.text);
    let (seen, _) = run_with_mounts(&Daemon::start(), "2", &[&import("2")]);
    assert!(
        seen.starts_with("/c:\n1\nlink1\n\n/n:\nf1\n\n/o:\nf1"),
        "{seen}"
    );
}

#[test]
fn cache_mounts_have_a_largest_size_and_no_secrets() {
    require!(root, busybox, registry);
    if e2e::skipped_unless(e2e::is_ours(), "the stock daemon does not know of this") {
        return;
    }
    let registry = Registry::start();
    let name = format!("type=registry,ref={}/c:1", registry.host());
    let export =
        format!("--export-cache={name},mode=max,cache-mounts=true,cache-mounts-max-size=6");
    let (_, build) = run_with_mounts(&Daemon::start(), "1", &[&export]);
    let told = "cache mounts are larger than 6 bytes";
    assert!(build.text.contains(told), "{}", build.text);
    let import = format!("--import-cache={name},cache-mounts=true");
    let (seen, _) = run_with_mounts(&Daemon::start(), "2", &[&import]);
    let files = seen.lines().filter(|line| ["1", "f1"].contains(line));
    assert!(files.count() < 3, "{seen}");
    let wrong = export.replace("=6", "=six");
    let context = on_base("", "");
    let refused = Daemon::start().build(context.path(), &[&wrong]);
    refused.fails_with("invalid cache-mounts-max-size \"six\"");
}

/// Nothing that a daemon needs no more stays behind.
#[test]
fn damaged_cache_mounts_begin_empty_and_leave_nothing_behind() {
    require!(root, busybox, registry);
    if e2e::skipped_unless(e2e::is_ours(), "the stock daemon does not know of this") {
        return;
    }
    let registry = Registry::start();
    let name = format!("type=registry,ref={}/c:1", registry.host());
    let export = format!("--export-cache={name},mode=max,cache-mounts=true");
    let from = Daemon::start();
    run_with_mounts(&from, "1", &[&export]);
    // It is emptied behind the build's back.
    let is_emptied = |daemon: &Daemon| {
        let left = || std::fs::read_dir(daemon.root().join("spool")).map(Iterator::count);
        let began = std::time::Instant::now();
        while began.elapsed().as_secs() < 30 && !matches!(left(), Ok(0)) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(matches!(left(), Ok(0)), "{:?}", left());
    };
    is_emptied(&from);
    // Chunks are gone.
    let manifest = registry.get(
        "/v2/c/manifests/1",
        "application/vnd.oci.image.manifest.v1+json",
    );
    let manifest: Value = serde_json::from_str(&manifest).expect("a manifest");
    let mut gone = 0;
    for layer in manifest["layers"].as_array().expect("layers") {
        if layer["mediaType"]
            .as_str()
            .is_some_and(|kind| kind.contains(".chunk."))
        {
            registry.remove_blob(layer["digest"].as_str().expect("a digest"));
            gone += 1;
        }
    }
    assert!(gone > 0, "{manifest}");
    let to = Daemon::start();
    let import = format!("--import-cache={name},cache-mounts=true");
    let (seen, build) = run_with_mounts(&to, "2", &[&import]);
    assert!(seen.starts_with("/c:\n\n/n:\n\n/o:\n"), "{seen}");
    assert!(build.text.contains("starts empty"), "{}", build.text);
    is_emptied(&to);
}

#[test]
fn the_stock_daemon_passes_over_cache_mounts() {
    require!(root, busybox, registry);
    let Some(stock) = stock() else {
        eprintln!("SKIPPED: E2E_STOCK names no folder with the stock daemon");
        return;
    };
    let (registry, dir) = (Registry::start(), temp());
    for (place, form) in [
        (format!("type=registry,ref={}/c:1", registry.host()), ""),
        (
            format!("type=registry,ref={}/c:2", registry.host()),
            ",image-manifest=false",
        ),
        (format!("type=local,dest={}", dir.path().display()), ""),
    ] {
        let export = format!("--export-cache={place}{form},mode=max,cache-mounts=true");
        run_with_mounts(&Daemon::start(), "1", &[&export]);
        let import = place.replace("dest=", "src=");
        for told in ["", ",cache-mounts=true"] {
            let import = format!("--import-cache={import}{told}");
            let (_, build) = run_with_mounts(&Daemon::other(&stock), "1", &[&import]);
            check_all_cached(&place, &build.text);
        }
    }
}
