//! What garbage collection keeps: flags, the file and the size of the disk together.
//!
//! Without rules in the file there are four: what is easily made again goes when it was not used for two days and the
//! cache is larger than 512 MB; what was not used for sixty days goes; then whatever is beyond the limits, internal
//! records last. Compat: rules, numbers and roundings of `cmd/buildkitd/config/gcpolicy.go`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use cache::{Disk, Rule};
use filters::Filter;

use crate::args::Args;
use crate::config::{GcPolicy, OciWorker, Space};
use crate::history::Age;

const MB: u64 = 1_000_000;
const GB: u64 = 1000 * MB;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the user wants, before the disk is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gc {
    enabled: bool,
    limits: Limits,
    rules: Vec<Policy>,
}

/// Room, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Bytes(u64),
    Percent(u64),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limits {
    reserved: Option<Room>,
    maximum: Option<Room>,
    free: Option<Room>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Policy {
    all: bool,
    filters: Vec<String>,
    keep: Duration,
    limits: Limits,
}

/// A rule, and as it is shown to clients.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub rule: Rule,
    pub shown: control::GcRule,
}

impl Gc {
    /// Flags win over the file.
    pub(crate) fn decide(args: &Args, file: &OciWorker) -> anyhow::Result<Self> {
        let limits = match args.oci_worker_gc_keepstorage.as_deref() {
            None | Some("") => {
                let limits = Limits::parse(
                    file.reserved_space.as_ref(),
                    file.max_used_space.as_ref(),
                    file.min_free_space.as_ref(),
                )?;
                limits.or_reserved(file.gc_keep_storage.as_ref())?
            }
            Some(text) => Limits::of_flag(text)?,
        };
        let rules = file.gc_policy.iter().map(Policy::parse);
        Ok(Self {
            enabled: args.oci_worker_gc.or(file.gc).unwrap_or(true),
            limits,
            rules: rules.collect::<anyhow::Result<_>>()?,
        })
    }

    /// The rules for the disk the state is on; none when nothing is to be collected.
    pub(crate) fn rules(&self, root: &Path) -> anyhow::Result<Vec<Decided>> {
        if !self.enabled {
            return Ok(Vec::new());
        }
        // Compat: a disk that cannot be looked at has no size.
        let disk = cache::disk(root).map_or(0, |Disk { total, .. }| total);
        let standard;
        let rules = if self.rules.is_empty() {
            standard = standard_rules(self.limits, disk);
            &standard
        } else {
            &self.rules
        };
        rules.iter().map(|rule| rule.decide(disk)).collect()
    }
}

fn standard_rules(limits: Limits, disk: u64) -> Vec<Policy> {
    let limits = if limits == Limits::default() {
        let at_most = |percent, bytes| {
            let percent = Room::Percent(percent);
            Some(if percent.bytes(disk) > bytes {
                Room::Bytes(bytes)
            } else {
                percent
            })
        };
        Limits {
            reserved: at_most(10, 10 * GB),
            maximum: at_most(80, 100 * GB),
            free: Some(Room::Percent(20)),
        }
    } else {
        limits
    };
    let rule = Policy {
        limits,
        ..Policy::default()
    };
    let easily_made = ["source.local", "exec.cachemount", "source.git.checkout"];
    vec![
        Policy {
            filters: easily_made.map(|kind| format!("type=={kind}")).to_vec(),
            keep: 2 * DAY,
            limits: Limits {
                maximum: Some(Room::Bytes(512 * MB)),
                ..Limits::default()
            },
            ..Policy::default()
        },
        Policy {
            keep: 60 * DAY,
            ..rule.clone()
        },
        rule.clone(),
        Policy { all: true, ..rule },
    ]
}

impl Room {
    fn parse(space: &Space) -> anyhow::Result<Option<Self>> {
        let text = match space {
            Space::Bytes(bytes) => {
                let bytes =
                    u64::try_from(*bytes).with_context(|| format!("invalid disk space {bytes}"))?;
                return Ok((bytes > 0).then_some(Self::Bytes(bytes)));
            }
            Space::Text(text) => text.trim(),
        };
        if text.is_empty() {
            return Ok(None);
        }
        let wrong = || format!("invalid disk space {text}");
        let room = match text.strip_suffix('%') {
            Some(percent) => Self::Percent(percent.parse().with_context(wrong)?),
            None => Self::Bytes(binary_size(text).with_context(wrong)?),
        };
        Ok((room != Self::Bytes(0) && room != Self::Percent(0)).then_some(room))
    }

