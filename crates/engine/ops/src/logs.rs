//! Limits on what of a step's output is shown to those who follow the build: total size and speed, with a tail kept for
//! failures. The record of the build gets everything.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;
use progress::{Audience, Progress, Stream};

const TAIL: usize = 256 * 1024;

/// How much of a step's output is shown. Negative: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes in all, per stream.
    pub size: i64,
    /// Bytes per second on average, per stream.
    pub speed: i64,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            size: 2 << 20,
            speed: 200 << 10,
        }
    }
}

/// Passes output on until it is too much.
pub(crate) struct Logs {
    progress: Progress,
    limits: LogLimits,
    since: Instant,
    streams: [Mutex<Passed>; 2],
}

#[derive(Default)]
struct Passed {
    bytes: i64,
    clipping: bool,
    clipped: bool,
    tail: VecDeque<u8>,
}

impl Logs {
    pub(crate) fn new(progress: Progress, limits: LogLimits) -> Self {
        Self {
            progress,
            limits,
            since: Instant::now(),
            streams: Default::default(),
        }
    }

    fn of(&self, stream: Stream) -> &Mutex<Passed> {
        match stream {
            Stream::Stdout => &self.streams[0],
            Stream::Stderr => &self.streams[1],
        }
    }

    /// Takes a chunk of output.
    pub(crate) fn write(&self, stream: Stream, data: Bytes) {
        let seconds = self.since.elapsed().as_secs_f64().ceil();
        let (shown, notice) = self.of(stream).lock().admit(self.limits, seconds, &data);
        if shown > 0 {
            self.progress.log(stream, data.slice(..shown));
        }
        if let Some(limit) = notice {
            let text = format!("\n[output clipped, log limit {limit} reached]\n");
            self.progress
                .log_for(Audience::Followers, stream, Bytes::from(text));
        }
        if shown < data.len() {
            self.progress
                .log_for(Audience::Record, stream, data.slice(shown..));
        }
    }

    /// Shows the end of what was clipped; for steps that failed.
    pub(crate) fn flush_tail(&self) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let tail = std::mem::take(&mut self.of(stream).lock().tail);
            if !tail.is_empty() {
                self.progress
                    .log_for(Audience::Followers, stream, Bytes::from(Vec::from(tail)));
            }
        }
    }
}

impl Passed {
    /// How many bytes of `data` may be shown, and the limit to name when clipping begins.
    fn admit(&mut self, limits: LogLimits, seconds: f64, data: &[u8]) -> (usize, Option<String>) {
        let (room, limit) = self.room(limits, seconds);
        let wanted = i64::try_from(data.len()).unwrap_or(i64::MAX);
        if wanted <= room {
            self.bytes += wanted;
            self.clipping = false;
            if self.clipped {
                self.keep(data);
            }
            return (data.len(), None);
        }
        let shown = if self.clipping { 0 } else { room.max(0) };
        let notice = (!self.clipping).then_some(limit);
        self.clipping = true;
        self.clipped = true;
        self.bytes += shown;
        self.keep(data);
        (usize::try_from(shown).unwrap_or(0), notice)
    }

    fn room(&self, limits: LogLimits, seconds: f64) -> (i64, String) {
        let by_size = if limits.size < 0 {
            i64::MAX
        } else {
            limits.size - self.bytes
        };
        let by_speed = if limits.speed < 0 {
            i64::MAX
        } else {
            #[allow(clippy::cast_possible_truncation)]
            let allowed = (seconds.max(1.0) as i64).saturating_mul(limits.speed);
            allowed - self.bytes
        };
        if by_size <= by_speed {
            (by_size, human(limits.size))
        } else {
            (by_speed, format!("{}/s", human(limits.speed)))
        }
    }

    fn keep(&mut self, data: &[u8]) {
        let start = data.len().saturating_sub(TAIL);
        self.tail.extend(&data[start..]);
        let surplus = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..surplus);
    }
}

fn human(bytes: i64) -> String {
    if bytes >= 1 << 20 && bytes % (1 << 20) == 0 {
        format!("{}MiB", bytes >> 20)
    } else if bytes >= 1 << 10 && bytes % (1 << 10) == 0 {
        format!("{}KiB", bytes >> 10)
    } else {
        format!("{bytes}B")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LogLimits = LogLimits {
        size: 100,
        speed: 10,
    };

    #[test]
    fn what_fits_is_shown_whole() {
        assert_eq!(
            Passed::default().admit(LIMITS, 1.0, b"0123456789"),
            (10, None)
        );
    }

    #[test]
    fn what_comes_too_fast_is_cut_and_said_once() {
        let mut passed = Passed::default();
        let notice = Some("10B/s".to_owned());
        assert_eq!(passed.admit(LIMITS, 1.0, b"0123456789ab"), (10, notice));
        assert_eq!(passed.admit(LIMITS, 1.0, b"more"), (0, None));
        assert_eq!(passed.admit(LIMITS, 2.0, b"late"), (4, None));
        assert_eq!(Vec::from(passed.tail), b"0123456789abmorelate");
    }

    #[test]
    fn no_limit_means_none() {
        let none = LogLimits {
            size: -1,
            speed: -1,
        };
        let mut passed = Passed::default();
        assert_eq!(passed.admit(none, 1.0, &[0; 5000]), (5000, None));
    }

    #[test]
    fn limits_are_named_in_the_largest_unit() {
        assert_eq!(human(2 << 20), "2MiB");
        assert_eq!(human(200 << 10), "200KiB");
        assert_eq!(human(1000), "1000B");
    }
}
