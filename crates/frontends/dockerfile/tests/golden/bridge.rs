//! A build that runs nothing and remembers everything.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use diagnostics::Failure;
use fault::Class;
use frontend::{
    Bridge, Outcome, Reference, ResolveOptions, ResolvedImage, SolveRequest, SourceFacts, Warning,
};
use llb::build::{Defaults, FileOp, Options, State};
use oci::{Digest, Platform};
use prost::Message as _;
use proto::pb;
use serde_json::Value;
use tasks::Cx;

type Files = BTreeMap<String, Bytes>;

/// An image look-up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub reference: String,
    pub log_name: String,
    pub platform: String,
    pub mode: String,
    pub store: String,
}

pub struct Fake {
    images: BTreeMap<String, Value>,
    /// By local name or identifier.
    files: BTreeMap<String, Files>,
    dockerfile: Bytes,
    filename: String,
    missing_caps: Vec<String>,
    platforms: Vec<Platform>,
    pub solves: Mutex<Vec<pb::Definition>>,
    pub forwards: Mutex<Vec<SolveRequest>>,
    pub warnings: Mutex<Vec<Warning>>,
    pub calls: Mutex<Vec<Call>>,
}

pub fn options(meta: &Value) -> BTreeMap<String, String> {
    let options = meta["opts"].as_object().expect("opts is an object").iter();
    options
        .map(|(key, value)| (key.clone(), text(value).to_owned()))
        .collect()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Archives stand in the vectors byte by byte, everything else as text.
fn bytes(text: &str) -> Bytes {
    if text.starts_with('\u{1f}') {
        return text.chars().map(|char| char as u8).collect();
    }
    text.to_owned().into()
}

/// Each input is one file.
pub fn inputs(meta: &Value) -> BTreeMap<String, pb::Definition> {
    let names = meta["frontend_inputs"].as_array().into_iter().flatten();
    names
        .map(|name| {
            let name = text(name);
            let file = FileOp::new().mkfile(&format!("/input-{name}"), 0o600, name.to_owned());
            let state = State::scratch().file(file, Options::default());
            let definition = state.marshal(&Defaults::default()).expect("a graph");
            (name.to_owned(), definition)
        })
        .collect()
}

impl Fake {
    pub fn new(meta: &Value, dockerfile: Vec<u8>) -> Self {
        let mut files = BTreeMap::new();
        for (name, list) in meta["client_files"].as_object().into_iter().flatten() {
            let list = list.as_object().expect("files").iter();
            let list = list.map(|(name, data)| (name.clone(), bytes(text(data))));
            files.insert(name.clone(), list.collect());
        }
        let images = meta["bases"].as_object().into_iter().flatten();
        let list = |key: &str| {
            let items = meta[key].as_array().into_iter().flatten();
            items.map(|item| text(item).to_owned()).collect::<Vec<_>>()
        };
        let filename = options(meta).get("filename").cloned();
        let lower = text(&meta["name"]).starts_with("140-");
        Self {
            images: images
                .map(|(name, image)| (name.clone(), image.clone()))
                .collect(),
            files,
            dockerfile: dockerfile.into(),
            filename: filename
                .unwrap_or_else(|| if lower { "dockerfile" } else { "Dockerfile" }.to_owned()),
            missing_caps: list("missing_llb_caps"),
            platforms: list("worker_platforms")
                .iter()
                .map(|name| name.parse().expect("a platform"))
                .collect(),
            solves: Mutex::default(),
            forwards: Mutex::default(),
            warnings: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// The files of the last source op.
    fn files_of(&self, definition: &pb::Definition) -> Files {
        if definition.def.len() > 1000 {
            return Files::new(); // nobody reads these, and decoding takes time
        }
        let sources = definition.def.iter().filter_map(|bytes| {
            match pb::Op::decode(bytes.clone()).expect("an op").op {
                Some(pb::op::Op::Source(source)) => Some(source),
                _ => None,
            }
        });
        let Some(source) = sources.last() else {
            return Files::new();
        };
        let name = source
            .identifier
            .strip_prefix("local://")
            .unwrap_or(&source.identifier);
        let mut files = self.files.get(name).cloned().unwrap_or_default();
        let follow = source
            .attrs
            .get("local.followpaths")
            .map_or("", String::as_str);
        let plain = source.attrs.contains_key("local.differ");
        if plain && !follow.starts_with("[\".dockerignore\"") {
            files.insert(self.filename.clone(), self.dockerfile.clone());
        }
        files
    }
}

#[async_trait]
impl Bridge for Fake {
    async fn solve(&self, _: &Cx, request: SolveRequest) -> Result<Outcome, Failure> {
        if !request.frontend.is_empty() {
            self.forwards.lock().expect("lock").push(request);
            let reference: Arc<dyn Reference> = Arc::new(Tree {
                files: Files::new(),
            });
            return Ok(Outcome {
                single: Some(Some(reference)),
                ..Outcome::default()
            });
        }
        let definition = request.definition.unwrap_or_default();
        let files = self.files_of(&definition);
        self.solves.lock().expect("lock").push(definition);
        let reference: Arc<dyn Reference> = Arc::new(Tree { files });
        Ok(Outcome {
            single: Some(Some(reference)),
            ..Outcome::default()
        })
    }

    async fn resolve_image(
        &self,
        _: &Cx,
        name: &str,
        options: ResolveOptions,
    ) -> Result<ResolvedImage, Failure> {
        let store = options.store.map(|store| store.store).unwrap_or_default();
        let platform = options.platform.clone().unwrap_or_default();
        let call = Call {
            reference: name.to_owned(),
            log_name: options.log_name,
            platform: options
                .platform
                .map_or(String::new(), |platform| platform.to_string()),
            mode: options.mode,
            store,
        };
        self.calls.lock().expect("lock").push(call);
        let bare = name.split('@').next().unwrap_or_default();
        let latest = format!("{bare}:latest");
        let image = [name, bare, &latest]
            .into_iter()
            .find_map(|name| self.images.get(name));
        let Some(image) = image else {
            return Err(Failure::new(Class::NotFound, format!("{name}: not found")));
        };
        let mut config = image["config"].clone();
        if text(&config["architecture"]) == "$requested" {
            config["architecture"] = platform.architecture.clone().into();
            if !platform.variant.is_empty() {
                config["variant"] = platform.variant.clone().into();
            }
        }
        let digest = match name.split_once('@') {
            Some((_, digest)) => digest.parse().expect("a digest"),
            None => text(&image["digest"]).parse::<Digest>().expect("a digest"),
        };
        Ok(ResolvedImage {
            reference: name.to_owned(),
            digest,
            config: config.to_string().into_bytes().into(),
        })
    }

    async fn warn(&self, warning: Warning) -> Result<(), Failure> {
        self.warnings.lock().expect("lock").push(warning);
        Ok(())
    }

    fn platforms(&self) -> Vec<Platform> {
        self.platforms.clone()
    }

    fn supports(&self, capability: &str) -> bool {
        !self
            .missing_caps
            .iter()
            .any(|missing| missing == capability)
    }

    fn offers(&self, frontend: &str) -> bool {
        frontend == "gateway.v0"
    }

    async fn resolve_source(
        &self,
        _: &Cx,
        source: pb::SourceOp,
        log_name: &str,
    ) -> Result<SourceFacts, Failure> {
        let call = Call {
            reference: source.identifier.clone(),
            log_name: log_name.to_owned(),
            platform: String::new(),
            mode: String::new(),
            store: String::new(),
        };
        self.calls.lock().expect("lock").push(call);
        let http = source.identifier.starts_with("http");
        Ok(SourceFacts {
            git_commit: None,
            last_modified: http.then_some(1_500_000_000),
        })
    }
}

struct Tree {
    files: Files,
}

#[async_trait]
impl Reference for Tree {
    fn id(&self) -> &str {
        "tree"
    }

    fn definition(&self) -> Option<Arc<pb::Definition>> {
        None
    }

    async fn evaluate(&self, _: &Cx) -> Result<(), Failure> {
        Ok(())
    }

    async fn read_file(&self, _: &Cx, path: &str, _: Option<(i64, i64)>) -> Result<Bytes, Failure> {
        self.files.get(path).cloned().ok_or_else(|| {
            Failure::new(
                Class::NotFound,
                format!("open {path}: no such file or directory"),
            )
        })
    }

    async fn read_dir(
        &self,
        _: &Cx,
        _: &str,
        _: &str,
    ) -> Result<Vec<proto::fsutil::Stat>, Failure> {
        Ok(Vec::new())
    }

    async fn stat_file(&self, _: &Cx, _: &str) -> Result<proto::fsutil::Stat, Failure> {
        Ok(proto::fsutil::Stat::default())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
