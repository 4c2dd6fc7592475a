//! Options as users give them, and the daemon's environment where they give none.

use std::collections::BTreeMap;
use std::time::Duration;

use remotecache::Error;

use crate::{Environment, Signing};

/// The options of one cache.
pub(crate) struct Attrs<'a> {
    pub(crate) given: &'a BTreeMap<String, String>,
    pub(crate) environment: &'a Environment,
    /// What the daemon's configuration says, which no client can change.
    pub(crate) signing: &'a Signing,
}

impl Attrs<'_> {
    /// What was given under this key.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.given.get(key).map(String::as_str)
    }

    /// What was given, or what a variable says.
    pub(crate) fn or_variable(&self, key: &str, variable: &str) -> Option<String> {
        let given = self.get(key).map(str::to_owned);
        given.or_else(|| (self.environment)(variable))
    }

    /// What was given, or the usual.
    pub(crate) fn text(&self, key: &str, otherwise: &str) -> String {
        self.get(key).unwrap_or(otherwise).to_owned()
    }

    /// Names of caches.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.text("name", "buildkit");
        names.split(';').map(str::to_owned).collect()
    }

    /// A number above nothing.
    pub(crate) fn positive(&self, key: &str, otherwise: usize) -> Result<usize, Error> {
        let Some(text) = self.get(key) else {
            return Ok(otherwise);
        };
        let number = text.parse().ok().filter(|number| *number > 0);
        number.ok_or_else(|| Error::option(format!("{key} must be a positive integer")))
    }

    /// Whether something was asked for. Compat: what is neither yes nor no is no.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.get(key).and_then(fault::truth) == Some(true)
    }
}

/// A time as Go writes it: `1h30m`, `90s`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|letter: char| letter.is_ascii_digit() || letter == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("0"), Some(Duration::ZERO));
        assert_eq!(duration("soon"), None);
        assert_eq!(duration(""), None);
        assert_eq!(duration("5"), None);
    }
}
