//! What a control group used, on both kinds of hosts. The old hierarchies know less, and under other names.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::text::{self, Pressure, pairs};
use super::{Sample, now};

const ROOT: &str = "/sys/fs/cgroup";

/// Processors.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[allow(missing_docs)]
#[serde(rename_all = "camelCase")]
pub struct CpuStat {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_nanos: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_nanos: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_nanos: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_periods: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nr_throttled: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_nanos: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// Memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[allow(missing_docs)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStat {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anon: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_stack: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_tables: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sock: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shmem: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mapped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_dirty: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_writeback: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slab: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgscan: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgsteal: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgfault: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgmajfault: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub low_events: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub high_events: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max_events: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub oom_events: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub oom_kill_events: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// Disks.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[allow(missing_docs)]
#[serde(rename_all = "camelCase")]
pub struct IoStat {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_bytes: Option<u64>,
    #[serde(rename = "readIOs", skip_serializing_if = "Option::is_none")]
    pub read_ios: Option<u64>,
    #[serde(rename = "writeIOs", skip_serializing_if = "Option::is_none")]
    pub write_ios: Option<u64>,
    #[serde(rename = "discardIOs", skip_serializing_if = "Option::is_none")]
    pub discard_ios: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Pressure>,
}

/// Processes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs)]
pub struct PidsStat {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The directories of a control group.
#[derive(Debug)]
pub(super) enum Places {
    /// One for all controllers.
    Unified(PathBuf),
    /// One for each.
    Old { root: PathBuf, path: PathBuf },
}

impl Places {
    /// Those of a group at `path` on this machine.
    pub(super) fn find(path: &str) -> Self {
        Self::below(Path::new(ROOT), path)
    }

    fn below(root: &Path, path: &str) -> Self {
        let path = Path::new(path.trim_start_matches('/'));
        if root.join("cgroup.controllers").exists() {
            return Self::Unified(root.join(path));
        }
        Self::Old {
            root: root.to_owned(),
            path: path.to_owned(),
        }
    }

    /// Looks at the group; nothing when it is not there.
    pub(super) fn sample(&self) -> Option<Sample> {
        let (cpu_stat, memory_stat, io_stat, current) = match self {
            Self::Unified(dir) => (
                CpuStat::unified(dir),
                MemoryStat::unified(dir),
                IoStat::unified(dir),
                text::number(&dir.join("pids.current")),
            ),
            Self::Old { root, path } => {
                let dir = |controller: &str| root.join(controller).join(path);
                let beside = dir("unified");
                (
                    CpuStat::old(&dir("cpuacct"), &dir("cpu"), &beside),
                    MemoryStat::old(&dir("memory"), &beside),
                    IoStat::old(&dir("blkio"), &beside),
                    text::number(&dir("pids").join("pids.current")),
                )
            }
        };
        let seen = cpu_stat.is_some() || memory_stat.is_some() || io_stat.is_some();
        (seen || current.is_some()).then(|| Sample {
            timestamp: now(),
            cpu_stat,
            memory_stat,
            io_stat,
            pids_stat: Some(PidsStat { current }),
        })
    }
}

impl CpuStat {
    fn unified(dir: &Path) -> Option<Self> {
        let text = text::read(&dir.join("cpu.stat"))?;
        let mut found = Self::default();
        for (name, value) in pairs(&text) {
            let nanos = value.saturating_mul(1000);
            match name {
                "usage_usec" => found.usage_nanos = Some(nanos),
                "user_usec" => found.user_nanos = Some(nanos),
                "system_usec" => found.system_nanos = Some(nanos),
                "nr_periods" => found.nr_periods = Some(value),
                "nr_throttled" => found.nr_throttled = Some(value),
                "throttled_usec" => found.throttled_nanos = Some(nanos),
                _ => {}
            }
        }
        found.pressure = Pressure::read(&dir.join("cpu.pressure"));
        Some(found)
    }

