//! Where ingredients are kept: entries by number, and by what they are looked for.
//!
//! Numbers are times, so a build's entries are a range. The oldest entries go when there are too many; nothing depends
//! on them. Everything is written in one batch, which waits for no disk.

use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use db::{Batch, Db, Pair, Table};
use oci::{Digest, Hasher};

use crate::ingredients::{File, Ingredients, SUM, number};

const STEPS: Table = Table::new("explain-steps");
/// By something else: a hash of it, and numbers from the youngest.
const INDEX: Table = Table::new("explain-index");
/// Lists of files by name.
const FILES: Table = Table::new("explain-files");
/// Their names by number.
const FILES_AGE: Table = Table::new("explain-files-age");

/// How many entries are kept: as many as there is room for, within these.
const MOST_STEPS: u64 = 20_000;
const LEAST_STEPS: u64 = 500;
/// What an entry takes, about.
const STEP: u64 = 1000;
/// How many lists of files are kept, and how many bytes of them.
const MOST_LISTS: usize = 4_000;
const MOST_LIST_BYTES: u64 = 64 << 20;
/// Longer lists are not kept.
const MOST_FILES: usize = 200_000;
/// How often it is looked whether there is too much.
const TRIM_EVERY: usize = 256;
/// How many entries are looked at for one that is near.
const LOOK_AT: usize = 24;

/// The entries.
#[derive(Debug)]
pub struct Ledger {
    db: Db,
    room: u64,
    last: AtomicU64,
    added: AtomicUsize,
}

impl Ledger {
    /// Uses tables of `db`; nobody else may write to them. Steps take about as many bytes as there is `room`, and lists
    /// of files as many again.
    pub fn new(db: Db, room: u64) -> Self {
        Self {
            db,
            room,
            last: AtomicU64::new(0),
            added: AtomicUsize::new(0),
        }
    }

    /// A number that is higher than all before: the time, as a rule.
    pub fn next(&self) -> u64 {
        let now = number(SystemTime::now());
        let next = |last: u64| now.max(last + 1);
        let last = self
            .last
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
                Some(next(last))
            });
        next(last.unwrap_or_default())
    }

    /// Adds what a step that ran was made of. Quick.
    pub fn add(&self, number: u64, step: &Ingredients) {
        let Ok(json) = serde_json::to_vec(step) else {
            return;
        };
        let mut batch = Batch::new();
        batch.put(STEPS, number.to_be_bytes(), json);
        for name in names(step) {
            batch.put(INDEX, index_key(name, number), []);
        }
        self.commit(batch);
        if self.added.fetch_add(1, Ordering::Relaxed) % TRIM_EVERY == TRIM_EVERY - 1 {
            self.trim();
        }
    }

    /// Entries made from one time to another, with their numbers.
    pub fn between(&self, from: SystemTime, to: SystemTime) -> Vec<(u64, Ingredients)> {
        let (from, to) = (number(from).to_be_bytes(), number(to).to_be_bytes());
        let pairs = self.db.range(
            STEPS,
            Bound::Included(&from),
            Bound::Included(&to),
            usize::MAX,
        );
        readable(pairs).into_iter().filter_map(entry).collect()
    }

    pub(crate) fn of_digest(&self, digest: &Digest, before: Option<u64>) -> Vec<Ingredients> {
        self.find(name('d', digest.as_str()), before)
    }

    pub(crate) fn of_input(&self, way: &str, before: Option<u64>) -> Vec<Ingredients> {
        self.find(name('i', way), before)
    }

    pub(crate) fn of_place(&self, place: &str, before: Option<u64>) -> Vec<Ingredients> {
        self.find(name('p', place), before)
    }

    /// The youngest entries under a name.
    fn find(&self, name: Name, before: Option<u64>) -> Vec<Ingredients> {
        let from = index_key(
            name,
            before.map_or(u64::MAX, |before| before.saturating_sub(1)),
        );
        let to = index_key(name, 0);
        let pairs = self
            .db
            .range(INDEX, Bound::Included(&from), Bound::Included(&to), LOOK_AT);
        let step = |(key, _): Pair| {
            let number = u64::MAX - u64::from_be_bytes(*key.last_chunk::<8>()?);
            let json = self.db.value(STEPS, &number.to_be_bytes()).ok()??;
            serde_json::from_slice(&json).ok()
        };
        readable(pairs).into_iter().filter_map(step).collect()
    }

    /// Whether there is a list of files of this name.
    pub fn has_files(&self, list: &Digest) -> bool {
        let known = self.db.contains(FILES, list.as_str().as_bytes());
        known.unwrap_or(true)
    }

    /// Keeps a list of files.
    pub fn add_files(&self, list: &Digest, files: &[File]) {
        if files.len() > MOST_FILES {
            return;
        }
        let number = self.next();
        let bytes = pack(files);
        let mut batch = Batch::new();
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        batch.put(FILES, list.as_str(), bytes);
        let key = [number.to_be_bytes().as_slice(), list.as_str().as_bytes()].concat();
        batch.put(FILES_AGE, key, size);
        self.commit(batch);
        if self.added.fetch_add(1, Ordering::Relaxed) % TRIM_EVERY == TRIM_EVERY - 1 {
            self.trim();
        }
    }

    /// A list of files.
    pub fn files(&self, list: &Digest) -> Option<Vec<File>> {
        let bytes = self.db.value(FILES, list.as_str().as_bytes()).ok()??;
        unpack(&bytes)
    }

    /// Removes the oldest entries if there are too many.
    fn trim(&self) {
        let mut batch = Batch::new();
        let numbers = self.keys(STEPS);
        let most = (self.room / STEP).clamp(LEAST_STEPS, MOST_STEPS);
        let surplus = numbers
            .len()
            .saturating_sub(usize::try_from(most).unwrap_or(usize::MAX));
        for key in &numbers[..surplus] {
            if let Ok(Some(json)) = self.db.value(STEPS, key)
                && let Some((number, step)) = entry((key.clone(), json))
            {
                for name in names(&step) {
                    batch.remove(INDEX, index_key(name, number));
                }
            }
            batch.remove(STEPS, key.clone());
        }
        let lists = readable(self.db.prefix(FILES_AGE, b""));
        let size = |(_, size): &Pair| {
            let size = size.first_chunk::<4>().copied().map(u32::from_be_bytes);
            u64::from(size.unwrap_or(0))
        };
        let mut bytes: u64 = lists.iter().map(size).sum();
        let mut count = lists.len();
        for list in &lists {
            if count <= MOST_LISTS && bytes <= self.room.min(MOST_LIST_BYTES) {
                break;
            }
            count -= 1;
            bytes -= size(list);
            batch.remove(FILES, list.0.get(8..).unwrap_or_default());
            batch.remove(FILES_AGE, list.0.clone());
        }
        self.commit(batch);
    }

    /// All keys of a table, without holding all values at a time.
    fn keys(&self, table: Table) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let from = match keys.last() {
                Some(last) => Bound::Excluded(last.as_slice()),
                None => Bound::Unbounded,
            };
            let more = readable(self.db.range(table, from, Bound::Unbounded, 1000));
            if more.is_empty() {
                return keys;
            }
            keys.extend(more.into_iter().map(|(key, _)| key));
        }
    }

    fn commit(&self, batch: Batch) {
        if batch.is_empty() {
            return;
        }
        if let Err(err) = self.db.commit(batch) {
            tracing::warn!(error = %fault::chain(&err), "what keys are made of cannot be written");
        }
    }
}

