//! What the configuration file says of remote caches.

use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

/// By kind.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Caches {
    pub gha: Gha,
}

/// Signatures of caches of GitHub's actions.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Gha {
    pub sign: Option<Sign>,
    pub verify: Verify,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Sign {
    /// Reads an index, and writes a signature of it.
    #[serde(deserialize_with = "command")]
    pub command: Vec<String>,
}

fn command<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    let command = Vec::deserialize(value)?;
    match command.is_empty() {
        true => Err(D::Error::custom("nothing would be signed by no command")),
        false => Ok(command),
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Verify {
    /// Only signed caches are read. They cannot be checked, so none is.
    pub required: bool,
    #[serde(rename = "policy")]
    _policy: Option<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_configured_as_upstream_has_it() {
        let text = r#"
            [gha.sign]
            command = ["sign", "-"]
            [gha.verify]
            required = true
            [gha.verify.policy]
            timestampThreshold = 1
            sourceRepositoryURI = "https://github.com/x/*"
        "#;
        let caches: Caches = toml::from_str(text).expect("valid");
        let sign = caches.gha.sign.expect("a command");
        assert_eq!(sign.command, ["sign", "-"]);
        assert!(caches.gha.verify.required);
    }

    #[test]
    fn signing_needs_a_command() {
        for text in ["[gha.sign]", "[gha.sign]\ncommand = []"] {
            let refused = toml::from_str::<Caches>(text).expect_err("nobody signs");
            assert!(refused.message().contains("command"), "{refused}");
        }
    }
}