    fn old(accounts: &Path, dir: &Path, beside: &Path) -> Option<Self> {
        let mut found = Self {
            usage_nanos: text::number(&accounts.join("cpuacct.usage")),
            user_nanos: text::number(&accounts.join("cpuacct.usage_user")),
            system_nanos: text::number(&accounts.join("cpuacct.usage_sys")),
            ..Self::default()
        };
        let stat = text::read(&dir.join("cpu.stat"));
        if found.usage_nanos.is_none() && stat.is_none() {
            return None;
        }
        for (name, value) in pairs(stat.as_deref().unwrap_or_default()) {
            match name {
                "nr_periods" => found.nr_periods = Some(value),
                "nr_throttled" => found.nr_throttled = Some(value),
                "throttled_time" => found.throttled_nanos = Some(value),
                _ => {}
            }
        }
        found.pressure = Pressure::read(&beside.join("cpu.pressure"));
        Some(found)
    }
}

impl MemoryStat {
    fn unified(dir: &Path) -> Option<Self> {
        let text = text::read(&dir.join("memory.stat"))?;
        let mut found = Self::default();
        for (name, value) in pairs(&text) {
            let place = match name {
                "anon" => &mut found.anon,
                "file" => &mut found.file,
                "kernel_stack" => &mut found.kernel_stack,
                "pagetables" => &mut found.page_tables,
                "sock" => &mut found.sock,
                "shmem" => &mut found.shmem,
                "file_mapped" => &mut found.file_mapped,
                "file_dirty" => &mut found.file_dirty,
                "file_writeback" => &mut found.file_writeback,
                "slab" => &mut found.slab,
                "pgscan" => &mut found.pgscan,
                "pgsteal" => &mut found.pgsteal,
                "pgfault" => &mut found.pgfault,
                "pgmajfault" => &mut found.pgmajfault,
                _ => continue,
            };
            *place = Some(value);
        }
        let events = text::read(&dir.join("memory.events")).unwrap_or_default();
        for (name, value) in pairs(&events) {
            match name {
                "low" => found.low_events = value,
                "high" => found.high_events = value,
                "max" => found.max_events = value,
                "oom" => found.oom_events = value,
                "oom_kill" => found.oom_kill_events = value,
                _ => {}
            }
        }
        found.peak = text::number(&dir.join("memory.peak"));
        found.swap_bytes = text::number(&dir.join("memory.swap.current"));
        found.pressure = Pressure::read(&dir.join("memory.pressure"));
        Some(found)
    }

    fn old(dir: &Path, beside: &Path) -> Option<Self> {
        let text = text::read(&dir.join("memory.stat"))?;
        let mut found = Self::default();
        for (name, value) in pairs(&text) {
            let place = match name {
                "total_rss" => &mut found.anon,
                "total_cache" => &mut found.file,
                "total_shmem" => &mut found.shmem,
                "total_mapped_file" => &mut found.file_mapped,
                "total_dirty" => &mut found.file_dirty,
                "total_writeback" => &mut found.file_writeback,
                "total_pgfault" => &mut found.pgfault,
                "total_pgmajfault" => &mut found.pgmajfault,
                "total_swap" => &mut found.swap_bytes,
                _ => continue,
            };
            *place = Some(value);
        }
        let oom = text::read(&dir.join("memory.oom_control")).unwrap_or_default();
        let kills = pairs(&oom).find(|(name, _)| *name == "oom_kill");
        found.oom_kill_events = kills.map_or(0, |(_, count)| count);
        found.max_events = text::number(&dir.join("memory.failcnt")).unwrap_or(0);
        found.peak = text::number(&dir.join("memory.max_usage_in_bytes"));
        found.pressure = Pressure::read(&beside.join("memory.pressure"));
        Some(found)
    }
}

impl IoStat {
    fn unified(dir: &Path) -> Option<Self> {
        let text = text::read(&dir.join("io.stat"))?;
        let mut found = Self::default();
        let fields = text.split_whitespace();
        for (key, value) in fields.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse::<u64>() else {
                continue;
            };
            let place = match key {
                "rbytes" => &mut found.read_bytes,
                "wbytes" => &mut found.write_bytes,
                "dbytes" => &mut found.discard_bytes,
                "rios" => &mut found.read_ios,
                "wios" => &mut found.write_ios,
                "dios" => &mut found.discard_ios,
                _ => continue,
            };
            *place = Some(place.unwrap_or(0).saturating_add(value));
        }
        found.pressure = Pressure::read(&dir.join("io.pressure"));
        Some(found)
    }

