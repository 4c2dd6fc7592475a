//! Which rules are reported: the `check` directive, its build argument and `# check=` comments.

use std::collections::BTreeSet;

use crate::quote;

use super::Rule;

/// Which rules to report, and whether a finding fails the build.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Rules not to report.
    pub skip: Selection,
    /// Experimental rules to report.
    pub experimental: Selection,
    /// Whether a finding fails the build.
    pub error: bool,
}

/// Some rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// Those with these names; unknown names do no harm.
    Named(BTreeSet<String>),
}

impl Default for Selection {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Selection {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            names => Self::Named(
                names
                    .split(',')
                    .map(|name| name.trim().to_owned())
                    .collect(),
            ),
        }
    }

    /// Whether the rule called `name` is among them.
    pub fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(name),
        }
    }
}

/// Why lint options are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum ConfigError {
    #[error("invalid check option {}", quote::go(.0))]
    Option(String),
    #[error(
        "failed to parse check option {}: strconv.ParseBool: parsing {}: invalid syntax",
        quote::go(.option),
        quote::go(.value)
    )]
    Bool { option: String, value: String },
}

impl fault::Classify for ConfigError {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}

impl Config {
    /// Reads options such as `skip=all;error=true`.
    pub fn parse(options: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let options = options.trim();
        if options.is_empty() {
            return Ok(config);
        }
        for part in options.splitn(3, ';') {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| ConfigError::Option(part.to_owned()))?;
            match key.trim() {
                "skip" => config.skip = Selection::parse(value),
                "experimental" => config.experimental = Selection::parse(value),
                "error" => {
                    let value = value.trim();
                    config.error = fault::truth(value).ok_or_else(|| ConfigError::Bool {
                        option: part.to_owned(),
                        value: value.to_owned(),
                    })?;
                }
                key => return Err(ConfigError::Option(key.to_owned())),
            }
        }
        Ok(config)
    }

    /// Reads the value of a `check` directive: options up to the first blank.
    pub fn from_directive(value: &str) -> Result<Self, ConfigError> {
        Self::parse(value.split(' ').next().unwrap_or_default())
    }

    /// The options in the first `check=` comment. Errors in it are ignored.
    pub(super) fn from_comments(comments: &[String]) -> Option<Self> {
        let value = comments.iter().find_map(|comment| {
            let (key, value) = crate::directive::assignment(comment)?;
            key.eq_ignore_ascii_case("check").then_some(value)
        })?;
        Self::from_directive(value).ok()
    }

    pub(super) fn shows(&self, rule: &Rule) -> bool {
        if rule.experimental {
            self.experimental.contains(rule.name)
        } else {
            !self.skip.contains(rule.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(options: &str) -> String {
        Config::parse(options)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn all_parts_are_read() {
        let config = Config::parse("skip=A, B ;error=true;experimental=all").expect("valid");
        assert!(
            config.skip.contains("A") && config.skip.contains("B") && !config.skip.contains("C")
        );
        assert_eq!(config.experimental, Selection::All);
        assert!(config.error);
    }

    #[test]
    fn texts_of_refusals() {
        assert_eq!(fails("foo"), r#"invalid check option "foo""#);
        assert_eq!(fails("foo=1"), r#"invalid check option "foo""#);
        assert_eq!(
            fails("error=maybe"),
            r#"failed to parse check option "error=maybe": strconv.ParseBool: parsing "maybe": invalid syntax"#
        );
        assert_eq!(
            fails("skip=A;error=x;y=1;z"),
            r#"failed to parse check option "error=x": strconv.ParseBool: parsing "x": invalid syntax"#
        );
    }

    #[test]
    fn a_directive_ends_at_the_first_blank() {
        let config = Config::from_directive("skip=A, B").expect("valid");
        assert!(config.skip.contains("A") && !config.skip.contains("B"));
    }
}
