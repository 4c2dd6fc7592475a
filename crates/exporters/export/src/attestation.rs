//! Statements about results: from what frontends and the build attach to what exporters write.
//!
//! An attestation is either one predicate, or a bundle: a directory of complete statements. [`unbundle`] leaves only the
//! former, [`statements`] makes in-toto statements of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use fault::{Class, Classify as _};
use fstree::Root;
use oci::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::futures_box::BoxFuture;
use crate::{Error, Work};

/// The statement that things are so.
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// The predicate of documents about what is in an image.
pub const SPDX: &str = "https://spdx.dev/Document";

/// Only the daemon says how something was built.
const PROVENANCE: &str = "https://slsa.dev/provenance/";

/// No file of a statement is bigger.
const LIMIT: u64 = 40 << 20;

/// Something that is said about a result.
#[derive(Clone, Debug)]
pub struct Attestation {
    /// A directory of statements rather than one predicate.
    pub bundle: bool,
    /// Free-form facts, such as why it was made.
    pub metadata: BTreeMap<String, Bytes>,
    /// Where it is.
    pub content: Content,
    /// Path in a tree; for what was made, the name of the file it would be.
    pub path: String,
    /// URI of the predicate type.
    pub predicate_type: String,
    /// What it is about; nothing: the result.
    pub subjects: Vec<Subject>,
}

/// Makes a predicate when it is wanted.
pub type Make = Arc<dyn Fn() -> BoxFuture<Result<Bytes, Error>> + Send + Sync>;

/// Where an attestation is.
#[derive(Clone)]
pub enum Content {
    /// Nowhere.
    Missing,
    /// A file or directory of a tree.
    Tree(cache::Ref),
    /// Made by the daemon.
    Made(Make),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "Missing",
            Self::Tree(_) => "Tree",
            Self::Made(_) => "Made",
        })
    }
}

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The result, under one more name unless that is empty.
    Own(String),
    /// Something else.
    Other(Named),
}

/// A thing with its digests by algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// What it is called.
    #[serde(default)]
    pub name: String,
    /// Digests by algorithm.
    #[serde(default)]
    pub digest: BTreeMap<String, String>,
}

impl Named {
    /// A thing with one digest.
    pub fn new(name: impl Into<String>, digest: &Digest) -> Self {
        let digest = (digest.algorithm().to_owned(), digest.hex().to_owned());
        Self {
            name: name.into(),
            digest: BTreeMap::from([digest]),
        }
    }
}

/// An in-toto statement. The order of the fields is the order in which it is written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Statement {
    #[serde(rename = "_type")]
    kind: &'static str,
    /// URI of the predicate type.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What it is about.
    pub subject: Vec<Named>,
    predicate: Value,
}

impl Attestation {
    fn fact(&self, key: &str) -> Option<&[u8]> {
        self.metadata.get(key).map(Bytes::as_ref)
    }

    /// Whether it may only go into images.
    pub fn is_inline_only(&self) -> bool {
        self.fact("inline-only") == Some(b"true")
    }

    /// Whether it is about what is in the result, rather than in what it was made of.
    pub fn is_core(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        let name = name.split('.').next().unwrap_or_default();
        self.fact("sbom-core") == Some(name.as_bytes())
    }

    fn check(&self) -> Result<(), Error> {
        if !self.bundle && self.path.is_empty() {
            return Err(Error::user("attestation does not have set path"));
        }
        if matches!(self.content, Content::Missing) {
            return Err(Error::user("attestation does not have available content"));
        }
        Ok(())
    }

    /// The predicate.
    pub async fn read(&self, work: &Work) -> Result<Bytes, Error> {
        match &self.content {
            Content::Made(make) => make().await,
            Content::Tree(tree) => {
                let root = open(work, tree).await?;
                let path = self.path.clone();
                let read = tasks::blocking(move || read_file(&root, &path)).await;
                read.map_err(|err| Error {
                    message: format!("cannot read in-toto attestation: {}", err.message),
                    ..err
                })
            }
            Content::Missing => Err(Error::user("no available content for attestation")),
        }
    }
}

async fn open(work: &Work, tree: &cache::Ref) -> Result<Root, Error> {
    let ensured = tree.ensure(&work.cx, &work.progress).await;
    ensured.map_err(|err| Error::new(&err))?;
    let tree = tree.tree(&work.cx).await;
    let tree = tree.map_err(|err| Error::new(&err))?;
    Root::from_borrowed(tree.fd()).map_err(|err| failed("open", "/", &err))
}

fn failed(op: &str, path: &str, err: &std::io::Error) -> Error {
    Error {
        message: format!("{op} {path}: {}", fstree::errno_text(err)),
        // Compat: that a document is missing is what is wrong with the build, and no answer to the call.
        class: match err.class() {
            Class::NotFound => Class::User,
            class => class,
        },
    }
}

