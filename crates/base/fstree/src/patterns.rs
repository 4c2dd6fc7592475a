//! The pattern language of ignore files, include and exclude lists.
//!
//! Each pattern is trimmed, cleaned as a path, and may begin with `!`, which takes matches back. A list is tried in
//! order with a running answer; a pattern also hits a path when it hits one of the path's parents. Paths are slash
//! separated, relative, without a leading slash.
//!
//! Compat: github.com/moby/patternmatcher decides; the ways a pattern is taken (exact, prefix, suffix, expression) and
//! what ends up in the regular expression follow it, oddities included.

mod expression;
mod wildcard;

use std::borrow::Cow;

use fault::{Class, Classify};
use regex::Regex;

use crate::path;

pub use wildcard::match_path;

/// Why a pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A bare exclamation mark.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneException,
    /// A class without end, a range that runs backwards, a trailing backslash.
    #[error("syntax error in pattern")]
    Syntax,
}

impl Classify for PatternError {
    fn class(&self) -> Class {
        Class::User
    }
}

/// One pattern of a list.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    exception: bool,
    way: Way,
}

/// How a pattern is compared.
#[derive(Debug, Clone)]
enum Way {
    Exact,
    /// Everything that begins with this.
    Prefix(String),
    /// Everything that ends with this; with a leading slash also what equals the rest.
    Suffix(String),
    Expression(Regex),
}

impl Pattern {
    /// The cleaned pattern without its exclamation mark.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it takes matches back.
    pub fn is_exception(&self) -> bool {
        self.exception
    }

    fn parse(given: &str) -> Result<Option<Self>, PatternError> {
        let given = given.trim();
        if given.is_empty() {
            return Ok(None);
        }
        let cleaned = path::clean_str(given);
        let (exception, text) = match cleaned.strip_prefix('!') {
            Some("") => return Err(PatternError::LoneException),
            Some(rest) => (true, rest.to_owned()),
            None => (false, cleaned),
        };
        wildcard::check(text.as_bytes())?;
        let way = expression::way_of(&text)?;
        Ok(Some(Self {
            text,
            exception,
            way,
        }))
    }

    fn hits(&self, path: &str) -> bool {
        match &self.way {
            Way::Exact => path == self.text,
            Way::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Way::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Way::Expression(expression) => expression.is_match(path),
        }
    }

    fn hits_parent_of(&self, path: &str) -> bool {
        path.match_indices('/')
            .any(|(at, _)| at > 0 && self.hits(&path[..at]))
    }
}

/// Which patterns of a list hit an entry; children take this over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hits(Vec<bool>);

/// A list of patterns.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    list: Vec<Pattern>,
}

impl Patterns {
    /// Reads a list. Blank patterns are left out.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        let mut list = Vec::with_capacity(patterns.len());
        for pattern in patterns {
            list.extend(Pattern::parse(pattern.as_ref())?);
        }
        Ok(Self { list })
    }

    /// The patterns in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Pattern> {
        self.list.iter()
    }

    /// Whether there are no patterns.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether one of them takes matches back.
    pub fn has_exceptions(&self) -> bool {
        self.list.iter().any(Pattern::is_exception)
    }

    /// Whether all its patterns (or all its exceptions) are plain paths but for a trailing `/*` or `/**`.
    pub fn is_plain(&self, exceptions: bool) -> bool {
        self.of_kind(exceptions)
            .all(|text| !text.contains(['*', '[', ']', '?', '^', '\\']))
    }

    /// Whether one of its patterns (or exceptions), taken as a plain path, names the directory or something below.
    pub fn could_match_below(&self, exceptions: bool, dir: &[u8]) -> bool {
        self.of_kind(exceptions).any(|text| {
            text.as_bytes()
                .strip_prefix(dir)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    }

    fn of_kind(&self, exceptions: bool) -> impl Iterator<Item = &str> {
        self.list
            .iter()
            .filter(move |pattern| pattern.exception == exceptions)
            .map(|pattern| {
                let text = pattern.text();
                let text = text.strip_suffix("/**").unwrap_or(text);
                text.strip_suffix("/*").unwrap_or(text)
            })
    }

    /// Whether the list matches `path`, looking at its parents too. `path` is clean and relative.
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = text_of(path);
        let mut matched = false;
        for pattern in &self.list {
            if pattern.exception == matched
                && (pattern.hits(&path) || pattern.hits_parent_of(&path))
            {
                matched = !pattern.exception;
            }
        }
        matched
    }

    /// Whether the list matches `path` in a walk, where `parent` is what its directory got here.
    ///
    /// Without a parent (or with one that has no hits because it was not tried) the leading directories of the path
    /// are tried instead.
    pub fn matches_below(&self, path: &[u8], parent: Option<&Hits>) -> (bool, Hits) {
        let path = text_of(path);
        let parent = parent.filter(|hits| hits.0.len() == self.list.len() && !hits.0.is_empty());
        let mut matched = false;
        let mut hits = vec![false; self.list.len()];
        for (at, pattern) in self.list.iter().enumerate() {
            let mut hit = parent.is_some_and(|parent| parent.0[at]);
            if !hit {
                if pattern.exception != matched {
                    continue;
                }
                hit = pattern.hits(&path) || (parent.is_none() && pattern.hits_parent_of(&path));
            }
            hits[at] = hit;
            if hit {
                matched = !pattern.exception;
            }
        }
        (matched, Hits(hits))
    }
}

