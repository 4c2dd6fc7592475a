//! What must not be kept: values of build arguments that look like secrets, and passwords in addresses.
//!
//! Secrets belong into `--secret`. People put them into build arguments nevertheless, and a record outlives the build.

use serde_json::Value;

use crate::Attrs;

/// Stands for what is not kept.
const HIDDEN: &str = "<redacted>";

/// Words that make the name of an argument that of a secret.
const WORDS: [&str; 16] = [
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "PASS",
    "PWD",
    "CREDENTIAL",
    "CREDENTIALS",
    "APIKEY",
    "AUTH",
    "AUTHORIZATION",
    "PAT",
    "PRIVATEKEY",
    "ACCESSKEY",
    "SECRETKEY",
];

/// Two words that do so together.
const PAIRS: [(&str, &str); 6] = [
    ("API", "KEY"),
    ("ACCESS", "KEY"),
    ("PRIVATE", "KEY"),
    ("SIGNING", "KEY"),
    ("ENCRYPTION", "KEY"),
    ("SSH", "KEY"),
];

/// How well-known tokens begin, and how long they are at least.
const PREFIXES: [(&str, usize); 17] = [
    ("ghp_", 36),
    ("gho_", 36),
    ("ghs_", 36),
    ("ghu_", 36),
    ("ghr_", 36),
    ("github_pat_", 40),
    ("glpat-", 20),
    ("npm_", 36),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("AKIA", 20),
    ("ASIA", 20),
    ("dckr_pat_", 20),
    ("sk-", 32),
    ("pypi-", 40),
    ("eyJ", 40),
    ("-----BEGIN ", 30),
];

/// Whether a value of this name should not be kept. A file name or a switch is no secret.
pub fn looks_secret(name: &str, value: &str) -> bool {
    if value.is_empty() || matches!(value, "0" | "1" | "true" | "false") {
        return false;
    }
    let known = PREFIXES
        .iter()
        .any(|(prefix, least)| value.len() >= *least && value.starts_with(prefix));
    let name = name.to_ascii_uppercase();
    let words: Vec<&str> = name
        .split(|it: char| !it.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let named = words.iter().any(|word| WORDS.contains(word))
        || words
            .windows(2)
            .any(|pair| PAIRS.contains(&(pair[0], pair[1])));
    known || named || password(value).is_some()
}

/// The options of a build as they are kept.
pub(crate) fn redacted(attrs: &Attrs) -> Attrs {
    let kept = |(key, value): (&String, &String)| {
        let argument = key.strip_prefix("build-arg:");
        let value = match (argument, password(value)) {
            (_, Some((start, end))) => format!("{}xxxxx{}", &value[..start], &value[end..]),
            (Some(name), _) if looks_secret(name, value) => HIDDEN.to_owned(),
            _ => value.clone(),
        };
        (key.clone(), value)
    };
    attrs.iter().map(kept).collect()
}

/// The secrets among the build arguments of one build, which may come up again in what the build tells about itself:
/// image configs hold arguments, provenance holds the whole request.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<(String, String)>);

/// Shorter values are only known by their name.
const LONG: usize = 8;

impl Secrets {
    pub(crate) fn of(attrs: &Attrs) -> Self {
        let argument = |(key, value): (&String, &String)| {
            let name = key.strip_prefix("build-arg:")?;
            looks_secret(name, value).then(|| (name.to_owned(), value.clone()))
        };
        Self(attrs.iter().filter_map(argument).collect())
    }

    /// A text without them.
    pub(crate) fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (name, value) in &self.0 {
            if text == *value {
                return HIDDEN.to_owned();
            }
            text = text.replace(&format!("{name}={value}"), &format!("{name}={HIDDEN}"));
            if value.len() >= LONG {
                text = text.replace(value.as_str(), HIDDEN);
            }
        }
        text
    }

    /// A JSON document without them.
    pub(crate) fn hide_in_document(&self, document: &[u8]) -> Vec<u8> {
        if self.0.is_empty() {
            return document.to_vec();
        }
        let Ok(mut json) = serde_json::from_slice(document) else {
            return self.hide(&String::from_utf8_lossy(document)).into_bytes();
        };
        self.walk(&mut json);
        format!("{json:#}").into_bytes()
    }

    fn walk(&self, json: &mut Value) {
        match json {
            Value::String(text) => *text = self.hide(text),
            Value::Array(list) => list.iter_mut().for_each(|it| self.walk(it)),
            Value::Object(fields) => fields.values_mut().for_each(|it| self.walk(it)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Where the password of an address is: `https://user:HERE@host/`.
fn password(value: &str) -> Option<(usize, usize)> {
    let start = value.find("://")? + 3;
    let end = start
        + value[start..]
            .find(['/', '?', '#'])
            .unwrap_or(value.len() - start);
    let user = &value[start..end];
    let at = user.rfind('@')?;
    let colon = user[..at].find(':')?;
    (at > colon + 1).then_some((start + colon + 1, start + at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_forms_of_secrets_are_known() {
        for (name, value) in [
            ("TOKEN", "abc"),
            ("npm_token", "abc"),
            ("DB_PASSWORD", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("MY_API_KEY", "x"),
            ("anything", "ghp_0123456789012345678901234567890123456789"),
            ("PROXY", "http://me:word@proxy:3128"),
        ] {
            assert!(looks_secret(name, value), "{name}");
        }
    }

    #[test]
    fn ordinary_arguments_are_kept() {
        for (name, value) in [
            ("VERSION", "1.2"),
            ("TOKENIZER", "bpe"),
            ("KEYBOARD", "us"),
            ("USE_AUTH", "true"),
            ("PROXY", "http://proxy:3128"),
            ("MONKEY", "x"),
        ] {
            assert!(!looks_secret(name, value), "{name}");
        }
    }

    #[test]
    fn secrets_are_hidden_wherever_they_come_up() {
        let given = [
            ("build-arg:TOKEN", "abc"),
            ("build-arg:PASSWORD", "long enough"),
            ("build-arg:VERSION", "1"),
        ];
        let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let secrets = Secrets::of(&given.into());
        assert_eq!(secrets.hide("abc"), "<redacted>");
        assert_eq!(
            secrets.hide("RUN |1 TOKEN=abc sh"),
            "RUN |1 TOKEN=<redacted> sh"
        );
        assert_eq!(secrets.hide("x long enough y"), "x <redacted> y");
        assert_eq!(secrets.hide("abcdef 1"), "abcdef 1");
        let document = br#"{"a":["abc",{"b":"TOKEN=abc","abc":1}]}"#;
        let hidden: Value =
            serde_json::from_slice(&secrets.hide_in_document(document)).expect("JSON");
        assert_eq!(hidden["a"][0], "<redacted>");
        assert_eq!(hidden["a"][1]["b"], "TOKEN=<redacted>");
        let none = Secrets::default();
        assert_eq!(none.hide_in_document(document), document);
    }

    #[test]
    fn only_what_is_secret_is_hidden() {
        let given = [
            ("build-arg:TOKEN", "abc"),
            ("build-arg:VERSION", "1"),
            ("context", "https://me:word@example.com/a.git#b"),
            ("label:token", "abc"),
        ];
        let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let kept = redacted(&given.into());
        assert_eq!(kept["build-arg:TOKEN"], "<redacted>");
        assert_eq!(kept["build-arg:VERSION"], "1");
        assert_eq!(kept["context"], "https://me:xxxxx@example.com/a.git#b");
        assert_eq!(kept["label:token"], "abc");
    }
}
