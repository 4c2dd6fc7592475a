//! What steps and the machine use while they work: samples of control groups and of the system, as provenance has them.
//!
//! A [`Usage`] belongs to one step. The runtime tells it where the step's control group is ([`Usage::begin`]) and when
//! it is about to go ([`Usage::end`]); in between somebody polls [`Usage::watch`]. Reading fifteen files takes as long as
//! starting a short step does, so steps nobody asks about are sampled only when they take their time.
//!
//! What cannot be read is left out: usage is worth no failed build.

mod group;
mod system;
mod text;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;

pub use group::{CpuStat, IoStat, MemoryStat, PidsStat};
pub use system::{MachineSample, MachineUsage, SystemCpu};
pub use text::{Pressure, PressureValues};

use group::Places;

/// Between two samples, at first.
const INTERVAL: Duration = Duration::from_secs(2);

/// Samples of a step after which the interval doubles.
const OF_STEP: u32 = 10;

/// A step that takes less is not sampled unless somebody asks.
const SHORT: Duration = Duration::from_millis(100);

/// One look at a step.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When.
    pub timestamp: oci::Timestamp,
    /// Processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_stat: Option<CpuStat>,
    /// Memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_stat: Option<MemoryStat>,
    /// Disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_stat: Option<IoStat>,
    /// Processes.
    #[serde(rename = "pidsStat", skip_serializing_if = "Option::is_none")]
    pub pids_stat: Option<PidsStat>,
}

/// What a step used.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Samples {
    /// Oldest first; the last one was taken when the step was done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// What the whole machine did meanwhile.
    #[serde(rename = "sysCPUStat", skip_serializing_if = "Option::is_none")]
    pub machine: Option<SystemCpu>,
}

/// How closely a step is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closely {
    /// Only if it takes its time.
    IfLong,
    /// Whatever it does.
    Always,
}

/// The usage of one step, while it runs and afterwards.
#[derive(Debug)]
pub struct Usage {
    closely: Closely,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    Running {
        places: Arc<Places>,
        began: Instant,
        machine: Option<SystemCpu>,
        series: Series<Sample>,
    },
    Done(Option<Arc<Samples>>),
}

impl Usage {
    /// Of a step that has not begun.
    pub fn new(closely: Closely) -> Self {
        Self {
            closely,
            state: Mutex::default(),
        }
    }

    /// The step begins; its control group is at `path` below the roots of all hierarchies. Without one nothing is known
    /// of it. Blocking.
    pub fn begin(&self, path: &str) {
        if path.trim_start_matches('/').is_empty() {
            return;
        }
        let machine = match self.closely {
            Closely::Always => SystemCpu::read(),
            Closely::IfLong => None,
        };
        *self.state.lock() = State::Running {
            places: Arc::new(Places::find(path)),
            began: Instant::now(),
            machine,
            series: Series::new(INTERVAL, OF_STEP),
        };
    }

    /// The step is done; its control group is still there. Blocking.
    pub fn end(&self) {
        let state = std::mem::replace(&mut *self.state.lock(), State::Done(None));
        let State::Running {
            places,
            began,
            machine,
            series,
        } = state
        else {
            return;
        };
        if self.closely == Closely::IfLong && began.elapsed() < SHORT {
            return;
        }
        let mut samples = series.thinned();
        samples.extend(places.sample());
        let machine = machine.and_then(|before| Some(SystemCpu::read()?.since(&before)));
        if !samples.is_empty() || machine.is_some() {
            let samples = Samples { samples, machine };
            *self.state.lock() = State::Done(Some(Arc::new(samples)));
        }
    }

    /// Takes samples now and then, for as long as this is polled.
    pub async fn watch(&self) -> Infallible {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let due = match &*self.state.lock() {
                State::Running { places, series, .. } if series.is_due(Instant::now()) => {
                    Some(places.clone())
                }
                _ => None,
            };
            let Some(places) = due else { continue };
            let taken = tasks::blocking(move || places.sample()).await;
            if let (State::Running { series, .. }, Some(taken)) = (&mut *self.state.lock(), taken) {
                series.push(Instant::now(), taken);
            }
        }
    }

    /// What it was, once the step is done.
    pub fn samples(&self) -> Option<Arc<Samples>> {
        match &*self.state.lock() {
            State::Done(samples) => samples.clone(),
            _ => None,
        }
    }
}