    /// Compat: whole gigabytes, and one more; 2 GB where the size of the disk is not known.
    fn bytes(self, disk: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(_) if disk == 0 => 2 * GB,
            Self::Percent(percent) => {
                let share = u128::from(disk) * u128::from(percent) / 100;
                u64::try_from(((share >> 30) + 1) * u128::from(GB)).unwrap_or(u64::MAX)
            }
        }
    }
}

/// A size as people write it. Compat: units are powers of 1024, however they are written.
fn binary_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let number: f64 = digits.strip_suffix(' ').unwrap_or(digits).parse().ok()?;
    let power = match unit.as_str() {
        "" | "b" => 0,
        other => {
            let end = other.get(1..)?;
            if !["", "b", "ib"].contains(&end) {
                return None;
            }
            1 + "kmgtp".find(other.get(..1)?)?
        }
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "saturates, and less than nothing is refused"
    )]
    let bytes =
        (number >= 0.0).then_some((number * 1024_f64.powi(i32::try_from(power).ok()?)) as u64);
    bytes
}

impl Limits {
    fn parse(
        reserved: Option<&Space>,
        maximum: Option<&Space>,
        free: Option<&Space>,
    ) -> anyhow::Result<Self> {
        let room = |space: Option<&Space>| space.map_or(Ok(None), Room::parse);
        Ok(Self {
            reserved: room(reserved)?,
            maximum: room(maximum)?,
            free: room(free)?,
        })
    }

    /// The old name counts when none of the new ones is there.
    fn or_reserved(mut self, old: Option<&Space>) -> anyhow::Result<Self> {
        if self == Self::default() {
            self.reserved = old.map_or(Ok(None), Room::parse)?;
        }
        Ok(self)
    }

    /// `RESERVED`, `RESERVED,FREE` or `RESERVED,FREE,MAXIMUM` in megabytes.
    fn of_flag(text: &str) -> anyhow::Result<Self> {
        let mut rooms = [None; 3];
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() > rooms.len() {
            bail!("failed to parse storage {text:?}: expected RESERVED,FREE,MAXIMUM");
        }
        for (room, part) in rooms.iter_mut().zip(parts) {
            let megabytes: u64 = part
                .trim()
                .parse()
                .with_context(|| format!("failed to parse storage {text:?}: expected megabytes"))?;
            *room = (megabytes > 0).then(|| Room::Bytes(megabytes.saturating_mul(MB)));
        }
        let [reserved, free, maximum] = rooms;
        Ok(Self {
            reserved,
            maximum,
            free,
        })
    }
}

impl Policy {
    fn parse(file: &GcPolicy) -> anyhow::Result<Self> {
        let limits = Limits::parse(
            file.reserved_space.as_ref(),
            file.max_used_space.as_ref(),
            file.min_free_space.as_ref(),
        )?;
        let reserved = match &file.keep_bytes {
            Some(old) if limits.reserved.is_none() => Room::parse(old)?,
            _ => limits.reserved,
        };
        let keep = match &file.keep_duration {
            None => Duration::ZERO,
            Some(Age::Seconds(seconds)) => Duration::from_secs(*seconds),
            Some(Age::Text(text)) if text.is_empty() => Duration::ZERO,
            Some(Age::Text(text)) => match text.parse() {
                Ok(seconds) => Duration::from_secs(seconds),
                Err(_) => {
                    ::history::span(text).with_context(|| format!("invalid duration {text}"))?
                }
            },
        };
        Filter::parse(&file.filters).context("invalid filters of a gcpolicy")?;
        Ok(Self {
            all: file.all,
            filters: file.filters.clone(),
            keep,
            limits: Limits { reserved, ..limits },
        })
    }

