//! The state of a build as its display knows it: vertices, their times, what of them is new.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use prost_types::Timestamp;
use proto::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};

/// How many lines of a step's output are repeated when it fails.
const TAIL: usize = 10;

/// Nanoseconds since 1970.
pub(crate) type Nanos = i128;

pub(crate) fn nanos(time: &Timestamp) -> Nanos {
    Nanos::from(time.seconds) * 1_000_000_000 + Nanos::from(time.nanos)
}

/// Spans in which a vertex worked, by their start; open ones have no end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spans(BTreeMap<Nanos, Option<Nanos>>);

impl Spans {
    fn note(&mut self, started: Nanos, completed: Option<Nanos>) {
        self.0.insert(started, completed);
    }

    /// Overlapping spans joined.
    fn joined(&self) -> Vec<(Nanos, Option<Nanos>)> {
        let mut joined: Vec<(Nanos, Option<Nanos>)> = Vec::new();
        for (&start, &end) in &self.0 {
            match joined.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last))) if *last >= start => match end {
                    None => {
                        if let Some(last) = joined.last_mut() {
                            last.1 = None;
                        }
                    }
                    Some(end) => *last = end.max(*last),
                },
                _ => joined.push((start, end)),
            }
        }
        joined
    }

    pub(crate) fn is_started(&self) -> bool {
        !self.0.is_empty()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.joined().last().is_some_and(|(_, end)| end.is_none())
    }

    pub(crate) fn last_start(&self) -> Option<Nanos> {
        self.joined().last().map(|(start, _)| *start)
    }

    pub(crate) fn last_end(&self) -> Option<Nanos> {
        self.joined().last().and_then(|(_, end)| *end)
    }

    /// Time worked; an open span counts up to `now`.
    pub(crate) fn total(&self, now: Nanos) -> Duration {
        let nanos: Nanos = self
            .joined()
            .iter()
            .map(|(start, end)| (end.unwrap_or(now) - start).max(0))
            .sum();
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// One line of a display: a vertex, or a group of them.
#[derive(Debug, Default)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) cached: bool,
    pub(crate) error: String,
    pub(crate) spans: Spans,
    pub(crate) statuses: Vec<VertexStatus>,
    /// Statuses that changed since they were last shown.
    pub(crate) changed: BTreeSet<String>,
    pub(crate) warnings: VecDeque<VertexWarning>,
    /// Whole lines not shown yet, each with its time in front.
    pub(crate) lines: VecDeque<String>,
    /// The last line, not ended yet.
    pub(crate) partial: Option<String>,
    pub(crate) tail: VecDeque<String>,
    /// Members by digest, when this is a group.
    members: BTreeMap<String, Vertex>,
    pub(crate) hidden: bool,
    /// What happened since it was last shown, and since when it waits to be shown.
    pub(crate) news: usize,
    pub(crate) waiting: Option<Instant>,
}

impl Item {
    pub(crate) fn is_done(&self) -> bool {
        self.spans.is_started() && !self.spans.is_open()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.spans.is_open()
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.error.ends_with("context canceled")
    }

    fn touch(&mut self) {
        if self.news == 0 {
            self.waiting = Some(Instant::now());
        }
        self.news += 1;
    }

    fn refresh_group(&mut self) {
        self.cached = self.members.values().all(|member| member.cached);
        self.error.clear();
        for member in self.members.values() {
            if let Some(started) = &member.started {
                self.spans
                    .note(nanos(started), member.completed.as_ref().map(nanos));
                if member
                    .progress_group
                    .as_ref()
                    .is_some_and(|group| !group.weak)
                {
                    self.hidden = false;
                }
            }
            if !member.error.is_empty() {
                if self.error.is_empty() {
                    self.error.clone_from(&member.error);
                } else {
                    self.hidden = false;
                }
            }
        }
    }

    fn log(&mut self, log: &VertexLog) {
        let text = String::from_utf8_lossy(&log.msg).into_owned();
        let since = match (&log.timestamp, self.spans.last_start()) {
            (Some(time), Some(start)) => nanos(time) - start,
            _ => 0,
        };
        let stamp = stamp(since);
        for piece in text.split_inclusive('\n') {
            let whole = piece.ends_with('\n');
            let piece = piece.trim_end_matches(['\n', '\r']);
            let line = match self.partial.take() {
                Some(begun) => begun + piece,
                None => format!("{stamp} {piece}"),
            };
            if whole {
                if self.tail.len() == TAIL {
                    self.tail.pop_front();
                }
                self.tail.push_back(line.clone());
                self.lines.push_back(line);
            } else {
                self.partial = Some(line);
            }
        }
    }

    /// The lines to repeat when the step failed.
    pub(crate) fn last_lines(&self) -> impl Iterator<Item = &String> {
        self.tail.iter().chain(&self.partial)
    }
}

/// Seconds with as many digits as are of interest.
fn stamp(nanos: Nanos) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let seconds = nanos as f64 / 1e9;
    let digits = if seconds < 10.0 {
        3
    } else if seconds < 100.0 {
        2
    } else {
        1
    };
    format!("{seconds:.digits$}")
}

/// The build.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) items: HashMap<String, Item>,
    /// In the order in which they started.
    pub(crate) order: Vec<String>,
    /// All of them, in the order in which they were announced.
    announced: Vec<String>,
    /// Everything that was found fault with, in the order in which it came.
    pub(crate) warnings: Vec<VertexWarning>,
    /// Group of a member.
    groups: HashMap<String, String>,
    /// Vertices with something new.
    pub(crate) updated: BTreeSet<String>,
    first_start: Option<Nanos>,
}

