//! The scanner behind [`Lex`]: one pass over a word, recursive for the operands of `${…}`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use smallvec::SmallVec;

use super::{Env, Lex, Problem, pattern};

/// How many operands may be inside of each other. Far more than anybody writes, far less than a stack holds.
const MAX_DEPTH: usize = 200;

/// The result of a scan: text, with marks on what may be split into words.
#[derive(Debug, Default)]
pub(super) struct Parts {
    text: String,
    /// Ends of runs of `text`, alternately splittable and not, starting with splittable.
    ends: Vec<usize>,
    /// Where the word so far is forgotten when words are wanted.
    cuts: Vec<usize>,
    /// Whether words are wanted. Without that there are no marks.
    words: bool,
}

impl Parts {
    /// Compat: upstream reads operands into the buffer that holds the current word (shell/lex.go).
    fn forget_word(&mut self) {
        if !self.words {
            return;
        }
        self.cuts.push(self.text.len());
    }

    /// Adds text that is split at white space.
    fn loose(&mut self, text: &str) {
        if !self.words {
            return self.text.push_str(text);
        }
        if self.ends.len().is_multiple_of(2) {
            self.ends.push(self.text.len());
        }
        self.text.push_str(text);
        if let Some(end) = self.ends.last_mut() {
            *end = self.text.len();
        }
    }

    /// Adds text that belongs to one word whatever it holds.
    fn solid(&mut self, text: &str) {
        if !self.words || text.is_empty() {
            return self.text.push_str(text);
        }
        if !self.ends.len().is_multiple_of(2) {
            self.ends.push(self.text.len());
        } else if self.ends.is_empty() {
            self.ends.extend([0, 0]);
        }
        self.text.push_str(text);
        if let Some(end) = self.ends.last_mut() {
            *end = self.text.len();
        }
    }

    fn solid_char(&mut self, c: char) {
        self.solid(c.encode_utf8(&mut [0; 4]));
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    pub(super) fn into_words(self) -> Vec<String> {
        let mut words = Vec::new();
        let mut word = String::new();
        let mut cuts = self.cuts.iter().peekable();
        let mut start = 0;
        for (index, &end) in self.ends.iter().enumerate() {
            let first = start;
            start = end;
            for (at, c) in self.text[first..end].char_indices() {
                while cuts.next_if(|cut| **cut <= first + at).is_some() {
                    word.clear();
                }
                if index % 2 == 1 || !c.is_whitespace() {
                    word.push(c);
                } else if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
        }
        if !word.is_empty() && cuts.next().is_none() {
            words.push(word);
        }
        words
    }
}

/// Why scanning an operand stopped early.
enum Stop {
    /// The text ended before the closing character.
    End,
    /// Something inside is wrong.
    Inside(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Inside(problem)
    }
}

/// What is not read yet.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn peek(&self) -> Option<char> {
        self.0.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        self.next_if(|_| true)
    }

    fn next_if(&mut self, wanted: impl FnOnce(char) -> bool) -> Option<char> {
        let mut chars = self.0.chars();
        let c = chars.next().filter(|&c| wanted(c))?;
        self.0 = chars.as_str();
        Some(c)
    }

    fn next_if_eq(&mut self, wanted: char) -> Option<char> {
        self.next_if(|c| c == wanted)
    }

    /// All up to the first character that is not wanted.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }
}