fn read_file(root: &Root, path: &str) -> Result<Bytes, Error> {
    let meta = root.meta(path).map_err(|err| failed("open", path, &err))?;
    if meta.kind() != fstree::Kind::File {
        return Err(Error::user(format!("{path} is not a regular file")));
    }
    let file = root.open_file(path);
    let file = file.map_err(|err| failed("open", path, &err))?;
    let mut data = Vec::new();
    let read = file.take(LIMIT + 1).read_to_end(&mut data);
    read.map_err(|err| failed("read", path, &err))?;
    if data.len() as u64 > LIMIT {
        return Err(Error::user(format!("{path} exceeds {LIMIT} bytes")));
    }
    Ok(data.into())
}

/// The same without bundles: each statement in one becomes an attestation. What is about the result itself comes first.
pub async fn unbundle(work: &Work, all: &[Attestation]) -> Result<Vec<Attestation>, Error> {
    let mut single = Vec::new();
    for attestation in all {
        attestation.check()?;
        if attestation.bundle {
            single.extend(open_bundle(work, attestation).await?);
            continue;
        }
        let made = matches!(attestation.content, Content::Made(_));
        if attestation.predicate_type.starts_with(PROVENANCE) && !made {
            return Err(Error::user("frontend may not set provenance attestations"));
        }
        single.push(attestation.clone());
    }
    for attestation in &single {
        attestation.check()?;
    }
    single.sort_by_key(|attestation| !attestation.is_core());
    Ok(single)
}

async fn open_bundle(work: &Work, bundle: &Attestation) -> Result<Vec<Attestation>, Error> {
    let Content::Tree(tree) = &bundle.content else {
        return Err(Error::user("attestation bundle cannot have callback"));
    };
    let root = open(work, tree).await?;
    let bundle = bundle.clone();
    tasks::blocking(move || {
        let path = match bundle.path.as_str() {
            "" => "/",
            path => path,
        };
        let dir = root
            .open_dir(path)
            .map_err(|err| failed("open", path, &err))?;
        let entries = std::fs::read_dir(dir.proc_path());
        let mut names: Vec<String> = entries
            .and_then(|entries| {
                entries
                    .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                    .collect()
            })
            .map_err(|err| failed("open", path, &err))?;
        names.sort_unstable();
        let base = bundle.path.trim_end_matches('/');
        names
            .into_iter()
            .map(|name| {
                let path = match base {
                    "" => name,
                    base => format!("{base}/{name}"),
                };
                let content = read_file(&root, &path)?;
                unpack(&bundle, path, &content)
            })
            .collect()
    })
    .await
}

/// A statement as it lies in a bundle.
#[derive(Deserialize)]
struct Packed {
    #[serde(rename = "predicateType", default)]
    predicate_type: String,
    #[serde(default)]
    subject: Option<Vec<Named>>,
    #[serde(default)]
    predicate: Value,
}

fn unpack(bundle: &Attestation, path: String, content: &[u8]) -> Result<Attestation, Error> {
    let packed: Packed = oci::json::object(content).map_err(|err| {
        let text = match err.to_string().strip_prefix("trailing characters") {
            Some(_) => "in-toto statement is not a single JSON object".to_owned(),
            None => format!("cannot decode in-toto statement: {err}"),
        };
        Error::user(text)
    })?;
    let (wanted, given) = (&bundle.predicate_type, &packed.predicate_type);
    if !wanted.is_empty() && given != wanted {
        return Err(Error::user(format!(
            "bundle entry {given} does not match required predicate type {wanted}"
        )));
    }
    if given.starts_with(PROVENANCE) {
        let text = "frontend may not bundle provenance attestations";
        return Err(Error::user(text));
    }
    let subjects = packed.subject.unwrap_or_default();
    let predicate = oci::json::compact(&sorted(packed.predicate)).map_err(|err| not_json(&err))?;
    let predicate = Bytes::from(predicate);
    Ok(Attestation {
        bundle: false,
        metadata: bundle.metadata.clone(),
        content: Content::Made(made(predicate)),
        path,
        predicate_type: packed.predicate_type,
        subjects: subjects.into_iter().map(Subject::Other).collect(),
    })
}

/// What is made already.
pub fn made(predicate: Bytes) -> Make {
    Arc::new(move || {
        let predicate = predicate.clone();
        Box::pin(async move { Ok(predicate) })
    })
}

