//! Shell words: quotes, escapes and variables, as Dockerfile instructions know them.
//!
//! This is the small language of `ENV`, `COPY` and friends, not a shell: no commands, no globbing, no `~`.

mod pattern;
mod scan;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::quote;

/// Where variables come from.
pub trait Env {
    /// The value of `name`, if it is set.
    fn get(&self, name: &str) -> Option<Cow<'_, str>>;
}

impl Env for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        BTreeMap::get(self, name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

impl Env for HashMap<String, String> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        HashMap::get(self, name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// Pairs of name and value; the last one of a name counts.
impl Env for [(String, String)] {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| Cow::Borrowed(value.as_str()))
    }
}

/// Pairs of name and value; the last one of a name counts.
impl Env for Vec<(String, String)> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        Env::get(self.as_slice(), name)
    }
}

/// No variables at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Empty;

impl Env for Empty {
    fn get(&self, _: &str) -> Option<Cow<'_, str>> {
        None
    }
}

/// How words are read. The default leaves nothing but the meaning: quotes and escapes go away, unset variables are
/// empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lex {
    /// The escape character of the file.
    pub escape: char,
    /// Keeps quote characters in the result.
    pub keep_quotes: bool,
    /// Keeps escape characters in the result.
    pub keep_escapes: bool,
    /// Leaves variables that are not set as they are written.
    pub keep_unset: bool,
    /// Takes quote characters for ordinary text, as in documents.
    pub plain_quotes: bool,
}

/// A word after expansion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The result.
    pub text: String,
    /// Names of variables that were looked up and are set.
    pub matched: BTreeSet<String>,
    /// Names of variables that were looked up and are not set.
    pub unmatched: BTreeSet<String>,
}

/// A word that cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {}: {problem}", quote::go(.word))]
pub struct ExpandError {
    /// The word.
    pub word: String,
    /// What is wrong with it.
    pub problem: Problem,
    /// Names of variables that were looked up and are set.
    pub matched: BTreeSet<String>,
    /// Names of variables that were looked up and are not set.
    pub unmatched: BTreeSet<String>,
}

impl fault::Classify for ExpandError {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}

/// What is wrong with a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Problem {
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    #[error("unexpected end of statement while looking for matching single-quote")]
    OpenSingleQuote,
    #[error("unexpected end of statement while looking for matching double-quote")]
    OpenDoubleQuote,
    #[error("unsupported modifier ({0}) in substitution")]
    Modifier(String),
    #[error("substitutions are nested too deeply")]
    TooDeep,
    #[error("{name}: {message}")]
    Required { name: String, message: String },
    #[error("invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'")]
    Pattern { pattern: String, escaped: char },
}

impl Lex {
    /// Reads words with this escape character.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            keep_quotes: false,
            keep_escapes: false,
            keep_unset: false,
            plain_quotes: false,
        }
    }

    /// For the names of build steps: quotes and unset variables stay.
    pub fn for_display(escape: char) -> Self {
        Self {
            keep_quotes: true,
            keep_unset: true,
            ..Self::new(escape)
        }
    }

    /// For the bodies of heredocs: quotes are ordinary text, and the escape character is always `\`.
    pub fn for_document() -> Self {
        Self {
            plain_quotes: true,
            ..Self::new('\\')
        }
    }

    /// Whether there is nothing to expand in `word`, which is so for most.
    pub fn leaves_alone(&self, word: &str) -> bool {
        let active = |c: char| matches!(c, '$' | '\'' | '"' | '\u{feff}') || c == self.escape;
        !word.contains(active)
    }

    /// Expands `word` to one text.
    pub fn process_word(&self, word: &str, env: &dyn Env) -> Result<Expansion, ExpandError> {
        if self.leaves_alone(word) {
            return Ok(Expansion {
                text: word.to_owned(),
                ..Expansion::default()
            });
        }
        let mut scanner = scan::Scanner::new(self, word, env, false);
        let parts = scanned(word, &mut scanner)?;
        Ok(Expansion {
            text: parts.into_text(),
            matched: scanner.matched(),
            unmatched: scanner.unmatched(),
        })
    }

    /// Expands `word` to one text. Also returns the names of variables that were looked up and are not set.
    pub fn expand(
        &self,
        word: &str,
        env: &dyn Env,
    ) -> Result<(String, BTreeSet<String>), ExpandError> {
        let mut scanner = scan::Scanner::new(self, word, env, false);
        let parts = scanned(word, &mut scanner)?;
        Ok((parts.into_text(), scanner.unmatched()))
    }

    /// Expands `word` to a list of words. What variables bring in is split at white space, what is quoted is not;
    /// empty words vanish.
    ///
    /// Compat: what stands in front of `${…}` with an operator in the same word is lost, `80${X:-81}` is `81`
    /// (frontend/dockerfile/shell/lex.go).
    pub fn process_words(&self, word: &str, env: &dyn Env) -> Result<Vec<String>, ExpandError> {
        let mut scanner = scan::Scanner::new(self, word, env, true);
        Ok(scanned(word, &mut scanner)?.into_words())
    }
}

fn scanned(word: &str, scanner: &mut scan::Scanner<'_>) -> Result<scan::Parts, ExpandError> {
    scanner.word().map_err(|problem| ExpandError {
        word: word.to_owned(),
        problem,
        matched: scanner.matched(),
        unmatched: scanner.unmatched(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lose_what_stands_in_front_of_an_operator() {
        let env = vec![("b".to_owned(), "x y".to_owned())];
        let words = |word: &str| Lex::new('\\').process_words(word, &env).expect("valid");
        assert_eq!(words("80${a:-81}"), ["81"]);
        assert_eq!(words("1 2${a-3}4"), ["1", "34"]);
        assert_eq!(words("2\"3${a-4}\""), ["34"]);
        assert_eq!(words("8${a:+}"), [""; 0]);
        assert_eq!(words("8${b}9"), ["8x", "y9"]);
        let whole = Lex::new('\\')
            .process_word("80${a:-81}", &env)
            .expect("valid");
        assert_eq!(whole.text, "8081");
    }
}
