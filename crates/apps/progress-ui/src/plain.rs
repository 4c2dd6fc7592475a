//! Progress as lines, for logs and pipes. Compat: the shape of upstream's plain view, which scripts read.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use std::time::{Duration, Instant};

use crate::trace::{Item, Nanos, Trace, bytes, nanos};

/// A view that is in the middle of one vertex is left for another only after this time, in proportion to how busy
/// the two are.
const STAY: Duration = Duration::from_secs(5);
/// Nobody waits longer than this to be shown.
const MOST: Duration = Duration::from_secs(10);
/// A counter is shown again after this time or this part of its total.
const COUNTER_TIME: Nanos = 5_000_000_000;
const COUNTER_PART: f64 = 0.05;

/// What was shown last.
#[derive(Default)]
pub(crate) struct Plain {
    numbers: HashMap<String, usize>,
    current: Option<String>,
    /// The line at the end of the output is not complete: so many bytes of it are written.
    open_line: Option<usize>,
    counters: HashMap<(String, String), (i64, Nanos)>,
    begun: bool,
}

impl Plain {
    /// Shows what is new.
    pub(crate) fn show(&mut self, trace: &mut Trace, out: &mut impl Write) -> io::Result<()> {
        let updated: Vec<String> = trace
            .updated
            .iter()
            .filter(|key| trace.items.get(*key).is_some_and(|item| !item.hidden))
            .cloned()
            .collect();
        let (mut done, mut open): (Vec<String>, Vec<String>) = updated
            .into_iter()
            .partition(|key| trace.items[key].is_done());
        open.retain(|key| {
            trace.items[key].spans.is_started() || !trace.items[key].statuses.is_empty()
        });
        done.sort_by_key(|key| trace.items[key].spans.last_end());
        if let Some(at) = done
            .iter()
            .position(|key| Some(key) == self.current.as_ref())
        {
            let current = done.remove(at);
            done.insert(0, current);
        }
        for key in done {
            self.show_one(trace, &key, out)?;
        }
        if open.is_empty() {
            if self.current.is_none()
                && let Some(key) = trace.order.iter().find(|key| {
                    trace
                        .items
                        .get(*key)
                        .is_some_and(|item| item.is_running() && !item.hidden)
                })
            {
                let key = key.clone();
                self.show_one(trace, &key, out)?;
            }
            return Ok(());
        }
        if let Some(current) = self.current.clone().filter(|key| open.contains(key)) {
            self.show_one(trace, &current, out)?;
            open.retain(|key| *key != current);
        }
        if let Some(next) = self.next(trace, &open) {
            self.show_one(trace, &next, out)?;
        }
        Ok(())
    }

    /// Which of the waiting vertices is shown now, if any.
    fn next(&self, trace: &Trace, waiting: &[String]) -> Option<String> {
        let now = Instant::now();
        let weight = |item: &Item| {
            let waited = item.waiting.map_or(Duration::ZERO, |since| now - since);
            (item.news, waited)
        };
        let busiest = waiting
            .iter()
            .max_by_key(|key| weight(&trace.items[*key]))?;
        let Some(current) = self.current.as_ref().and_then(|key| trace.items.get(key)) else {
            return Some(busiest.clone());
        };
        let (news, waited) = weight(&trace.items[busiest]);
        #[allow(clippy::cast_precision_loss, reason = "a ratio of small numbers")]
        let share = current.news as f64 / (current.news + news).max(1) as f64;
        let stay = STAY.as_secs_f64() / (1.0 - share).max(0.1);
        (waited > MOST || waited.as_secs_f64() > stay).then(|| busiest.clone())
    }

    fn show_one(&mut self, trace: &mut Trace, key: &str, out: &mut impl Write) -> io::Result<()> {
        let Some(item) = trace.items.get_mut(key) else {
            return Ok(());
        };
        let next = self.numbers.len() + 1;
        let number = *self.numbers.entry(key.to_owned()).or_insert(next);
        if self.current.as_deref() != Some(key) {
            self.leave(out)?;
            if self.begun {
                writeln!(out)?;
            }
            self.begun = true;
            writeln!(out, "#{number} {}", item.name)?;
        }
        let open = self.show_statuses(item, key, number, out)?;
        for warning in item.warnings.drain(..) {
            writeln!(
                out,
                "#{number} WARN: {}",
                String::from_utf8_lossy(&warning.short)
            )?;
        }
        self.show_log(item, number, out)?;
        self.current = Some(key.to_owned());
        item.news = 0;
        item.waiting = None;
        if item.is_done() && !open {
            if self.open_line.take().is_some() {
                writeln!(out)?;
            }
            self.current = None;
            writeln!(out, "#{number} {}", outcome(item))?;
        }
        trace.updated.remove(key);
        Ok(())
    }

