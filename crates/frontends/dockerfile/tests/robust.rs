//! Whatever is in the file: an answer or an error, never a panic, and always the same.

#[path = "golden/bridge.rs"]
#[allow(dead_code, reason = "shared with the golden test")]
mod bridge;

use std::path::Path;
use std::sync::Arc;

use frontend::{Frontend as _, Request};
use prost::Message as _;
use serde_json::{Value, json};
use tasks::Cx;

/// The text of the failure, or the bytes of the last graph.
async fn outcome(meta: &Value, file: &[u8]) -> Result<Vec<u8>, String> {
    let fake = Arc::new(bridge::Fake::new(meta, file.to_vec()));
    let request = Request {
        options: bridge::options(meta),
        inputs: bridge::inputs(meta),
        session: "session".to_owned(),
    };
    let outcome = dockerfile::Dockerfile::default()
        .solve(&Cx::root(), fake.clone(), request)
        .await;
    outcome.map_err(|err| err.text().to_owned())?;
    let solves = fake.solves.lock().expect("lock");
    let graph = solves.last().expect("a solve");
    // Ids of progress groups are random.
    Ok(graph.def.iter().flat_map(|op| op.encode_to_vec()).collect())
}

#[tokio::test]
async fn damaged_files_do_not_panic_and_give_the_same_answer_twice() {
    let vectors = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/dockerfile"
    );
    let mut seen = 0;
    for entry in std::fs::read_dir(Path::new(vectors)).expect("the vectors are there") {
        let dir = entry.expect("an entry").path();
        let Ok(meta) = std::fs::read_to_string(dir.join("meta.json")) else {
            continue;
        };
        let meta: Value = serde_json::from_str(&meta).expect("vectors are JSON");
        let file = std::fs::read(dir.join("Dockerfile")).expect("a Dockerfile");
        if file.len() > 10_000 {
            continue;
        }
        for step in 1..8 {
            let at = file.len() * step / 8;
            let (start, end) = file.split_at(at);
            let damaged = [
                start.to_vec(),
                [end, start].concat(),
                [start, b"\xff${\\\n<<", end].concat(),
            ];
            for damaged in damaged {
                let once = outcome(&meta, &damaged).await;
                assert_eq!(once, outcome(&meta, &damaged).await, "{}", dir.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 5_000, "{seen}");
}

fn meta(images: Value) -> Value {
    json!({
        "name": "robust",
        "opts": {},
        "bases": images,
        "worker_platforms": ["linux/amd64"],
    })
}

fn image(on_build: &str) -> Value {
    json!({
        "config": {
            "architecture": "amd64",
            "os": "linux",
            "config": {"OnBuild": [on_build]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]},
        },
        "digest": format!("sha256:{}", "1".repeat(64)),
    })
}

#[tokio::test]
async fn an_image_that_copies_from_itself_does_not_go_on_for_ever() {
    let name = "docker.io/library/self:latest";
    let meta = meta(json!({name: image("COPY --from=self / /x")}));
    assert!(outcome(&meta, b"FROM self\nRUN x\n").await.is_ok());
}

#[tokio::test]
async fn thousands_of_stages_need_no_deep_stack() {
    let mut file = "FROM scratch AS s0\nCOPY a /\n".to_owned();
    for stage in 1..5_000 {
        let before = stage - 1;
        file.push_str(&format!(
            "FROM scratch AS s{stage}\nCOPY --from=s{before} / /\n"
        ));
    }
    assert!(outcome(&meta(json!({})), file.as_bytes()).await.is_ok());
    file.push_str("FROM s0 AS last\nCOPY --from=nosuch / /\n");
    let refused = outcome(&meta(json!({})), file.as_bytes()).await;
    assert_eq!(
        refused,
        Err("nosuch: docker.io/library/nosuch:latest: not found".to_owned())
    );
}

#[tokio::test]
async fn cycles_are_found_however_long() {
    let mut file = String::new();
    for stage in 0..3_000 {
        let next = (stage + 1) % 3_000;
        file.push_str(&format!(
            "FROM scratch AS s{stage}\nCOPY --from=s{next} / /\n"
        ));
    }
    let refused = outcome(&meta(json!({})), file.as_bytes()).await;
    assert_eq!(
        refused,
        Err("circular dependency detected on stage: s0".to_owned())
    );
}
