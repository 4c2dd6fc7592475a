//! The corpus in `testing/dockerfiles`, built by our daemon and by the stock one: files with all that belongs to them,
//! configurations, histories, layers, names of steps, findings and errors are the same.
//!
//! Needs `E2E_STOCK` (a folder with the stock daemon). `E2E_ONLY` names the case to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::{Daemon, on_base, skipped_unless, stock};
use serde_json::Value;
use tempfile::TempDir;
use testkit::registry::Registry;
use testkit::require;

/// What the files of contexts have as their time.
const THEN: u64 = 1_400_000_000;
/// Times before this were given by somebody; later ones are those of the build.
const NOW: i64 = 1_650_000_000;
const EPOCH: &str = "1600000000";

/// Cases in which the two may differ, and why.
const APART: [(&str, &str); 1] = [(
    "28-devices",
    "the stock daemon has the feature only when it was compiled in",
)];

/// The daemons, and what they build from.
struct Pair {
    ours: Daemon,
    stock: Daemon,
    _registry: Registry,
    _config: TempDir,
}

impl Pair {
    fn start(stock: &Path) -> Self {
        let registry = Registry::start();
        let host = registry.host();
        let config = tempfile::tempdir().expect("a temporary directory");
        let file = config.path().join("config.toml");
        let text = format!(
            "[registry.\"docker.io\"]\nmirrors = [\"{host}\"]\n[registry.\"{host}\"]\nhttp = true\n"
        );
        std::fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        let allow = "--allow-insecure-entitlement";
        let args = [
            "--config",
            &file,
            allow,
            "security.insecure",
            allow,
            "network.host",
        ];
        let pair = Self {
            ours: Daemon::with(&args),
            stock: Daemon::other_with(stock, &args),
            _registry: registry,
            _config: config,
        };
        for name in ["busybox", "alpine"] {
            let base = on_base(
                "CMD [\"sh\"]\nRUN mkdir -p /etc /tmp && echo root:x:0:0::/:/bin/sh > /etc/passwd && echo root:x:0: > /etc/group",
                "",
            );
            let push = format!("--output=type=image,name={host}/library/{name}:latest,push=true");
            pair.ours.build(base.path(), &[&push]).ok();
        }
        pair
    }
}

struct Case {
    name: String,
    dir: PathBuf,
    about: Value,
}

