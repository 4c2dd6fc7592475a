//! What must not be kept: values of build arguments that look like secrets, and passwords in addresses.
//!
//! Secrets belong into `--secret`. People put them into build arguments nevertheless, and a record outlives the build.

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
pub(crate) fn attrs(attrs: &Attrs) -> Attrs {
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
    fn only_what_is_secret_is_hidden() {
        let given = [
            ("build-arg:TOKEN", "abc"),
            ("build-arg:VERSION", "1"),
            ("context", "https://me:word@example.com/a.git#b"),
            ("label:token", "abc"),
        ];
        let given = given.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let kept = attrs(&given.into());
        assert_eq!(kept["build-arg:TOKEN"], "<redacted>");
        assert_eq!(kept["build-arg:VERSION"], "1");
        assert_eq!(kept["context"], "https://me:xxxxx@example.com/a.git#b");
        assert_eq!(kept["label:token"], "abc");
    }
}
