//! The filter language of clients: `type==regular,inuse`, `description~=/foo.*/`, `labels."a b"!=c`.
//!
//! A filter is a list of texts, and one that matches is enough. A text is a list of selectors with commas between, and
//! all of them must match. A selector is a path of fields, and an operator with a value: `==`, `!=`, `~=` (a regular
//! expression), or neither, which asks whether the field is present. No text, and an empty text, match everything.
//!
//! One language for whatever is listed: records of the cache, builds on record, workers, blobs. What fields there are
//! is known to whoever has the things.

mod parse;

use std::borrow::Cow;

use fault::{Class, Classify};
use regex::Regex;

/// A text that is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filters: parse error: {place}: {message}: invalid argument")]
pub struct Error {
    place: String,
    message: String,
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::User
    }
}

/// What things have to be like.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    any: Vec<Vec<Selector>>,
}

#[derive(Debug, Clone)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Present,
    Is(String),
    IsNot(String),
    /// Absent: the expression cannot be compiled, and nothing matches it.
    Matches(Option<Regex>),
}

impl Filter {
    /// Reads texts, of which one has to match.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, Error> {
        let any = texts.iter().map(|text| parse::selectors(text.as_ref()));
        Ok(Self {
            any: any.collect::<Result<_, _>>()?,
        })
    }

    /// Whether everything matches.
    pub fn is_everything(&self) -> bool {
        self.any.is_empty() || self.any.iter().any(Vec::is_empty)
    }

    /// Whether the thing matches whose fields `field` knows. A field that is present may have no value.
    pub fn matches<'f>(&self, field: impl Fn(&[String]) -> Option<Cow<'f, str>>) -> bool {
        self.any.is_empty()
            || self.any.iter().any(|all| {
                all.iter()
                    .all(|selector| selector.matches(field(&selector.path)))
            })
    }
}

impl Selector {
    fn matches(&self, value: Option<Cow<'_, str>>) -> bool {
        match &self.test {
            Test::Present => value.is_some(),
            Test::Is(wanted) => value.is_some_and(|value| value == *wanted),
            // Compat: what is absent counts as empty here.
            Test::IsNot(other) => value.unwrap_or_default() != *other,
            Test::Matches(None) => false,
            Test::Matches(Some(wanted)) => wanted.is_match(&value.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(text: &str) -> bool {
        Filter::parse(&[text])
            .expect("a filter")
            .matches(|path| match path {
                [name] if name == "id" => Some("abc".into()),
                [name] if name == "mutable" => Some("".into()),
                [name, key] if name == "labels" && key == "a b" => Some("x,y".into()),
                _ => None,
            })
    }

    #[test]
    fn a_field_can_be_asked_for() {
        assert!(matches("mutable"));
        assert!(!matches("inuse"));
        assert!(matches(""));
    }

    #[test]
    fn values_are_compared() {
        assert!(matches("id==abc"));
        assert!(!matches("id==ab"));
        assert!(matches("id!=ab"));
        assert!(matches("nothing!=ab"), "what is absent is not that");
        assert!(!matches("nothing==\"\""), "and is not empty either");
    }

    #[test]
    fn expressions_match_a_part() {
        assert!(matches("id~=b"));
        assert!(matches("id~=^a.c$"));
        assert!(matches("id~=/^a[,b]/"));
        assert!(matches("id~=|a/?b|"));
        assert!(!matches("id~=("), "what is no expression matches nothing");
    }

    #[test]
    fn all_selectors_of_a_text_and_any_text_must_match() {
        assert!(matches("id==abc,mutable"));
        assert!(!matches("id==abc,inuse"));
        let either = Filter::parse(&["inuse", "id==abc"]).expect("a filter");
        assert!(either.matches(|path| (path == ["id"]).then(|| "abc".into())));
        assert!(!either.matches(|_| None));
        assert!(Filter::default().is_everything());
    }

    #[test]
    fn names_and_values_can_be_quoted() {
        assert!(matches(r#"labels."a b"=="x,y""#));
        assert!(matches(r#"id=="\x61b\u0063""#));
        assert!(!matches(r#"labels."a b"=="x""#));
    }

    #[test]
    fn what_cannot_be_read_is_shown() {
        let text = |text: &str| Filter::parse(&[text]).expect_err("wrong").to_string();
        assert_eq!(
            text("id=abc"),
            "filters: parse error: [id >|=|< abc]: unsupported operator \"=\": invalid argument"
        );
        assert_eq!(
            text("id=="),
            "filters: parse error: [id==]: expected value or quoted: invalid argument"
        );
        assert_eq!(
            text("id==/a/"),
            "filters: parse error: [id== >|/|< a/]: invalid quote encountered: invalid argument"
        );
        for wrong in [
            "=", "id==a,", ",", "id b", "id==\"a", "a..b", "ä", "id==a b",
        ] {
            assert!(Filter::parse(&[wrong]).is_err(), "{wrong}");
        }
    }
}
