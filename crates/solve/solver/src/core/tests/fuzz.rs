//! Random graphs, random orders.

use std::sync::atomic::Ordering;

use cachekeys::Key;
use oci::Digest;

use super::world::{Dice, Disk, Graph, STEPS, Step, World, content};

struct Kind {
    content: usize,
    random: usize,
    fails: usize,
    ignore: usize,
    outputs: usize,
}

const PLAIN: Kind = Kind {
    content: 40,
    random: 10,
    fails: 0,
    ignore: 0,
    outputs: 1,
};
const WILD: Kind = Kind {
    content: 40,
    random: 15,
    fails: 4,
    ignore: 8,
    outputs: 2,
};

/// A graph whose operations come from a small pool, so that many steps turn out equal.
fn graph(dice: &mut Dice, kind: &Kind) -> Graph {
    let size = 2 + dice.below(12);
    let mut graph: Graph = Vec::new();
    for at in 0..size {
        let inputs: Vec<(usize, u32)> = if at == 0 || dice.chance(25) {
            Vec::new()
        } else {
            (0..1 + dice.below(3))
                .map(|_| (dice.below(at), dice.below(kind.outputs) as u32))
                .collect()
        };
        let random = inputs.is_empty() && dice.chance(kind.random);
        let op = format!("op {} {}", inputs.len(), dice.below(4));
        let fails = dice.chance(kind.fails);
        let value = dice.below(4) as u64;
        let op = if fails { format!("{op} fails") } else { op };
        let content: Vec<_> = inputs.iter().map(|_| dice.chance(kind.content)).collect();
        let prepare: Vec<_> = inputs.iter().map(|_| dice.chance(30)).collect();
        // Which inputs are looked at by content is a matter of the operation.
        let op = format!("{op} {content:?}");
        let value = if random {
            value
        } else {
            u64::from(op.as_bytes()[5]) * 7
        };
        let two_answers = inputs.is_empty() && !random && op.len() % 2 == 0;
        let ignore_cache = dice.chance(kind.ignore);
        let name = if dice.chance(70) {
            String::new()
        } else {
            dice.below(3).to_string()
        };
        let above: Vec<_> = inputs
            .iter()
            .map(|(at, output)| format!("{}@{output}", graph[*at].digest))
            .collect();
        let own = if random {
            format!("{}", dice.below(5))
        } else {
            String::new()
        };
        let text = format!("{name} {op} {above:?} {prepare:?} {own} {value}");
        graph.push(Step {
            digest: Digest::of(text),
            op,
            value,
            inputs,
            content,
            prepare,
            ignore_cache,
            two_answers,
            random,
            fails,
        });
    }
    graph
}

/// `SOLVER_FUZZ_SEEDS` says how many, `SOLVER_FUZZ_FROM` the first.
fn seeds() -> impl Iterator<Item = u64> {
    let setting = |name: &str| std::env::var(name).ok()?.parse().ok();
    let from = setting("SOLVER_FUZZ_FROM").unwrap_or(0);
    let to = from + setting("SOLVER_FUZZ_SEEDS").unwrap_or(60);
    let mut now = Seed(from);
    (from..to).inspect(move |seed| {
        // All of it belongs to the closure.
        let now: &mut Seed = &mut now;
        now.0 = *seed;
        if seed + 1 == to {
            eprintln!("{} steps", STEPS.load(Ordering::Relaxed));
        }
    })
}

/// Tells of itself when something goes wrong with it.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SOLVER_FUZZ_FROM={} SOLVER_FUZZ_SEEDS=1", self.0);
        }
    }
}

#[test]
fn one_job_gets_what_the_naive_solver_gets() {
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let mut disk = Disk::default();
        for _ in 0..3 {
            let mut world = World::new(disk);
            let graph = graph(dice, &PLAIN);
            let job = world.add_job();
            world.want(job, &graph, graph.len() - 1, 0);
            world.settle(dice);
            disk = world.close(dice);
        }
    }
}

