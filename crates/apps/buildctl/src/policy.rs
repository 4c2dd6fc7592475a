//! Source policies as files: the JSON that users write by hand.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use proto::sourcepolicy as wire;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Reads a policy.
pub(crate) fn read(path: &Path) -> Result<wire::Policy> {
    let failed = |op| move |err| fstree::Error::new(op, path, err);
    let mut file = std::fs::File::open(path).map_err(failed("open"))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(failed("read"))?;
    let name = path.display().to_string();
    parse(&text).with_context(|| format!("failed to unmarshal source-policy-file {name:?}"))
}

fn parse(text: &[u8]) -> serde_json::Result<wire::Policy> {
    let policy: Option<Policy> = serde_json::from_value(folded(serde_json::from_slice(text)?))?;
    Ok(policy.unwrap_or_default().into())
}

/// Compat: Go finds members whatever the case of their names, and null leaves them as they are.
fn folded(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.into_iter().filter(|(_, value)| !value.is_null());
            let members = members.map(|(key, value)| match key.to_lowercase() {
                key if key == "attrs" => (key, texts(value)),
                key => (key, folded(value)),
            });
            Value::Object(members.collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(folded).collect()),
        other => other,
    }
}

/// Attributes, whose names are free.
fn texts(mut attrs: Value) -> Value {
    for value in attrs
        .as_object_mut()
        .into_iter()
        .flat_map(|it| it.values_mut())
    {
        if value.is_null() {
            *value = "".into();
        }
    }
    attrs
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Policy {
    version: i64,
    rules: Vec<Rule>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Rule {
    action: Choice<wire::PolicyAction>,
    selector: Option<Selector>,
    updates: Option<Update>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Selector {
    identifier: String,
    match_type: Choice<wire::MatchType>,
    constraints: Vec<Constraint>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Constraint {
    key: String,
    value: String,
    condition: Choice<wire::AttrMatch>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Update {
    identifier: String,
    attrs: BTreeMap<String, String>,
}

/// A word of the protocol, by its name or its number.
#[derive(Default)]
struct Choice<T>(T);

/// Words that have names.
trait Named: Sized + Default + TryFrom<i32> {
    /// Their kind, and the one that stands for nothing, in errors.
    const KIND: (&str, &str);
    fn named(name: &str) -> Option<Self>;
}

impl Named for wire::PolicyAction {
    const KIND: (&str, &str) = ("PolicyAction", "ALLOW");

    fn named(name: &str) -> Option<Self> {
        Self::from_str_name(name)
    }
}

impl Named for wire::MatchType {
    const KIND: (&str, &str) = ("MatchType", "WILDCARD");

    fn named(name: &str) -> Option<Self> {
        Self::from_str_name(name)
    }
}

impl Named for wire::AttrMatch {
    const KIND: (&str, &str) = ("AttrMatch", "EQUAL");

    fn named(name: &str) -> Option<Self> {
        Self::from_str_name(name)
    }
}

impl<'de, T: Named> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let (kind, none) = T::KIND;
        match Value::deserialize(deserializer)? {
            Value::String(name) => T::named(&name).ok_or_else(|| {
                D::Error::custom(format!("unrecognized enum {none} value {name:?}"))
            }),
            value => {
                let number = value.as_i64().and_then(|it| i32::try_from(it).ok());
                let number = number.ok_or_else(|| {
                    D::Error::custom(format!("cannot unmarshal `{value}` into enum {none}"))
                })?;
                T::try_from(number)
                    .map_err(|_| D::Error::custom(format!("invalid {kind} value: {number}")))
            }
        }
        .map(Self)
    }
}

impl From<Policy> for wire::Policy {
    fn from(policy: Policy) -> Self {
        let rule = |rule: Rule| wire::Rule {
            action: rule.action.0.into(),
            selector: rule.selector.map(|selector| wire::Selector {
                identifier: selector.identifier,
                match_type: selector.match_type.0.into(),
                constraints: selector
                    .constraints
                    .into_iter()
                    .map(|constraint| wire::AttrConstraint {
                        key: constraint.key,
                        value: constraint.value,
                        condition: constraint.condition.0.into(),
                    })
                    .collect(),
            }),
            updates: rule.updates.map(|updates| wire::Update {
                identifier: updates.identifier,
                attrs: updates.attrs,
            }),
        };
        Self {
            version: policy.version,
            rules: policy.rules.into_iter().map(rule).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_names_and_numbers() {
        let text = r#"{"version": 1, "rules": [
            {"action": "DENY", "selector": {"identifier": "*"}},
            {"action": 2, "selector": {"identifier": "a", "match_type": "EXACT", "constraints": null},
             "updates": {"identifier": "b", "attrs": {"k": "v"}}}
        ]}"#;
        let policy = parse(text.as_bytes()).expect("valid");
        assert_eq!(policy.rules[0].action(), wire::PolicyAction::Deny);
        assert_eq!(policy.rules[1].action(), wire::PolicyAction::Convert);
        let selector = policy.rules[1].selector.as_ref().expect("a selector");
        assert_eq!(selector.match_type(), wire::MatchType::Exact);
        assert_eq!(
            policy.rules[1].updates.as_ref().expect("updates").attrs["k"],
            "v"
        );
    }

    #[test]
    fn other_words_are_refused() {
        let refused = |rule: &str| {
            let text = format!("{{\"rules\": [{rule}]}}");
            parse(text.as_bytes()).expect_err(rule).to_string()
        };
        for (rule, text) in [
            (
                r#"{"action": "MAYBE"}"#,
                "unrecognized enum ALLOW value \"MAYBE\"",
            ),
            (r#"{"action": 7}"#, "invalid PolicyAction value: 7"),
            (
                r#"{"selector": {"match_type": true}}"#,
                "cannot unmarshal `true` into enum WILDCARD",
            ),
            (
                r#"{"selector": {"constraints": [{"condition": "LIKE"}]}}"#,
                "unrecognized enum EQUAL value \"LIKE\"",
            ),
        ] {
            assert_eq!(refused(rule), text);
        }
    }

    #[test]
    fn members_are_found_as_upstream_finds_them() {
        let text = r#"{"VERSION": 1, "request": {"root": true}, "rules": [
            {"Action": null, "selector": {"identifier": "a", "matchType": "EXACT", "Match_Type": "REGEX"},
             "updates": {"identifier": null, "attrs": {"HTTP.Header": "x", "n": null}}},
            {"selector": {"identifier": "a", "matchType": "EXACT"}, "updates": null}
        ]}"#;
        let policy = parse(text.as_bytes()).expect("valid");
        let selector = |at: usize| policy.rules[at].selector.as_ref().expect("a selector");
        assert_eq!(selector(0).match_type(), wire::MatchType::Regex);
        assert_eq!(selector(1).match_type(), wire::MatchType::Wildcard);
        let attrs = &policy.rules[0].updates.as_ref().expect("updates").attrs;
        assert_eq!((&*attrs["HTTP.Header"], &*attrs["n"]), ("x", ""));
        assert_eq!(parse(b"null").expect("nothing"), wire::Policy::default());
    }
}
