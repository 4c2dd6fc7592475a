//! Keys of operations against the recorded ones, digit for digit.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use contenthash::Query;
use oci::Digest;
use prost::Message as _;
use proto::pb;
use serde::Deserialize;
use solver::CacheMap;

use crate::exec_key::ExecKey;
use crate::file_key::FileKey;
use crate::{build, combine, load, source};

#[derive(Deserialize)]
struct Vectors {
    ops: Vec<Case>,
    sources: Vec<SourceCase>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    op_proto_base64: String,
    cache_digest: String,
    #[serde(default)]
    deps: Option<Vec<Dep>>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Dep {
    selector: Option<String>,
    content_digest: bool,
    content_queries: Option<Vec<RecordedQuery>>,
    preprocess: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RecordedQuery {
    path: String,
    wildcard: bool,
    follow_links: bool,
    include_patterns: Option<Vec<String>>,
    exclude_patterns: Option<Vec<String>>,
    required_paths: Option<Vec<String>>,
}

impl RecordedQuery {
    fn query(self) -> Query {
        Query {
            path: crate::meta::clean(&self.path),
            follow: self.follow_links,
            wildcard: self.wildcard,
            include: self.include_patterns.unwrap_or_default(),
            exclude: self.exclude_patterns.unwrap_or_default(),
            required: self.required_paths.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize)]
struct SourceCase {
    name: String,
    source_key: String,
    cache_digest: String,
}

fn vectors() -> Vectors {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/cachekeys/cachemap.json"
    ));
    serde_json::from_str(text).unwrap()
}

type Keys = (CacheMap, Vec<Vec<Query>>);

/// The keys of an op on a linux/amd64 daemon, and its content queries by input. `None`: the op alone says too little.
fn keys(op: &pb::Op) -> Option<Result<Keys, String>> {
    let native = pb::Platform {
        architecture: "amd64".into(),
        os: "linux".into(),
        ..pb::Platform::default()
    };
    let platform = load::platform(op.platform.as_ref().unwrap_or(&native));
    let inputs = op.inputs.len();
    let plain = |map: CacheMap| Ok((map, vec![Vec::new(); inputs]));
    Some(match op.op.as_ref()? {
        pb::op::Op::Exec(exec) => {
            let key = ExecKey {
                op: exec,
                platform: &platform,
                inputs,
            };
            let queries = |input| key.content_queries(input);
            key.cache_map()
                .and_then(|map| Ok((map, (0..inputs).map(queries).collect::<Result<_, _>>()?)))
                .map_err(|err| err.to_string())
        }
        pb::op::Op::File(file) => {
            let key = FileKey { op: file, inputs };
            let queries = (0..inputs).map(|input| key.content_queries(input));
            Ok((key.cache_map(), queries.collect()))
        }
        pb::op::Op::Merge(op) => plain(combine::merge_key(op, inputs)),
        pb::op::Op::Diff(op) => plain(combine::diff_key(op, inputs)),
        pb::op::Op::Passthrough(op) => plain(combine::passthrough_key(op, inputs)),
        pb::op::Op::Build(op) => plain(build::build_key(op, inputs)),
        pb::op::Op::Source(_) => return None,
    })
}

#[test]
fn every_recorded_operation_has_its_recorded_keys() {
    let mut left_out = Vec::new();
    for case in vectors().ops {
        let name = &case.name;
        let bytes = STANDARD.decode(&case.op_proto_base64).unwrap();
        let op = pb::Op::decode(bytes.as_slice()).unwrap();
        let Some(keys) = keys(&op) else {
            left_out.push(case.name);
            continue;
        };
        let (map, queries) = match (keys, &case.error) {
            (Ok(keys), None) => keys,
            (Err(err), Some(_)) => {
                assert!(err.starts_with("invalid mount cache content"), "{name}");
                continue;
            }
            (keys, _) => panic!("{name}: {keys:?}"),
        };
        assert_eq!(map.digest.as_str(), case.cache_digest, "{name}");
        assert!(map.done, "{name}");
        let deps = case.deps.unwrap_or_default();
        assert_eq!(map.inputs.len(), deps.len(), "{name}");
        for ((input, queries), dep) in map.inputs.into_iter().zip(queries).zip(deps) {
            let selector = input.selector.as_ref().map(Digest::as_str);
            assert_eq!(selector, dep.selector.as_deref(), "{name}");
            assert_eq!(input.content, dep.content_digest, "{name}");
            assert_eq!(input.prepare, dep.preprocess, "{name}");
            let recorded = dep.content_queries.unwrap_or_default();
            let recorded: Vec<Query> = recorded.into_iter().map(RecordedQuery::query).collect();
            assert_eq!(queries, recorded, "{name}");
        }
    }
    assert!(left_out.is_empty(), "{left_out:?}");
}

#[test]
fn every_recorded_source_key_gives_its_recorded_digest() {
    // An image without layers gives no second answer, and so no key.
    let recorded = vectors().sources.into_iter();
    for case in recorded.filter(|case| !case.source_key.is_empty()) {
        let digest = source::definition_key(&case.source_key);
        assert_eq!(digest.as_str(), case.cache_digest, "{}", case.name);
    }
}

#[derive(Deserialize)]
struct Links {
    content_digest_lists: Vec<List>,
    selectors: Vec<Selector>,
}

#[derive(Deserialize)]
struct List {
    digests: Vec<String>,
    combined: String,
}

#[derive(Deserialize)]
struct Selector {
    paths_in_hash_order: Vec<String>,
    selector: String,
}

#[test]
fn lists_of_answers_and_of_paths_give_their_recorded_digests() {
    let text = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/cachekeys/keylinks.json"
    ));
    let links: Links = serde_json::from_str(text).unwrap();
    assert!(!links.content_digest_lists.is_empty() && !links.selectors.is_empty());
    for list in links.content_digest_lists {
        let texts: Vec<&str> = list.digests.iter().map(String::as_str).collect();
        assert_eq!(crate::meta::combined(&texts).as_str(), list.combined);
    }
    for case in links.selectors {
        let texts: Vec<&str> = case
            .paths_in_hash_order
            .iter()
            .map(String::as_str)
            .collect();
        assert_eq!(crate::meta::combined(&texts).as_str(), case.selector);
    }
}
