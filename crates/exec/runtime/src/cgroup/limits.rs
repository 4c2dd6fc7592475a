//! Limits of a group, in the files of old and unified hierarchies.

use std::io;
use std::path::Path;

use executor::spec::{Cpu, Memory, Resources};

use super::devices;
use super::layout::Hierarchy;

/// Sets what the controllers of an old hierarchy are for.
pub(super) fn old(dir: &Path, hierarchy: &Hierarchy, resources: &Resources) -> io::Result<()> {
    if hierarchy.has("devices") {
        devices::old(dir, &resources.devices)?;
    }
    if let Some(memory) = resources
        .memory
        .as_ref()
        .filter(|_| hierarchy.has("memory"))
    {
        old_memory(dir, memory)?;
    }
    let Some(cpu) = &resources.cpu else {
        return Ok(());
    };
    if hierarchy.has("cpu") {
        set(dir, "cpu.shares", cpu.shares)?;
        set(dir, "cpu.cfs_period_us", cpu.period)?;
        set(dir, "cpu.cfs_quota_us", cpu.quota)?;
    }
    if hierarchy.has("cpuset") {
        set(dir, "cpuset.cpus", text(&cpu.cpus))?;
        set(dir, "cpuset.mems", text(&cpu.mems))?;
    }
    Ok(())
}

fn old_memory(dir: &Path, memory: &Memory) -> io::Result<()> {
    set(dir, "memory.limit_in_bytes", memory.limit)?;
    match set(dir, "memory.memsw.limit_in_bytes", memory.swap) {
        // Swap is not accounted on this machine; there is nothing to limit.
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Sets everything but device rules in a group of the unified hierarchy.
pub(super) fn unified(dir: &Path, resources: &Resources) -> io::Result<()> {
    if let Some(memory) = &resources.memory {
        set(dir, "memory.max", memory.limit.map(max))?;
        // Here swap is counted by itself, there together with memory.
        let swap = match (memory.swap, memory.limit) {
            (Some(swap), Some(limit)) if swap > 0 && limit > 0 => {
                Some((swap - limit).max(0).to_string())
            }
            (swap, _) => swap.filter(|&swap| swap < 0).map(max),
        };
        match set(dir, "memory.swap.max", swap) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    let Some(cpu) = &resources.cpu else {
        return Ok(());
    };
    set(dir, "cpu.weight", cpu.shares.map(weight))?;
    set(dir, "cpu.max", bandwidth(cpu))?;
    set(dir, "cpuset.cpus", text(&cpu.cpus))?;
    set(dir, "cpuset.mems", text(&cpu.mems))
}

fn max(bytes: i64) -> String {
    if bytes < 0 {
        "max".to_owned()
    } else {
        bytes.to_string()
    }
}

/// Shares of 2 to 262144 on the scale of 1 to 10000.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

fn bandwidth(cpu: &Cpu) -> Option<String> {
    let quota = match cpu.quota {
        Some(quota) if quota > 0 => quota.to_string(),
        _ if cpu.period.is_some() || cpu.quota.is_some() => "max".to_owned(),
        _ => return None,
    };
    Some(format!("{quota} {}", cpu.period.unwrap_or(100_000)))
}

fn text(value: &str) -> Option<&str> {
    (!value.is_empty()).then_some(value)
}

fn set(dir: &Path, file: &str, value: Option<impl ToString>) -> io::Result<()> {
    let Some(value) = value else { return Ok(()) };
    let value = value.to_string();
    write(&dir.join(file), &value).map_err(|err| {
        io::Error::new(
            err.kind(),
            format!("set {file} to {value}: {}", crate::errors::text(&err)),
        )
    })
}

/// Writes in one call, without making or cutting the file.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// A new cpuset has no processors until it is told, and nothing can run in it before. Those below take over these.
pub(super) fn inherit_cpuset(dir: &Path) -> io::Result<()> {
    let Some(parent) = dir.parent() else {
        return Ok(());
    };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = std::fs::read_to_string(dir.join(file))?;
        if own.trim().is_empty() {
            let above = std::fs::read_to_string(parent.join(file))?;
            write(&dir.join(file), above.trim())?;
        }
    }
    write(&dir.join("cgroup.clone_children"), "1")
}

/// Makes the controllers of a group available to those below it, as far as it has them.
pub(super) fn delegate(dir: &Path) {
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let enabled = read("cgroup.subtree_control");
    for controller in read("cgroup.controllers").split_whitespace() {
        if !enabled.split_whitespace().any(|name| name == controller)
            && let Err(err) = write(
                &dir.join("cgroup.subtree_control"),
                &format!("+{controller}"),
            )
        {
            // Limits that need it will fail where they are set.
            tracing::debug!(dir = %dir.display(), controller, error = %err, "controller not passed on");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }

    #[test]
    fn bandwidth_is_quota_and_period() {
        let cpu = |quota, period| {
            bandwidth(&Cpu {
                quota,
                period,
                ..Cpu::default()
            })
        };
        assert_eq!(cpu(None, None), None);
        assert_eq!(cpu(Some(5000), None).as_deref(), Some("5000 100000"));
        assert_eq!(cpu(None, Some(1000)).as_deref(), Some("max 1000"));
    }
}
