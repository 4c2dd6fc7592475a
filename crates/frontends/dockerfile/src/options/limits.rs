//! Hosts, limits and resources.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::pb;

use super::number::{parse_int, parse_uint};
use crate::error::{Error, Result, text};

const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// The largest cpu or node number that is accepted.
const MAX_CPU: u32 = 8192;

/// One line of CSV.
pub(crate) fn csv(line: &str) -> Result<Vec<String>> {
    if line.is_empty() {
        return Ok(Vec::new());
    }
    dockerfile_syntax::csv::fields(line).map_err(|err| text(err.to_string()).into())
}

pub(super) fn extra_hosts(line: &str) -> Result<Vec<pb::HostIp>> {
    csv(line)?
        .into_iter()
        .map(|field| {
            let lower = field.to_lowercase();
            let Some((host, address)) = lower.split_once('=') else {
                return Err(text(format!("invalid key-value pair {field}")).into());
            };
            let address: IpAddr = address
                .parse()
                .map_err(|_| text(format!("failed to parse IP {address}")))?;
            Ok(pb::HostIp {
                host: host.to_owned(),
                ip: address.to_canonical().to_string(),
            })
        })
        .collect()
}

pub(super) fn shm_size(value: &str) -> Result<i64> {
    if value.is_empty() {
        return Ok(0);
    }
    parse_int(value).map_err(|err| text(err).into())
}

pub(super) fn ulimits(line: &str) -> Result<Vec<pb::Ulimit>> {
    csv(line)?.iter().map(|field| ulimit(field)).collect()
}

fn ulimit(field: &str) -> Result<pb::Ulimit> {
    let Some((name, values)) = field.split_once('=') else {
        return Err(text(format!("invalid ulimit argument: {field}")).into());
    };
    if !ULIMITS.contains(&name) {
        return Err(text(format!("invalid ulimit type: {name}")).into());
    }
    let (soft, hard) = match values.split(':').collect::<Vec<_>>().as_slice() {
        [only] => {
            let both = parse_int(only).map_err(text)?;
            (both, both)
        }
        [soft, hard] => (
            parse_int(soft).map_err(text)?,
            parse_int(hard).map_err(text)?,
        ),
        _ => {
            return Err(text(format!(
                "too many limit value arguments - {values}, can only have up to two, `soft[:hard]`"
            ))
            .into());
        }
    };
    if hard != -1 {
        let complaint = "ulimit soft limit must be less than or equal to hard limit";
        if soft == -1 {
            let what = format!("{complaint}: soft: -1 (unlimited), hard: {hard}");
            return Err(text(what).into());
        }
        if soft > hard {
            return Err(text(format!("{complaint}: {soft} > {hard}")).into());
        }
    }
    Ok(pb::Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

pub(super) fn resources(
    attributes: &BTreeMap<String, String>,
) -> Result<Option<pb::LinuxResources>> {
    let given = |key: &str| attributes.get(key).filter(|value| !value.is_empty());
    let positive = "must be > 0";
    let mut resources = pb::LinuxResources::default();
    if let Some(value) = given("memory") {
        resources.memory = signed("memory", value, |number| number > 0, positive)?;
    }
    if let Some(value) = given("memswap") {
        let allowed = |number| number == -1 || number > 0;
        resources.memory_swap = signed("memswap", value, allowed, "must be -1 (unlimited) or > 0")?;
    }
    if let Some(value) = given("cpushares") {
        resources.cpu_shares = unsigned("cpushares", value)?;
    }
    if let Some(value) = given("cpuperiod") {
        resources.cpu_period = unsigned("cpuperiod", value)?;
    }
    if let Some(value) = given("cpuquota") {
        resources.cpu_quota = signed("cpuquota", value, |number| number > 0, positive)?;
    }
    if let Some(value) = given("cpusetcpus") {
        resources.cpuset_cpus = cpuset("cpusetcpus", value)?;
    }
    if let Some(value) = given("cpusetmems") {
        resources.cpuset_mems = cpuset("cpusetmems", value)?;
    }
    Ok((resources != pb::LinuxResources::default()).then_some(resources))
}

fn invalid(key: &str, value: &str, reason: &str) -> Error {
    text(format!("invalid {key} value: {value}: {reason}"))
}

fn signed(key: &str, value: &str, allowed: fn(i64) -> bool, rule: &str) -> Result<i64> {
    let number = parse_int(value).map_err(|reason| invalid(key, value, &reason))?;
    if !allowed(number) {
        return Err(invalid(key, value, rule).into());
    }
    Ok(number)
}

fn unsigned(key: &str, value: &str) -> Result<u64> {
    let number = parse_uint(value).map_err(|reason| invalid(key, value, &reason))?;
    if number == 0 {
        return Err(invalid(key, value, "must be > 0").into());
    }
    Ok(number)
}

fn cpuset(key: &str, value: &str) -> Result<String> {
    for part in value
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let quoted = dockerfile_syntax::quote::go(part);
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let reason = match part.split_once('-') {
            None => match number(part) {
                None => format!("invalid cpuset element {quoted}"),
                Some(cpu) if cpu > MAX_CPU => {
                    format!("cpuset element {quoted} exceeds maximum {MAX_CPU}")
                }
                Some(_) => continue,
            },
            Some((first, last)) => match (number(first), number(last)) {
                (Some(first), Some(last)) if last > MAX_CPU && last >= first => {
                    format!("cpuset range {quoted} exceeds maximum {MAX_CPU}")
                }
                (Some(first), Some(last)) if last >= first => continue,
                _ => format!("invalid cpuset range {quoted}"),
            },
        };
        return Err(invalid(key, value, &reason).into());
    }
    Ok(value.to_owned())
}
