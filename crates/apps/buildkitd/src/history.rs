//! How long builds stay on record: the `[history]` part of the configuration.

use std::time::Duration;

use ::history::Limits;
use anyhow::Context as _;
use serde::Deserialize;

/// As it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct History {
    #[serde(rename = "maxAge")]
    pub max_age: Option<Age>,
    #[serde(rename = "maxEntries")]
    pub max_entries: Option<i64>,
}

/// Seconds, or `"48h"`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Age {
    Seconds(u64),
    Text(String),
}

impl History {
    /// What the file leaves open is as usual.
    pub(crate) fn limits(&self) -> anyhow::Result<Limits> {
        let mut limits = Limits::default();
        match &self.max_age {
            None => {}
            Some(Age::Seconds(seconds)) => limits.max_age = Duration::from_secs(*seconds),
            Some(Age::Text(text)) => {
                limits.max_age = match text.parse() {
                    Ok(seconds) => Duration::from_secs(seconds),
                    Err(_) => ::history::span(text)
                        .with_context(|| format!("invalid history.maxAge {text:?}"))?,
                };
            }
        }
        if let Some(entries) = self.max_entries {
            limits.max_entries = usize::try_from(entries)
                .with_context(|| format!("invalid history.maxEntries {entries}"))?;
        }
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(text: &str) -> anyhow::Result<Limits> {
        toml::from_str::<History>(text)?.limits()
    }

    #[test]
    fn ages_are_seconds_or_spans() {
        let hour = Duration::from_secs(3600);
        for text in ["maxAge = 3600", "maxAge = \"3600\"", "maxAge = \"1h\""] {
            assert_eq!(limits(text).expect(text).max_age, hour);
        }
        assert_eq!(limits("").expect("empty"), Limits::default());
        assert_eq!(limits("maxEntries = 3").expect("a number").max_entries, 3);
        assert!(limits("maxAge = \"soon\"").is_err());
        assert!(limits("maxEntries = -1").is_err());
    }
}
