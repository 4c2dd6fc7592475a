//! What was lowered is remembered, as long as nothing that it came from changes.

#[path = "golden/bridge.rs"]
#[allow(dead_code, reason = "shared with the golden test")]
mod bridge;

use std::sync::Arc;

use frontend::{Frontend as _, Request};
use serde_json::json;
use tasks::Cx;

/// What a build depends on.
#[derive(Clone)]
struct Facts {
    file: &'static str,
    session: &'static str,
    ignore: &'static str,
    /// First digit of the digest of the base image.
    image: &'static str,
    label: &'static str,
}

const FACTS: Facts = Facts {
    file: "FROM base\nCMD x\nCOPY --link a /b\n",
    session: "session",
    ignore: "c\n",
    image: "1",
    label: "x",
};

/// The group that the steps of `--link` are shown as, which is named by chance each time a file is lowered; and the
/// warnings.
async fn build(frontend: &dockerfile::Dockerfile, facts: &Facts) -> (String, Vec<String>) {
    let image = json!({
        "config": {"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]}},
        "digest": format!("sha256:{}", facts.image.repeat(64)),
    });
    let meta = json!({
        "name": "memo",
        "opts": {"label:a": facts.label},
        "bases": {"docker.io/library/base:latest": image},
        "client_files": {"context": {".dockerignore": facts.ignore}},
        "worker_platforms": ["linux/amd64"],
    });
    let fake = Arc::new(bridge::Fake::new(&meta, facts.file.into()));
    let request = Request {
        options: bridge::options(&meta),
        session: facts.session.to_owned(),
        ..Request::default()
    };
    let outcome = frontend.solve(&Cx::root(), fake.clone(), request).await;
    outcome.expect("it builds");
    let solves = fake.solves.lock().expect("lock");
    let metadata = &solves.last().expect("a build").metadata;
    let groups = metadata
        .values()
        .filter_map(|op| op.progress_group.as_ref());
    let group = groups.map(|group| group.id.clone()).next();
    let warnings = fake.warnings.lock().expect("lock");
    let warnings = warnings.iter().map(|warning| warning.short.clone());
    (group.expect("a group"), warnings.collect())
}

#[tokio::test]
async fn the_same_request_is_lowered_once_and_warns_each_time() {
    let frontend = dockerfile::Dockerfile::default();
    let first = build(&frontend, &FACTS).await;
    assert_eq!(first.1.len(), 1, "{:?}", first.1);
    assert_eq!(build(&frontend, &FACTS).await, first);
    let other = build(&dockerfile::Dockerfile::default(), &FACTS).await;
    assert_ne!(other.0, first.0, "another frontend has not seen it");
}

#[tokio::test]
async fn what_changes_is_lowered_again() {
    let frontend = dockerfile::Dockerfile::default();
    let (first, _) = build(&frontend, &FACTS).await;
    let others = [
        Facts {
            file: "FROM base\nCMD y\nCOPY --link a /b\n",
            ..FACTS
        },
        Facts {
            session: "other",
            ..FACTS
        },
        Facts {
            ignore: "d\n",
            ..FACTS
        },
        Facts {
            image: "2",
            ..FACTS
        },
        Facts {
            label: "y",
            ..FACTS
        },
    ];
    for (number, facts) in others.iter().enumerate() {
        let (group, _) = build(&frontend, facts).await;
        assert_ne!(group, first, "{number}");
        assert_eq!(build(&frontend, facts).await.0, group, "{number}");
    }
}
