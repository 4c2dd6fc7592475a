//! How the progress of a build looks to its user.

mod plain;
mod rawjson;
mod trace;
mod tty;
mod warnings;

use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::time::{Duration, Instant};

use proto::control::StatusResponse;

pub use rawjson::rawjson;

use plain::Plain;
use trace::Trace;
use tty::{Colours, Size, Tty};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A live view on a terminal, plain text elsewhere.
    Auto,
    /// Lines.
    Plain,
    /// The live view.
    Tty,
    /// One JSON object a line.
    RawJson,
    /// Nothing.
    Quiet,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" | "" => Ok(Self::Auto),
            "plain" => Ok(Self::Plain),
            "tty" => Ok(Self::Tty),
            "rawjson" => Ok(Self::RawJson),
            "quiet" => Ok(Self::Quiet),
            other => Err(format!("invalid progress mode {other}")),
        }
    }
}

/// Redrawing more often than this only costs.
const FRAME: Duration = Duration::from_millis(80);

enum View {
    Plain(Plain),
    Tty(Tty, Option<Instant>),
    RawJson,
    Quiet,
}

/// Shows a build.
pub struct Display<W: Write> {
    out: W,
    trace: Trace,
    view: View,
}

impl Display<std::io::Stderr> {
    /// A display on standard error.
    pub fn stderr(mode: Mode) -> Self {
        let out = std::io::stderr();
        let terminal = out.is_terminal();
        let mode = match mode {
            Mode::Auto if terminal => Mode::Tty,
            Mode::Auto => Mode::Plain,
            other => other,
        };
        Self::new(mode, out)
    }
}

impl<W: Write> Display<W> {
    /// A display that writes to `out`; `Auto` is plain here.
    pub fn new(mode: Mode, out: W) -> Self {
        let view = match mode {
            Mode::Auto | Mode::Plain => View::Plain(Plain::default()),
            Mode::Tty => View::Tty(Tty::new(colours(), log_lines()), None),
            Mode::RawJson => View::RawJson,
            Mode::Quiet => View::Quiet,
        };
        Self {
            out,
            trace: Trace::default(),
            view,
        }
    }

    /// Takes a message of the progress stream. A display that cannot be written to must not fail the build.
    pub fn update(&mut self, message: StatusResponse) {
        if let View::RawJson = self.view {
            let line = rawjson(&message) + "\n";
            let _ = self.out.write_all(line.as_bytes());
            return;
        }
        self.trace.update(message);
        match &mut self.view {
            View::Plain(plain) => {
                // One write a message: standard error has no buffer of its own.
                let mut text = Vec::new();
                let _ = plain.show(&mut self.trace, &mut text);
                let _ = self.out.write_all(&text);
            }
            View::Tty(tty, drawn) => {
                if drawn.is_none_or(|last| last.elapsed() >= FRAME) {
                    *drawn = Some(Instant::now());
                    let _ = tty.draw(&self.trace, terminal_size(), false, &mut self.out);
                }
            }
            View::RawJson | View::Quiet => {}
        }
    }

    /// Redraws a live view although nothing came: time goes on.
    pub fn tick(&mut self) {
        if let View::Tty(tty, drawn) = &mut self.view {
            *drawn = Some(Instant::now());
            let _ = tty.draw(&self.trace, terminal_size(), false, &mut self.out);
        }
    }

    /// The build is over: what was skipped is said, and the last lines of steps that failed and all warnings are
    /// repeated.
    pub fn finish(&mut self) {
        match &mut self.view {
            View::Plain(plain) => {
                let mut text = Vec::new();
                let _ = plain.show(&mut self.trace, &mut text);
                let _ = plain.finish(&self.trace, &mut text);
                let _ = warnings::list(&self.trace.warnings, &mut text);
                let _ = self.out.write_all(&text);
            }
            View::Tty(tty, _) => {
                let _ = tty.draw(&self.trace, terminal_size(), true, &mut self.out);
                let mut text = Vec::new();
                let _ = plain::failures(&self.trace, &mut text);
                let _ = warnings::list(&self.trace.warnings, &mut text);
                let _ = self.out.write_all(&text);
            }
            View::RawJson | View::Quiet => {}
        }
        let _ = self.out.flush();
    }
}

