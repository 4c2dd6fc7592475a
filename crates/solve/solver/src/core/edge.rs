//! Edges: what is known about one output of a vertex, and who wants to know more.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cachekeys::{Alternative, Found, Key, NodeId, Record, StoreId};
use oci::Digest;

use super::event::{EdgeId, Handle, Ticket, VertexId, WantId};

/// How much is known about an edge, or wanted to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Level {
    /// Nothing; as a wish: nothing is wanted.
    Unknown,
    /// All keys that follow from definitions.
    Fast,
    /// All keys that can be found without running the operation.
    Slow,
    /// The result.
    Done,
}

/// A key and the name it has among the vertices of this process.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) key: Key,
    pub(super) node: Option<Found>,
}

impl Known {
    pub(super) fn root(key: Key) -> Self {
        Self { key, node: None }
    }

    /// Equal for keys that are known to be equal.
    pub(super) fn identity(&self) -> Found {
        let root = || Found {
            store: StoreId::MAIN,
            node: NodeId::new(self.key.key_digest().as_str()),
        };
        self.node.clone().unwrap_or_else(root)
    }
}

/// One output of a vertex.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) vertex: VertexId,
    pub(super) output: u32,
    /// How many ask for each level.
    asks: [usize; 4],
    /// Edges that ask, and as which of their inputs.
    pub(super) consumers: BTreeSet<(EdgeId, usize)>,
    /// Jobs that ask.
    pub(super) wants: BTreeSet<WantId>,
    /// Keys that consumers may look themselves up by. Only grows.
    pub(super) keys: Vec<Known>,
    /// What else a leaf is known by: the result, once it is there, is saved under that as well.
    pub(super) aliases: Vec<Key>,
    pub(super) state: State,
    pub(super) queued: bool,
}

/// How far an edge is.
#[derive(Debug)]
pub(super) enum State {
    /// The result is not there.
    Open(Box<Open>),
    /// The result is there.
    Done(Finished),
    /// There will be no result.
    Failed(Handle),
    /// Another edge answers.
    Absorbed(EdgeId),
}

/// A result and the keys it is saved under or was loaded by.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub(super) value: Handle,
    pub(super) keys: Vec<Known>,
    /// Made while ignoring the cache, or from such a result: what was made from an older one is no substitute for
    /// what can be made from this.
    pub(super) renewed: bool,
}

/// What is known about an edge without a result.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) level: Level,
    pub(super) inputs: Vec<Input>,
    pub(super) counts: Counts,
    /// For every node that some input leads to, how many inputs do.
    pub(super) hits: BTreeMap<Found, usize>,
    /// Nodes that all inputs lead to and that no key was made for yet.
    pub(super) common: VecDeque<Found>,
    /// Questions to stores that are not answered yet.
    pub(super) questions: usize,
    /// Records that may be loaded, with the keys they are under.
    pub(super) records: Vec<(Record, Known)>,
    /// Records that must not be tried again.
    pub(super) spent: Vec<Record>,
    /// Answers about the definition key that were used. Only leaves use more than one.
    pub(super) answers: usize,
    /// Inputs that changed.
    pub(super) dirty: Vec<usize>,
    /// Inputs whose wishes must be looked at.
    pub(super) touched: Vec<usize>,
    /// Goal and plan the wishes were made for.
    pub(super) wished: Option<(Level, Plan)>,
    /// No match is possible, or none was found: all inputs are needed.
    pub(super) hopeless: bool,
    /// Whether the stores were asked for an equal step after all inputs were complete.
    pub(super) confirmed: bool,
    /// Whether the definition key is needed.
    pub(super) needs_map: bool,
    pub(super) finish: Finish,
}

/// What is being done for the result itself.
#[derive(Debug)]
pub(super) enum Finish {
    /// Nothing: keys and inputs are being gathered.
    Gather,
    /// Asking whether an equal step was saved meanwhile.
    Confirm,
    /// A record is being loaded.
    Load {
        ticket: Ticket,
        record: Record,
        key: Known,
        stopping: bool,
    },
    /// The operation has to run, or runs.
    Run,
    /// The result is being saved.
    Save {
        value: Handle,
        keys: Vec<Known>,
        /// How many of the vertex's secondary ways are saved with it.
        secondary: usize,
    },
}

/// What an edge does about its inputs. Later ones cost more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Plan {
    /// The definition key is not known.
    Unmapped,
    /// Inputs that lead nowhere yet get on, the others rest.
    Missing,
    /// All inputs lead somewhere, but not to a record: all keys are wanted.
    AllKeys,
    /// The same, and contents as well.
    AllContents,
    /// All inputs are needed.
    Everything,
    /// Nothing is needed.
    Nothing,
}

