//! What keys are made of, for people who ask why a step ran. Nothing here is part of a key.
//!
//! A key says only that something differs. The ingredients of a step that ran say what: the parts of its instruction,
//! and by which keys its inputs were known. They are compared with those of the *nearest* step that ran before:
//!
//! 1. one with the same instruction; of several, one with the most equal inputs;
//! 2. else one on the same inputs; of several, the one whose instruction is most alike;
//! 3. else one at the same place of its Dockerfile.
//!
//! Among equals the youngest wins.

use std::cmp::Reverse;
use std::time::SystemTime;

use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::{Key, NodeId, StoreId};

/// A part of an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is: `command`, `variable PATH`; a detail of another part is named `mount /c: sharing`.
    pub name: String,
    /// What is shown of it; for what must not be kept, a digest.
    pub value: String,
    /// The value is not for showing.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hidden: bool,
}

// serde passes references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// By what an input was known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The nodes of its keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeId>,
    /// The definition keys of what made it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made_by: Vec<Digest>,
    /// The content that was read of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Digest>,
    /// Which part of it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Digest>,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// There is a result.
    #[serde(rename = "k")]
    Kept,
    /// There is none.
    #[serde(rename = "f")]
    Failed,
}

/// What the key of a step that ran was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingredients {
    /// What users see.
    pub name: String,
    /// The vertex, as progress names it.
    pub vertex: Digest,
    /// D: the digest of the instruction.
    pub digest: Digest,
    /// What the instruction is made of. The first part is its kind.
    pub parts: Vec<Part>,
    /// The inputs, in order.
    pub inputs: Vec<Input>,
    /// The cache was to be ignored.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ignored: bool,
    /// How it ended.
    pub ended: Ended,
    /// What was found out when the step ran, if somebody wanted to know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

impl Input {
    /// By what the result under `key` knows its input `at`.
    pub fn of(key: &Key, at: usize) -> Self {
        let mut input = Self::default();
        for way in key.inputs().get(at).into_iter().flatten() {
            if way.key.is_content() {
                input.content = Some(way.key.digest().clone());
                continue;
            }
            input.selector.clone_from(&way.selector);
            if !input.made_by.contains(way.key.digest()) {
                input.made_by.push(way.key.digest().clone());
            }
            // What belongs to a client's session is never met again.
            let node = way.key.node(StoreId::MAIN);
            input.nodes.extend(node.filter(|node| !node.is_random()));
        }
        input
    }

    /// Under which name the ledger has the files that were read.
    fn list(&self) -> Option<Digest> {
        let content = self.content.as_ref()?;
        Some(list_name(content, self.selector.as_ref()))
    }

    /// Whether both are known to be the same.
    pub fn equals(&self, other: &Self) -> bool {
        match (&self.content, &other.content) {
            (Some(here), Some(there)) => here == there,
            _ => self.nodes.iter().any(|node| other.nodes.contains(node)),
        }
    }
}

impl Ingredients {
    /// Whether it is of a client's session, so that it runs in every build.
    pub fn is_of_session(&self) -> bool {
        self.digest.is_random()
    }

    fn kind(&self) -> &str {
        self.parts.first().map_or("", |part| &part.value)
    }

    fn equal_inputs(&self, other: &Self) -> usize {
        let pairs = self.inputs.iter().zip(&other.inputs);
        pairs.filter(|(here, there)| here.equals(there)).count()
    }

    fn equal_parts(&self, other: &Self) -> usize {
        let parts = self.parts.iter();
        parts.filter(|part| other.parts.contains(part)).count()
    }

    /// Where in its Dockerfile the step stands: `build 2` of `[build 2/5] RUN make`. Other names are places themselves.
    pub(crate) fn place(&self) -> &str {
        let inside = self
            .name
            .strip_prefix('[')
            .and_then(|it| it.split_once(']'));
        match inside.and_then(|(inside, _)| inside.rsplit_once('/')) {
            Some((place, _)) => place,
            None => &self.name,
        }
    }
}

