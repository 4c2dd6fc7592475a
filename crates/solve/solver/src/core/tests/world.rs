//! A world in which the scheduler's effects are carried out one by one, in any order.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cachekeys::{Memory, Record, ResultId, StoreId, Stored, Stores};
use oci::Digest;
pub(super) use testkit::fuzz::Dice;

use crate::core::*;

/// A step of a random graph.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) digest: Digest,
    /// What the operation is; equal ones on equal inputs do the same. What follows a `#` is not in the second answer.
    pub(super) op: String,
    /// Leaves: what there is.
    pub(super) value: u64,
    pub(super) inputs: Vec<(usize, u32)>,
    pub(super) content: Vec<bool>,
    pub(super) prepare: Vec<bool>,
    pub(super) ignore_cache: bool,
    pub(super) two_answers: bool,
    pub(super) random: bool,
    pub(super) fails: bool,
}

pub(super) type Graph = Vec<Step>;

/// Events that schedulers took in all worlds that were closed.
pub(super) static STEPS: AtomicU64 = AtomicU64::new(0);

fn hash(text: &str) -> u64 {
    let digest = Digest::of(text);
    u64::from_str_radix(&digest.hex()[..15], 16).expect("hex")
}

/// What an operation sees of an input it has a content key for.
pub(super) fn content(value: u64) -> u64 {
    value % 3
}

impl Step {
    pub(super) fn answer(&self, index: usize) -> MapAnswer {
        let op = match index {
            0 => self.op.as_str(),
            _ => self.op.split('#').next().unwrap_or_default(),
        };
        let text = format!("{op} answer {index}");
        let digest = if self.random {
            self.digest.clone().into_random()
        } else {
            Digest::of(text)
        };
        let inputs = self.content.iter().zip(&self.prepare).enumerate();
        MapAnswer {
            digest,
            inputs: inputs
                .map(|(at, (content, prepare))| MapInput {
                    selector: (at % 2 == 0).then(|| Digest::of("selector")),
                    content: *content,
                    prepare: *prepare,
                })
                .collect(),
            done: !self.two_answers || index == 1,
        }
    }

    pub(super) fn run(&self, output: u32, inputs: &[u64]) -> u64 {
        if inputs.is_empty() {
            // The output number does not enter random keys, so the outputs must be equal.
            return if self.random {
                self.value
            } else {
                self.value + u64::from(output)
            };
        }
        let seen: Vec<_> = inputs
            .iter()
            .zip(&self.content)
            .map(|(value, by_content)| if *by_content { content(*value) } else { *value })
            .collect();
        hash(&format!("{} {output} {seen:?}", self.op))
    }
}

/// The model: the value of every step's outputs 0 and 1, or nothing if it fails.
pub(super) fn naive(graph: &Graph) -> Vec<Option<[u64; 2]>> {
    let mut values: Vec<Option<[u64; 2]>> = Vec::new();
    for step in graph {
        let inputs: Option<Vec<u64>> = step
            .inputs
            .iter()
            .map(|(at, output)| values[*at].map(|v| v[*output as usize]))
            .collect();
        let value = inputs
            .filter(|_| !step.fails)
            .map(|inputs| [step.run(0, &inputs), step.run(1, &inputs)]);
        values.push(value);
    }
    values
}

/// Which steps must share one run: equal operations on inputs that are equal as far as they are looked at.
pub(super) fn classes(graph: &Graph) -> Vec<String> {
    let values = naive(graph);
    let mut classes: Vec<String> = Vec::new();
    for step in graph {
        let inputs = step
            .inputs
            .iter()
            .zip(&step.content)
            .map(|((at, output), by_content)| match values[*at] {
                Some(value) if *by_content => {
                    format!("content {}", content(value[*output as usize]))
                }
                _ => format!("{}@{output}", classes[*at]),
            });
        let inputs: Vec<_> = inputs.collect();
        let op = if step.random {
            step.digest.to_string()
        } else {
            step.op.clone()
        };
        classes.push(Digest::of(format!("{op} {inputs:?}")).to_string());
    }
    classes
}

struct Pending {
    effect: Effect,
    cancelled: bool,
}

/// What stays when a scheduler goes: keys and results.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) stores: Stores,
    pub(super) results: BTreeMap<String, u64>,
    clock: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            stores: Stores::new(Arc::new(Memory::default())),
            results: BTreeMap::new(),
            clock: 0,
        }
    }
}