impl<'a> IntoIterator for &'a Patterns {
    type Item = &'a Pattern;
    type IntoIter = std::slice::Iter<'a, Pattern>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A path as text; each byte that is no valid text counts as one character that equals nothing.
fn text_of(path: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(path) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(path.len() + 8);
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(patterns: &[&str], path: &str) -> bool {
        Patterns::new(patterns)
            .expect("patterns")
            .matches(path.as_bytes())
    }

    #[test]
    fn a_table_of_single_patterns() {
        for (pattern, path, wanted) in [
            ("a", "a", true),
            ("a", "a/b/c", true),
            ("a", "ab", false),
            ("a/", "a", true),
            ("/a", "a", false),
            ("*", "a/b", true),
            ("*.go", "a/x.go", false),
            ("**/*.go", "a/x.go", true),
            ("**/foo", "foo", true),
            ("**/foo", "x/foo", true),
            ("**/foo", "xfoo", false),
            ("**foo", "xfoo", true),
            ("a/**", "a/b", true),
            ("a/**", "a", false),
            ("a**", "ab/c", true),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a?c", "a/c", false),
            ("[a-c]", "b", true),
            ("[^a]", "b", true),
            ("[!a]", "a", true),
            ("a.b", "axb", false),
            (r"\*", "*", true),
            (r"\*", "a", false),
            ("a+(b)|{c}$", "a+(b)|{c}$", true),
            ("**", "anything/at/all", true),
            (r"\a", "a", false),
            ("é?", "éü", true),
        ] {
            assert_eq!(matches(&[pattern], path), wanted, "{pattern} on {path}");
        }
    }

    #[test]
    fn the_last_change_wins() {
        assert!(!matches(&["*.md", "!README.md"], "README.md"));
        assert!(matches(&["!README.md", "*.md"], "README.md"));
        assert!(!matches(&["a", "!a/b"], "a/b/c"));
    }

    #[test]
    fn bad_patterns_are_refused_with_the_known_words() {
        for (pattern, wanted) in [
            ("!", PatternError::LoneException),
            ("[a", PatternError::Syntax),
            ("a\\", PatternError::Syntax),
            ("[]a]", PatternError::Syntax),
            ("[z-a]", PatternError::Syntax),
        ] {
            assert_eq!(Patterns::new(&[pattern]).expect_err(pattern), wanted);
        }
    }

    #[test]
    fn a_child_takes_over_the_hits_of_its_directory() {
        let patterns = Patterns::new(&["a", "!a/b"]).expect("patterns");
        let (matched, hits) = patterns.matches_below(b"a", None);
        assert!(matched);
        let (matched, hits) = patterns.matches_below(b"a/b", Some(&hits));
        assert!(!matched);
        let (matched, _) = patterns.matches_below(b"a/b/c", Some(&hits));
        assert!(!matched);
    }

    #[test]
    fn a_skipped_exception_is_tried_on_the_child_alone() {
        // At the directory `!a` is skipped because nothing had matched, so for the child only its own path counts.
        let patterns = Patterns::new(&["!a", "a/x"]).expect("patterns");
        let (_, hits) = patterns.matches_below(b"a", None);
        assert!(patterns.matches_below(b"a/x", Some(&hits)).0);
    }

    #[test]
    fn names_that_are_no_text_match_wildcards() {
        let patterns = Patterns::new(&["*.bin"]).expect("patterns");
        assert!(patterns.matches(b"\xff\xfe.bin"));
    }
}