fn cases() -> Vec<Case> {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../dockerfiles");
    let only = std::env::var("E2E_ONLY").unwrap_or_default();
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(corpus).expect("the corpus") {
        let dir = entry.expect("a case").path();
        let Ok(about) = std::fs::read(dir.join("case.json")) else {
            continue;
        };
        let about: Value = serde_json::from_slice(&about).expect("the case is JSON");
        let name = dir.file_name().expect("a name").to_string_lossy();
        let name = name.into_owned();
        // Some are about remotes that do not exist, some about questions.
        let is_build = about["real"] != false && about["ask"].is_null();
        let is_apart = APART.iter().any(|(apart, _)| *apart == name);
        if is_build && !is_apart && name.contains(&only) {
            cases.push(Case { name, dir, about });
        }
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

impl Case {
    /// The folders `context` and `extra`.
    fn folders(&self) -> TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let put = |folder: &str, name: &str, text: &[u8]| {
            let path = dir.path().join(folder).join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(&path, text).expect("a file");
        };
        for (folder, key) in [("context", "context"), ("extra", "extra")] {
            for (name, text) in self.about[key].as_object().into_iter().flatten() {
                let text = text.as_str().expect("text");
                if text == "@tar" {
                    put(folder, name, &archive());
                } else {
                    put(folder, name, text.as_bytes());
                }
            }
        }
        put("extra", "data", b"x\n");
        let file = self.about["file"].as_str().unwrap_or("Dockerfile");
        let text = std::fs::read(self.dir.join("Dockerfile")).expect("a Dockerfile");
        put("context", file, &text);
        age(dir.path());
        dir
    }

    fn build(&self, daemon: &Daemon, more: &[String]) -> Said {
        let folders = self.folders();
        let at = |name: &str| folders.path().join(name).display().to_string();
        let mut args = vec![
            "build".to_owned(),
            "--progress=rawjson".to_owned(),
            "--frontend=dockerfile.v0".to_owned(),
            format!("--local=context={}", at("context")),
            format!("--local=dockerfile={}", at("context")),
            format!("--local=extra={}", at("extra")),
            "--allow=security.insecure".to_owned(),
            "--allow=network.host".to_owned(),
        ];
        for secret in ["token", "deploy", "plain", "other"] {
            args.push(format!("--secret=id={secret},src=/etc/hostname"));
        }
        for (key, value) in self.about["opts"].as_object().into_iter().flatten() {
            args.push(format!("--opt={key}={}", value.as_str().expect("text")));
        }
        args.extend_from_slice(more);
        let output = daemon.client(&args).output().expect("the client runs");
        Said::read(
            output.status.success(),
            &String::from_utf8_lossy(&output.stderr),
        )
    }

    fn built(&self, daemon: &Daemon) -> Built {
        let out = tempfile::tempdir().expect("a temporary directory");
        let (tree, layout) = (out.path().join("tree"), out.path().join("layout"));
        let said = self.build(
            daemon,
            &[format!("--output=type=local,dest={}", tree.display())],
        );
        let mut built = Built {
            said,
            files: BTreeMap::new(),
            images: Vec::new(),
        };
        if !built.said.succeeded {
            return built;
        }
        list(&tree, &tree, &mut built.files);
        let output = format!(
            "--output=type=oci,tar=false,rewrite-timestamp=true,dest={}",
            layout.display()
        );
        let mut more = vec![output];
        if self.about["opts"]["build-arg:SOURCE_DATE_EPOCH"].is_null() {
            more.push(format!("--opt=build-arg:SOURCE_DATE_EPOCH={EPOCH}"));
        }
        let again = self.build(daemon, &more);
        assert!(again.succeeded, "{}: {}", self.name, again.error);
        built.images = images(&layout);
        built
    }
}

/// An archive with one file, of somebody else.
fn archive() -> Vec<u8> {
    let mut header = [0_u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, "d/f");
    put(100, "0000644\0");
    put(108, "0000005\0");
    put(116, "0000000\0");
    put(124, "00000000002\0");
    put(136, "13132027400\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\0");
    put(263, "00");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(b"f\n");
    archive.resize(512 * 4, 0);
    archive
}

/// Gives all files of a folder the same time and no surprising modes.
fn age(path: &Path) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            age(&entry.expect("an entry").path());
        }
    }
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(THEN);
    let file = std::fs::File::open(path).expect("a file");
    file.set_modified(then).expect("a time");
}

/// What a client was told.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    succeeded: bool,
    names: BTreeSet<String>,
    findings: Vec<String>,
    error: String,
}

impl Said {
    fn read(succeeded: bool, text: &str) -> Self {
        let (mut names, mut findings) = (BTreeSet::new(), BTreeSet::new());
        let mut rest = Vec::new();
        for line in text.lines() {
            let Ok(status) = serde_json::from_str::<Value>(line) else {
                rest.push(nameless(line));
                continue;
            };
            for vertex in status["vertexes"].as_array().into_iter().flatten() {
                names.insert(nameless(vertex["name"].as_str().expect("a name")));
            }
            for finding in status["warnings"].as_array().into_iter().flatten() {
                let text = finding["short"].as_str().expect("words");
                let text = STANDARD.decode(text).expect("base64");
                let at = finding["range"].to_string();
                let url = finding["url"].to_string();
                findings.insert(format!("{} {url} {at}", String::from_utf8_lossy(&text)));
            }
        }
        let is_error = |line: &String| line.starts_with("error:");
        let begin = rest.iter().position(is_error).unwrap_or(rest.len());
        Self {
            succeeded,
            // Ours looks into a context to explain what is missing.
            names: names
                .into_iter()
                .filter(|name| name != "[internal] list context")
                .collect(),
            findings: findings.into_iter().collect(),
            error: rest.split_off(begin).join("\n"),
        }
    }
}

/// Text without ids and digests.
fn nameless(text: &str) -> String {
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    let mut out = String::new();
    for word in words {
        let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let end = &word[bare.len()..];
        match bare.len() {
            25 | 64 => out.push_str("ID"),
            _ => out.push_str(bare),
        }
        out.push_str(end);
    }
    // The stock daemon names some refs by two ids.
    out.replace("ID::ID", "ID")
}

