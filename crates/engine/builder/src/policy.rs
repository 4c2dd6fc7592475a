//! Source policies: may a build start from this source, and is something else meant by it?
//!
//! Pure: what it says depends on the rules and the source alone.

mod selector;

use diagnostics::Failure;
use fault::Class;
use proto::pb::SourceOp;
use proto::sourcepolicy::{Policy, PolicyAction, Rule};

use selector::Selector;

/// How often one source may be converted.
const ROUNDS: usize = 20;

/// The rules of a build, in the order they are asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules(Vec<Vec<Compiled>>);

#[derive(Debug, Clone)]
struct Compiled {
    rule: Rule,
    selector: Selector,
}

/// Whether a rule changed the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Unchanged,
    Changed,
}

impl Rules {
    /// Reads policies. Their patterns are looked at when they are used.
    pub(crate) fn new<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Result<Self, Failure> {
        let compile = |rule: &Rule| {
            let selector = rule
                .selector
                .as_ref()
                .ok_or_else(|| user("invalid nil selector in policy"))?;
            Ok(Compiled {
                rule: rule.clone(),
                selector: Selector::new(selector),
            })
        };
        let policies = policies
            .into_iter()
            .map(|policy| policy.rules.iter().map(compile).collect());
        Ok(Self(policies.collect::<Result<_, Failure>>()?))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Vec::is_empty)
    }

    /// Refuses a source or makes it another one. A change starts the evaluation anew.
    pub(crate) fn apply(&self, source: &mut SourceOp) -> Result<(), Failure> {
        for _ in 0..=ROUNDS {
            if self.round(source)? == Verdict::Unchanged {
                return Ok(());
            }
        }
        Err(user(
            "too many mutations on a single source: too many operations",
        ))
    }

    fn round(&self, source: &mut SourceOp) -> Result<Verdict, Failure> {
        for policy in &self.0 {
            if judge(policy, source)? == Verdict::Changed {
                return Ok(Verdict::Changed);
            }
        }
        Ok(Verdict::Unchanged)
    }
}

/// One policy: the last rule that allows or denies wins, the first that changes something ends it.
fn judge(policy: &[Compiled], source: &mut SourceOp) -> Result<Verdict, Failure> {
    let mut denied = false;
    for Compiled { rule, selector } in policy {
        let matched = selector.matches(source);
        if !matched.map_err(|err| err.context("error matching source policy"))? {
            continue;
        }
        match PolicyAction::try_from(rule.action) {
            Ok(PolicyAction::Allow) => denied = false,
            Ok(PolicyAction::Deny) => denied = true,
            Ok(PolicyAction::Convert) => {
                let changed = convert(rule, selector, source);
                let changed = changed.map_err(|err| err.context("error mutating source policy"))?;
                if changed == Verdict::Changed {
                    return Ok(Verdict::Changed);
                }
            }
            Err(_) => {
                return Err(user(format!(
                    "source policy: rule {} {}: unknown type {:?}",
                    rule.action,
                    selector.identifier(),
                    source.identifier
                )));
            }
        }
    }
    if denied {
        return Err(Failure::new(
            Class::User,
            format!(
                "source {:?} denied by policy: source denied by policy",
                source.identifier
            ),
        ));
    }
    Ok(Verdict::Unchanged)
}

fn convert(rule: &Rule, selector: &Selector, source: &mut SourceOp) -> Result<Verdict, Failure> {
    let Some(updates) = &rule.updates else {
        return Err(user("missing destination for convert rule"));
    };
    let template = match updates.identifier.as_str() {
        "" => selector.identifier(),
        identifier => identifier,
    };
    let identifier = selector
        .expand(&source.identifier, template)
        .map_err(|err| err.context("error formatting destination"))?;
    let mut verdict = Verdict::Unchanged;
    if !identifier.is_empty() && identifier != source.identifier {
        source.identifier = identifier;
        verdict = Verdict::Changed;
    }
    for (key, value) in &updates.attrs {
        // Compat: one that is not there is an empty one.
        if source.attrs.get(key).map_or("", String::as_str) != value {
            source.attrs.insert(key.clone(), value.clone());
            verdict = Verdict::Changed;
        }
    }
    Ok(verdict)
}