/// Objects with their keys in order.
pub fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<String, Value> = map.into_iter().collect();
            let map = map.into_iter().map(|(key, value)| (key, sorted(value)));
            Value::Object(map.collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn not_json(err: &serde_json::Error) -> Error {
    Error {
        message: format!("failed to marshal attestation: {err}"),
        class: Class::User,
    }
}

/// The statements of attestations without bundles, in their order. `own` is what the result is called.
pub async fn statements(
    work: &Work,
    all: &[Attestation],
    own: &[Named],
) -> Result<Vec<Statement>, Error> {
    let mut statements = Vec::with_capacity(all.len());
    for attestation in all {
        let content = attestation.read(work).await?;
        let predicate = match content.as_ref() {
            [] => Value::Null,
            content => serde_json::from_slice(content).map_err(|err| not_json(&err))?,
        };
        statements.push(Statement {
            kind: STATEMENT,
            predicate_type: attestation.predicate_type.clone(),
            subject: subjects(&attestation.subjects, own),
            predicate,
        });
    }
    Ok(statements)
}

fn subjects(wanted: &[Subject], own: &[Named]) -> Vec<Named> {
    if wanted.is_empty() {
        return own.to_vec();
    }
    let mut all = Vec::new();
    for subject in wanted {
        match subject {
            Subject::Own(name) => {
                for thing in own {
                    all.push(thing.clone());
                    if !name.is_empty() && name != "_" {
                        all.push(Named {
                            name: name.clone(),
                            digest: thing.digest.clone(),
                        });
                    }
                }
            }
            Subject::Other(thing) => {
                let mut thing = thing.clone();
                if thing.name.is_empty() {
                    "_".clone_into(&mut thing.name);
                }
                all.push(thing);
            }
        }
    }
    all
}

impl Statement {
    /// On one line, as images have it.
    pub fn compact(&self) -> Result<Vec<u8>, Error> {
        oci::json::compact(self).map_err(|err| not_json(&err))
    }

    /// Indented, as files have it.
    pub fn indented(&self) -> Result<Vec<u8>, Error> {
        oci::json::indented(self).map_err(|err| not_json(&err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attestation(predicate_type: &str) -> Attestation {
        Attestation {
            bundle: true,
            metadata: BTreeMap::new(),
            content: Content::Missing,
            path: String::new(),
            predicate_type: predicate_type.to_owned(),
            subjects: Vec::new(),
        }
    }

    fn named(name: &str) -> Named {
        Named {
            name: name.to_owned(),
            digest: BTreeMap::from([("sha256".to_owned(), "ab".to_owned())]),
        }
    }

    fn refused(bundle: &Attestation, text: &str) -> String {
        let unpacked = unpack(bundle, "x.json".to_owned(), text.as_bytes());
        unpacked.expect_err("refused").message
    }

    #[test]
    fn a_bundle_holds_what_it_says() {
        let bundle = attestation(SPDX);
        assert_eq!(
            refused(&bundle, r#"{"predicateType":"x"}"#),
            "bundle entry x does not match required predicate type https://spdx.dev/Document"
        );
        assert_eq!(
            refused(
                &attestation(""),
                r#"{"predicateType":"https://slsa.dev/provenance/v1"}"#
            ),
            "frontend may not bundle provenance attestations"
        );
        assert_eq!(
            refused(&bundle, "{} {}"),
            "in-toto statement is not a single JSON object"
        );
        let list = refused(&attestation(""), "[]");
        assert!(
            list.starts_with("cannot decode in-toto statement: "),
            "{list}"
        );
    }

    #[test]
    fn a_missing_document_is_the_builds_fault() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let err = failed("open", "sbom.json", &missing);
        assert_eq!(err.class, Class::User);
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(failed("read", "x", &full).class, full.class());
    }

    #[test]
    fn the_result_may_have_more_names() {
        let own = [named("img")];
        assert_eq!(subjects(&[], &own), own);
        assert_eq!(
            subjects(&[Subject::Own("also".to_owned())], &own),
            [named("img"), named("also")]
        );
        assert_eq!(subjects(&[Subject::Other(named(""))], &own), [named("_")]);
    }

    #[test]
    fn a_statement_has_its_fields_in_order() {
        let statement = Statement {
            kind: STATEMENT,
            predicate_type: "t".to_owned(),
            subject: Vec::new(),
            predicate: serde_json::json!({"b": "<", "a": 1}),
        };
        assert_eq!(
            String::from_utf8(statement.compact().expect("JSON")).expect("text"),
            "{\"_type\":\"https://in-toto.io/Statement/v1\",\"predicateType\":\"t\",\"subject\":[],\
             \"predicate\":{\"b\":\"\\u003c\",\"a\":1}}"
        );
    }

    #[test]
    fn core_documents_are_known_by_their_name() {
        let mut one = attestation(SPDX);
        one.metadata
            .insert("sbom-core".to_owned(), Bytes::from_static(b"sbom"));
        for (path, core) in [
            ("sbom.spdx.json", true),
            ("d/sbom.spdx.json", true),
            ("sbom-context.spdx.json", false),
        ] {
            one.path = path.to_owned();
            assert_eq!(one.is_core(), core, "{path}");
        }
    }
}