    /// Interrupts the vertex being shown.
    fn leave(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.open_line.take().is_some() {
            writeln!(out)?;
        }
        if let Some(old) = self.current.take() {
            writeln!(out, "#{} ...", self.numbers[&old])?;
        }
        Ok(())
    }

    /// Says whether one of them is still open.
    fn show_statuses(
        &mut self,
        item: &mut Item,
        key: &str,
        number: usize,
        out: &mut impl Write,
    ) -> io::Result<bool> {
        let mut open = false;
        let changed: BTreeSet<String> = std::mem::take(&mut item.changed);
        for status in item
            .statuses
            .iter()
            .filter(|status| changed.contains(&status.id))
        {
            let at = status.timestamp.as_ref().map_or(0, nanos);
            let counter = (key.to_owned(), status.id.clone());
            if status.completed.is_none() {
                open = true;
                if let Some(&(last, when)) = self.counters.get(&counter) {
                    #[allow(clippy::cast_precision_loss, reason = "a part of a total")]
                    let part = (status.current - last) as f64 / status.total.max(1) as f64;
                    let part = if status.total > 0 { part } else { 0.0 };
                    if part < COUNTER_PART && at - when < COUNTER_TIME {
                        continue;
                    }
                }
            }
            self.counters.insert(counter, (status.current, at));
            let amount = match (status.current, status.total) {
                (0, 0) => String::new(),
                (current, 0) => format!(" {}", bytes(current)),
                (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
            };
            let end = status.completed.as_ref().map_or(at, nanos);
            let took = status
                .started
                .as_ref()
                .map_or(0, |started| end - nanos(started));
            let took = if took > 10_000_000 {
                format!(" {}s", tenths(took))
            } else {
                String::new()
            };
            let done = if status.completed.is_some() {
                " done"
            } else {
                ""
            };
            writeln!(out, "#{number} {}{amount}{took}{done}", status.id)?;
        }
        Ok(open)
    }

    fn show_log(&mut self, item: &mut Item, number: usize, out: &mut impl Write) -> io::Result<()> {
        for line in item.lines.drain(..) {
            match self.open_line.take() {
                Some(written) => writeln!(out, "{}", line.get(written..).unwrap_or_default())?,
                None => writeln!(out, "#{number} {line}")?,
            }
        }
        if let Some(partial) = &item.partial {
            match self.open_line {
                Some(written) => write!(out, "{}", partial.get(written..).unwrap_or_default())?,
                None => write!(out, "#{number} {partial}")?,
            }
            self.open_line = Some(partial.len());
        }
        Ok(())
    }

    /// Says what was skipped, and repeats the last lines of steps that failed.
    pub(crate) fn finish(&mut self, trace: &Trace, out: &mut impl Write) -> io::Result<()> {
        if self.open_line.take().is_some() {
            writeln!(out)?;
        }
        for key in trace.skipped() {
            let number = self.numbers.len() + 1;
            self.numbers.insert(key.clone(), number);
            let name = trace.items.get(key).map_or("", |item| &item.name);
            writeln!(out, "\n#{number} {name}\n#{number} SKIPPED")?;
        }
        failures(trace, out)
    }
}

/// The last lines of steps that failed.
pub(crate) fn failures(trace: &Trace, out: &mut impl Write) -> io::Result<()> {
    for item in trace.failed() {
        writeln!(out, "------\n > {}:", item.name)?;
        for line in item.last_lines() {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "------")?;
    }
    Ok(())
}

fn outcome(item: &Item) -> String {
    if item.is_cancelled() {
        return "CANCELED".to_owned();
    }
    if !item.error.is_empty() {
        return format!("ERROR: {}", item.error);
    }
    if item.cached {
        return "CACHED".to_owned();
    }
    let took = item.spans.total(0).as_nanos();
    format!("DONE {}s", tenths(Nanos::try_from(took).unwrap_or(0)))
}

pub(crate) fn tenths(nanos: Nanos) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let seconds = nanos as f64 / 1e9;
    format!("{seconds:.1}")
}
