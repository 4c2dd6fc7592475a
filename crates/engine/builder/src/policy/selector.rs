//! Which sources a rule is about.

use diagnostics::Failure;
use proto::pb::SourceOp;
use proto::sourcepolicy::{AttrConstraint, AttrMatch, MatchType};
use regex::Regex;

use super::user;

/// The selector of one rule, its pattern compiled once.
#[derive(Debug, Clone)]
pub(super) struct Selector {
    identifier: String,
    constraints: Vec<AttrConstraint>,
    /// What was wrong with the pattern is said when the rule is looked at.
    pattern: Result<Pattern, String>,
}

#[derive(Debug, Clone)]
enum Pattern {
    Exact,
    Wildcard(Regex),
    Regex(Regex),
}

impl Selector {
    pub(super) fn new(selector: &proto::sourcepolicy::Selector) -> Self {
        let text = &selector.identifier;
        let pattern = match MatchType::try_from(selector.match_type) {
            Ok(MatchType::Exact) => Ok(Pattern::Exact),
            Ok(MatchType::Regex) => expression(text).map(Pattern::Regex),
            Ok(MatchType::Wildcard) => wildcard(text).map(Pattern::Wildcard),
            Err(_) => Err(format!("unknown match type: {}", selector.match_type)),
        };
        Self {
            identifier: text.clone(),
            constraints: selector.constraints.clone(),
            pattern,
        }
    }

    pub(super) fn identifier(&self) -> &str {
        &self.identifier
    }

    pub(super) fn matches(&self, source: &SourceOp) -> Result<bool, Failure> {
        for constraint in &self.constraints {
            if !holds(constraint, source)? {
                return Ok(false);
            }
        }
        if self.identifier == source.identifier {
            return Ok(true);
        }
        match &self.pattern {
            Ok(Pattern::Exact) => Ok(false),
            Ok(Pattern::Wildcard(regex) | Pattern::Regex(regex)) => {
                Ok(regex.is_match(&source.identifier))
            }
            Err(text) => Err(user(text.clone())),
        }
    }

    /// The identifier that `template` makes of `identifier`.
    pub(super) fn expand(&self, identifier: &str, template: &str) -> Result<String, Failure> {
        match &self.pattern {
            Ok(Pattern::Exact) => Ok(template.to_owned()),
            Ok(Pattern::Regex(regex)) => Ok(regex.replace_all(identifier, template).into_owned()),
            Ok(Pattern::Wildcard(regex)) => Ok(match regex.captures(identifier) {
                None => identifier.to_owned(),
                Some(captures) => {
                    let mut expanded = String::new();
                    captures.expand(template, &mut expanded);
                    expanded
                }
            }),
            Err(text) => Err(user(text.clone())),
        }
    }
}

fn holds(constraint: &AttrConstraint, source: &SourceOp) -> Result<bool, Failure> {
    let value = source.attrs.get(&constraint.key).map_or("", String::as_str);
    match AttrMatch::try_from(constraint.condition) {
        Ok(AttrMatch::Equal) => Ok(value == constraint.value),
        Ok(AttrMatch::Notequal) => Ok(value != constraint.value),
        Ok(AttrMatch::Matches) => {
            let regex = expression(&constraint.value)
                .map_err(|err| user(format!("invalid regex {:?}: {err}", constraint.value)))?;
            Ok(regex.is_match(value))
        }
        Err(_) => Err(user(format!(
            "unknown attr condition: {}",
            constraint.condition
        ))),
    }
}

fn expression(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|err| {
        let err = err.to_string();
        let last = err.lines().last().unwrap_or_default();
        let why = last.strip_prefix("error: ").unwrap_or(last);
        let why = match why {
            "unclosed group" => "missing closing )",
            "unopened group" => "unexpected )",
            "unclosed character class" => "missing closing ]",
            "repetition operator missing expression" => "missing argument to repetition operator",
            other => other,
        };
        format!("error parsing regexp: {why}: `{text}`")
    })
}

/// `*` is anything and can be referred to; all else stands for itself.
fn wildcard(text: &str) -> Result<Regex, String> {
    if text.contains("**") {
        return Err(format!(
            "failed to translate wildcard {text:?} to regexp: invalid wildcard: \"**\""
        ));
    }
    let pattern = regex::escape(text).replace("\\*", "(.*)");
    expression(&format!("^{pattern}$"))
}