/// A database that cannot be read counts as empty.
fn readable(pairs: Result<Vec<Pair>, db::Error>) -> Vec<Pair> {
    pairs.unwrap_or_else(|err| {
        tracing::warn!(error = %fault::chain(&err), "what keys are made of cannot be read");
        Vec::new()
    })
}

fn entry((key, json): Pair) -> Option<(u64, Ingredients)> {
    let number = u64::from_be_bytes(*key.first_chunk::<8>()?);
    Some((number, serde_json::from_slice(&json).ok()?))
}

/// What an entry is looked for by, shortened.
type Name = [u8; 16];

fn name(kind: char, text: &str) -> Name {
    let mut hasher = Hasher::new();
    hasher.update(kind.to_string());
    hasher.update(text);
    let digest = hasher.finish();
    let mut name = Name::default();
    let hex = digest.hex().as_bytes();
    for (at, byte) in name.iter_mut().enumerate() {
        let digit = |at: usize| char::from(hex[at]).to_digit(16).unwrap_or(0);
        // Two digits are below 256.
        *byte = u8::try_from(digit(2 * at) * 16 + digit(2 * at + 1)).unwrap_or(0);
    }
    name
}

fn names(step: &Ingredients) -> Vec<Name> {
    let mut names = vec![name('d', step.digest.as_str()), name('p', step.place())];
    for input in &step.inputs {
        names.extend(input.nodes.iter().map(|node| name('i', node.as_str())));
        names.extend(input.content.iter().map(|it| name('i', it.as_str())));
    }
    names
}

/// Younger entries come first.
fn index_key(name: Name, number: u64) -> Vec<u8> {
    [name.as_slice(), &(u64::MAX - number).to_be_bytes()].concat()
}

