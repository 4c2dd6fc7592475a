//! What was asked of a build, as far as it is said.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::capture::{Named, Sources};

/// What is the business of the machine the build ran on.
const OF_HOST: [&str; 4] = [
    "cgroup-parent",
    "image-resolve-mode",
    "platform",
    "cache-imports",
];

/// A request to a frontend.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// Which one; empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub frontend: String,
    /// Its options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub args: BTreeMap<String, String>,
    /// Secrets steps may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Named>,
    /// Agents steps may use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Named>,
    /// Directories of the client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub locals: Vec<Local>,
    /// Where definitions given to the frontend came from.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Requested>,
    /// What the client asked, if that was something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Box<Requested>>,
    /// Whose behaviour was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compatibility_version: Option<u32>,
}

/// A directory of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Local {
    /// What it is called.
    pub name: String,
}

/// What the frontend was to read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConfigSource {
    /// Where.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Digests by algorithm.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// Which file there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// A request with what the frontend was to read told apart.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requested {
    /// What it was to read.
    pub config_source: ConfigSource,
    /// The rest.
    pub request: Parameters,
}

/// The options of a frontend without what is said elsewhere or nowhere.
pub fn filtered(options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let context = options.get("contextkey").filter(|key| !key.is_empty());
    let context = context.map_or("context", String::as_str);
    let said = |key: &str| !OF_HOST.contains(&key) && !key.starts_with("attest:");
    let options = options.iter().filter(|(key, _)| said(key));
    options
        .map(|(key, value)| {
            let is_address = key == context || key.starts_with("context:");
            let value = if is_address {
                source::redacted(value)
            } else {
                value.clone()
            };
            (key.clone(), value)
        })
        .collect()
}

impl Requested {
    /// A request to `frontend`; `args` are filtered already.
    pub fn new(frontend: &str, mut args: BTreeMap<String, String>, sources: &Sources) -> Self {
        let given = |key: &str| args.get(key).filter(|value| !value.is_empty()).cloned();
        let key = match (given("contextkey"), given("input:context")) {
            (Some(key), _) => key,
            (None, Some(_)) => "input:context".to_owned(),
            (None, None) => "context".to_owned(),
        };
        let mut config_source = ConfigSource::default();
        if let Some(address) = given(&key) {
            match sources.find(&address) {
                Some(material) => {
                    config_source.uri = source::redacted(&material.uri);
                    config_source.digest = material.digest;
                }
                None => config_source.uri = source::redacted(&address),
            }
            args.remove(&key);
        }
        if let Some(path) = args
            .get("filename")
            .filter(|path| !path.is_empty())
            .cloned()
        {
            config_source.path = path;
            args.remove("filename");
        }
        Self {
            config_source,
            request: Parameters {
                frontend: frontend.to_owned(),
                args,
                ..Parameters::default()
            },
        }
    }
}

impl Parameters {
    /// Takes out what users pass to their builds. Answers whether options are missing now.
    pub(crate) fn scrub(&mut self) -> bool {
        let before = self.args.len();
        self.args
            .retain(|key, _| !key.starts_with("build-arg:") && !key.starts_with("label:"));
        let mut missing = self.args.len() < before;
        self.secrets.clear();
        self.ssh.clear();
        for input in self.inputs.values_mut() {
            missing |= input.request.scrub();
        }
        if let Some(root) = &mut self.root {
            missing |= root.request.scrub();
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn hosts_and_passwords_are_nobodys_business() {
        let given = args(&[
            ("platform", "linux/arm64"),
            ("attest:provenance", ""),
            ("context:foo", "https://u:p@h"),
            ("context", "https://u:p@h/r.git"),
            ("build-arg:X", "https://u:p@h"),
        ]);
        let wanted = args(&[
            ("context:foo", "https://xxxxx:xxxxx@h"),
            ("context", "https://xxxxx:xxxxx@h/r.git"),
            ("build-arg:X", "https://u:p@h"),
        ]);
        assert_eq!(filtered(&given), wanted);
    }

    #[test]
    fn the_context_is_the_source_of_the_request() {
        let given = args(&[
            ("context", "https://h/x"),
            ("filename", "D"),
            ("target", "t"),
        ]);
        let asked = Requested::new("dockerfile.v0", given, &Sources::default());
        assert_eq!(asked.config_source.uri, "https://h/x");
        assert_eq!(asked.config_source.path, "D");
        assert_eq!(asked.request.args, args(&[("target", "t")]));
    }

    #[test]
    fn scrubbing_goes_all_the_way_down() {
        let mut inner = Requested::default();
        inner.request.args = args(&[("label:x", "y")]);
        let mut request = Parameters {
            args: args(&[("target", "t")]),
            root: Some(Box::new(inner)),
            ..Parameters::default()
        };
        assert!(request.scrub());
        assert!(!request.scrub());
        assert_eq!(request.args, args(&[("target", "t")]));
    }
}