/// One input of an open edge.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) edge: EdgeId,
    pub(super) ask: Level,
    /// How many of its keys were looked at.
    pub(super) seen: usize,
    /// Those keys, with the selector.
    pub(super) ways: Vec<Alternative>,
    /// Nodes of this edge that the input leads to, and by which ways.
    pub(super) candidates: Vec<(Found, Vec<Alternative>)>,
    pub(super) content: Content,
    pub(super) class: Class,
    pub(super) dirty: bool,
}

/// The content key of an input, as this edge sees it.
#[derive(Debug)]
pub(super) enum Content {
    Unknown,
    Looking,
    Known(Option<Key>),
}

/// What counts about an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) level: Level,
    /// It leads somewhere.
    pub(super) leads: bool,
    /// It has no more keys to offer.
    pub(super) spent: bool,
    /// It can be given to the operation.
    pub(super) ready: bool,
}

impl Class {
    const NEW: Self = Self {
        level: Level::Unknown,
        leads: false,
        spent: false,
        ready: false,
    };
}

/// How many inputs are of which class.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Nothing is known.
    pub(super) unknown: usize,
    /// Something is known, but it leads nowhere.
    pub(super) bare: usize,
    /// Leads nowhere, may yet.
    pub(super) waiting: usize,
    /// Leads nowhere, never will.
    pub(super) dead: usize,
    /// Leads somewhere, has more keys.
    pub(super) keys_left: usize,
    /// Leads somewhere, has a content key that is not known.
    pub(super) contents_left: usize,
    pub(super) ready: usize,
}

impl Counts {
    /// Nothing more can be found: one input leads nowhere for good, or all have offered everything.
    pub(super) fn is_exhausted(&self) -> bool {
        self.dead > 0 || self.waiting + self.keys_left + self.contents_left == 0
    }

    fn add(&mut self, class: Class, sign: isize) {
        let count = |counter: &mut usize, applies: bool| {
            if applies {
                *counter = counter.wrapping_add_signed(sign);
            }
        };
        let Class {
            level,
            leads,
            spent,
            ready,
        } = class;
        count(&mut self.unknown, level == Level::Unknown);
        count(&mut self.bare, level > Level::Unknown && !leads);
        count(&mut self.waiting, !leads && !spent);
        count(&mut self.dead, !leads && spent);
        count(&mut self.keys_left, leads && !spent && level < Level::Slow);
        count(
            &mut self.contents_left,
            leads && !spent && level >= Level::Slow,
        );
        count(&mut self.ready, ready);
    }
}

impl Edge {
    pub(super) fn new(vertex: VertexId, output: u32, inputs: Vec<EdgeId>) -> Self {
        let inputs: Vec<_> = inputs.into_iter().map(Input::new).collect();
        let mut counts = Counts::default();
        for input in &inputs {
            counts.add(input.class, 1);
        }
        let open = Open {
            level: Level::Unknown,
            dirty: Vec::new(),
            inputs,
            counts,
            hits: BTreeMap::new(),
            common: VecDeque::new(),
            questions: 0,
            records: Vec::new(),
            spent: Vec::new(),
            answers: 0,
            touched: Vec::new(),
            wished: None,
            hopeless: false,
            confirmed: false,
            needs_map: false,
            finish: Finish::Gather,
        };
        Self {
            vertex,
            output,
            asks: [0; 4],
            consumers: BTreeSet::new(),
            wants: BTreeSet::new(),
            keys: Vec::new(),
            aliases: Vec::new(),
            state: State::Open(Box::new(open)),
            queued: false,
        }
    }

    /// The highest level anybody asks for.
    pub(super) fn goal(&self) -> Level {
        [Level::Done, Level::Slow, Level::Fast]
            .into_iter()
            .find(|level| self.asks[*level as usize] > 0)
            .unwrap_or(Level::Unknown)
    }

    /// Somebody asks for another level than before. Whether the goal changed.
    pub(super) fn change_ask(&mut self, from: Level, to: Level) -> bool {
        let before = self.goal();
        if from != Level::Unknown {
            self.asks[from as usize] -= 1;
        }
        if to != Level::Unknown {
            self.asks[to as usize] += 1;
        }
        self.goal() != before
    }

    pub(super) fn level(&self) -> Level {
        match &self.state {
            State::Open(open) => open.level,
            State::Done(_) => Level::Done,
            State::Failed(_) | State::Absorbed(_) => Level::Unknown,
        }
    }