/// All that a file has but its name.
fn list(root: &Path, dir: &Path, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        let meta = path.symlink_metadata().expect("a file");
        let content = if meta.is_symlink() {
            format!("{:?}", path.read_link().expect("a link"))
        } else if meta.is_file() {
            oci::Digest::of(std::fs::read(&path).expect("a file")).to_string()
        } else {
            String::new()
        };
        let time = Some(meta.mtime()).filter(|time| *time < NOW);
        let names = match meta.is_file() {
            true => meta.nlink(),
            false => 0,
        };
        let facts = format!(
            "{:o} {}:{} {} {time:?} {names} {:?} {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            attributes(&path),
        );
        let name = path.strip_prefix(root).expect("inside").display();
        files.insert(name.to_string(), facts);
        if meta.is_dir() {
            list(root, &path, files);
        }
    }
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).expect("attributes");
    let mut found = BTreeMap::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0; 4096];
        let length = rustix::fs::lgetxattr(path, &*name, &mut value[..]).expect("an attribute");
        value.truncate(length);
        found.insert(name, value);
    }
    found
}

/// The configurations in a layout, with histories and layers.
fn images(layout: &Path) -> Vec<Value> {
    let blob = |digest: &Value| -> Value {
        let (kind, hex) = digest
            .as_str()
            .and_then(|it| it.split_once(':'))
            .expect("a digest");
        let bytes = std::fs::read(layout.join("blobs").join(kind).join(hex)).expect("a blob");
        serde_json::from_slice(&bytes).expect("a document")
    };
    let index = std::fs::read(layout.join("index.json")).expect("an index");
    let index: Value = serde_json::from_slice(&index).expect("an index");
    let mut left: Vec<Value> = index["manifests"].as_array().expect("manifests").clone();
    let mut images = Vec::new();
    while let Some(descriptor) = left.pop() {
        let manifest = blob(&descriptor["digest"]);
        if let Some(manifests) = manifest["manifests"].as_array() {
            left.extend(manifests.iter().cloned());
            continue;
        }
        images.push(blob(&manifest["config"]["digest"]));
    }
    images
}

#[derive(Debug)]
struct Built {
    said: Said,
    files: BTreeMap<String, String>,
    images: Vec<Value>,
}

/// What differs between ours and theirs.
fn differences(ours: &Built, theirs: &Built) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug| {
        found.push(format!("{what}\n  ours   {ours:?}\n  theirs {theirs:?}"));
    };
    let (mine, other) = (&ours.said, &theirs.said);
    if mine.names != other.names {
        let only = |a: &Said, b: &Said| a.names.difference(&b.names).cloned().collect::<Vec<_>>();
        differ("names", &only(mine, other), &only(other, mine));
    }
    if mine.findings != other.findings {
        differ("findings", &mine.findings, &other.findings);
    }
    // Ours may explain at the end.
    if mine.succeeded != other.succeeded || !mine.error.starts_with(&other.error) {
        differ("errors", &mine.error, &other.error);
    }
    for name in ours.files.keys().chain(theirs.files.keys()) {
        let (mine, other) = (ours.files.get(name), theirs.files.get(name));
        if mine != other {
            differ(name, &mine, &other);
        }
    }
    if ours.images != theirs.images {
        differ("images", &ours.images, &theirs.images);
    }
    found
}

#[test]
fn every_file_of_the_corpus_becomes_what_the_stock_daemon_makes_of_it() {
    require!(root, busybox, registry);
    let Some(stock) = stock() else {
        skipped_unless(false, "E2E_STOCK names no folder with the stock daemon");
        return;
    };
    let pair = Pair::start(&stock);
    let (mut wrong, mut files) = (Vec::new(), 0);
    for case in cases() {
        let mut found = Vec::new();
        // Which of several errors comes first, and who of two asks first, is no promise of either.
        for _ in 0..3 {
            let (ours, theirs) = (case.built(&pair.ours), case.built(&pair.stock));
            files += ours.files.len();
            found = differences(&ours, &theirs);
            if found.is_empty() {
                break;
            }
        }
        if !found.is_empty() {
            wrong.push(format!("{}: {}", case.name, found.join("\n")));
        }
    }
    assert!(files > 0, "nothing was compared");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
