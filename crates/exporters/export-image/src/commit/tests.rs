//! Results without files, committed.

use std::sync::{Arc, Mutex};

use progress::{Event, Progress};
use session::Group;
use tasks::Cx;

use super::*;
use crate::Kind;
use crate::image::{name, with_metadata};

type Attrs = BTreeMap<String, String>;

fn attrs(pairs: &[(&str, &str)]) -> Attrs {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn input(metadata: &[(&str, &str)], platforms: &[&str]) -> Input {
    let mut input = Input::default();
    for (key, value) in metadata {
        let value = Bytes::copy_from_slice(value.as_bytes());
        input.metadata.insert((*key).to_owned(), value);
    }
    if platforms.is_empty() {
        input.single = Some(None);
    }
    for id in platforms {
        input.platforms.push(export::PlatformResult {
            id: (*id).to_owned(),
            platform: id.parse().expect("a platform"),
            result: None,
        });
    }
    input
}

struct Done {
    committed: Committed,
    store: Store,
    statuses: Vec<String>,
    _dir: tempfile::TempDir,
}

async fn commit(input: &Input, pairs: &[(&str, &str)]) -> Result<Done, String> {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let store = Store::open(dir.path()).expect("a store");
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let sink = move |event: Event| {
        if let Event::Status(status) = event
            && status.completed.is_some()
        {
            log.lock().expect("lock").push(status.id);
        }
    };
    let work = Work {
        cx: Cx::root(),
        progress: Progress::new(Arc::new(sink), "sha256:v"),
        sessions: Group::none(),
        index: 0,
        epoch: None,
    };
    let parsed = CommitOptions::parse(Kind::Image, &attrs(pairs));
    let (options, _) = parsed.map_err(|err| err.message)?;
    let committed = Committer {
        work: &work,
        store: &store,
        options: &options,
    }
    .commit(input)
    .await
    .map_err(|err| err.message)?;
    let statuses = seen.lock().expect("lock").clone();
    Ok(Done {
        committed,
        store,
        statuses,
        _dir: dir,
    })
}

#[tokio::test]
async fn an_empty_result_becomes_an_image_of_its_config() {
    let config = r#"{"architecture":"arm","os":"linux","variant":"v6","config":{},"extra":[1]}"#;
    let input = input(&[("containerimage.config", config)], &[]);
    let done = commit(&input, &[("source-date-epoch", "7")])
        .await
        .expect("committed");
    let root = &done.committed.root;
    let digest = done.committed.config.clone().expect("a config");
    assert_eq!(
        done.statuses,
        [
            "exporting layers".to_owned(),
            format!("exporting manifest {}", root.digest),
            format!("exporting config {digest}"),
        ]
    );
    let platform = root.platform.as_ref().expect("a platform");
    assert_eq!(platform.to_string(), "linux/arm/v6");
    let written = done.store.read(&digest).expect("a config");
    assert_eq!(
        String::from_utf8_lossy(&written),
        r#"{"architecture":"arm","config":{},"created":null,"extra":[1],"history":null,"os":"linux","rootfs":{"type":"layers","diff_ids":null},"variant":"v6"}"#
    );
    let response = done.committed.response().expect("a response");
    assert_eq!(response["containerimage.config.digest"], digest.as_str());
    assert_eq!(response["containerimage.digest"], root.digest.as_str());
}

#[tokio::test]
async fn several_platforms_become_an_index() {
    let config = |arch: &str| format!(r#"{{"architecture":"{arch}","os":"linux"}}"#);
    let (amd64, arm64) = (config("amd64"), config("arm64"));
    let metadata = [
        ("refs.platforms", "{}"),
        ("containerimage.config/linux/amd64", amd64.as_str()),
        ("containerimage.config/linux/arm64", arm64.as_str()),
    ];
    let input = input(&metadata, &["linux/amd64", "linux/arm64"]);
    let pairs = [
        ("annotation-index.i", "1"),
        ("annotation-index-descriptor.d", "2"),
        ("annotation[linux/arm64].m", "3"),
    ];
    let done = commit(&input, &pairs).await.expect("committed");
    let root = &done.committed.root;
    assert!(done.committed.config.is_none());
    assert_eq!(root.annotations["d"], "2");
    let index = oci::Index::parse(&done.store.read(&root.digest).expect("a blob"));
    let index = index.expect("an index");
    assert_eq!(index.annotations["i"], "1");
    let platforms = index.manifests.iter().flat_map(|one| &one.platform);
    let platforms: Vec<String> = platforms.map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
    let arm64 = done.store.read(&index.manifests[1].digest).expect("a blob");
    let arm64 = oci::Manifest::parse(&arm64).expect("a manifest");
    assert_eq!(arm64.annotations["m"], "3");
}

#[tokio::test]
async fn what_does_not_fit_together_is_refused() {
    let single = input(&[], &[]);
    let error = async |input: &Input, pairs: &[(&str, &str)]| match commit(input, pairs).await {
        Ok(_) => "committed".to_owned(),
        Err(text) => text,
    };
    assert_eq!(
        error(&single, &[("annotation-index.i", "1")]).await,
        "index annotations not supported for single platform export"
    );
    let map = input(&[], &["linux/amd64"]);
    assert_eq!(
        error(&map, &[]).await,
        "unable to export multiple refs, missing platforms mapping"
    );
    let broken = input(&[("containerimage.config", "null")], &[]);
    assert!(error(&broken, &[]).await.contains("image config"));
    let mut old = single.clone();
    old.compatibility = Some(10);
    assert_eq!(
        error(&old, &[("compression", "zstd")]).await,
        "unsupported compatibility-version 10 feature image exporter compression=zstd"
    );
}

#[test]
fn the_frontend_names_the_image_when_it_is_asked_to() {
    let parse = |pairs: &[(&str, &str)]| {
        let parsed = CommitOptions::parse(Kind::Image, &attrs(pairs));
        parsed.expect("options").0
    };
    let input = input(&[("image.name", "theirs"), ("annotation.k", "v")], &[]);
    let (input, options) =
        with_metadata(&input, &parse(&[("name", "*")]), &Attrs::new()).expect("merged");
    assert_eq!(name(&options, &input), "theirs");
    assert_eq!(options.annotations.places(None).manifest["k"], "v");
    assert_eq!(name(&parse(&[("name", "mine")]), &input), "mine");
}