#[test]
fn no_step_runs_twice_for_one_key() {
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let mut world = World::new(Disk::default());
        world.check_once = true;
        let graphs: Vec<_> = (0..3).map(|_| graph(dice, &PLAIN)).collect();
        for graph in &graphs {
            let job = world.add_job();
            world.want(job, graph, dice.below(graph.len()), 0);
            for _ in 0..dice.below(30) {
                world.turn(dice);
            }
            if dice.chance(20) {
                world.settle(dice);
                world.end_job(job);
            }
        }
        world.settle(dice);
        world.close(dice);
    }
}

#[test]
fn a_second_build_runs_nothing() {
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let graph = graph(dice, &Kind { random: 0, ..PLAIN });
        let mut world = World::new(Disk::default());
        let job = world.add_job();
        world.want(job, &graph, graph.len() - 1, 0);
        world.settle(dice);
        let disk = world.close(dice);
        let mut world = World::new(disk);
        world.check_once = true;
        let job = world.add_job();
        world.want(job, &graph, graph.len() - 1, 0);
        world.settle(dice);
        assert_eq!(
            (world.runs, world.loads, world.contents),
            (0, 1, 0),
            "seed {seed}"
        );
        world.close(dice);
    }
}

#[test]
fn anything_may_happen_at_any_time() {
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let mut disk = Disk::default();
        let graphs: Vec<_> = (0..4).map(|_| graph(dice, &WILD)).collect();
        for _ in 0..2 {
            let mut world = World::new(disk);
            for _ in 0..60 + dice.below(100) {
                let jobs: Vec<_> = world.jobs.keys().copied().collect();
                match dice.below(20) {
                    0 | 1 if jobs.len() < 4 => {
                        let job = world.add_job();
                        let graph = &graphs[job.0 as usize % graphs.len()];
                        world.want(job, graph, dice.below(graph.len()), dice.below(2) as u32);
                    }
                    2 if !jobs.is_empty() => {
                        let job = jobs[dice.below(jobs.len())];
                        let graph = &graphs[job.0 as usize % graphs.len()];
                        world.want(job, graph, dice.below(graph.len()), dice.below(2) as u32);
                    }
                    3 => {
                        let wants: Vec<_> = world.wants.keys().copied().collect();
                        if !wants.is_empty() {
                            world.unwant(wants[dice.below(wants.len())]);
                        }
                    }
                    4 if !jobs.is_empty() && dice.chance(40) => {
                        world.end_job(jobs[dice.below(jobs.len())]);
                    }
                    5 if dice.chance(30) => {
                        let results: Vec<_> = world.disk.results.keys().cloned().collect();
                        if !results.is_empty() {
                            world
                                .disk
                                .results
                                .remove(&results[dice.below(results.len())]);
                        }
                    }
                    _ => world.turn(dice),
                }
            }
            world.settle(dice);
            disk = world.close(dice);
        }
    }
}

/// Builds a graph with nothing but somebody else's cache; then without that one.
#[test]
fn an_imported_cache_is_as_good_as_an_own_one() {
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let graph = graph(dice, &Kind { random: 0, ..PLAIN });
        let mut disk = Disk::default();
        let mut theirs = None;
        for round in 0..3 {
            let mut world = World::new(disk);
            world.check_once = true;
            if round == 1 {
                world.imported = theirs.take();
            }
            let job = world.add_job();
            world.want(job, &graph, graph.len() - 1, 0);
            world.settle(dice);
            if round > 0 {
                let did = (world.runs, world.loads, world.contents);
                assert_eq!(did, (0, 1, 0), "seed {seed}, round {round}");
            }
            disk = world.close(dice);
            if round == 0 {
                theirs = Some(std::mem::take(&mut disk));
            }
        }
    }
}

