//! How long a large file takes. Not part of the usual run: `cargo test --release -p dockerfile --test speed -- --ignored --nocapture`.

#[path = "golden/bridge.rs"]
#[allow(dead_code, reason = "shared with the golden test")]
mod bridge;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use frontend::{Frontend as _, Request};
use serde_json::json;
use tasks::Cx;

/// 500 stages of ten lines that copy from each other.
fn large_file() -> String {
    let mut file = String::new();
    for stage in 0..500 {
        let base = if stage == 0 {
            "plain".to_owned()
        } else {
            format!("s{}", stage - 1)
        };
        let from = if stage % 10 == 0 {
            "plain".to_owned()
        } else {
            base
        };
        writeln!(file, "FROM {from} AS s{stage}").expect("text");
        writeln!(file, "ARG VERSION=1.{stage}").expect("text");
        writeln!(file, "ENV STAGE={stage} PREFIX=/opt/$VERSION").expect("text");
        writeln!(file, "WORKDIR /src/{stage}").expect("text");
        writeln!(file, "COPY go.mod go.sum ./").expect("text");
        writeln!(
            file,
            "RUN --mount=type=cache,target=/root/.cache go mod download"
        )
        .expect("text");
        writeln!(file, "COPY --chown=1:2 . .").expect("text");
        match stage {
            0 => writeln!(file, "RUN true").expect("text"),
            _ => writeln!(file, "COPY --from=s{} /out /in", stage - 1).expect("text"),
        }
        writeln!(file, "RUN make VERSION=\"$VERSION\" && make install").expect("text");
        writeln!(file, "LABEL stage={stage} version=\"$VERSION\"").expect("text");
    }
    file
}

#[tokio::test]
#[ignore = "measures time"]
async fn five_thousand_lines_with_500_stages() {
    let image = json!({
        "config": {"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "0".repeat(64))]}},
        "digest": format!("sha256:{}", "1".repeat(64)),
    });
    let meta = json!({
        "name": "speed",
        "opts": {},
        "bases": {"docker.io/library/plain:latest": image},
        "worker_platforms": ["linux/amd64"],
    });
    let file = large_file();
    assert_eq!(file.lines().count(), 5_000);
    let mut best = f64::MAX;
    for _ in 0..10 {
        let fake = Arc::new(bridge::Fake::new(&meta, file.clone().into_bytes()));
        // A new one each time: the same one would remember.
        let frontend = dockerfile::Dockerfile::default();
        let start = Instant::now();
        let outcome = frontend
            .solve(&Cx::root(), fake.clone(), Request::default())
            .await;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
        outcome.expect("builds");
        let solves = fake.solves.lock().expect("lock");
        assert!(solves.last().expect("a solve").def.len() > 2_500);
    }
    println!("{best:.1} ms");
}
