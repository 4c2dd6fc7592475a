//! Source policies as files: the JSON that users write by hand.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use proto::sourcepolicy as wire;
use serde::{Deserialize, Deserializer};

/// Reads a policy.
pub(crate) fn read(path: &Path) -> Result<wire::Policy> {
    let text = std::fs::read(path).with_context(|| format!("open {}", path.display()))?;
    let name = path.display().to_string();
    let policy: Policy = serde_json::from_slice(&text)
        .with_context(|| format!("failed to unmarshal source-policy-file {name:?}"))?;
    Ok(policy.into())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Policy {
    version: i64,
    #[serde(deserialize_with = "nullable")]
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
    #[serde(alias = "matchType")]
    match_type: Choice<wire::MatchType>,
    #[serde(deserialize_with = "nullable")]
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
    #[serde(deserialize_with = "nullable")]
    attrs: BTreeMap<String, String>,
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A word of the protocol, by its name or its number.
#[derive(Default)]
struct Choice<T>(T);

/// Words that have names.
trait Named: Sized + TryFrom<i32> {
    fn named(name: &str) -> Option<Self>;
}

impl Named for wire::PolicyAction {
    fn named(name: &str) -> Option<Self> {
        Self::from_str_name(name)
    }
}

impl Named for wire::MatchType {
    fn named(name: &str) -> Option<Self> {
        Self::from_str_name(name)
    }
}

impl Named for wire::AttrMatch {
    fn named(name: &str) -> Option<Self> {
        Self::from_str_name(name)
    }
}

impl<'de, T: Named> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let value = serde_json::Value::deserialize(deserializer)?;
        let found = match &value {
            serde_json::Value::String(name) => T::named(name),
            other => other
                .as_i64()
                .and_then(|number| i32::try_from(number).ok())
                .and_then(|number| T::try_from(number).ok()),
        };
        found
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("invalid value: {value}")))
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
        let policy: wire::Policy = serde_json::from_str::<Policy>(text).expect("valid").into();
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
        let text = r#"{"rules": [{"action": "MAYBE"}]}"#;
        let err = serde_json::from_str::<Policy>(text).err().expect("refused");
        assert!(
            err.to_string().starts_with("invalid value: \"MAYBE\""),
            "{err}"
        );
    }
}
