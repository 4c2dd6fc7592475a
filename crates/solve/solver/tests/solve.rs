//! Whole solves with toy operations.

mod common;

use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;
use diagnostics::Detail;
use oci::Digest;
use solver::Edge;
use tasks::Cx;

/// `RUN` on `COPY` of a context, each a text.
fn graph() -> Edge<Toy> {
    let base = vertex(toy("base"), &[]);
    let context = vertex(
        Toy {
            random: true,
            ..toy("context")
        },
        &[],
    );
    let copy = vertex(
        Toy {
            content: true,
            ..toy("copy")
        },
        &[&base, &context],
    );
    vertex(toy("run"), &[&copy])
}

#[tokio::test(start_paused = true)]
async fn a_first_build_runs_everything_and_says_so() {
    let bench = Bench::new();
    let (job, seen) = bench.job("s");
    let built = job.build(&Cx::root(), &graph()).await.expect("a result");
    assert_eq!(built.value, "run(copy(base() context()))");
    assert_eq!(seen.announced(), 4);
    let lines = seen.lines();
    for name in ["base", "context"] {
        let own: Vec<_> = lines.iter().filter(|line| line.starts_with(name)).collect();
        assert_eq!(own.len(), 4, "{lines:?}");
    }
    assert_eq!(
        lines[lines.len() - 4..],
        [
            "copy started",
            "copy completed",
            "run started",
            "run completed"
        ]
    );
    assert_eq!(built.keys.len(), 1);
    assert!(built.keys[0].record().is_some());
    bench.check_log();
}

#[tokio::test(start_paused = true)]
async fn a_second_build_by_another_daemon_loads_only_the_result() {
    let bench = Bench::new();
    let (job, _) = bench.job("s");
    job.build(&Cx::root(), &graph()).await.expect("a result");
    drop(job);
    let bench = bench.restarted();
    let (job, seen) = bench.job("s");
    let built = job.build(&Cx::root(), &graph()).await.expect("a result");
    assert_eq!(built.value, "run(copy(base() context()))");
    drop(job);
    settle().await;
    let lines = seen.lines();
    assert!(
        lines.contains(&"run completed cached".to_owned()),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"copy completed cached".to_owned()),
        "{lines:?}"
    );
    assert!(
        !lines.iter().any(|line| line.starts_with("run started")),
        "{lines:?}"
    );
    bench.check_log();
}