/// Polls `usage` if there is one.
pub async fn watch(usage: Option<&Usage>) -> Infallible {
    match usage {
        Some(usage) => usage.watch().await,
        None => std::future::pending().await,
    }
}

/// Samples that become sparser the longer something takes.
#[derive(Debug)]
struct Series<T> {
    interval: Duration,
    most: u32,
    first: Instant,
    last: Option<Instant>,
    kept: Vec<(Instant, T)>,
}

impl<T: Clone> Series<T> {
    fn new(interval: Duration, most: u32) -> Self {
        Self {
            interval,
            most,
            first: Instant::now(),
            last: None,
            kept: Vec::new(),
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.last
            .is_none_or(|last| now.saturating_duration_since(last) >= self.interval)
    }

    fn push(&mut self, now: Instant, value: T) {
        self.last = Some(now);
        self.kept.push((now, value));
        if now.saturating_duration_since(self.first) >= self.interval * self.most {
            self.interval *= 2;
        }
    }

    /// Those that keep the interval that was reached in the end.
    fn thinned(&self) -> Vec<T> {
        let mut before: Option<Instant> = None;
        let mut all = Vec::new();
        for (at, value) in &self.kept {
            if before.is_none_or(|before| at.saturating_duration_since(before) >= self.interval) {
                all.push(value.clone());
                before = Some(*at);
            }
        }
        all
    }
}

fn now() -> oci::Timestamp {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_sparser_with_time() {
        let second = Duration::from_secs(1);
        let mut series = Series::new(2 * second, 10);
        let start = series.first;
        for tick in 1..=60_u32 {
            let now = start + 2 * second * tick;
            if series.is_due(now) {
                series.push(now, tick);
            }
        }
        // Two seconds until 20, four until 40, eight until 80, sixteen then.
        assert_eq!(series.interval, 16 * second);
        let thinned = series.thinned();
        assert!(thinned.len() <= 9, "{thinned:?}");
        assert_eq!(thinned.first(), Some(&1));
    }

    #[test]
    fn a_short_step_nobody_asks_about_is_not_sampled() {
        let usage = Usage::new(Closely::IfLong);
        usage.begin("no/such/group");
        usage.end();
        assert_eq!(usage.samples(), None);
    }

    #[test]
    fn what_never_began_has_no_usage() {
        let usage = Usage::new(Closely::Always);
        assert_eq!(usage.samples(), None);
        usage.end();
        assert_eq!(usage.samples(), None);
    }

    #[test]
    fn names_are_those_of_upstream() {
        let sample = Sample {
            timestamp: oci::Timestamp::from_seconds(0),
            cpu_stat: Some(CpuStat {
                usage_nanos: Some(1),
                ..CpuStat::default()
            }),
            memory_stat: Some(MemoryStat::default()),
            io_stat: Some(IoStat {
                read_ios: Some(2),
                ..IoStat::default()
            }),
            pids_stat: Some(PidsStat { current: Some(0) }),
        };
        let samples = Samples {
            samples: vec![sample],
            machine: Some(SystemCpu::default()),
        };
        assert_eq!(
            serde_json::to_string(&samples).expect("JSON"),
            concat!(
                r#"{"samples":[{"timestamp":"1970-01-01T00:00:00Z","cpuStat":{"usageNanos":1},"#,
                r#""memoryStat":{},"ioStat":{"readIOs":2},"pidsStat":{"current":0}}],"#,
                r#""sysCPUStat":{"user":0,"nice":0,"system":0,"idle":0,"iowait":0,"irq":0,"#,
                r#""softirq":0,"steal":0,"guest":0,"guestNice":0}}"#
            )
        );
    }
}
