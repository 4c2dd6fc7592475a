//! Parser directives: `# key=value` lines in front of everything else.

use crate::error::Problem;
use crate::source::{Lines, text_of, without_bom};

/// A parser directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// `syntax`, `escape` or `check`.
    pub key: Key,
    /// The value without outer blanks.
    pub value: String,
    /// Its line.
    pub line: u32,
}

impl Directive {
    /// The value up to the first blank.
    pub fn first_word(&self) -> &str {
        self.value.split(' ').next().unwrap_or_default()
    }
}

/// The keys that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The frontend that reads the file.
    Syntax,
    /// The escape character.
    Escape,
    /// Lint options.
    Check,
}

impl Key {
    /// The key in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::Escape => "escape",
            Self::Check => "check",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Syntax, Self::Escape, Self::Check]
            .into_iter()
            .find(|key| word.eq_ignore_ascii_case(key.as_str()))
    }
}

/// Finds the frontend a file asks for: by a directive, by the same with `//`, or as member of a JSON object.
pub fn syntax(source: &[u8]) -> Option<Directive> {
    let (body, skipped) = body_of(source);
    find(Key::Syntax, body, skipped, "#")
        .or_else(|| find(Key::Syntax, body, skipped, "//"))
        .or_else(|| syntax_in_json(body, skipped))
}

/// Finds the `check` directive.
pub fn check(source: &[u8]) -> Option<Directive> {
    let (body, skipped) = body_of(source);
    find(Key::Check, body, skipped, "#")
}

/// The file without byte order mark and `#!` line, and the number of lines that took away.
fn body_of(source: &[u8]) -> (&[u8], u32) {
    let source = without_bom(source);
    if !source.starts_with(b"#!") {
        return (source, 0);
    }
    let end = source
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(source.len(), |at| at + 1);
    (&source[end..], 1)
}

fn find(key: Key, body: &[u8], skipped: u32, mark: &'static str) -> Option<Directive> {
    let mut lines = Lines::new(body);
    let mut reader = Reader::new(mark);
    while let Some(line) = lines.next_raw() {
        let directive = reader.line(&text_of(line), skipped + lines.count).ok()??;
        if directive.key == key {
            return Some(directive);
        }
    }
    None
}

fn syntax_in_json(body: &[u8], skipped: u32) -> Option<Directive> {
    #[derive(serde::Deserialize)]
    struct Object {
        syntax: String,
    }
    // Most files are no JSON, which the first byte tells.
    if *body.trim_ascii_start().first()? != b'{' {
        return None;
    }
    let Object { syntax: value } = serde_json::from_slice(body).ok()?;
    Some(Directive {
        key: Key::Syntax,
        value,
        line: skipped,
    })
}

/// Reads directives line by line, until the first line that is none.
#[derive(Debug)]
pub(crate) struct Reader {
    mark: &'static str,
    seen: Vec<Key>,
    done: bool,
}

impl Reader {
    pub(crate) fn new(mark: &'static str) -> Self {
        Self {
            mark,
            seen: Vec::new(),
            done: false,
        }
    }

    /// The directive in a line without line end.
    pub(crate) fn line(&mut self, line: &str, number: u32) -> Result<Option<Directive>, Problem> {
        if self.done {
            return Ok(None);
        }
        let Some((key, value)) = line.strip_prefix(self.mark).and_then(known_assignment) else {
            self.done = true;
            return Ok(None);
        };
        if self.seen.contains(&key) {
            return Err(Problem::DirectiveTwice(key));
        }
        self.seen.push(key);
        Ok(Some(Directive {
            key,
            value: value.to_owned(),
            line: number,
        }))
    }
}

fn known_assignment(text: &str) -> Option<(Key, &str)> {
    let (key, value) = assignment(text)?;
    Some((Key::from_word(key)?, value))
}

/// Splits `key = value`.
pub(crate) fn assignment(text: &str) -> Option<(&str, &str)> {
    const BLANKS: [char; 5] = ['\t', '\n', '\x0c', '\r', ' '];
    let (key, value) = text.trim_start().split_once('=')?;
    let key = key.trim_end_matches(BLANKS);
    let is_word = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.bytes().all(|b| b.is_ascii_alphanumeric());
    let trimmed = value.trim_matches(BLANKS);
    // A value of nothing but blanks is one blank.
    let value = if trimmed.is_empty() {
        &value[value.len().saturating_sub(1)..]
    } else {
        trimmed
    };
    (is_word && !value.is_empty()).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Option<(String, String, u32)> {
        syntax(source.as_bytes())
            .map(|one| (one.first_word().to_owned(), one.value.clone(), one.line))
    }

    #[test]
    fn a_syntax_directive_may_have_arguments() {
        assert_eq!(
            found("# syntax = a/b:1 --x\nFROM x"),
            Some(("a/b:1".into(), "a/b:1 --x".into(), 1))
        );
        assert_eq!(found("#syntax=a"), Some(("a".into(), "a".into(), 1)));
        assert_eq!(found("#SYNTAX=a\r\n"), Some(("a".into(), "a".into(), 1)));
    }

    #[test]
    fn directives_end_at_the_first_other_line() {
        assert_eq!(
            found("# escape=`\n# syntax=a"),
            Some(("a".into(), "a".into(), 2))
        );
        assert_eq!(found("\n# syntax=a"), None);
        assert_eq!(found("# hello\n# syntax=a"), None);
        assert_eq!(found("# other=1\n# syntax=a"), None);
        assert_eq!(found(" # syntax=a"), None);
        assert_eq!(found("# syntax="), None);
    }

    #[test]
    fn a_hash_bang_line_and_a_byte_order_mark_are_skipped() {
        assert_eq!(
            found("#!/usr/bin/x\n# syntax=a"),
            Some(("a".into(), "a".into(), 2))
        );
        assert_eq!(
            found("\u{feff}# syntax=a"),
            Some(("a".into(), "a".into(), 1))
        );
    }

    #[test]
    fn other_languages_may_have_the_directive_too() {
        assert_eq!(found("// syntax=a\n{}"), Some(("a".into(), "a".into(), 1)));
        assert_eq!(
            found("{\"x\": 1, \"syntax\": \"a b\"}"),
            Some(("a".into(), "a b".into(), 0))
        );
        assert_eq!(
            found("#!x\n{\"syntax\": \"a\"}"),
            Some(("a".into(), "a".into(), 1))
        );
        assert_eq!(found("{\"syntax\": 1}"), None);
    }

    #[test]
    fn check_is_only_found_behind_a_hash() {
        assert_eq!(
            check(b"# check=skip=all x")
                .map(|one| one.first_word().to_owned())
                .as_deref(),
            Some("skip=all")
        );
        assert_eq!(check(b"// check=skip=all"), None);
    }
}
