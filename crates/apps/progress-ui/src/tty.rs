//! The live view: a tree of what runs, redrawn in place.

use std::io::{self, Write};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::plain::tenths;
use crate::trace::{Item, Nanos, Trace, bytes};

/// Size of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// Colours of the view; empty texts: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Colours {
    pub(crate) done: &'static str,
    pub(crate) cancelled: &'static str,
    pub(crate) error: &'static str,
}

impl Colours {
    pub(crate) const NONE: Self = Self {
        done: "",
        cancelled: "",
        error: "",
    };
    pub(crate) const USUAL: Self = Self {
        done: "\x1b[34m",
        cancelled: "\x1b[33m",
        error: "\x1b[31m",
    };
}

/// The view and what of it is on the screen.
pub(crate) struct Tty {
    begun: Instant,
    /// Widths of the lines on the screen.
    shown: Vec<usize>,
    colours: Colours,
    log_lines: usize,
}

fn now() -> Nanos {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Nanos::try_from(since.as_nanos()).unwrap_or(0)
}

impl Tty {
    pub(crate) fn new(colours: Colours, log_lines: usize) -> Self {
        Self {
            begun: Instant::now(),
            shown: Vec::new(),
            colours,
            log_lines,
        }
    }

    /// Draws the current state over the last one, in one write so that nothing flickers.
    pub(crate) fn draw(
        &mut self,
        trace: &Trace,
        size: Size,
        last: bool,
        out: &mut impl Write,
    ) -> io::Result<()> {
        let lines = self.lines(trace, size, last, now());
        let mut text = String::from("\x1b[?25l");
        let up = rows(&self.shown, size.columns);
        if up > 0 {
            text.push_str(&format!("\x1b[{up}A\r"));
        }
        for line in &lines {
            text.push_str("\x1b[K");
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[J");
        if last {
            text.push_str("\x1b[?25h");
        }
        self.shown = lines.iter().map(|line| visible(line)).collect();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    fn lines(&self, trace: &Trace, size: Size, last: bool, now: Nanos) -> Vec<String> {
        let (done, all) = trace.counts();
        let took = tenths(Nanos::try_from(self.begun.elapsed().as_nanos()).unwrap_or(0));
        let state = if last { " FINISHED" } else { "" };
        let head = format!("[+] Building {took}s ({done}/{all}){state}");
        let mut body: Vec<(bool, Vec<String>)> = Vec::new();
        for item in trace.order.iter().filter_map(|key| trace.items.get(key)) {
            if !item.hidden {
                body.push((item.is_running(), self.item(item, size, last, now)));
            }
        }
        if last {
            for key in trace.skipped() {
                let name = trace.items.get(key).map_or("", |item| &item.name);
                let text = fit(&format!(" => SKIPPED {name}"), size.columns);
                body.push((false, vec![paint(self.colours.cancelled, &text)]));
            }
        }
        let room = if last {
            usize::MAX
        } else {
            size.rows.saturating_sub(2).max(1)
        };
        shorten(&mut body, room);
        let mut lines = vec![fit(&head, size.columns)];
        lines.extend(body.into_iter().flat_map(|(_, lines)| lines));
        lines
    }

    fn item(&self, item: &Item, size: Size, last: bool, now: Nanos) -> Vec<String> {
        let took = tenths(Nanos::try_from(item.spans.total(now).as_nanos()).unwrap_or(0));
        let (word, colour) = if item.is_cancelled() {
            ("CANCELED ", self.colours.cancelled)
        } else if !item.error.is_empty() {
            ("ERROR ", self.colours.error)
        } else if item.cached {
            ("CACHED ", self.colours.done)
        } else if item.is_done() {
            ("", self.colours.done)
        } else {
            ("", "")
        };
        let mut lines = vec![paint(
            colour,
            &row(&format!(" => {word}{}", item.name), &took, size.columns),
        )];
        if last && item.error.is_empty() {
            return lines;
        }
        for status in item
            .statuses
            .iter()
            .filter(|_| item.is_running() || !item.error.is_empty())
        {
            let at = status
                .completed
                .as_ref()
                .or(status.timestamp.as_ref())
                .map_or(now, crate::trace::nanos);
            let took = status
                .started
                .as_ref()
                .map_or(0, |started| at - crate::trace::nanos(started));
            let amount = match (status.current, status.total) {
                (0, 0) => String::new(),
                (current, 0) => format!(" {}", bytes(current)),
                (current, total) => format!(" {} / {}", bytes(current), bytes(total)),
            };
            let text = row(
                &format!(" => => {}{amount}", status.id),
                &tenths(took),
                size.columns,
            );
            let colour = if status.completed.is_some() {
                self.colours.done
            } else {
                ""
            };
            lines.push(paint(colour, &text));
        }
        if item.is_running() && !last {
            let tail: Vec<&String> = item.last_lines().collect();
            let skip = tail.len().saturating_sub(self.log_lines);
            for line in &tail[skip..] {
                lines.push(fit(&format!(" => => # {}", printable(line)), size.columns));
            }
        }
        lines
    }
}

/// Takes lines away until the view fits: finished steps first, oldest first, then details.
fn shorten(body: &mut Vec<(bool, Vec<String>)>, room: usize) {
    let count =
        |body: &[(bool, Vec<String>)]| body.iter().map(|(_, lines)| lines.len()).sum::<usize>();
    while count(body) > room {
        if let Some(at) = body.iter().position(|(running, _)| !running) {
            body.remove(at);
        } else if let Some((_, lines)) = body.iter_mut().find(|(_, lines)| lines.len() > 1) {
            lines.pop();
        } else {
            body.remove(0);
        }
    }
}

/// How many rows lines of these widths take: a terminal that became narrower has wrapped them.
fn rows(widths: &[usize], columns: usize) -> usize {
    let wrapped = |width: &usize| width.div_ceil(columns.max(1)).max(1);
    widths.iter().map(wrapped).sum()
}

/// Columns a line takes, without what colours it.
fn visible(line: &str) -> usize {
    printable(line).width()
}

fn paint(colour: &str, text: &str) -> String {
    if colour.is_empty() {
        text.to_owned()
    } else {
        format!("{colour}{text}\x1b[0m")
    }
}

/// Text on the left, seconds on the right.
fn row(text: &str, took: &str, columns: usize) -> String {
    let right = format!(" {took}s");
    let room = columns.saturating_sub(right.len()).max(1);
    let left = fit(text, room);
    let pad = room.saturating_sub(left.width());
    format!("{left}{}{right}", " ".repeat(pad))
}

/// Cuts a text so that it fits into so many columns.
fn fit(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut width = 0;
    for character in text.chars() {
        let next = character.width().unwrap_or(0);
        if width + next + 1 > columns {
            break;
        }
        width += next;
        cut.push(character);
    }
    cut.push('…');
    cut
}

/// What a terminal shows of a line of output: the last rewrite of it, without control sequences.
fn printable(line: &str) -> String {
    let line = line
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    let mut text = String::new();
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                if characters.next_if_eq(&'[').is_some() {
                    while characters
                        .next()
                        .is_some_and(|it| !it.is_ascii_alphabetic())
                    {}
                }
            }
            '\t' => text.push(' '),
            other if other.is_control() => {}
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;
    use proto::control::{StatusResponse, Vertex, VertexLog};

    #[test]
    fn a_row_is_as_wide_as_the_terminal() {
        assert_eq!(
            row(" => [1/2] FROM x", "0.1", 24),
            " => [1/2] FROM x    0.1s"
        );
        assert_eq!(row(" => a very long name", "0.1", 14).width(), 14);
        assert_eq!(fit("日本語", 3), "日…");
    }

    #[test]
    fn control_sequences_are_not_shown() {
        assert_eq!(printable("\x1b[31mred\x1b[0m\tx"), "red x");
        assert_eq!(printable("10%\r20%\r"), "20%");
    }

    #[test]
    fn wrapped_lines_take_more_rows() {
        assert_eq!(rows(&[80, 0, 41], 80), 3);
        assert_eq!(rows(&[80, 0, 41], 40), 5);
        assert_eq!(visible(&paint("\x1b[34m", "12345")), 5);
    }

    #[test]
    fn running_steps_stay_when_there_is_no_room() {
        let mut body = vec![
            (false, vec!["old".to_owned()]),
            (true, vec!["run".into(), "log".into()]),
        ];
        shorten(&mut body, 2);
        assert_eq!(body.len(), 1);
        shorten(&mut body, 1);
        assert_eq!(body[0].1, ["run"]);
    }

    #[test]
    fn a_running_step_shows_the_end_of_its_output() {
        let mut trace = Trace::default();
        let time = |seconds| Some(Timestamp { seconds, nanos: 0 });
        trace.update(StatusResponse {
            vertexes: vec![Vertex {
                digest: "d".into(),
                name: "RUN x".into(),
                started: time(1),
                ..Vertex::default()
            }],
            logs: vec![VertexLog {
                vertex: "d".into(),
                msg: "one\ntwo\n".into(),
                timestamp: time(2),
                ..VertexLog::default()
            }],
            ..StatusResponse::default()
        });
        let tty = Tty::new(Colours::NONE, 1);
        let lines = tty.lines(
            &trace,
            Size {
                columns: 30,
                rows: 10,
            },
            false,
            3_000_000_000,
        );
        assert_eq!(
            &lines[1..],
            [" => RUN x                 2.0s", " => => # 1.000 two"]
        );
    }
}