fn colours() -> Colours {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        Colours::NONE
    } else {
        Colours::USUAL
    }
}

fn log_lines() -> usize {
    let wanted = std::env::var("BUILDKIT_TTY_LOG_LINES").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(6)
}

fn terminal_size() -> Size {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or(
        Size {
            columns: 80,
            rows: 10,
        },
        |size| Size {
            columns: usize::from(size.ws_col).max(20),
            rows: usize::from(size.ws_row).max(3),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;
    use proto::control::{Vertex, VertexLog, VertexStatus};

    fn at(tenths: i64) -> Option<Timestamp> {
        let nanos = i32::try_from(tenths % 10 * 100_000_000).expect("small");
        Some(Timestamp {
            seconds: 1000 + tenths / 10,
            nanos,
        })
    }

    fn vertex(digest: &str, name: &str, started: i64, completed: Option<i64>) -> Vertex {
        Vertex {
            digest: digest.into(),
            name: name.into(),
            started: at(started),
            completed: completed.and_then(at),
            ..Vertex::default()
        }
    }

    #[test]
    fn plain_text_looks_like_upstreams() {
        let mut display = Display::new(Mode::Plain, Vec::new());
        display.update(StatusResponse {
            vertexes: vec![vertex("a", "[internal] load build definition", 0, None)],
            statuses: vec![VertexStatus {
                id: "transferring dockerfile:".into(),
                vertex: "a".into(),
                current: 183,
                timestamp: at(1),
                started: at(0),
                completed: at(0),
                ..VertexStatus::default()
            }],
            ..StatusResponse::default()
        });
        display.update(StatusResponse {
            vertexes: vec![vertex("a", "[internal] load build definition", 0, Some(1))],
            ..StatusResponse::default()
        });
        display.update(StatusResponse {
            vertexes: vec![vertex("b", "[1/1] RUN x", 1, None)],
            logs: vec![VertexLog {
                vertex: "b".into(),
                stream: 1,
                msg: "out\npart".into(),
                timestamp: at(3),
            }],
            ..StatusResponse::default()
        });
        let mut failed = vertex("b", "[1/1] RUN x", 1, Some(6));
        failed.error = "exit code: 1".into();
        let mut cached = vertex("c", "[2/2] COPY", 6, Some(6));
        cached.cached = true;
        display.update(StatusResponse {
            vertexes: vec![failed, cached],
            ..StatusResponse::default()
        });
        display.finish();
        let text = String::from_utf8(display.out).expect("text");
        let expected = "\
#1 [internal] load build definition
#1 transferring dockerfile: 183B done
#1 DONE 0.1s

#2 [1/1] RUN x
#2 0.200 out
#2 0.200 part
#2 ERROR: exit code: 1

#3 [2/2] COPY
#3 CACHED
------
 > [1/1] RUN x:
0.200 out
0.200 part
------
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_never_ran_was_skipped() {
        let announced = |digest: &str, name: &str| Vertex {
            digest: digest.into(),
            name: name.into(),
            ..Vertex::default()
        };
        let mut failed = vertex("a", "[1/2] RUN x", 0, Some(1));
        failed.error = "no".into();
        let mut text = Vec::new();
        let mut display = Display::new(Mode::Plain, &mut text);
        display.update(StatusResponse {
            vertexes: vec![
                announced("a", "[1/2] RUN x"),
                announced("b", "[2/2] RUN y"),
                failed,
            ],
            ..StatusResponse::default()
        });
        display.finish();
        let expected = "\
#1 [1/2] RUN x
#1 ERROR: no

#2 [2/2] RUN y
#2 SKIPPED
------
 > [1/2] RUN x:
------
";
        assert_eq!(String::from_utf8_lossy(&text), expected);
    }

    #[test]
    fn an_unknown_mode_is_refused() {
        assert!("fancy".parse::<Mode>().is_err());
    }
}