    pub(super) fn open(&self) -> Option<&Open> {
        match &self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    pub(super) fn open_mut(&mut self) -> Option<&mut Open> {
        match &mut self.state {
            State::Open(open) => Some(open),
            _ => None,
        }
    }

    /// What it is about, for people; nothing if it has ended.
    pub(super) fn describe(&self) -> Option<String> {
        let open = self.open()?;
        let doing = match &open.finish {
            Finish::Gather if open.questions > 0 => {
                format!("{} questions to stores", open.questions)
            }
            Finish::Gather if open.needs_map => "definition key".to_owned(),
            Finish::Gather => "inputs".to_owned(),
            Finish::Confirm => "last look into the store".to_owned(),
            Finish::Load { record, .. } => format!("loading {}", record.result),
            Finish::Run => "operation".to_owned(),
            Finish::Save { .. } => "saving".to_owned(),
        };
        let (output, goal, level) = (self.output, self.goal(), open.level);
        Some(format!(
            "output {output}: wanted {goal:?}, at {level:?}, waits for {doing}"
        ))
    }

    pub(super) fn finished(&self) -> Option<&Finished> {
        match &self.state {
            State::Done(finished) => Some(finished),
            _ => None,
        }
    }
}

impl Input {
    fn new(edge: EdgeId) -> Self {
        Self {
            edge,
            ask: Level::Unknown,
            seen: 0,
            ways: Vec::new(),
            candidates: Vec::new(),
            content: Content::Unknown,
            class: Class::NEW,
            dirty: false,
        }
    }

    pub(super) fn add_ways(&mut self, ways: &[Alternative]) {
        add_ways(&mut self.ways, ways);
    }
}

fn add_ways(known: &mut Vec<Alternative>, ways: &[Alternative]) {
    for way in ways {
        if !known.iter().any(|other| other.key.same(&way.key)) {
            known.push(way.clone());
        }
    }
}

impl Open {
    pub(super) fn mark(&mut self, input: usize) {
        if !self.inputs[input].dirty {
            self.inputs[input].dirty = true;
            self.dirty.push(input);
        }
    }

    pub(super) fn mark_all(&mut self) {
        for input in 0..self.inputs.len() {
            self.mark(input);
        }
    }

    /// Counts an input as what it is now.
    pub(super) fn classify(&mut self, input: usize, level: Level, has_content: bool, ready: bool) {
        let entry = &mut self.inputs[input];
        let known = matches!(entry.content, Content::Known(_));
        let class = Class {
            level,
            leads: !entry.candidates.is_empty(),
            spent: level >= Level::Slow && (!has_content || known),
            ready,
        };
        if class != entry.class {
            self.counts.add(entry.class, -1);
            self.counts.add(class, 1);
            entry.class = class;
        }
        self.touched.push(input);
    }

    /// Notes that `ways` of an input lead to `nodes`.
    pub(super) fn learn(&mut self, input: usize, ways: &[Alternative], nodes: Vec<Found>) {
        let all = self.inputs.len();
        let entry = &mut self.inputs[input];
        for node in nodes {
            match entry
                .candidates
                .iter_mut()
                .find(|(known, _)| *known == node)
            {
                Some((_, known)) => add_ways(known, ways),
                None => {
                    entry.candidates.push((node.clone(), ways.to_vec()));
                    let hits = self.hits.entry(node.clone()).or_default();
                    *hits += 1;
                    if *hits == all {
                        self.common.push_back(node);
                    }
                }
            }
        }
    }

    /// The key of a node that all inputs lead to, with all ways known now.
    pub(super) fn key_of(&self, node: &Found, digest: Digest, output: u32, vertex: Digest) -> Key {
        let ways = |input: &Input| {
            let found = input.candidates.iter().find(|(known, _)| known == node);
            found.map(|(_, ways)| ways.clone()).unwrap_or_default()
        };
        let inputs = self.inputs.iter().map(ways).collect();
        let key = Key::with_inputs(digest, output as usize, inputs, Some(vertex));
        key.bind(node.store, node.node.clone());
        key
    }

    /// The record to load next: the newest; of equally old ones, an imported one.
    pub(super) fn best_record(&self) -> Option<usize> {
        let rank = |(record, _): &(Record, Known)| (record.created, record.store != StoreId::MAIN);
        let mut best: Option<usize> = None;
        for (at, entry) in self.records.iter().enumerate() {
            if best.is_none_or(|best| rank(entry) > rank(&self.records[best])) {
                best = Some(at);
            }
        }
        best
    }

    pub(super) fn add_records(&mut self, records: Vec<Record>, key: &Known) {
        for record in records {
            let known = self.records.iter().any(|(other, _)| *other == record);
            if !known && !self.spent.contains(&record) {
                self.records.push((record, key.clone()));
            }
        }
    }

    /// Whether nodes are left that the inputs without content function could yet agree on.
    pub(super) fn has_open_nodes(&self, has_content: impl Fn(usize) -> bool) -> bool {
        let all = self.inputs.len();
        let free: Vec<_> = (0..all).filter(|input| !has_content(*input)).collect();
        let Some((first, rest)) = free.split_first() else {
            return false;
        };
        self.inputs[*first].candidates.iter().any(|(node, _)| {
            self.hits.get(node).is_some_and(|hits| *hits < all)
                && rest.iter().all(|input| {
                    self.inputs[*input]
                        .candidates
                        .iter()
                        .any(|(other, _)| other == node)
                })
        })
    }
}