pub(super) struct Scanner<'a> {
    lex: &'a Lex,
    env: &'a dyn Env,
    rest: Rest<'a>,
    keep_escapes: bool,
    depth: usize,
    /// How many operands were read.
    operands: usize,
    words: bool,
    /// Names that are set.
    matched: SmallVec<[&'a str; 4]>,
    /// Names that are not set.
    unmatched: SmallVec<[&'a str; 4]>,
}

impl<'a> Scanner<'a> {
    /// For words, or for one text.
    pub(super) fn new(lex: &'a Lex, word: &'a str, env: &'a dyn Env, words: bool) -> Self {
        let word = word.strip_prefix('\u{feff}').unwrap_or(word);
        Self {
            lex,
            env,
            rest: Rest(word),
            keep_escapes: lex.keep_escapes,
            depth: 0,
            operands: 0,
            words,
            matched: SmallVec::new(),
            unmatched: SmallVec::new(),
        }
    }

    pub(super) fn matched(&self) -> BTreeSet<String> {
        names(&self.matched)
    }

    pub(super) fn unmatched(&self) -> BTreeSet<String> {
        names(&self.unmatched)
    }

    /// Scans the whole word.
    pub(super) fn word(&mut self) -> Result<Parts, Problem> {
        match self.run(None) {
            Ok(parts) => Ok(parts),
            Err(Stop::Inside(problem)) => Err(problem),
            // Without a closing character the end is where it should stop.
            Err(Stop::End) => Ok(Parts::default()),
        }
    }

    /// Scans up to `close`, which is taken away, or to the end.
    fn run(&mut self, close: Option<char>) -> Result<Parts, Stop> {
        // Most of what is expanded becomes hardly longer.
        let room = match close {
            None => self.rest.0.len() + 16,
            Some(_) => 0,
        };
        let mut parts = Parts {
            text: String::with_capacity(room),
            words: self.words,
            ..Parts::default()
        };
        let escape = self.lex.escape;
        let plain =
            |c: char| !matches!(c, '$' | '\'' | '"' | '<') && c != escape && Some(c) != close;
        while let Some(c) = self.rest.peek() {
            if Some(c) == close {
                self.rest.next();
                return Ok(parts);
            }
            match c {
                '$' => {
                    let operands = self.operands;
                    let value = self.dollar()?;
                    if self.operands > operands {
                        parts.forget_word();
                    }
                    parts.loose(&value);
                }
                '\'' if !self.lex.plain_quotes => parts.solid(&self.single_quoted()?),
                '"' if !self.lex.plain_quotes => {
                    let operands = self.operands;
                    let text = self.double_quoted()?;
                    if self.operands > operands {
                        parts.forget_word();
                    }
                    parts.solid(&text);
                }
                '<' => parts.solid(&self.heredoc_mark()),
                _ if plain(c) => parts.loose(self.rest.take_while(plain)),
                _ => {
                    self.rest.next();
                    if c != escape {
                        parts.loose(c.encode_utf8(&mut [0; 4]));
                        continue;
                    }
                    if self.keep_escapes {
                        parts.solid_char(c);
                    }
                    if let Some(escaped) = self.rest.next() {
                        parts.solid_char(escaped);
                    }
                }
            }
        }
        if close.is_some() {
            Err(Stop::End)
        } else {
            Ok(parts)
        }
    }

    /// `<`, or `<<` with the blanks after it, which do not end the word.
    fn heredoc_mark(&mut self) -> String {
        self.rest.next();
        let mut text = String::from("<");
        if self.rest.next_if_eq('<').is_some() {
            text.push('<');
            text.push_str(self.rest.take_while(|c| matches!(c, '\t' | '\r' | ' ')));
        }
        text
    }

    fn single_quoted(&mut self) -> Result<String, Problem> {
        let mut text = String::new();
        self.quote_mark(&mut text);
        loop {
            match self.rest.peek() {
                None => return Err(Problem::OpenSingleQuote),
                Some('\'') => break self.quote_mark(&mut text),
                Some(_) => text.push_str(self.rest.take_while(|c| c != '\'')),
            }
        }
        Ok(text)
    }

    fn double_quoted(&mut self) -> Result<String, Problem> {
        let escape = self.lex.escape;
        let plain = |c: char| !matches!(c, '$' | '"') && c != escape;
        let mut text = String::new();
        self.quote_mark(&mut text);
        loop {
            match self.rest.peek() {
                None => return Err(Problem::OpenDoubleQuote),
                Some('"') => break self.quote_mark(&mut text),
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == escape => {
                    self.rest.next();
                    let escaped = self
                        .rest
                        .next_if(|next| matches!(next, '"' | '$') || next == escape);
                    if self.keep_escapes {
                        text.push(escape);
                    }
                    match escaped {
                        Some(escaped) => text.push(escaped),
                        // One at the very end has nothing to escape; the open quote is what is wrong.
                        None if self.rest.peek().is_none() => {}
                        None => text.push(escape),
                    }
                }
                Some(_) => text.push_str(self.rest.take_while(plain)),
            }
        }
        Ok(text)
    }

    fn quote_mark(&mut self, text: &mut String) {
        let mark = self.rest.next();
        if self.lex.keep_quotes {
            text.extend(mark);
        }
    }

    /// Everything that starts with `$`.
    fn dollar(&mut self) -> Result<Cow<'a, str>, Problem> {
        self.rest.next();
        if self.rest.next_if_eq('{').is_none() {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.look_up(name) {
                Some(value) => value,
                None if self.lex.keep_unset => format!("${name}").into(),
                None => "".into(),
            });
        }
        match self.rest.peek() {
            None => return Err(Problem::MissingBrace),
            Some('{' | '}' | ':') => return Err(Problem::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            Some('}') => Ok(match self.look_up(name) {
                Some(value) => value,
                None if self.lex.keep_unset => format!("${{{name}}}").into(),
                None => "".into(),
            }),
            Some(':') => {
                // What is read beyond the end prints as a replacement character.
                let sign = self.rest.next().unwrap_or(char::REPLACEMENT_CHARACTER);
                match sign {
                    '#' | '%' => Err(Problem::Modifier(format!(":{sign}"))),
                    _ => self.operator(name, sign, true).map(Cow::Owned),
                }
            }
            Some(sign @ ('-' | '+' | '?')) => self.operator(name, sign, false).map(Cow::Owned),
            Some(sign @ ('#' | '%')) => self.trim(name, sign).map(Cow::Owned),
            Some('/') => self.replace(name).map(Cow::Owned),
            other => Err(Problem::Modifier(
                other.unwrap_or(char::REPLACEMENT_CHARACTER).to_string(),
            )),
        }
    }

    /// `${name-word}` and the like; `or_empty` with a colon in front of the sign.
    fn operator(&mut self, name: &'a str, sign: char, or_empty: bool) -> Result<String, Problem> {
        let word = self.operand('}', false, Problem::MissingBrace)?;
        let value = self.look_up(name);
        let colon = if or_empty { ":" } else { "" };
        let Some(value) = value else {
            if self.lex.keep_unset {
                return Ok(format!("${{{name}{colon}{sign}{word}}}"));
            }
            return match sign {
                '-' => Ok(word),
                '+' => Ok(String::new()),
                '?' => Err(required(name, word, "is not allowed to be unset")),
                _ => Err(Problem::Modifier(format!("{colon}{sign}"))),
            };
        };
        let missing = or_empty && value.is_empty();
        match sign {
            '-' if missing => Ok(word),
            '+' if missing => Ok(String::new()),
            '+' => Ok(word),
            '?' if missing => Err(required(name, word, "is not allowed to be empty")),
            '-' | '?' => Ok(value.into_owned()),
            _ => Err(Problem::Modifier(format!("{colon}{sign}"))),
        }
    }

    /// `${name#pattern}`, `${name##pattern}`, `${name%pattern}`, `${name%%pattern}`
    fn trim(&mut self, name: &'a str, sign: char) -> Result<String, Problem> {
        let word = self.operand('}', true, Problem::MissingBrace)?;
        let value = self.look_up(name);
        if value.is_none() && self.lex.keep_unset {
            return Ok(format!("${{{name}{sign}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (pattern, longest) = match word.strip_prefix(sign) {
            Some(pattern) => (pattern, true),
            None => (word.as_str(), false),
        };
        if sign == '#' {
            pattern::trim_start(&value, pattern, longest).map(str::to_owned)
        } else {
            pattern::trim_end(&value, pattern, longest)
        }
    }

    /// `${name/pattern/text}` and `${name//pattern/text}`
    fn replace(&mut self, name: &'a str) -> Result<String, Problem> {
        let all = self.rest.next_if_eq('/').is_some();
        let pattern = self.operand('/', true, Problem::MissingSlash)?;
        let replacement = self.operand('}', true, Problem::MissingBrace)?;
        let value = self.look_up(name);
        if value.is_none() && self.lex.keep_unset {
            // Compat: the second slash of `//` is lost, see shell/lex.go.
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let value = value.unwrap_or_default();
        if all {
            pattern::replace_all(&value, &pattern, &replacement)
        } else {
            pattern::replace_first(&value, &pattern, &replacement)
        }
    }

    /// The operand up to `close`.
    fn operand(
        &mut self,
        close: char,
        keep_escapes: bool,
        unclosed: Problem,
    ) -> Result<String, Problem> {
        if self.depth == MAX_DEPTH {
            return Err(Problem::TooDeep);
        }
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        self.depth += 1;
        self.operands += 1;
        let result = self.run(Some(close));
        self.depth -= 1;
        self.keep_escapes = outer;
        match result {
            Ok(parts) => Ok(parts.into_text()),
            // Whatever else is wrong, at the end of the text the missing close is what to say.
            Err(Stop::Inside(problem)) if self.rest.peek().is_some() => Err(problem),
            Err(_) => Err(unclosed),
        }
    }

    /// The name of a variable; empty if there is none here.
    fn name(&mut self) -> &'a str {
        let Some(first) = self.rest.peek() else {
            return "";
        };
        if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            let (name, rest) = self.rest.0.split_at(1);
            self.rest.0 = rest;
            name
        } else if is_digit(first) {
            self.rest.take_while(is_digit)
        } else {
            self.rest
                .take_while(|c| c == '_' || c.is_alphabetic() || is_digit(c))
        }
    }

    fn look_up(&mut self, name: &'a str) -> Option<Cow<'a, str>> {
        let value = self.env.get(name);
        let names = if value.is_some() {
            &mut self.matched
        } else {
            &mut self.unmatched
        };
        if !names.contains(&name) {
            names.push(name);
        }
        value
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}

fn required(name: &str, message: String, default: &str) -> Problem {
    let message = if message.is_empty() {
        default.to_owned()
    } else {
        message
    };
    Problem::Required {
        name: name.to_owned(),
        message,
    }
}
