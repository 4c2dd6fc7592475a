//! What the configuration file says of remote caches.

use serde::Deserialize;
use serde::de::IgnoredAny;

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

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sign {
    /// Reads an index, and writes a signature of it.
    pub command: Vec<String>,
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
}