/// Each file: how many bytes of the path are those of the one before, how many follow, these, the sum.
fn pack(files: &[File]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(files.len() * (SUM + 16));
    let mut last: &[u8] = &[];
    for file in files {
        let shared = last.iter().zip(&file.path).take_while(|(a, b)| a == b);
        let shared = shared.count().min(255);
        let rest = &file.path[shared..];
        let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
        bytes.push(u8::try_from(shared).unwrap_or(u8::MAX));
        bytes.extend(length.to_be_bytes());
        bytes.extend(&rest[..usize::from(length)]);
        bytes.extend(file.sum);
        last = &file.path;
    }
    bytes
}

fn unpack(mut bytes: &[u8]) -> Option<Vec<File>> {
    let mut files: Vec<File> = Vec::new();
    while let Some((shared, rest)) = bytes.split_first() {
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let (tail, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let (sum, rest) = rest.split_first_chunk::<SUM>()?;
        let shared = usize::from(*shared);
        let before = files.last().map_or(&[][..], |file| &file.path);
        let path = [before.get(..shared)?, tail].concat();
        files.push(File { path, sum: *sum });
        bytes = rest;
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;
    use crate::ingredients::{Changes, Ended, Input, Part, Reason, reasons};

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let dir = tempfile::tempdir().expect("a directory");
        let db = Db::open(dir.path(), "keys-v1", db::Options::default()).expect("a database");
        (dir, Ledger::new(db, 0))
    }

    fn part(name: &str, value: &str) -> Part {
        Part {
            name: name.to_owned(),
            value: value.to_owned(),
            hidden: false,
        }
    }

    /// `RUN command` at a place, on something.
    fn run(place: &str, command: &str, on: &str) -> Ingredients {
        Ingredients {
            name: format!("[{place}/9] RUN {command}"),
            vertex: Digest::of(format!("{command}{on}")),
            digest: Digest::of(command),
            parts: vec![part("kind", "exec"), part("command", command)],
            inputs: vec![Input {
                nodes: vec![NodeId::new(on)],
                made_by: vec![Digest::of(on)],
                ..Input::default()
            }],
            ignored: false,
            ended: Ended::Kept,
            reasons: Vec::new(),
        }
    }

    fn add(ledger: &Ledger, step: &Ingredients) {
        ledger.add(ledger.next(), step);
    }

    #[test]
    fn the_first_of_its_kind_has_nothing_to_compare_with() {
        let (_dir, ledger) = ledger();
        let step = run("1", "a", "base");
        assert_eq!(reasons(&ledger, &step, None), [Reason::First]);
        let mut step = step;
        step.ignored = true;
        assert_eq!(reasons(&ledger, &step, None), [Reason::Ignored]);
    }

    #[test]
    fn another_command_on_the_same_base() {
        let (_dir, ledger) = ledger();
        add(&ledger, &run("7", "c", "base"));
        add(&ledger, &run("1", "a", "base"));
        let expected = Reason::Part {
            name: "command".to_owned(),
            old: Some(part("command", "a")),
            new: Some(part("command", "b")),
        };
        assert_eq!(reasons(&ledger, &run("1", "b", "base"), None), [expected]);
    }

    #[test]
    fn the_same_command_on_a_step_that_was_made_anew() {
        let (_dir, ledger) = ledger();
        add(&ledger, &run("1", "base", "scratch"));
        add(&ledger, &run("2", "a", "base"));
        let mut step = run("2", "a", "base");
        step.inputs[0].nodes = vec![NodeId::new("made again")];
        let name = "[1/9] RUN base".to_owned();
        assert_eq!(reasons(&ledger, &step, None), [Reason::Follows { name }]);
    }

    #[test]
    fn another_image_below() {
        let (_dir, ledger) = ledger();
        let mut image = run("1", "old", "");
        image.parts = vec![part("kind", "source"), part("source", "alpine@old")];
        image.inputs.clear();
        add(&ledger, &image);
        add(&ledger, &run("2", "a", "old"));
        image.digest = Digest::of("new");
        image.parts[1].value = "alpine@new".to_owned();
        add(&ledger, &image);
        let expected = Reason::Source {
            old: "alpine@old".to_owned(),
            new: "alpine@new".to_owned(),
        };
        assert_eq!(reasons(&ledger, &run("2", "a", "new"), None), [expected]);
    }

    #[test]
    fn other_content_behind_the_same_instruction() {
        let (_dir, ledger) = ledger();
        let copy = |content: &str| {
            let mut step = run("2", "copy", "base");
            step.inputs.push(Input {
                content: Some(Digest::of(content)),
                ..Input::default()
            });
            step
        };
        add(&ledger, &copy("a"));
        let expected = Reason::Content {
            input: 1,
            old: Digest::of("a"),
            new: Digest::of("b"),
        };
        assert_eq!(reasons(&ledger, &copy("b"), None), [expected]);
    }

    #[test]
    fn of_what_is_new_as_a_whole_no_details_are_told() {
        let (_dir, ledger) = ledger();
        let plain = run("1", "a", "base");
        let mounting = |sharing: &str| {
            let mut step = run("1", "a", "base");
            step.digest = Digest::of(sharing);
            let sharing = part("mount /c: sharing", sharing);
            step.parts.extend([part("mount /c", "cache"), sharing]);
            step
        };
        add(&ledger, &plain);
        let name = |reasons: Vec<Reason>| -> Vec<String> {
            let names = reasons.into_iter().map(|reason| match reason {
                Reason::Part { name, .. } => name,
                other => format!("{other:?}"),
            });
            names.collect()
        };
        assert_eq!(
            name(reasons(&ledger, &mounting("locked"), None)),
            ["mount /c"]
        );
        add(&ledger, &mounting("locked"));
        let found = reasons(&ledger, &mounting("shared"), None);
        assert_eq!(name(found), ["mount /c: sharing"]);
    }

    #[test]
    fn other_paths_are_told_by_the_part_that_names_them() {
        let (_dir, ledger) = ledger();
        let reading = |source: Option<&str>, path: &str| {
            let mut step = run("1", "a", "base");
            let named = source.map(|source| part("mount /k: source", source));
            step.parts.extend(named);
            step.inputs.push(Input {
                content: Some(Digest::of(path)),
                selector: Some(Digest::of(path)),
                ..Input::default()
            });
            step
        };
        add(&ledger, &reading(Some("a"), "a"));
        let expected = Reason::Part {
            name: "mount /k: source".to_owned(),
            old: Some(part("mount /k: source", "a")),
            new: Some(part("mount /k: source", "b")),
        };
        let found = reasons(&ledger, &reading(Some("b"), "b"), None);
        assert_eq!(found, [expected]);
        add(&ledger, &reading(None, "c"));
        let found = reasons(&ledger, &reading(None, "d"), None);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn nothing_differs_from_a_step_that_failed_or_is_gone() {
        let (_dir, ledger) = ledger();
        let mut step = run("1", "a", "base");
        step.ended = Ended::Failed;
        add(&ledger, &step);
        assert_eq!(reasons(&ledger, &step, None), [Reason::Failed]);
        step.ended = Ended::Kept;
        add(&ledger, &step);
        assert_eq!(reasons(&ledger, &step, None), [Reason::Gone]);
    }

    #[test]
    fn only_what_was_earlier_counts() {
        let (_dir, ledger) = ledger();
        let step = run("1", "a", "base");
        let number = ledger.next();
        ledger.add(number, &step);
        add(&ledger, &run("1", "b", "base"));
        assert_eq!(reasons(&ledger, &step, Some(number)), [Reason::First]);
    }

    #[test]
    fn a_step_at_the_same_place_is_better_than_none() {
        let (_dir, ledger) = ledger();
        add(&ledger, &run("3", "a", "x"));
        let found = reasons(&ledger, &run("3", "b", "y"), None);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn lists_of_files_are_compared() {
        let (_dir, ledger) = ledger();
        let file = |path: &str, sum: u8| File {
            path: path.as_bytes().to_vec(),
            sum: [sum; SUM],
        };
        let old = [file("a/", 1), file("a/b", 1), file("a/bc", 2), file("z", 3)];
        let new = [file("a/", 1), file("a/b", 9), file("a/c", 2), file("z", 3)];
        let content = Digest::of("x");
        assert!(!ledger.has_files(&content));
        ledger.add_files(&content, &old);
        assert!(ledger.has_files(&content));
        let kept = ledger.files(&content).expect("a list");
        assert_eq!(kept, old);
        let expected = Changes {
            changed: vec![(b"a/b".to_vec(), [1; SUM])],
            added: vec![b"a/c".to_vec()],
            removed: vec![b"a/bc".to_vec()],
        };
        assert_eq!(Changes::between(&kept, &new), expected);
    }

    #[test]
    fn the_oldest_steps_go_when_there_is_no_room() {
        let (_dir, ledger) = ledger();
        for number in 0..2 * LEAST_STEPS {
            add(&ledger, &run("1", &number.to_string(), "base"));
        }
        let left = ledger.between(SystemTime::UNIX_EPOCH, SystemTime::now());
        let left = left.iter().map(|(_, step)| step.name.as_str());
        let left: Vec<_> = left.collect();
        assert!(left.len() <= 500 + TRIM_EVERY, "{}", left.len());
        assert_eq!(left.last(), Some(&"[1/9] RUN 999"));
        let (first, step) = (run("1", "0", "base"), run("1", "x", "base"));
        assert!(ledger.of_digest(&first.digest, None).is_empty());
        assert!(!ledger.of_place(step.place(), None).is_empty());
    }

    #[test]
    fn damaged_lists_are_no_lists() {
        assert!(unpack(&[9, 0, 1]).is_none());
        assert!(unpack(&[9, 0, 1, b'a', 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
    }
}