/// What differs from the nearest earlier step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// There is none.
    First,
    /// It did not matter: the cache was to be ignored.
    Ignored,
    /// Nothing; but it failed then.
    Failed,
    /// Nothing; but its result has been removed since.
    Gone,
    /// A part of the instruction.
    Part {
        /// Which.
        name: String,
        /// As it was; absent: there was none.
        old: Option<Part>,
        /// As it is; absent: there is none.
        new: Option<Part>,
    },
    /// What the step stands on was made anew.
    Follows {
        /// That step.
        name: String,
    },
    /// Something from outside that the step stands on is another one now.
    Source {
        /// As it was.
        old: String,
        /// As it is.
        new: String,
    },
    /// The content of an input.
    Content {
        /// Which input.
        input: usize,
        /// The name of the list of files as it was.
        old: Digest,
        /// And as it is.
        new: Digest,
    },
    /// Other places of an input are read.
    Selection {
        /// Which input.
        input: usize,
    },
    /// An input, of which no more is known.
    Input {
        /// Which.
        input: usize,
    },
}

impl Reason {
    fn is_selection(&self) -> bool {
        matches!(self, Self::Selection { .. })
    }
}

/// What made a step run. `before`: only steps that ran earlier than this entry are looked at.
pub fn reasons(ledger: &Ledger, step: &Ingredients, before: Option<u64>) -> Vec<Reason> {
    if step.ignored {
        return vec![Reason::Ignored];
    }
    let Some(nearest) = nearest(ledger, step, before) else {
        return vec![Reason::First];
    };
    let mut reasons = Vec::new();
    if nearest.digest != step.digest {
        add_parts(&nearest, step, &mut reasons);
    }
    for at in 0..step.inputs.len().max(nearest.inputs.len()) {
        match (nearest.inputs.get(at), step.inputs.get(at)) {
            (Some(old), Some(new)) if !old.equals(new) => {
                reasons.push(of_input(ledger, at, old, new, before));
            }
            (None, Some(_)) | (Some(_), None) => reasons.push(Reason::Input { input: at }),
            _ => {}
        }
    }
    // Which places are read follows from the instruction, though not all of that is in the digest.
    if reasons.iter().any(Reason::is_selection) {
        let mut parts = Vec::new();
        add_parts(&nearest, step, &mut parts);
        if !parts.is_empty() {
            reasons.retain(|reason| !reason.is_selection() && !parts.contains(reason));
            reasons.splice(..0, parts);
        }
    }
    if reasons.is_empty() {
        reasons.push(match nearest.ended {
            Ended::Failed => Reason::Failed,
            Ended::Kept => Reason::Gone,
        });
    }
    reasons
}

/// See the head of this file.
fn nearest(ledger: &Ledger, step: &Ingredients, before: Option<u64>) -> Option<Ingredients> {
    let same = ledger.of_digest(&step.digest, before);
    // Those that come first are younger, and of equal ones the first is taken.
    let best = same
        .into_iter()
        .enumerate()
        .max_by_key(|(at, other)| (step.equal_inputs(other), Reverse(*at)));
    if let Some((_, found)) = best {
        return Some(found);
    }
    let alike = |others: Vec<Ingredients>| {
        others
            .into_iter()
            .enumerate()
            .filter(|(_, other)| other.kind() == step.kind())
            .max_by_key(|(at, other)| {
                let inputs = step.equal_inputs(other);
                (inputs, step.equal_parts(other), Reverse(*at))
            })
            .map(|(_, other)| other)
    };
    let on_same = step.inputs.iter().flat_map(|input| {
        let ways = input.nodes.iter().map(NodeId::as_str);
        let content = input.content.as_ref().map(Digest::as_str);
        ways.chain(content)
            .flat_map(|way| ledger.of_input(way, before))
            .collect::<Vec<_>>()
    });
    let on_same: Vec<_> = on_same
        .filter(|other| step.equal_inputs(other) == step.inputs.len())
        .collect();
    alike(on_same).or_else(|| alike(ledger.of_place(step.place(), before)))
}