fn user(text: impl Into<String>) -> Failure {
    Failure::new(Class::User, text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::sourcepolicy::{AttrConstraint, AttrMatch, MatchType, Update};

    use super::*;

    fn rule(action: PolicyAction, identifier: &str) -> Rule {
        Rule {
            action: action.into(),
            selector: Some(proto::sourcepolicy::Selector {
                identifier: identifier.to_owned(),
                ..proto::sourcepolicy::Selector::default()
            }),
            updates: None,
        }
    }

    fn to(identifier: &str, into: &str) -> Rule {
        Rule {
            updates: Some(Update {
                identifier: into.to_owned(),
                attrs: BTreeMap::new(),
            }),
            ..rule(PolicyAction::Convert, identifier)
        }
    }

    fn exact(mut rule: Rule) -> Rule {
        kind(&mut rule, MatchType::Exact);
        rule
    }

    fn regex(mut rule: Rule) -> Rule {
        kind(&mut rule, MatchType::Regex);
        rule
    }

    fn kind(rule: &mut Rule, kind: MatchType) {
        if let Some(selector) = &mut rule.selector {
            selector.match_type = kind.into();
        }
    }

    fn apply(rules: Vec<Rule>, identifier: &str) -> Result<String, String> {
        let mut source = SourceOp {
            identifier: identifier.to_owned(),
            ..SourceOp::default()
        };
        let policy = Policy { version: 1, rules };
        let rules = Rules::new([&policy]).map_err(|err| err.to_string())?;
        rules.apply(&mut source).map_err(|err| err.to_string())?;
        Ok(source.identifier)
    }

    #[test]
    fn the_last_word_counts() {
        use PolicyAction::{Allow, Deny};
        let denied = "source \"a://b\" denied by policy: source denied by policy";
        let order = |rules| apply(rules, "a://b");
        assert_eq!(
            order(vec![rule(Allow, "a://b"), rule(Deny, "a://*")]),
            Err(denied.into())
        );
        assert_eq!(
            order(vec![rule(Deny, "*"), rule(Allow, "a://b")]),
            Ok("a://b".into())
        );
        assert_eq!(order(vec![rule(Deny, "a://c")]), Ok("a://b".into()));
        assert_eq!(order(vec![]), Ok("a://b".into()));
    }

    #[test]
    fn wildcards_hand_on_what_they_matched() {
        let rules = || {
            vec![to(
                "docker-image://*/golang:*",
                "docker-image://m/${1}/go:$2",
            )]
        };
        assert_eq!(
            apply(rules(), "docker-image://docker.io/golang:1.19"),
            Ok("docker-image://m/docker.io/go:1.19".into())
        );
        assert_eq!(
            apply(rules(), "docker-image://x"),
            Ok("docker-image://x".into())
        );
        // What a pattern knows as special is plain here.
        assert_eq!(apply(vec![to("a.b", "c")], "axb"), Ok("axb".into()));
    }

    #[test]
    fn expressions_replace_what_they_match() {
        let rules = vec![regex(to("golang:(1)\\.(.*)$", "go:$1-$2"))];
        assert_eq!(
            apply(rules, "docker-image://golang:1.19"),
            Ok("docker-image://go:1-19".into())
        );
        let broken = apply(vec![regex(to("(", "x"))], "y").expect_err("broken");
        assert_eq!(
            broken,
            "error matching source policy: error parsing regexp: missing closing ): `(`"
        );
    }

    #[test]
    fn exact_rules_take_no_pattern() {
        let rules = vec![exact(to("a*", "b"))];
        assert_eq!(apply(rules.clone(), "ab"), Ok("ab".into()));
        assert_eq!(apply(rules, "a*"), Ok("b".into()));
    }

    #[test]
    fn circles_end() {
        let rules = vec![exact(to("a", "b")), exact(to("b", "a"))];
        assert_eq!(
            apply(rules, "a"),
            Err("too many mutations on a single source: too many operations".into())
        );
    }

    #[test]
    fn a_changed_source_is_judged_again() {
        let rules = vec![rule(PolicyAction::Deny, "b"), exact(to("a", "b"))];
        assert_eq!(
            apply(rules, "a"),
            Err("source \"b\" denied by policy: source denied by policy".into())
        );
    }

    #[test]
    fn attributes_can_be_asked_for_and_set() {
        let mut change = exact(to("a", ""));
        if let (Some(updates), Some(selector)) = (&mut change.updates, &mut change.selector) {
            updates.attrs.insert("http.checksum".into(), "x".into());
            updates.attrs.insert("http.filename".into(), String::new());
            selector.constraints.push(AttrConstraint {
                key: "k".into(),
                value: "v.*".into(),
                condition: AttrMatch::Matches.into(),
            });
        }
        let policy = Policy {
            version: 1,
            rules: vec![change],
        };
        let rules = Rules::new([&policy]).expect("rules");
        let mut source = SourceOp {
            identifier: "a".into(),
            attrs: BTreeMap::from([("k".to_owned(), "value".to_owned())]),
        };
        rules.apply(&mut source).expect("applied");
        assert_eq!(source.attrs["http.checksum"], "x");
        assert!(!source.attrs.contains_key("http.filename"));
        let mut other = SourceOp {
            identifier: "a".into(),
            ..SourceOp::default()
        };
        rules.apply(&mut other).expect("applied");
        assert!(other.attrs.is_empty());
    }

    #[test]
    fn broken_rules_are_refused_in_upstreams_words() {
        let nothing = Rule::default();
        assert_eq!(
            apply(vec![nothing], "a"),
            Err("invalid nil selector in policy".into())
        );
        let convert = rule(PolicyAction::Convert, "a");
        assert_eq!(
            apply(vec![convert], "a"),
            Err("error mutating source policy: missing destination for convert rule".into())
        );
        let unknown = Rule {
            action: 9000,
            ..rule(PolicyAction::Deny, "a")
        };
        assert_eq!(
            apply(vec![unknown], "a"),
            Err("source policy: rule 9000 a: unknown type \"a\"".into())
        );
    }
}