impl Trace {
    /// Takes a message.
    pub(crate) fn update(&mut self, message: StatusResponse) {
        for vertex in message.vertexes {
            self.vertex(vertex);
        }
        for status in message.statuses {
            let key = self.key(&status.vertex);
            if let Some(item) = self.items.get_mut(&key) {
                item.changed.insert(status.id.clone());
                match item.statuses.iter_mut().find(|known| known.id == status.id) {
                    Some(known) => *known = status,
                    None if status.started.is_some() => item.statuses.push(status),
                    None => {}
                }
                item.touch();
                self.updated.insert(key);
            }
        }
        for warning in message.warnings {
            let key = self.key(&warning.vertex);
            if let Some(item) = self.items.get_mut(&key) {
                self.warnings.push(warning.clone());
                item.warnings.push_back(warning);
                item.touch();
                self.updated.insert(key);
            }
        }
        for log in message.logs {
            let key = self.key(&log.vertex);
            if let Some(item) = self.items.get_mut(&key) {
                item.log(&log);
                item.touch();
                self.updated.insert(key);
            }
        }
    }

    fn key(&self, digest: &str) -> String {
        self.groups
            .get(digest)
            .cloned()
            .unwrap_or_else(|| digest.to_owned())
    }

    fn vertex(&mut self, vertex: Vertex) {
        if let Some(started) = &vertex.started {
            self.first_start.get_or_insert(nanos(started));
        }
        if let Some(group) = vertex.progress_group.clone() {
            self.groups.insert(vertex.digest.clone(), group.id.clone());
            if !self.items.contains_key(&group.id) {
                self.announced.push(group.id.clone());
            }
            let item = self.items.entry(group.id.clone()).or_insert_with(|| Item {
                name: group.name.clone(),
                hidden: true,
                ..Item::default()
            });
            item.members.insert(vertex.digest.clone(), vertex);
            item.refresh_group();
            item.touch();
            let shown = !item.hidden && item.spans.is_started();
            self.note(group.id, shown);
            return;
        }
        if !self.items.contains_key(&vertex.digest) {
            self.announced.push(vertex.digest.clone());
        }
        let item = self.items.entry(vertex.digest.clone()).or_default();
        // An announcement must not undo what is known already.
        if vertex.started.is_none() && item.spans.is_started() {
            return;
        }
        let before = (
            item.name.clone(),
            item.cached,
            item.error.clone(),
            item.spans.0.clone(),
        );
        if let Some(started) = &vertex.started {
            item.spans
                .note(nanos(started), vertex.completed.as_ref().map(nanos));
        }
        item.name = vertex.name;
        item.cached = vertex.cached;
        item.error = vertex.error;
        let after = (
            item.name.clone(),
            item.cached,
            item.error.clone(),
            item.spans.0.clone(),
        );
        let changed = vertex.started.is_some() && before != after;
        if changed {
            item.touch();
        }
        self.note(vertex.digest, changed);
    }

    fn note(&mut self, key: String, changed: bool) {
        if changed {
            if !self.order.contains(&key) {
                self.order.push(key.clone());
            }
            self.updated.insert(key);
        }
    }

    /// Vertices seen, and how many of them have ended.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let shown = self.items.values().filter(|item| !item.hidden);
        let done = shown.clone().filter(|item| item.is_done()).count();
        (done, shown.count())
    }

    /// Steps that never came to work because others failed or the build was stopped, in the order in which they were
    /// announced.
    pub(crate) fn skipped(&self) -> Vec<&String> {
        let ended_badly = |item: &Item| !item.error.is_empty();
        if !self.items.values().any(ended_badly) {
            return Vec::new();
        }
        let idle = |key: &&String| {
            let item = self.items.get(*key);
            item.is_some_and(|item| !item.spans.is_started() && !item.cached)
        };
        self.announced.iter().filter(idle).collect()
    }

    /// Steps that failed, in the order in which they started.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &Item> {
        self.order
            .iter()
            .filter_map(|key| self.items.get(key))
            .filter(|item| !item.error.is_empty() && !item.is_cancelled())
    }
}

/// Bytes as people read them.
pub(crate) fn bytes(count: i64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
    let mut value = count as f64;
    if value.abs() < 1000.0 {
        return format!("{count}B");
    }
    let mut unit = "";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        value /= 1000.0;
        unit = next;
        if value.abs() < 1000.0 {
            break;
        }
    }
    format!("{value:.2}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_spans_count_once() {
        let mut spans = Spans::default();
        spans.note(0, Some(10));
        spans.note(5, Some(20));
        spans.note(30, Some(40));
        assert_eq!(spans.total(0), Duration::from_nanos(30));
        assert!(!spans.is_open());
        spans.note(50, None);
        assert!(spans.is_open());
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(bytes(183), "183B");
        assert_eq!(bytes(1550), "1.55kB");
        assert_eq!(bytes(5_243_000), "5.24MB");
    }

    #[test]
    fn times_lose_digits_as_they_grow() {
        assert_eq!(stamp(365_400_000), "0.365");
        assert_eq!(stamp(12_345_000_000), "12.35");
        assert_eq!(stamp(123_450_000_000), "123.5");
    }
}