    fn decide(&self, disk: u64) -> anyhow::Result<Decided> {
        let bytes = |room: Option<Room>| room.map_or(0, |room| room.bytes(disk));
        let rule = Rule {
            filter: Filter::parse(&self.filters)?,
            all: self.all,
            keep_duration: self.keep,
            reserved: bytes(self.limits.reserved),
            max_used: bytes(self.limits.maximum),
            min_free: bytes(self.limits.free),
        };
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let shown = control::GcRule {
            all: self.all,
            keep_duration: i64::try_from(self.keep.as_nanos()).unwrap_or(i64::MAX),
            filters: self.filters.clone(),
            reserved_space: signed(rule.reserved),
            max_used_space: signed(rule.max_used),
            min_free_space: signed(rule.min_free),
        };
        Ok(Decided { rule, shown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use clap::Parser as _;

    fn gc(args: &[&str], file: &str) -> anyhow::Result<Gc> {
        let args = Args::parse_from([&["buildkitd"], args].concat());
        let config: Config = toml::from_str(file)?;
        Gc::decide(&args, &config.worker.oci)
    }

    /// `all keep filters: reserved, maximum, free`, sizes in MB.
    fn shown(gc: &Gc, disk: u64) -> Vec<String> {
        let rules = if gc.rules.is_empty() {
            standard_rules(gc.limits, disk)
        } else {
            gc.rules.clone()
        };
        let rules = rules.iter().map(|rule| rule.decide(disk).expect("decided"));
        rules
            .map(|Decided { shown, .. }| {
                format!(
                    "{}{}h {}: {}, {}, {}",
                    if shown.all { "all " } else { "" },
                    shown.keep_duration / 3_600_000_000_000,
                    shown.filters.len(),
                    shown.reserved_space / 1_000_000,
                    shown.max_used_space / 1_000_000,
                    shown.min_free_space / 1_000_000,
                )
            })
            .collect()
    }

    #[test]
    fn without_rules_there_are_four_and_the_disk_decides() {
        let gc = gc(&[], "").expect("valid");
        assert_eq!(
            shown(&gc, 50 << 30),
            [
                "48h 3: 0, 512, 0",
                "1440h 0: 6000, 41000, 11000",
                "0h 0: 6000, 41000, 11000",
                "all 0h 0: 6000, 41000, 11000",
            ]
        );
        assert_eq!(shown(&gc, 1000 << 30)[2], "0h 0: 10000, 100000, 201000");
    }

    #[test]
    fn the_flag_counts_in_megabytes() {
        let of = |text: &str| {
            let gc = gc(&["--oci-worker-gc-keepstorage", text], "").expect("valid");
            shown(&gc, 50 << 30).remove(3)
        };
        assert_eq!(of("1,2,3"), "all 0h 0: 1, 3, 2");
        assert_eq!(of("7"), "all 0h 0: 7, 0, 0");
        for wrong in ["lots", "1,2,3,4", "-1"] {
            let wrong = format!("--oci-worker-gc-keepstorage={wrong}");
            assert!(gc(&[&wrong], "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn limits_of_the_file_are_sizes_or_shares() {
        let file = "[worker.oci]\nreservedSpace = \"10%\"\nmaxUsedSpace = \"512MB\"\nminFreeSpace = 5000000\n";
        let gc = gc(&[], file).expect("valid");
        assert_eq!(shown(&gc, 50 << 30)[2], "0h 0: 6000, 536, 5");
    }

    #[test]
    fn old_names_count_when_the_new_ones_are_missing() {
        let old = gc(&[], "[worker.oci]\ngckeepstorage = 9000000\n").expect("valid");
        assert_eq!(shown(&old, 50 << 30)[2], "0h 0: 9, 0, 0");
        let both = "[worker.oci]\ngckeepstorage = 9000000\nmaxUsedSpace = 1000000\n";
        let both = gc(&[], both).expect("valid");
        assert_eq!(shown(&both, 50 << 30)[2], "0h 0: 0, 1, 0");
    }

    #[test]
    fn rules_of_the_file_replace_the_standard_ones() {
        let file = r#"
            [[worker.oci.gcpolicy]]
              keepBytes = 1000000
              keepDuration = 7200
              filters = ["type==source.local", "inuse"]
            [[worker.oci.gcpolicy]]
              all = true
              keepDuration = "48h"
              maxUsedSpace = "1GB"
        "#;
        let rules = gc(&[], file).expect("valid");
        assert_eq!(
            shown(&rules, 50 << 30),
            ["2h 2: 1, 0, 0", "all 48h 0: 0, 1073, 0"]
        );
        assert!(gc(&[], "[[worker.oci.gcpolicy]]\nfilters = [\"a=b\"]\n").is_err());
        assert!(gc(&[], "[[worker.oci.gcpolicy]]\nmaxUsedSpace = \"much\"\n").is_err());
    }

    #[test]
    fn it_can_be_switched_off() {
        let off = gc(&["--oci-worker-gc=false"], "").expect("valid");
        assert!(off.rules(Path::new("/")).expect("decided").is_empty());
        let off = gc(&[], "[worker.oci]\ngc = false\n").expect("valid");
        assert!(off.rules(Path::new("/")).expect("decided").is_empty());
        let on = gc(&["--oci-worker-gc"], "[worker.oci]\ngc = false\n").expect("valid");
        assert_eq!(on.rules(Path::new("/")).expect("decided").len(), 4);
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(binary_size("1.5 KiB"), Some(1536));
        assert_eq!(binary_size("2g"), Some(2 << 30));
        assert_eq!(binary_size("7b"), Some(7));
        for wrong in ["", "x", "12 parsecs", "1kx", "1bb", "-1"] {
            assert_eq!(binary_size(wrong), None, "{wrong}");
        }
    }
}