#[tokio::test(start_paused = true)]
async fn a_step_whose_results_are_gone_runs_again() {
    let bench = Bench::new();
    let (job, _) = bench.job("s");
    job.build(&Cx::root(), &graph()).await.expect("a result");
    drop(job);
    bench.shelf.clear();
    let bench = bench.restarted();
    let (job, seen) = bench.job("s");
    job.build(&Cx::root(), &graph()).await.expect("a result");
    assert!(seen.lines().contains(&"run completed".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_failing_step_fails_everybody_with_its_own_words() {
    let bench = Bench::new();
    let bad = vertex(doing("bad", Deed::Fail("exit code: 1")), &[]);
    let top = vertex(toy("top"), &[&bad]);
    let (one, seen) = bench.job("a");
    let (two, _) = bench.job("b");
    let cx = Cx::root();
    let (one, two) = tokio::join!(one.build(&cx, &top), two.build(&cx, &top));
    for failure in [one, two].map(|built| built.expect_err("it fails")) {
        assert_eq!(failure.text(), "exit code: 1");
        let digest = bad.vertex.digest.to_string();
        assert_eq!(failure.details(), [Detail::Vertex { digest }]);
    }
    assert_eq!(bad.vertex.op.runs.load(Ordering::Relaxed), 1);
    assert_eq!(
        seen.lines().last().map(String::as_str),
        Some("bad error: exit code: 1")
    );
}

#[tokio::test(start_paused = true)]
async fn key_failures_have_their_prefixes() {
    let bench = Bench::new();
    let (job, seen) = bench.job("a");
    let no_map = vertex(
        Toy {
            map_fails: Some("no support for <nil>"),
            ..toy("source")
        },
        &[],
    );
    let failure = job.build(&Cx::root(), &no_map).await.expect_err("it fails");
    assert_eq!(
        failure.text(),
        "failed to load cache key: no support for <nil>"
    );
    assert_eq!(
        seen.lines(),
        ["source started", "source error: no support for <nil>"]
    );

    let (job, seen) = bench.job("a");
    let base = vertex(toy("base"), &[]);
    let copy = Toy {
        content: true,
        content_fails: Some("\"/x\": not found"),
        ..toy("copy")
    };
    let copy = vertex(copy, &[&base]);
    let failure = job.build(&Cx::root(), &copy).await.expect_err("it fails");
    assert_eq!(
        failure.text(),
        "failed to compute cache key: \"/x\": not found"
    );
    // It did not start, so nothing is said of inputs it did not come to need.
    let lines = seen.lines();
    assert_eq!(
        lines.last().expect("a line"),
        "copy error: \"/x\": not found"
    );
    assert!(!lines.contains(&"copy started".to_owned()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn an_output_that_does_not_exist_is_an_error() {
    let bench = Bench::new();
    let (job, _) = bench.job("a");
    let edge = Edge {
        index: 5,
        ..vertex(toy("step"), &[])
    };
    let failure = job.build(&Cx::root(), &edge).await.expect_err("it fails");
    assert_eq!(
        failure.text(),
        "invalid response from exec need 5 index but 1 results received"
    );
}

#[tokio::test(start_paused = true)]
async fn builds_share_a_step_and_it_stops_when_the_last_one_leaves() {
    let bench = Bench::new();
    let step = vertex(doing("step", Deed::Forever), &[]);
    let (one, _) = bench.job("a");
    let (two, seen) = bench.job("b");
    let (cx_one, cx_two) = (Cx::root(), Cx::root());
    let begun = tokio::time::Instant::now();
    let first = async {
        let built = one.build(&cx_one, &step).await;
        (begun.elapsed(), built.expect_err("cancelled"))
    };
    let second = async {
        let built = two.build(&cx_two, &step).await;
        (begun.elapsed(), built.expect_err("cancelled"))
    };
    let stop = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        cx_one.cancel("context canceled");
        tokio::time::sleep(Duration::from_secs(10)).await;
        cx_two.cancel("session lost");
    };
    let (first, second, ()) = tokio::join!(first, second, stop);
    assert_eq!(
        (first.0.as_secs(), first.1.text()),
        (10, "context canceled")
    );
    // The step takes a second to clean up, and its build waits for that.
    assert_eq!((second.0.as_secs(), second.1.text()), (21, "session lost"));
    assert!(second.1.is_cancelled());
    assert_eq!(step.vertex.op.runs.load(Ordering::Relaxed), 1);
    assert_eq!(
        seen.lines().last().map(String::as_str),
        Some("step error: stopped: context canceled")
    );

    // What was stopped is not remembered as a failure.
    let cx = Cx::root();
    let again = async {
        two.build(&cx, &step)
            .await
            .expect_err("cancelled")
            .text()
            .to_owned()
    };
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cx.cancel("enough");
    };
    assert_eq!(tokio::join!(again, stop).0, "enough");
    assert_eq!(step.vertex.op.runs.load(Ordering::Relaxed), 2);
    bench.check_log();
}

#[tokio::test(start_paused = true)]
async fn a_slow_source_is_not_stopped_and_started_again() {
    // What `quick` leads nowhere with is enough to know that `copy` must run; `slow` is needed for that.
    let bench = Bench::new();
    let quick = vertex(toy("quick"), &[]);
    let slow = Toy {
        map_takes: Duration::from_secs(5),
        ..toy("slow")
    };
    let slow = vertex(slow, &[]);
    let copy = vertex(toy("copy"), &[&quick, &slow]);
    let top = vertex(toy("run"), &[&copy]);
    let (job, seen) = bench.job("a");
    let built = job.build(&Cx::root(), &top).await.expect("a result");
    assert_eq!(built.value, "run(copy(quick() slow()))");
    let lines = seen.lines();
    let own: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("slow"))
        .collect();
    let once = ["slow started", "slow completed"];
    assert_eq!(own, [once, once].concat(), "{lines:?}");
    assert_eq!(slow.vertex.op.maps.load(Ordering::Relaxed), 1);
    bench.check_log();
}

#[tokio::test(start_paused = true)]
async fn dropping_the_wait_withdraws_the_wish() {
    let bench = Bench::new();
    let step = vertex(doing("step", Deed::Forever), &[]);
    let (job, seen) = bench.job("a");
    let waited = tokio::time::timeout(Duration::from_secs(5), job.build(&Cx::root(), &step)).await;
    assert!(waited.is_err());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        seen.lines().last().map(String::as_str),
        Some("step error: stopped: context canceled")
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_open_when_a_job_goes_is_closed() {
    let bench = Bench::new();
    let step = vertex(doing("step", Deed::Forever), &[]);
    let (job, seen) = bench.job("a");
    let (other, _) = bench.job("b");
    let cx = Cx::root();
    let waiting = other.build(&cx, &step);
    let leaving = async {
        drop(tokio::time::timeout(Duration::from_secs(5), job.build(&Cx::root(), &step)).await);
        drop(job);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let lines = seen.lines();
        assert_eq!(
            lines.last().map(String::as_str),
            Some("step error: context canceled"),
            "{lines:?}"
        );
        cx.cancel("enough");
    };
    let (built, ()) = tokio::join!(waiting, leaving);
    assert!(built.is_err());
}

#[tokio::test(start_paused = true)]
async fn no_more_steps_run_at_once_than_allowed() {
    let bench = Bench::with(Default::default(), Default::default(), Some(3));
    let active: std::sync::Arc<parking_lot::Mutex<(usize, usize)>> = Default::default();
    let steps: Vec<_> = (0..10)
        .map(|at| {
            let deed = Deed::Slow(Duration::from_secs(1));
            vertex(
                Toy {
                    active: active.clone(),
                    ..doing(&format!("step {at}"), deed)
                },
                &[],
            )
        })
        .collect();
    let all: Vec<_> = steps.iter().collect();
    let top = vertex(toy("top"), &all);
    let (job, _) = bench.job("a");
    let begun = tokio::time::Instant::now();
    job.build(&Cx::root(), &top).await.expect("a result");
    assert_eq!(active.lock().1, 3);
    assert_eq!(begun.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_step_may_build_something_itself() {
    let bench = Bench::with(Default::default(), Default::default(), Some(1));
    let inner = vertex(doing("inner", Deed::Sessions), &[]);
    let outer = Toy {
        unlimited: true,
        ..doing("outer", Deed::Nested(inner, bench.solver.clone()))
    };
    let (job, seen) = bench.job("mine");
    let built = job
        .build(&Cx::root(), &vertex(outer, &[]))
        .await
        .expect("a result");
    assert_eq!(built.value, "nested mine");
    assert_eq!(
        seen.lines(),
        [
            "outer started",
            "outer completed",
            "outer started",
            "inner started",
            "inner completed",
            "inner started",
            "inner completed",
            "outer completed"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_stop_does_not_hold_the_build_for_ever() {
    let bench = Bench::new();
    let step = vertex(doing("step", Deed::Stubborn), &[]);
    let (job, _) = bench.job("a");
    let cx = Cx::root();
    let begun = tokio::time::Instant::now();
    let stop = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cx.cancel("enough");
    };
    let (built, ()) = tokio::join!(job.build(&cx, &step), stop);
    assert_eq!(built.expect_err("cancelled").text(), "enough");
    assert_eq!(begun.elapsed().as_secs(), 31);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_breaks_down_is_an_error_and_not_a_hang() {
    let bench = Bench::new();
    let (job, _) = bench.job("a");
    let built = job
        .build(&Cx::root(), &vertex(doing("step", Deed::Panic), &[]))
        .await;
    assert!(built.is_err());
}

#[tokio::test(start_paused = true)]
async fn equal_steps_of_different_graphs_run_once_and_both_are_shown() {
    let bench = Bench::new();
    let step = |session: &str| {
        let context = Toy {
            random: true,
            ..toy("context")
        };
        let digest = Digest::of(session);
        let context = named(digest, "context".to_owned(), context, &[], false);
        let deed = Deed::Slow(Duration::from_secs(5));
        let copy = vertex(
            Toy {
                content: true,
                ..doing("copy", deed)
            },
            &[&context],
        );
        vertex(toy("run"), &[&copy])
    };
    let (one, two) = (step("one"), step("two"));
    let (first, _) = bench.job("a");
    let (second, seen) = bench.job("b");
    let cx = Cx::root();
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        second.build(&cx, &two).await.expect("a result").value
    };
    let (early, late) = tokio::join!(first.build(&cx, &one), late);
    assert_eq!(early.expect("a result").value, late);
    let runs = |edge: &Edge<Toy>| edge.vertex.op.runs.load(Ordering::Relaxed);
    assert_eq!(runs(&one) + runs(&two), 1);
    let lines = seen.lines();
    assert!(lines.contains(&"copy completed".to_owned()), "{lines:?}");
    bench.check_log();
}

#[tokio::test(start_paused = true)]
async fn a_build_that_joins_late_is_shown_what_happened() {
    let bench = Bench::new();
    let step = vertex(doing("step", Deed::Log("hello")), &[]);
    let (first, _) = bench.job("a");
    first.build(&Cx::root(), &step).await.expect("a result");
    let (second, seen) = bench.job("b");
    second.build(&Cx::root(), &step).await.expect("a result");
    assert_eq!(
        seen.lines(),
        ["step started", "step log hello", "step completed"]
    );
}

#[tokio::test(start_paused = true)]
async fn preparing_is_shown_on_the_input() {
    let bench = Bench::new();
    let base = vertex(toy("base"), &[]);
    let run = vertex(
        Toy {
            prepare: true,
            ..toy("run")
        },
        &[&base],
    );
    let (job, seen) = bench.job("a");
    job.build(&Cx::root(), &run).await.expect("a result");
    let lines = seen.lines();
    assert_eq!(
        lines[4..],
        [
            "base started",
            "base status base()",
            "base status base() done",
            "base completed",
            "run started",
            "run completed"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn ignoring_the_cache_runs_the_step_and_what_follows_from_it() {
    let bench = Bench::new();
    let chain = |ignore| {
        let base = vertex(toy("base"), &[]);
        let step = named(
            Digest::of("step"),
            "step".to_owned(),
            toy("step"),
            &[&base],
            ignore,
        );
        vertex(toy("top"), &[&step])
    };
    let (job, _) = bench.job("a");
    job.build(&Cx::root(), &chain(false))
        .await
        .expect("a result");
    drop(job);
    let bench = bench.restarted();
    let (job, _) = bench.job("a");
    let again = chain(true);
    job.build(&Cx::root(), &again).await.expect("a result");
    assert_eq!(again.vertex.op.runs.load(Ordering::Relaxed), 1);
    let step = &again.vertex.inputs[0];
    assert_eq!(step.vertex.op.runs.load(Ordering::Relaxed), 1);
    let base = &step.vertex.inputs[0];
    assert_eq!(base.vertex.op.runs.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn another_clients_equal_files_are_found_by_their_content() {
    let bench = Bench::new();
    let graph = |session: &str, files: &str| {
        let base = vertex(toy("base"), &[]);
        let context = Toy {
            random: true,
            ..doing(session, Deed::Say(files.to_owned()))
        };
        let context = vertex(context, &[]);
        let copy = Toy {
            content: true,
            ..toy("copy")
        };
        // The base is not looked at by content.
        let copy = vertex(copy, &[&context]);
        let both = vertex(toy("both"), &[&base, &copy]);
        vertex(toy("run"), &[&both])
    };
    let (job, _) = bench.job("a");
    let cx = Cx::root();
    job.build(&cx, &graph("one", "files"))
        .await
        .expect("a result");
    drop(job);
    let bench = bench.restarted();
    let (job, _) = bench.job("b");
    let edge = graph("two", "files");
    job.build(&cx, &edge).await.expect("a result");
    let runs = |edge: &Edge<Toy>| edge.vertex.op.runs.load(Ordering::Relaxed);
    let both = &edge.vertex.inputs[0];
    let [base, copy] = [0, 1].map(|at| &both.vertex.inputs[at]);
    let context = &copy.vertex.inputs[0];
    let all = [&edge, both, base, copy, context].map(runs);
    assert_eq!(all, [0, 0, 0, 0, 1], "only the files are looked at");
}

/// An image whose first answer is `index` and whose second one is always the same, and a step on it.
fn on_image(index: &str) -> Edge<Toy> {
    let image = Toy {
        name: "image".to_owned(),
        first: Some(index.to_owned()),
        answers: 2,
        ..toy("image")
    };
    let digest = Digest::of(index);
    let image = named(digest, "image".to_owned(), image, &[], false);
    vertex(toy("run"), &[&image])
}

#[tokio::test(start_paused = true)]
async fn an_image_that_moved_but_has_not_changed_is_recognised_and_learnt() {
    let mut bench = Bench::new();
    let maps = |edge: &Edge<Toy>| {
        let image = &edge.vertex.inputs[0].vertex.op;
        image.maps.load(Ordering::Relaxed)
    };
    // Run; found by the first answer; found by the second one; learnt.
    for (index, asked, runs) in [("one", 2, 1), ("one", 1, 0), ("two", 2, 0), ("two", 1, 0)] {
        let (job, _) = bench.job("a");
        let edge = on_image(index);
        job.build(&Cx::root(), &edge).await.expect("a result");
        let did = (maps(&edge), edge.vertex.op.runs.load(Ordering::Relaxed));
        assert_eq!(did, (asked, runs), "{index}");
        drop(job);
        bench = bench.restarted();
    }
}

/// A step that is renewed, one that looks at its content, and two that follow from it.
fn renewed(content: &str, ignore: bool) -> [Edge<Toy>; 4] {
    let step = named(
        Digest::of("step"),
        "step".to_owned(),
        doing("step", Deed::Say(content.to_owned())),
        &[],
        ignore,
    );
    let looks = vertex(
        Toy {
            content: true,
            ..toy("looks")
        },
        &[&step],
    );
    let follows = vertex(toy("follows"), &[&step]);
    let after = vertex(toy("after"), &[&follows]);
    [step, looks, follows, after]
}

#[tokio::test(start_paused = true)]
async fn what_follows_from_a_renewed_step_is_renewed_unless_the_content_is_the_same() {
    for (content, looked) in [("same", 0), ("other", 1)] {
        let bench = Bench::new();
        let (job, _) = bench.job("a");
        for edge in renewed("same", false) {
            job.build(&Cx::root(), &edge).await.expect("a result");
        }
        drop(job);
        let bench = bench.restarted();
        let (job, _) = bench.job("a");
        let edges = renewed(content, true);
        for edge in &edges {
            let built = job.build(&Cx::root(), edge).await.expect("a result");
            assert!(built.value.contains(content), "{}", built.value);
        }
        let runs = edges.map(|edge| edge.vertex.op.runs.load(Ordering::Relaxed));
        assert_eq!(runs, [1, looked, 1, 1], "{content}");

        // Later builds get what is newest.
        drop(job);
        let bench = bench.restarted();
        let (job, _) = bench.job("a");
        for edge in renewed("not made again", false) {
            let built = job.build(&Cx::root(), &edge).await.expect("a result");
            assert!(built.value.contains(content), "{}", built.value);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_spoilt_by_another_builds_end_is_tried_once_more() {
    let bench = Bench::new();
    let step = vertex(doing("step", Deed::Spoilt), &[]);
    let (one, _) = bench.job("a");
    let (two, _) = bench.job("b");
    let cx = Cx::root();
    let (_, built) = tokio::join!(one.build(&cx, &step), two.build(&cx, &step));
    assert_eq!(built.expect("a result").value, "step()");
    assert_eq!(step.vertex.op.runs.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_cache_is_waited_for_and_used() {
    let theirs = Bench::new();
    let (job, _) = theirs.job("a");
    job.build(&Cx::root(), &graph()).await.expect("a result");

    let ours = Bench::new();
    let (job, seen) = ours.job("a");
    job.import(std::sync::Arc::new(Theirs {
        keys: theirs.keys.clone(),
        shelf: theirs.shelf.clone(),
    }));
    let built = job.build(&Cx::root(), &graph()).await.expect("a result");
    assert_eq!(built.value, "run(copy(base() context()))");
    let lines = seen.lines();
    assert!(
        lines.contains(&"run completed cached".to_owned()),
        "{lines:?}"
    );
    assert_eq!(built.stores.iter().count(), 2);
    drop(job);

    // What was loaded is in the own store now.
    let ours = ours.restarted();
    let (job, seen) = ours.job("a");
    job.build(&Cx::root(), &graph()).await.expect("a result");
    assert!(seen.lines().contains(&"run completed cached".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn one_can_see_what_a_build_waits_for() {
    let bench = Bench::new();
    let step = vertex(doing("step", Deed::Forever), &[]);
    let top = vertex(toy("top"), &[&step]);
    let (job, _) = bench.job("a");
    let wait = Duration::from_secs(5);
    let describe = async {
        tokio::time::sleep(wait).await;
        bench.solver.describe().await
    };
    let cx = Cx::root();
    let (_, text) = tokio::join!(
        tokio::time::timeout(2 * wait, job.build(&cx, &top)),
        describe
    );
    assert_eq!(
        text,
        "step: output 0: wanted Done, at Slow, waits for operation, asks for []\n\
         step: run since 5.0 s\n\
         top: output 0: wanted Done, at Slow, waits for inputs, asks for [input 0 Done]"
    );
}

/// In a thread with a small stack: no depth or width of a graph may matter.
fn build_big(edge: impl FnOnce() -> Edge<Toy> + Send + 'static) {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let edge = edge();
            for _ in 0..2 {
                let bench = Bench::new();
                let (job, _) = bench.job("a");
                job.build(&Cx::root(), &edge).await.expect("a result");
            }
        });
    };
    let thread = std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(work);
    thread.expect("a thread").join().expect("no overflow");
}

#[test]
fn a_chain_of_four_thousand_steps_is_built() {
    build_big(|| {
        let step = |at: usize, inputs: &[&Edge<Toy>]| {
            let deed = Deed::Say(at.to_string());
            let (name, digest) = (at.to_string(), Digest::of(at.to_string()));
            named(digest, name, doing(&at.to_string(), deed), inputs, false)
        };
        let mut edge = step(0, &[]);
        for at in 1..4_000 {
            edge = step(at, &[&edge]);
        }
        edge
    });
}

#[test]
fn a_step_with_four_thousand_inputs_is_built() {
    build_big(|| {
        let base = vertex(toy("base"), &[]);
        let all: Vec<_> = (0..4_000)
            .map(|at| vertex(toy(&at.to_string()), &[&base]))
            .collect();
        let all: Vec<_> = all.iter().collect();
        vertex(toy("top"), &all)
    });
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}