#[test]
fn a_cache_may_be_brought_late() {
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let graphs: Vec<_> = (0..3).map(|_| graph(dice, &WILD)).collect();
        let mut world = World::new(Disk::default());
        let job = world.add_job();
        world.want(job, &graphs[0], graphs[0].len() - 1, 0);
        world.settle(dice);
        let theirs = world.close(dice);
        let mut world = World::new(Disk::default());
        for graph in &graphs {
            let job = world.add_job();
            world.want(job, graph, dice.below(graph.len()), 0);
            for _ in 0..dice.below(20) {
                if world.is_busy() {
                    world.turn(dice);
                }
            }
            if dice.chance(50) {
                world.import(theirs.clone());
            }
        }
        world.settle(dice);
        world.close(dice);
    }
}

/// Two equal copies from two stages, in every order: whichever did the work, the next build finds both by what their
/// inputs are made of.
#[test]
fn a_step_whose_work_another_did_is_found_at_once_the_next_time() {
    let step = |op: String, inputs: &[usize], by_content: bool| Step {
        digest: Digest::of(format!("{op} on {inputs:?}")),
        op,
        value: 7,
        inputs: inputs.iter().map(|at| (*at, 0)).collect(),
        content: inputs.iter().map(|_| by_content).collect(),
        prepare: inputs.iter().map(|_| false).collect(),
        ignore_cache: false,
        two_answers: false,
        random: false,
        fails: false,
    };
    let base = step("base".to_owned(), &[], false);
    let mut stages: Vec<Step> = Vec::new();
    for number in 0.. {
        let stage = step(format!("stage {number}"), &[0], false);
        if content(stage.run(0, &[7])) == 0 {
            stages.push(stage);
        }
        if stages.len() == 4 {
            break;
        }
    }
    let mut graph = vec![base];
    graph.extend(stages);
    graph.push(step("copy".to_owned(), &[1, 2], true));
    graph.push(step("copy".to_owned(), &[3, 4], true));
    graph.push(step("both".to_owned(), &[5, 6], false));
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let mut disk = Disk::default();
        for round in 0..2 {
            let mut world = World::new(disk);
            world.check_once = true;
            let job = world.add_job();
            world.want(job, &graph, graph.len() - 1, 0);
            world.settle(dice);
            if round > 0 {
                let did = (world.runs, world.loads, world.contents);
                assert_eq!(did, (0, 1, 0), "seed {seed}");
            }
            disk = world.close(dice);
        }
    }
}

/// Two names turn out to be of one image, in every order: whichever is looked at, stores know the image by both names.
#[test]
fn a_leaf_that_another_answers_for_is_known_by_its_own_name_too() {
    let leaf = |op: &str| Step {
        digest: Digest::of(op),
        op: op.to_owned(),
        value: 7,
        inputs: Vec::new(),
        content: Vec::new(),
        prepare: Vec::new(),
        ignore_cache: false,
        two_answers: true,
        random: false,
        fails: false,
    };
    let step = |op: &str, inputs: &[usize]| Step {
        inputs: inputs.iter().map(|at| (*at, 0)).collect(),
        content: inputs.iter().map(|_| false).collect(),
        prepare: inputs.iter().map(|_| false).collect(),
        two_answers: false,
        ..leaf(op)
    };
    let graph = vec![
        leaf("image#amd64"),
        leaf("image#arm64"),
        step("copy here", &[0]),
        step("copy there", &[1]),
        step("both", &[2, 3]),
    ];
    for seed in seeds() {
        let dice = &mut Dice::new(seed);
        let mut world = World::new(Disk::default());
        let job = world.add_job();
        world.want(job, &graph, graph.len() - 1, 0);
        world.settle(dice);
        let disk = world.close(dice);
        for image in &graph[..2] {
            let key = Key::root(image.answer(0).digest, 0);
            let records = cachekeys::records(&disk.stores, &key, &|_| true);
            assert!(!records.is_empty(), "seed {seed}: {}", image.op);
        }
    }
}
