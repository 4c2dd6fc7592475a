//! Many builds at once on several threads, starting, leaving and failing as they like.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use oci::Digest;
use solver::Edge;
use tasks::Cx;
use testkit::fuzz::Dice;

/// Steps and what each must give: a text, or nothing if it fails.
type Graph = Vec<(Edge<Toy>, Option<String>)>;

/// Operations come from a small pool, vertices have names of their own: many steps turn out equal.
fn graph(
    dice: &mut Dice,
    salt: usize,
    runs: &std::sync::Arc<std::sync::atomic::AtomicUsize>,
) -> Graph {
    let mut graph: Graph = Vec::new();
    for at in 0..30 {
        let count = if at == 0 { 0 } else { dice.below(4) };
        let above: Vec<_> = (0..count).map(|_| graph[dice.below(at)].clone()).collect();
        let kind = dice.below(5);
        let name = format!("op{count}{kind}");
        let fails = kind == 4 && dice.below(8) == 0;
        let deed = match dice.below(3) {
            _ if fails => Deed::Fail("no"),
            0 => Deed::Slow(Duration::from_millis(1)),
            _ => Deed::Join,
        };
        let name = if fails { format!("{name} fails") } else { name };
        let toy = Toy {
            content: kind.is_multiple_of(2),
            prepare: kind == 3,
            runs: runs.clone(),
            ..doing(&name, deed)
        };
        let inputs: Vec<_> = above.iter().map(|(edge, _)| edge).collect();
        let texts: Option<Vec<_>> = above.iter().map(|(_, text)| text.clone()).collect();
        let text = texts.filter(|_| !fails);
        let text = text.map(|texts| format!("{name}({})", texts.join(" ")));
        let salt = if dice.below(2) == 0 { salt } else { 0 };
        let digest = Digest::of(format!("{name} {salt} {inputs:?}"));
        graph.push((named(digest, name, toy, &inputs, false), text));
    }
    graph
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn everybody_gets_the_right_answer() {
    let seeds = std::env::var("SOLVER_FUZZ_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 1..seeds.unwrap_or(12) {
        let dice = &mut Dice::new(seed * 0x9e37_79b9_u64);
        let bench = Bench::new();
        let runs = Default::default();
        let mut waits = Vec::new();
        for salt in 1..9 {
            let graph = graph(dice, salt, &runs);
            for _ in 0..4 {
                let (edge, expected) = graph[dice.below(graph.len())].clone();
                let (job, _) = bench.job("s");
                let cx = Cx::root();
                let patience =
                    (dice.below(4) == 0).then(|| Duration::from_micros(dice.below(9000) as u64));
                let delay = Duration::from_micros(dice.below(6000) as u64);
                waits.push(tasks::spawn("build", async move {
                    tokio::time::sleep(delay).await;
                    let stop = async {
                        match patience {
                            Some(time) => tokio::time::sleep(time).await,
                            None => std::future::pending().await,
                        }
                        cx.cancel("enough");
                        std::future::pending::<()>().await;
                    };
                    let built = tokio::select! {
                        built = job.build(&cx, &edge) => built,
                        () = stop => unreachable!("it waits for ever"),
                    };
                    match (built, expected) {
                        (Ok(built), expected) => assert_eq!(Some(built.value), expected),
                        (Err(failure), _) if failure.is_cancelled() => assert!(patience.is_some()),
                        (Err(failure), None) => assert_eq!(failure.text(), "no"),
                        (Err(failure), Some(text)) => panic!("{text}: {failure:?}"),
                    }
                }));
            }
        }
        for wait in waits {
            let ended = tokio::time::timeout(Duration::from_secs(60), wait).await;
            if ended.is_err() {
                panic!("stalled:\n{}", bench.solver.describe().await);
            }
        }
        let idle = async {
            while !bench.solver.describe().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), idle)
            .await
            .expect("nothing is left open");
        bench.check_log();
        assert!(runs.load(Ordering::Relaxed) > 0);
    }
}
