//! Written runs: what the scheduler was told and what it answered, one per line.
//!
//! A line that starts with `>` is an event as JSON, one that starts with `<` an effect. The texts of effects are for
//! comparing; nobody reads them back.

use super::{Core, Effect, Event};

/// Why a written run could not be repeated.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A line is neither an event nor an effect.
    #[error("line {line} of the log is no event")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: Option<serde_json::Error>,
    },

    /// The scheduler wants something else done than before.
    #[error("line {line} of the log: expected {expected}, got {found}")]
    Differs {
        /// From 1.
        line: usize,
        /// What the log says.
        expected: String,
        /// What it is now.
        found: String,
    },
}

/// The line of an event.
pub(crate) fn event_line(event: &Event) -> String {
    let json = serde_json::to_string(event);
    format!(
        "> {}",
        json.expect("events are numbers and texts, which can always be written")
    )
}

/// The line of an effect.
pub(crate) fn effect_line(effect: &Effect) -> String {
    format!("< {effect:?}")
}

/// Repeats a written run and compares.
pub fn replay<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<(), ReplayError> {
    let mut core = Core::default();
    let mut pending = std::collections::VecDeque::new();
    let mut last = 0;
    for (at, text) in lines.into_iter().enumerate() {
        let line = at + 1;
        last = line;
        if let Some(expected) = text.strip_prefix("< ") {
            let found: String = pending.pop_front().unwrap_or_default();
            if found != text {
                let expected = expected.to_owned();
                return Err(ReplayError::Differs {
                    line,
                    expected,
                    found,
                });
            }
            continue;
        }
        if let Some(found) = pending.pop_front() {
            return Err(ReplayError::Differs {
                line,
                expected: String::new(),
                found,
            });
        }
        let json = text
            .strip_prefix("> ")
            .ok_or(ReplayError::Line { line, source: None })?;
        let event = serde_json::from_str(json).map_err(|source| ReplayError::Line {
            line,
            source: Some(source),
        })?;
        pending.extend(core.step(event).iter().map(effect_line));
    }
    match pending.pop_front() {
        Some(found) => Err(ReplayError::Differs {
            line: last,
            expected: String::new(),
            found,
        }),
        None => Ok(()),
    }
}
