//! What the whole machine does.

use std::convert::Infallible;
use std::path::Path;
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;

use super::text::{self, Pressure, decimal};
use super::{INTERVAL, Series, now};

/// Samples of the machine after which the interval doubles.
const OF_MACHINE: u32 = 20;

/// Ticks in which the kernel counts the time of processors.
const TICKS: f64 = 100.0;

/// Seconds processors spent, by what on.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
#[allow(missing_docs)]
#[serde(rename_all = "camelCase")]
pub struct SystemCpu {
    #[serde(serialize_with = "decimal")]
    pub user: f64,
    #[serde(serialize_with = "decimal")]
    pub nice: f64,
    #[serde(serialize_with = "decimal")]
    pub system: f64,
    #[serde(serialize_with = "decimal")]
    pub idle: f64,
    #[serde(serialize_with = "decimal")]
    pub iowait: f64,
    #[serde(serialize_with = "decimal")]
    pub irq: f64,
    #[serde(serialize_with = "decimal")]
    pub softirq: f64,
    #[serde(serialize_with = "decimal")]
    pub steal: f64,
    #[serde(serialize_with = "decimal")]
    pub guest: f64,
    #[serde(serialize_with = "decimal")]
    pub guest_nice: f64,
}

impl SystemCpu {
    pub(super) fn read() -> Option<Self> {
        Self::parse(&text::read(Path::new("/proc/stat"))?)
    }

    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let mut ticks = line.split_whitespace().map(|word| word.parse::<u32>());
        let mut next = || match ticks.next() {
            Some(Ok(ticks)) => f64::from(ticks) / TICKS,
            _ => 0.0,
        };
        Some(Self {
            user: next(),
            nice: next(),
            system: next(),
            idle: next(),
            iowait: next(),
            irq: next(),
            softirq: next(),
            steal: next(),
            guest: next(),
            guest_nice: next(),
        })
    }

    /// What came since then, in milliseconds.
    pub(super) fn since(&self, before: &Self) -> Self {
        let rest = |now: f64, then: f64| ((now - then) * 1000.0).round() / 1000.0;
        Self {
            user: rest(self.user, before.user),
            nice: rest(self.nice, before.nice),
            system: rest(self.system, before.system),
            idle: rest(self.idle, before.idle),
            iowait: rest(self.iowait, before.iowait),
            irq: rest(self.irq, before.irq),
            softirq: rest(self.softirq, before.softirq),
            steal: rest(self.steal, before.steal),
            guest: rest(self.guest, before.guest),
            guest_nice: rest(self.guest_nice, before.guest_nice),
        }
    }
}

/// Processes since the machine started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStat {
    pub context_switches: u64,
    pub process_created: u64,
    pub processes_running: u64,
}

impl ProcessStat {
    fn parse(stat: &str) -> Self {
        let mut found = Self::default();
        for (name, value) in text::pairs(stat) {
            match name {
                "ctxt" => found.context_switches = value,
                "processes" => found.process_created = value,
                "procs_running" => found.processes_running = value,
                _ => {}
            }
        }
        found
    }
}

/// Memory of the machine, in kilobytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs)]
pub struct SystemMemory {
    pub total: Option<u64>,
    pub free: Option<u64>,
    pub available: Option<u64>,
    pub buffers: Option<u64>,
    pub cached: Option<u64>,
    pub active: Option<u64>,
    pub inactive: Option<u64>,
    pub swap: Option<u64>,
    pub dirty: Option<u64>,
    pub writeback: Option<u64>,
    pub slab: Option<u64>,
}

impl SystemMemory {
    fn parse(meminfo: &str) -> Self {
        let mut found = Self::default();
        for (name, value) in text::pairs(meminfo) {
            let place = match name {
                "MemTotal:" => &mut found.total,
                "MemFree:" => &mut found.free,
                "MemAvailable:" => &mut found.available,
                "Buffers:" => &mut found.buffers,
                "Cached:" => &mut found.cached,
                "Active:" => &mut found.active,
                "Inactive:" => &mut found.inactive,
                "SwapTotal:" => &mut found.swap,
                "Dirty:" => &mut found.dirty,
                "Writeback:" => &mut found.writeback,
                "Slab:" => &mut found.slab,
                _ => continue,
            };
            *place = Some(value);
        }
        found
    }
}

/// One look at the machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSample {
    /// When.
    pub timestamp: oci::Timestamp,
    /// Processors.
    pub cpu_stat: SystemCpu,
    /// Processes.
    pub proc_stat: ProcessStat,
    /// Memory.
    pub memory_stat: SystemMemory,
    /// Waiting for processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_pressure: Option<Pressure>,
    /// Waiting for disks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_pressure: Option<Pressure>,
}

impl MachineSample {
    fn take() -> Option<Self> {
        let stat = text::read(Path::new("/proc/stat"))?;
        let pressure = |what: &str| Pressure::read(&Path::new("/proc/pressure").join(what));
        Some(Self {
            timestamp: now(),
            cpu_stat: SystemCpu::parse(&stat)?,
            proc_stat: ProcessStat::parse(&stat),
            memory_stat: SystemMemory::parse(&text::read(Path::new("/proc/meminfo"))?),
            cpu_pressure: pressure("cpu"),
            memory_pressure: pressure("memory"),
            io_pressure: pressure("io"),
        })
    }
}

/// What the machine did during something longer.
#[derive(Debug)]
pub struct MachineUsage {
    series: Mutex<Series<MachineSample>>,
}

impl Default for MachineUsage {
    fn default() -> Self {
        Self {
            series: Mutex::new(Series::new(INTERVAL, OF_MACHINE)),
        }
    }
}

impl MachineUsage {
    /// Takes samples now and then, for as long as this is polled.
    pub async fn watch(&self) -> Infallible {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if !self.series.lock().is_due(Instant::now()) {
                continue;
            }
            if let Some(taken) = tasks::blocking(MachineSample::take).await {
                self.series.lock().push(Instant::now(), taken);
            }
        }
    }

    /// What was seen so far, and how it is now. Blocking.
    pub fn samples(&self) -> Vec<MachineSample> {
        let mut samples = self.series.lock().thinned();
        samples.extend(MachineSample::take());
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_files_are_understood() {
        let stat = "cpu  3954220 15 68 19 2 0 10 48 0 1\ncpu0 1 2 3\nctxt 7\nbtime 1\nprocesses 8\nprocs_running 9\n";
        let cpu = SystemCpu::parse(stat).expect("processors");
        assert_eq!((cpu.user, cpu.nice, cpu.guest_nice), (39_542.2, 0.15, 0.01));
        let processes = ProcessStat::parse(stat);
        assert_eq!(
            serde_json::to_string(&processes).expect("JSON"),
            r#"{"contextSwitches":7,"processCreated":8,"processesRunning":9}"#
        );
        let memory = SystemMemory::parse("MemTotal:  12 kB\nActive:  3 kB\nActive(anon):  4 kB\n");
        assert_eq!((memory.total, memory.active), (Some(12), Some(3)));
        assert_eq!(SystemCpu::parse("nothing"), None);
    }

    #[test]
    fn time_since_is_rounded() {
        let at = |user| SystemCpu {
            user,
            ..SystemCpu::default()
        };
        assert_eq!(at(10.3).since(&at(10.1)).user, 0.2);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let samples = MachineUsage::default().samples();
        let text = serde_json::to_string(&samples).expect("JSON");
        assert!(text.contains(r#""memoryStat":{"total":"#), "{text}");
    }
}
