//! Options of both exporters.

use std::collections::BTreeMap;

use export::{Epoch, Error};

/// What becomes of files at the destination that are not part of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// They stay.
    #[default]
    Copy,
    /// They are removed.
    Delete,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options {
    pub epoch: Epoch,
    /// Each platform in a directory of its own; absent: when there are several.
    pub platform_split: Option<bool>,
    pub mode: Mode,
    /// In front of the names of files with statements.
    pub attestation_prefix: String,
}

impl Options {
    pub(crate) fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mut options = Self {
            epoch: Epoch::parse(attrs)?,
            ..Self::default()
        };
        if let Some(prefix) = attrs.get("attestation-prefix") {
            options.attestation_prefix.clone_from(prefix);
        }
        if let Some(text) = attrs.get("platform-split") {
            options.platform_split = Some(parse_split(text)?);
        }
        if let Some(text) = attrs.get("mode") {
            options.mode = match text.trim().to_lowercase().as_str() {
                "" | "copy" => Mode::Copy,
                "delete" => Mode::Delete,
                _ => {
                    return Err(Error::user(format!("invalid local exporter mode {text:?}")));
                }
            };
        }
        Ok(options)
    }

    /// Whether platforms get directories.
    pub(crate) fn splits(&self, is_map: bool) -> bool {
        self.platform_split.unwrap_or(is_map)
    }
}

fn parse_split(text: &str) -> Result<bool, Error> {
    let invalid = || {
        Error::user(format!(
            "non-bool value for platform-split: {text}: strconv.ParseBool: parsing {text:?}: invalid syntax"
        ))
    };
    export::parse_bool("platform-split", text).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str) -> Result<Options, String> {
        let attrs = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        Options::parse(&attrs).map_err(|err| err.message)
    }

    #[test]
    fn modes_are_read_whatever_their_case() {
        assert_eq!(parse("mode", " Delete ").map(|o| o.mode), Ok(Mode::Delete));
        assert_eq!(parse("mode", "").map(|o| o.mode), Ok(Mode::Copy));
        assert_eq!(
            parse("mode", "move"),
            Err("invalid local exporter mode \"move\"".to_owned())
        );
    }

    #[test]
    fn several_platforms_are_split_unless_somebody_says_otherwise() {
        let default = Options::default();
        assert!(default.splits(true) && !default.splits(false));
        let never = parse("platform-split", "false").expect("options");
        assert!(!never.splits(true));
        assert_eq!(
            parse("platform-split", "x"),
            Err("non-bool value for platform-split: x: strconv.ParseBool: parsing \"x\": invalid syntax".to_owned())
        );
    }
}
