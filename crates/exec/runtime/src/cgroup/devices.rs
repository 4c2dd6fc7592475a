//! Which devices a group may use.

use std::io;
use std::path::Path;

use executor::spec::DeviceRule;

/// What every container may use, whatever its own rules say: making nodes, and the standard devices.
const STANDARD: [&str; 11] = [
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
    "c 136:* rwm",
];

/// Writes the rules of a group on an old hierarchy.
pub(super) fn old(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    use std::io::Write;
    // Like the file system's own list: everything a new group inherits is taken away first.
    super::limits::write(&dir.join("devices.deny"), "a")?;
    if rules.iter().any(allows_everything) {
        return super::limits::write(&dir.join("devices.allow"), "a");
    }
    let mut allow = std::fs::OpenOptions::new()
        .write(true)
        .open(dir.join("devices.allow"))?;
    let mut all: Vec<String> = STANDARD.iter().map(|&rule| rule.to_owned()).collect();
    all.extend(rules.iter().filter(|rule| rule.allow).map(text));
    // The list can be read inside; rules for block devices come first there.
    all.sort_by_key(|rule| !rule.starts_with('b'));
    all.iter()
        .try_for_each(|rule| allow.write_all(rule.as_bytes()))
}

fn allows_everything(rule: &DeviceRule) -> bool {
    rule.allow
        && rule.kind.is_none()
        && rule.major.is_none()
        && rule.minor.is_none()
        && rule.access == "rwm"
}

fn text(rule: &DeviceRule) -> String {
    let number =
        |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let kind = rule.kind.unwrap_or('a');
    format!(
        "{kind} {}:{} {}",
        number(rule.major),
        number(rule.minor),
        rule.access
    )
}

/// What every container may use, as rules.
pub(super) fn standard() -> Vec<DeviceRule> {
    STANDARD.iter().filter_map(|text| parse(text)).collect()
}

fn parse(text: &str) -> Option<DeviceRule> {
    let (kind, rest) = text.split_once(' ')?;
    let (numbers, access) = rest.split_once(' ')?;
    let (major, minor) = numbers.split_once(':')?;
    Some(DeviceRule {
        allow: true,
        kind: kind.chars().next(),
        major: major.parse().ok(),
        minor: minor.parse().ok(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_rules_are_read_back_as_they_stand() {
        let back: Vec<String> = standard().iter().map(text).collect();
        assert_eq!(back, STANDARD);
    }

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        let rule = |kind, major, minor| DeviceRule {
            allow: true,
            kind,
            major,
            minor,
            access: "rw".to_owned(),
        };
        assert_eq!(text(&rule(Some('b'), Some(7), None)), "b 7:* rw");
        assert_eq!(text(&rule(None, None, None)), "a *:* rw");
    }
}
