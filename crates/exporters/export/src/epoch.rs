//! The one time a reproducible build knows.

use std::collections::BTreeMap;

use crate::{Error, Input, parse_integer};

const KEY: &str = "source-date-epoch";

/// What an exporter's own options say about the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Epoch {
    /// Nothing: the build's time counts.
    #[default]
    OfBuild,
    /// There is none, whatever the build says.
    Never,
    /// This one, in seconds since 1970.
    At(i64),
}

impl Epoch {
    /// Reads the option `source-date-epoch`.
    pub fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, Error> {
        match attrs.get(KEY).map(String::as_str) {
            None => Ok(Self::OfBuild),
            Some("") => Ok(Self::Never),
            Some(text) => seconds(KEY, text).map(Self::At).map_err(Error::user),
        }
    }

    /// The time for one platform of a result: this option, what the frontend says for the platform, what holds for
    /// the whole build.
    pub fn seconds(
        self,
        input: &Input,
        platform: &str,
        of_build: Option<i64>,
    ) -> Result<Option<i64>, Error> {
        match self {
            Self::Never => return Ok(None),
            Self::At(seconds) => return Ok(Some(seconds)),
            Self::OfBuild => {}
        }
        let own = format!("source.date.epoch/{platform}");
        for key in [own.as_str(), "source.date.epoch"] {
            let Some(value) = input.metadata.get(key) else {
                continue;
            };
            if value.is_empty() {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(value);
            return seconds("", &text).map(Some).map_err(|why| {
                Error::user(format!(
                    "invalid SOURCE_DATE_EPOCH from frontend: {text:?}: {why}"
                ))
            });
        }
        Ok(of_build)
    }
}

/// Compat: says twice what is wrong (exporter/util/epoch/parse.go).
fn seconds(key: &str, text: &str) -> Result<i64, String> {
    parse_integer(text).map_err(|why| format!("invalid {key}: {why}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<Epoch, Error> {
        Epoch::parse(&BTreeMap::from([(KEY.to_owned(), value.to_owned())]))
    }

    #[test]
    fn the_option_wins_and_an_empty_one_forbids() {
        let mut input = Input::default();
        input
            .metadata
            .insert("source.date.epoch".to_owned(), "5".into());
        input
            .metadata
            .insert("source.date.epoch/linux/arm".to_owned(), "6".into());
        let seconds =
            |epoch: Epoch, platform| epoch.seconds(&input, platform, Some(9)).expect("a time");
        assert_eq!(seconds(parse("3").expect("a time"), "linux/arm"), Some(3));
        assert_eq!(seconds(parse("").expect("none"), "linux/arm"), None);
        assert_eq!(seconds(Epoch::OfBuild, "linux/arm"), Some(6));
        assert_eq!(seconds(Epoch::OfBuild, "linux/amd64"), Some(5));
        assert!(parse("now").is_err());
        input
            .metadata
            .insert("source.date.epoch".to_owned(), "".into());
        let none = Epoch::OfBuild.seconds(&input, "linux/amd64", Some(9));
        assert_eq!(none.expect("none"), None);
    }
}