fn add_parts(old: &Ingredients, new: &Ingredients, reasons: &mut Vec<Reason>) {
    let find = |parts: &[Part], name: &str| parts.iter().find(|part| part.name == name).cloned();
    // Of what is new or gone as a whole no details are told.
    let is_detail = |part: &Part, own: &[Part], others: &[Part]| {
        let whole = part.name.split_once(": ").map(|(whole, _)| whole);
        whole.is_some_and(|it| find(own, it).is_some() && find(others, it).is_none())
    };
    for part in &new.parts {
        let before = find(&old.parts, &part.name);
        if before.is_none() && is_detail(part, &new.parts, &old.parts) {
            continue;
        }
        if before.as_ref() != Some(part) {
            reasons.push(Reason::Part {
                name: part.name.clone(),
                old: before,
                new: Some(part.clone()),
            });
        }
    }
    for part in &old.parts {
        if find(&new.parts, &part.name).is_none() && !is_detail(part, &old.parts, &new.parts) {
            reasons.push(Reason::Part {
                name: part.name.clone(),
                old: Some(part.clone()),
                new: None,
            });
        }
    }
}

fn of_input(
    ledger: &Ledger,
    input: usize,
    old: &Input,
    new: &Input,
    before: Option<u64>,
) -> Reason {
    if let (Some(before), Some(now)) = (old.list(), new.list()) {
        if old.selector != new.selector {
            return Reason::Selection { input };
        }
        return Reason::Content {
            input,
            old: before,
            new: now,
        };
    }
    let maker = |input: &Input| {
        let mut digests = input.made_by.iter();
        digests.find_map(|digest| ledger.of_digest(digest, before).into_iter().next())
    };
    match (maker(old), maker(new)) {
        (Some(old), Some(new)) if new.kind() == SOURCE && old.kind() == SOURCE => {
            let text = |step: &Ingredients| {
                let parts = step.parts.get(1);
                parts.map_or_else(|| step.name.clone(), |part| part.value.clone())
            };
            Reason::Source {
                old: text(&old),
                new: text(&new),
            }
        }
        (_, Some(new)) => Reason::Follows { name: new.name },
        _ => Reason::Input { input },
    }
}

/// The kind of steps that bring something in from outside. Their second part says what.
pub const SOURCE: &str = "source";

/// The name of the list of files behind a content key. The content of a single file does not say what the file is
/// called; what was asked for does.
pub fn list_name(content: &Digest, selector: Option<&Digest>) -> Digest {
    match selector {
        Some(selector) => Digest::of(format!("{content} {selector}")),
        None => content.clone(),
    }
}

/// A file that was read, with what tells it from another version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// From the root of the input; of a directory with a slash at the end.
    pub path: Vec<u8>,
    /// The beginning of its checksum.
    pub sum: [u8; SUM],
}

/// How much of a checksum is kept.
pub const SUM: usize = 8;

/// How two lists of files differ. All are in the order of the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In both, with another content or other metadata: the old checksum's beginning.
    pub changed: Vec<(Vec<u8>, [u8; SUM])>,
    /// Only in the new one.
    pub added: Vec<Vec<u8>>,
    /// Only in the old one.
    pub removed: Vec<Vec<u8>>,
}

impl Changes {
    /// Compares two lists.
    pub fn between(old: &[File], new: &[File]) -> Self {
        let by_path = |files: &[File]| {
            files
                .iter()
                .map(|file| (file.path.clone(), file.sum))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let (before, now) = (by_path(old), by_path(new));
        let mut changes = Self::default();
        for (path, sum) in &now {
            match before.get(path) {
                None => changes.added.push(path.clone()),
                Some(old) if old != sum => changes.changed.push((path.clone(), *old)),
                Some(_) => {}
            }
        }
        let gone = before.into_keys().filter(|path| !now.contains_key(path));
        changes.removed.extend(gone);
        changes
    }
}

/// Number of an entry made at this time.
pub(crate) fn number(time: SystemTime) -> u64 {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