    fn old(dir: &Path, beside: &Path) -> Option<Self> {
        let bytes = text::read(&dir.join("blkio.throttle.io_service_bytes_recursive"))?;
        let mut found = Self::default();
        for (name, value) in by_kind(&bytes) {
            let place = match name {
                "Read" => &mut found.read_bytes,
                "Write" => &mut found.write_bytes,
                "Discard" => &mut found.discard_bytes,
                _ => continue,
            };
            *place = Some(place.unwrap_or(0).saturating_add(value));
        }
        let times = text::read(&dir.join("blkio.throttle.io_serviced_recursive"));
        for (name, value) in by_kind(times.as_deref().unwrap_or_default()) {
            let place = match name {
                "Read" => &mut found.read_ios,
                "Write" => &mut found.write_ios,
                "Discard" => &mut found.discard_ios,
                _ => continue,
            };
            *place = Some(place.unwrap_or(0).saturating_add(value));
        }
        found.pressure = Pressure::read(&beside.join("io.pressure"));
        Some(found)
    }
}

/// `8:0 Read 123`
fn by_kind(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next()?;
        Some((kind, words.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }
        dir
    }

    fn sampled(files: &[(&str, &str)]) -> Option<serde_json::Value> {
        let dir = tree(files);
        let sample = Places::below(dir.path(), "/buildkit/x").sample()?;
        let mut value = serde_json::to_value(sample).expect("JSON");
        value
            .as_object_mut()
            .expect("an object")
            .remove("timestamp");
        Some(value)
    }

    #[test]
    fn a_unified_group_tells_everything() {
        let found = sampled(&[
            ("cgroup.controllers", "cpu io memory pids"),
            (
                "buildkit/x/cpu.stat",
                "usage_usec 1234567\nuser_usec 123456\nsystem_usec 654321\nnr_periods 123\nnr_throttled 12\nthrottled_usec 123456\n",
            ),
            (
                "buildkit/x/memory.stat",
                "anon 24576\nfile 12791808\nkernel_stack 8192\nunknown 1\n",
            ),
            (
                "buildkit/x/memory.events",
                "low 4\nhigh 3\nmax 2\noom 1\noom_kill 5\noom_group_kill 9\n",
            ),
            ("buildkit/x/memory.peak", "123456\n"),
            ("buildkit/x/memory.swap.current", "987654\n"),
            (
                "buildkit/x/io.stat",
                "8:0 rbytes=1024 wbytes=2048 dbytes=4096 rios=16 wios=32 dios=64\n8:1 rbytes=512 wbytes=0 dbytes=0 rios=1 wios=0 dios=0\n",
            ),
            (
                "buildkit/x/io.pressure",
                "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\n",
            ),
            ("buildkit/x/pids.current", "3\n"),
        ]);
        let wanted = serde_json::json!({
            "cpuStat": {
                "usageNanos": 1_234_567_000_u64, "userNanos": 123_456_000, "systemNanos": 654_321_000,
                "nrPeriods": 123, "nrThrottled": 12, "throttledNanos": 123_456_000,
            },
            "memoryStat": {
                "swapBytes": 987_654, "anon": 24576, "file": 12_791_808, "kernelStack": 8192, "peak": 123_456,
                "lowEvents": 4, "highEvents": 3, "maxEvents": 2, "oomEvents": 1, "oomKillEvents": 5,
            },
            "ioStat": {
                "readBytes": 1536, "writeBytes": 2048, "discardBytes": 4096, "readIOs": 17, "writeIOs": 32,
                "discardIOs": 64,
                "pressure": {"some": {"avg10": 1.5, "avg60": 0, "avg300": 0, "total": 7}, "full": null},
            },
            "pidsStat": {"current": 3},
        });
        assert_eq!(found, Some(wanted));
    }

    #[test]
    fn an_old_group_tells_what_it_knows() {
        let found = sampled(&[
            ("cpuacct/buildkit/x/cpuacct.usage", "100\n"),
            ("cpuacct/buildkit/x/cpuacct.usage_user", "60\n"),
            ("cpuacct/buildkit/x/cpuacct.usage_sys", "40\n"),
            (
                "cpu/buildkit/x/cpu.stat",
                "nr_periods 2\nnr_throttled 1\nthrottled_time 500\n",
            ),
            (
                "memory/buildkit/x/memory.stat",
                "cache 9\ntotal_cache 10\ntotal_rss 20\ntotal_pgfault 30\n",
            ),
            ("memory/buildkit/x/memory.max_usage_in_bytes", "4096\n"),
            ("memory/buildkit/x/memory.failcnt", "0\n"),
            (
                "memory/buildkit/x/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
            (
                "blkio/buildkit/x/blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 5\n8:0 Write 6\n8:16 Read 1\nTotal 12\n",
            ),
            ("pids/buildkit/x/pids.current", "1\n"),
            (
                "unified/buildkit/x/cpu.pressure",
                "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
            ),
        ]);
        let wanted = serde_json::json!({
            "cpuStat": {
                "usageNanos": 100, "userNanos": 60, "systemNanos": 40, "nrPeriods": 2, "nrThrottled": 1,
                "throttledNanos": 500,
                "pressure": {"some": {"avg10": 0, "avg60": 0, "avg300": 0, "total": 1}, "full": null},
            },
            "memoryStat": {"anon": 20, "file": 10, "pgfault": 30, "peak": 4096, "oomKillEvents": 1},
            "ioStat": {"readBytes": 6, "writeBytes": 6},
            "pidsStat": {"current": 1},
        });
        assert_eq!(found, Some(wanted));
    }

    #[test]
    fn a_group_that_is_gone_tells_nothing() {
        assert_eq!(sampled(&[("cgroup.controllers", "")]), None);
        assert_eq!(sampled(&[]), None);
    }
}