pub(super) struct World {
    pub(super) core: Core,
    pub(super) disk: Disk,
    pub(super) log: Vec<String>,
    events: VecDeque<Event>,
    pending: BTreeMap<Ticket, Pending>,
    vertices: HashMap<VertexId, (usize, Graph)>,
    loading: Vec<(usize, Graph)>,
    pub(super) jobs: BTreeMap<JobId, HashMap<usize, VertexId>>,
    pub(super) wants: BTreeMap<WantId, (JobId, Option<u64>)>,
    /// Runs that ended well and were saved, by class.
    pub(super) made: BTreeSet<String>,
    running: BTreeMap<Ticket, String>,
    pub(super) check_once: bool,
    /// Somebody else's cache, once vertices may look into it.
    pub(super) imported: Option<Disk>,
    pub(super) runs: usize,
    pub(super) loads: usize,
    pub(super) contents: usize,
    next: u64,
    steps: u64,
}

impl World {
    pub(super) fn new(disk: Disk) -> Self {
        Self {
            core: Core::default(),
            disk,
            log: Vec::new(),
            events: VecDeque::new(),
            pending: BTreeMap::new(),
            vertices: HashMap::new(),
            loading: Vec::new(),
            jobs: BTreeMap::new(),
            wants: BTreeMap::new(),
            made: BTreeSet::new(),
            running: BTreeMap::new(),
            check_once: false,
            imported: None,
            runs: 0,
            loads: 0,
            contents: 0,
            next: 0,
            steps: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn step(&mut self, event: Event) {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            self.log.push(event_line(&event));
            self.steps += 1;
            let effects = self.core.step(event);
            if self.steps.is_multiple_of(16) {
                self.core.assert_ordered();
            }
            self.log.extend(effects.iter().map(effect_line));
            for effect in effects {
                self.perform(effect);
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        let ticket = match &effect {
            Effect::Loaded { vertices, job } => {
                for (at, loaded) in std::mem::take(&mut self.loading).into_iter().zip(vertices) {
                    self.jobs
                        .get_mut(job)
                        .expect("a job")
                        .insert(at.0, loaded.id);
                    assert_eq!(loaded.fresh, !self.vertices.contains_key(&loaded.id));
                    self.vertices.entry(loaded.id).or_insert(at);
                }
                return;
            }
            Effect::Join { .. } | Effect::Leave { .. } | Effect::Absorb { .. } => return,
            Effect::Teach { keys } => {
                let main = self.disk.stores.main().as_ref();
                keys.iter().for_each(|key| cachekeys::teach(main, key));
                return;
            }
            Effect::Close { vertex } => {
                self.vertices.remove(vertex).expect("closed once");
                return;
            }
            Effect::Cancel { ticket } => {
                self.running.remove(ticket);
                if let Some(pending) = self.pending.get_mut(ticket) {
                    assert!(!pending.cancelled, "stopped twice");
                    pending.cancelled = true;
                }
                return;
            }
            Effect::Answer { want, outcome } => {
                let (_, expected) = self.wants.remove(want).expect("answered once");
                match (outcome, expected) {
                    (Outcome::Built { value, keys }, Some(expected)) => {
                        assert_eq!(value.payload::<u64>(), Some(&expected));
                        assert!(!keys.is_empty());
                    }
                    (Outcome::Failed(_), None) => {}
                    (got, expected) => panic!("expected {expected:?}, got {got:?}"),
                }
                return;
            }
            Effect::Map { ticket, .. }
            | Effect::Content { ticket, .. }
            | Effect::Run { ticket, .. }
            | Effect::Load { ticket, .. }
            | Effect::Query { ticket, .. }
            | Effect::Records { ticket, .. }
            | Effect::Confirm { ticket, .. }
            | Effect::Missing { ticket, .. }
            | Effect::Save { ticket, .. } => *ticket,
        };
        if let Effect::Run { vertex, .. } = &effect {
            let (at, graph) = &self.vertices[vertex];
            let class = classes(graph)[*at].clone();
            if self.check_once {
                assert!(!self.made.contains(&class), "run again: {:?}", graph[*at]);
                assert!(
                    !self.running.values().any(|other| *other == class),
                    "run twice: {:?}",
                    graph[*at]
                );
            }
            self.running.insert(ticket, class);
        }
        self.pending.insert(
            ticket,
            Pending {
                effect,
                cancelled: false,
            },
        );
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Carries out one of the open effects.
    pub(super) fn turn(&mut self, dice: &mut Dice) {
        if dice.chance(50) {
            self.step(Event::Quiet);
        }
        let at = dice.below(self.pending.len());
        let Some(ticket) = self.pending.keys().nth(at).copied() else {
            return;
        };
        let Some(Pending { effect, cancelled }) = self.pending.remove(&ticket) else {
            return;
        };
        let class = self.running.remove(&ticket);
        let event = if cancelled && dice.chance(80) {
            let failure = Handle::new(self.number(), "stopped");
            Event::Failed {
                ticket,
                failure,
                stray: false,
            }
        } else {
            self.answer(effect, dice, class)
        };
        self.step(event);
    }

    fn answer(&mut self, effect: Effect, dice: &mut Dice, class: Option<String>) -> Event {
        let exists =
            |results: &BTreeMap<String, u64>, id: &ResultId| results.contains_key(id.as_str());
        match effect {
            Effect::Map {
                ticket,
                vertex,
                index,
            } => match self.vertices.get(&vertex) {
                Some((at, graph)) => Event::Map {
                    ticket,
                    answer: graph[*at].answer(index),
                },
                None => Event::Failed {
                    ticket,
                    failure: Handle::new(0, "gone"),
                    stray: false,
                },
            },
            Effect::Content {
                ticket,
                value,
                flags,
                ..
            } => {
                assert!(flags.content || flags.prepare);
                self.contents += 1;
                let value = value.payload::<u64>().expect("a value");
                let digest = flags
                    .content
                    .then(|| Digest::of(format!("content {}", content(*value))));
                Event::Content { ticket, digest }
            }
            Effect::Run {
                ticket,
                vertex,
                inputs,
                ..
            } => {
                self.runs += 1;
                let Some((at, graph)) = self.vertices.get(&vertex).cloned() else {
                    return Event::Failed {
                        ticket,
                        failure: Handle::new(0, "gone"),
                        stray: false,
                    };
                };
                if graph[at].fails {
                    return Event::Failed {
                        ticket,
                        failure: Handle::new(self.number(), "fails"),
                        stray: false,
                    };
                }
                let inputs: Vec<u64> = inputs
                    .iter()
                    .map(|input| *input.payload::<u64>().expect("a value"))
                    .collect();
                assert_eq!(inputs.len(), graph[at].inputs.len());
                let outputs = (0..2).map(|output| graph[at].run(output, &inputs));
                let outputs: Vec<_> = outputs.collect();
                if let Some(class) = class
                    && !graph[at].ignore_cache
                {
                    self.made.insert(class);
                }
                let outputs = outputs
                    .into_iter()
                    .map(|value| Handle::new(self.number(), value));
                Event::Ran {
                    ticket,
                    outputs: outputs.collect(),
                }
            }
            Effect::Load {
                ticket,
                key,
                record,
                ..
            } => {
                self.loads += 1;
                let from = match &self.imported {
                    Some(imported) if record.store != StoreId::MAIN => imported,
                    _ => &self.disk,
                };
                let value = from.results.get(record.result.as_str()).copied();
                let value = value.filter(|_| self.check_once || !dice.chance(5));
                if let Some(value) = value
                    && record.store != StoreId::MAIN
                {
                    self.save(&[key], value, Some(record.created));
                }
                Event::Loaded {
                    ticket,
                    value: value.map(|value| Handle::new(self.number(), value)),
                }
            }
            Effect::Query {
                ticket, question, ..
            } => {
                let Question {
                    ways,
                    taught,
                    input,
                    output,
                    digest,
                } = &question;
                let nodes = cachekeys::query(&self.stores(), ways, taught, *input, *output, digest);
                Event::Found { ticket, nodes }
            }
            Effect::Records { ticket, key, .. } => {
                let results = &self.disk.results;
                let records = cachekeys::records(&self.stores(), &key, &|id| exists(results, id));
                Event::Records { ticket, records }
            }
            Effect::Confirm { ticket, keys } => {
                let results = &self.disk.results;
                let main = self.disk.stores.main().as_ref();
                let find = |(at, key)| {
                    let (node, records) = cachekeys::find(main, key, &|id| exists(results, id))?;
                    Some(((at, node), records))
                };
                let hit = keys.iter().enumerate().find_map(find);
                let (hit, records) =
                    hit.map_or((None, Vec::new()), |(hit, records)| (Some(hit), records));
                Event::Confirmed {
                    ticket,
                    hit,
                    records,
                }
            }
            Effect::Save {
                ticket,
                keys,
                value,
                ..
            } => {
                let value = *value.payload::<u64>().expect("a value");
                let (nodes, record) = self.save(&keys, value, None);
                let record = Some(record);
                Event::Saved {
                    ticket,
                    nodes,
                    record,
                }
            }
            other => panic!("nothing to answer: {other:?}"),
        }
    }

    fn stores(&self) -> Stores {
        let mut stores = self.disk.stores.clone();
        if let Some(imported) = &self.imported {
            stores.attach(StoreId(1), imported.stores.main().clone());
        }
        stores
    }

    fn save(
        &mut self,
        keys: &[cachekeys::Key],
        value: u64,
        created: Option<SystemTime>,
    ) -> (Vec<cachekeys::NodeId>, Record) {
        self.disk.clock += 1;
        let result = format!("result {}", self.disk.clock);
        self.disk.results.insert(result.clone(), value);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(self.disk.clock);
        let created = created.unwrap_or(now);
        let result = ResultId::new(&result);
        let stored = Stored {
            result: result.clone(),
            created,
        };
        let main = self.disk.stores.main().as_ref();
        let nodes = keys.iter().map(|key| cachekeys::save(main, key, &stored));
        let store = StoreId::MAIN;
        let record = Record {
            store,
            result,
            created,
        };
        (nodes.collect(), record)
    }

    /// From now on all vertices may look into somebody else's cache.
    pub(super) fn import(&mut self, imported: Disk) {
        self.imported = Some(imported);
        let vertices = self.vertices.keys().copied().collect::<BTreeSet<_>>();
        self.step(Event::Refresh {
            vertices: vertices.into_iter().collect(),
        });
    }

    pub(super) fn add_job(&mut self) -> JobId {
        let job = JobId(self.number());
        self.jobs.insert(job, HashMap::new());
        job
    }

    /// A job wants an output of a step.
    pub(super) fn want(&mut self, job: JobId, graph: &Graph, at: usize, output: u32) -> WantId {
        let known = self.jobs[&job].clone();
        let mut entries = Vec::new();
        self.loading.clear();
        for (at, step) in graph.iter().enumerate().take(at + 1) {
            entries.push(match known.get(&at) {
                Some(id) => Entry::Known(*id),
                None => Entry::New {
                    digest: step.digest.clone(),
                    inputs: step
                        .inputs
                        .iter()
                        .map(|(at, output)| (*at as u32, *output))
                        .collect(),
                    ignore_cache: step.ignore_cache,
                },
            });
            self.loading.push((at, graph.clone()));
        }
        self.step(Event::Load { job, entries });
        let vertex = self.jobs[&job][&at];
        let want = WantId(self.number());
        let expected = naive(graph)[at].map(|value| value[output as usize]);
        self.wants.insert(want, (job, expected));
        self.step(Event::Want {
            want,
            job,
            vertex,
            output,
        });
        want
    }

    pub(super) fn unwant(&mut self, want: WantId) {
        self.wants.remove(&want);
        self.step(Event::Unwant { want });
    }

    pub(super) fn end_job(&mut self, job: JobId) {
        self.jobs.remove(&job);
        self.wants.retain(|_, (of, _)| *of != job);
        self.step(Event::JobGone { job });
    }

    pub(super) fn settle(&mut self, dice: &mut Dice) {
        let mut turns = 0;
        while self.is_busy() {
            self.turn(dice);
            turns += 1;
            assert!(turns < 200_000, "no end");
        }
        let waiting: Vec<_> = self.wants.keys().collect();
        assert!(
            waiting.is_empty(),
            "stalled: {waiting:?}, {} edges open",
            self.core.describe().len()
        );
    }

    /// All jobs leave; nothing may be left, and the log must give the same run again.
    pub(super) fn close(mut self, dice: &mut Dice) -> Disk {
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.end_job(job);
        }
        while self.is_busy() {
            self.turn(dice);
        }
        self.step(Event::Quiet);
        assert_eq!(self.core.sizes(), [0; 5], "something was left open");
        assert!(self.vertices.is_empty());
        STEPS.fetch_add(self.steps, Ordering::Relaxed);
        if let Err(err) = replay(self.log.iter().map(String::as_str)) {
            panic!("{err}");
        }
        self.disk
    }
}
