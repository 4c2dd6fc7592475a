//! What the solver itself costs: graphs of operations that do nothing, cold and cached.
//!
//! `cargo run --release -p solver --example overhead [vertices]`

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cachekeys::{KeyStore, Memory, Persistent};
use diagnostics::Failure;
use oci::Digest;
use parking_lot::Mutex;
use solver::{CacheMap, Edge, InputMap, Operation, Options, ResultStore, Solver, Vertex, Work};
use tasks::Cx;

struct Nothing {
    digest: Digest,
    inputs: usize,
}

#[async_trait]
impl Operation for Nothing {
    type Value = u32;

    async fn cache_map(&self, _: &Work, _: usize) -> Result<CacheMap, Failure> {
        let inputs = vec![InputMap::default(); self.inputs];
        Ok(CacheMap {
            digest: self.digest.clone(),
            inputs,
            done: true,
        })
    }

    async fn prepare_input(&self, _: &Work, _: usize, _: &u32) -> Result<(), Failure> {
        Ok(())
    }

    async fn content_key(&self, _: &Work, _: usize, _: &u32) -> Result<Option<Digest>, Failure> {
        Ok(None)
    }

    async fn run(&self, _: &Work, _: &[u32]) -> Result<Vec<u32>, Failure> {
        Ok(vec![0])
    }
}

#[derive(Default)]
struct Shelf(Mutex<u32>);

#[async_trait]
impl ResultStore<u32> for Shelf {
    async fn save(&self, _: &u32) -> Result<String, Failure> {
        let mut last = self.0.lock();
        *last += 1;
        Ok(last.to_string())
    }

    async fn load(&self, _: &str) -> Result<Option<u32>, Failure> {
        Ok(Some(0))
    }

    fn exists(&self, _: &str) -> bool {
        true
    }
}

fn vertex(name: &str, inputs: Vec<Edge<Nothing>>) -> Edge<Nothing> {
    let digest = Digest::of(name);
    let op = Arc::new(Nothing {
        digest: digest.clone(),
        inputs: inputs.len(),
    });
    let vertex = Vertex {
        digest,
        original: None,
        name: name.to_owned(),
        inputs,
        op,
        ignore_cache: false,
        group: None,
    };
    Edge {
        vertex: Arc::new(vertex),
        index: 0,
    }
}

/// Stages of twenty steps on one base, joined at the end.
fn stages(count: usize) -> Edge<Nothing> {
    let base = vertex("base", Vec::new());
    let mut ends = Vec::new();
    for stage in 0..count / 20 {
        let mut end = base.clone();
        for step in 0..20 {
            end = vertex(
                &format!("stage {stage} step {step}"),
                vec![end, base.clone()],
            );
        }
        ends.push(end);
    }
    vertex("top", ends)
}

fn chain(count: usize) -> Edge<Nothing> {
    let mut end = vertex("base", Vec::new());
    for step in 0..count {
        end = vertex(&format!("chain {step}"), vec![end]);
    }
    end
}

fn fan(count: usize) -> Edge<Nothing> {
    let base = vertex("base", Vec::new());
    let all = (0..count)
        .map(|at| vertex(&format!("fan {at}"), vec![base.clone()]))
        .collect();
    vertex("top", all)
}

async fn solve(keys: Arc<dyn KeyStore>, edge: &Edge<Nothing>) -> Duration {
    let options = Options {
        keys,
        results: Arc::new(Shelf::default()),
        parallelism: None,
        record: None,
    };
    let solver = Solver::new(options);
    let job = solver.job("job", Arc::new(|_: progress::Event| {}), Vec::new());
    let begun = Instant::now();
    if let Err(failure) = job.build(&Cx::root(), edge).await {
        eprintln!("{failure:?}");
    }
    let time = begun.elapsed();
    drop(job);
    solver.describe().await;
    time
}

#[tokio::main]
async fn main() {
    let count = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(480);
    let dir = std::env::temp_dir().join(format!("solver-overhead-{}", std::process::id()));
    for (name, graph) in [
        ("stages", stages(count)),
        ("chain", chain(count)),
        ("fan", fan(count)),
    ] {
        let memory: Arc<dyn KeyStore> = Arc::new(Memory::default());
        let cold = solve(memory.clone(), &graph).await;
        let cached = solve(memory, &graph).await;
        println!("{name:8} {count} vertices, keys in memory: cold {cold:?}, cached {cached:?}");
        let Ok(db) = db::Db::open(&dir, &format!("{name}-v1"), db::Options::default()) else {
            continue;
        };
        let kept: Arc<dyn KeyStore> = Arc::new(Persistent::new(db));
        let cold = solve(kept.clone(), &graph).await;
        let cached = solve(kept, &graph).await;
        println!("{name:8} {count} vertices, keys on disk:   cold {cold:?}, cached {cached:?}");
    }
    drop(std::fs::remove_dir_all(dir));
}
