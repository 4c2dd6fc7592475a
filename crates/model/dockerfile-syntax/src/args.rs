//! The forms of arguments, and the flags in front of them.

use std::borrow::Cow;

use bytestring::ByteString;

use serde_json::Value;

use crate::ast::{Flag, Pair};
use crate::error::Problem;
use crate::statement::{BLANKS, Parts, split};

/// Arguments, told apart but without meaning.
#[derive(Debug)]
pub(crate) enum Args {
    /// Words, or one line as a single word, or nothing.
    Words(Vec<ByteString>),
    /// A JSON list of strings.
    Json(Vec<ByteString>),
    /// Keys and values.
    Pairs {
        /// Nothing if there were no arguments.
        pairs: Vec<Pair>,
        /// Written as `key value`.
        legacy: bool,
    },
    /// A word, then a JSON list or a line.
    Typed(ByteString, Box<Args>),
    /// Another instruction.
    Instruction(Box<Parts>),
}

impl Args {
    /// No arguments.
    pub(crate) const NONE: Self = Self::Words(Vec::new());
}

/// Reads arguments in the form that `keyword` asks for. Unknown words have no arguments.
///
/// `depth` is how many instructions this one is a trigger of, and `rest` a part of `whole`.
pub(crate) fn parse(
    whole: &ByteString,
    keyword: &str,
    rest: &str,
    escape: char,
    depth: usize,
) -> Result<Args, Problem> {
    let mut lower = [0; 16];
    let Some(lower) = lower.get_mut(..keyword.len()) else {
        return Ok(Args::NONE);
    };
    lower.copy_from_slice(keyword.as_bytes());
    lower.make_ascii_lowercase();
    if rest.is_empty() && !matches!(&*lower, b"env" | b"label") {
        return Ok(Args::NONE);
    }
    match &*lower {
        b"from" | b"expose" => Ok(Args::Words(words(whole, rest))),
        b"add" | b"copy" | b"volume" => {
            Ok(json(rest)?.unwrap_or_else(|| Args::Words(words(whole, rest))))
        }
        b"run" | b"cmd" | b"entrypoint" | b"shell" => json_or_line(whole, rest),
        b"maintainer" | b"stopsignal" | b"user" | b"workdir" => Ok(line(whole, rest)),
        b"env" => pairs("ENV", (whole, rest), escape),
        b"label" => pairs("LABEL", (whole, rest), escape),
        b"arg" => Ok(Args::Words(
            quoted_words(rest, escape)
                .map(|word| whole.slice_ref(word))
                .collect(),
        )),
        b"healthcheck" => {
            let end = rest.find(is_blank).unwrap_or(rest.len());
            let (word, command) = rest.split_at(end);
            Ok(Args::Typed(
                whole.slice_ref(word),
                Box::new(json_or_line(whole, command.trim_start_matches(is_blank))?),
            ))
        }
        // Triggers of triggers are refused later; there is no need to go deep for that.
        b"onbuild" if depth < 8 => Ok(Args::Instruction(Box::new(split(
            whole,
            rest,
            escape,
            depth + 1,
        )?))),
        _ => Ok(Args::NONE),
    }
}

fn line(whole: &ByteString, rest: &str) -> Args {
    if rest.is_empty() {
        Args::NONE
    } else {
        Args::Words(vec![whole.slice_ref(rest)])
    }
}

fn words(whole: &ByteString, rest: &str) -> Vec<ByteString> {
    rest.split(BLANKS)
        .filter(|word| !word.is_empty())
        .map(|word| whole.slice_ref(word))
        .collect()
}

fn json_or_line(whole: &ByteString, rest: &str) -> Result<Args, Problem> {
    Ok(json(rest)?.unwrap_or_else(|| line(whole, rest)))
}

/// The arguments as a JSON list. None if they are no JSON; a list of other things than strings is refused.
pub(crate) fn json(rest: &str) -> Result<Option<Args>, Problem> {
    if !rest.starts_with('[') {
        return Ok(None);
    }
    if let Ok(strings) = serde_json::from_str::<Vec<String>>(rest) {
        let strings = strings.into_iter().map(ByteString::from);
        return Ok(Some(Args::Json(strings.collect())));
    }
    match serde_json::from_str::<Vec<Value>>(rest) {
        Ok(_) => Err(Problem::JsonNotStrings),
        Err(_) => Ok(None),
    }
}

fn pairs(
    keyword: &'static str,
    (whole, rest): (&ByteString, &str),
    escape: char,
) -> Result<Args, Problem> {
    let mut words = quoted_words(rest, escape).peekable();
    let Some(first) = words.peek() else {
        return Ok(Args::Pairs {
            pairs: Vec::new(),
            legacy: false,
        });
    };
    if !first.contains('=') {
        let (key, value) = rest
            .split_once(BLANKS)
            .ok_or(Problem::TwoArguments(keyword))?;
        let pair = Pair {
            key: whole.slice_ref(key),
            value: whole.slice_ref(value.trim_start_matches(BLANKS)),
        };
        return Ok(Args::Pairs {
            pairs: vec![pair],
            legacy: true,
        });
    }
    let pair = |word: &str| match word.split_once('=') {
        Some((key, value)) => Ok(Pair {
            key: whole.slice_ref(key),
            value: whole.slice_ref(value),
        }),
        None => Err(Problem::NoAssignment(word.to_owned())),
    };
    let pairs = words.map(pair).collect::<Result<_, _>>()?;
    Ok(Args::Pairs {
        pairs,
        legacy: false,
    })
}

/// Splits at white space outside of quotes. Quotes and escapes stay in the words; an escape at the very end goes.
pub(crate) fn quoted_words(text: &str, escape: char) -> impl Iterator<Item = &str> {
    let mut rest = text.trim_start();
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (end, next) = word_end(rest, escape);
            let word = &rest[..end];
            rest = rest[next..].trim_start();
            if end > 0 {
                return Some(word);
            }
        }
        None
    })
}

/// Where the first word of `text` ends, and where to look for the next one.
fn word_end(text: &str, escape: char) -> (usize, usize) {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if c == escape && quote != Some('\'') {
            if chars.next().is_none() {
                return (at, text.len());
            }
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() {
            if c.is_whitespace() {
                return (at, at);
            }
            if matches!(c, '\'' | '"') {
                quote = Some(c);
            }
        }
    }
    (text.len(), text.len())
}

/// White space between flags. Other blanks than those of ASCII belong to values.
fn is_blank(c: char) -> bool {
    c == '\u{b}' || c.is_ascii_whitespace()
}

/// Takes the flags off the start of `text`, which stands `offset` bytes into its line and is a part of `whole`. Returns
/// what follows them.
///
/// Upstream reads flags byte by byte, which garbles other letters than those of ASCII. We keep them.
pub(crate) fn leading_flags<'t>(
    whole: &ByteString,
    text: &'t str,
    escape: char,
    offset: usize,
) -> (Vec<Flag>, &'t str) {
    let mut flags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(is_blank);
        if !rest.starts_with("--") {
            return (flags, rest);
        }
        let start = offset + text.len() - rest.len();
        let (word, length) = flag_word(rest, escape);
        rest = &rest[length..];
        if word == "--" {
            return (flags, rest);
        }
        let part = |part: &str| match &word {
            Cow::Borrowed(_) => whole.slice_ref(part),
            Cow::Owned(_) => part.into(),
        };
        let (name, value) = match word[2..].split_once('=') {
            Some((name, value)) => (part(name), Some(part(value))),
            None => (part(&word[2..]), None),
        };
        if flags.is_empty() {
            // Most have one, and a list would grow to four.
            flags.reserve_exact(1);
        }
        flags.push(Flag {
            name,
            value,
            range: start..start + length,
        });
    }
}

/// One word in which quotes group, and quotes and escapes go away; and how long it was as written.
fn flag_word(text: &str, escape: char) -> (Cow<'_, str>, usize) {
    let special = |c: char| c == escape || is_blank(c) || matches!(c, '\'' | '"');
    match text.find(special) {
        None => return (text.into(), text.len()),
        Some(at) if text[at..].starts_with(is_blank) && !text[at..].starts_with(escape) => {
            return (text[..at].into(), at);
        }
        Some(_) => {}
    }
    let mut word = String::with_capacity(text.len());
    let mut quote = None;
    let mut rest = text.char_indices();
    while let Some((at, c)) = rest.next() {
        if c == escape {
            word.extend(rest.next().map(|(_, escaped)| escaped));
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_some() {
            word.push(c);
        } else if matches!(c, '\'' | '"') {
            quote = Some(c);
        } else if is_blank(c) {
            return (word.into(), at);
        } else {
            word.push(c);
        }
    }
    (word.into(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(text: &'static str) -> (Vec<(String, Option<String>)>, &'static str) {
        let (flags, rest) = leading_flags(&ByteString::from_static(text), text, '\\', 0);
        let parts = |flag: Flag| (flag.name.into(), flag.value.map(String::from));
        (flags.into_iter().map(parts).collect(), rest)
    }

    fn flag(name: &str, value: &str) -> (String, Option<String>) {
        (name.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn flags_end_at_the_first_other_word() {
        assert_eq!(
            flags("--a=1  --b x --c"),
            (vec![flag("a", "1"), ("b".into(), None)], "x --c")
        );
        assert_eq!(flags("--a=1 -- --b"), (vec![flag("a", "1")], " --b"));
        assert_eq!(flags("-a"), (vec![], "-a"));
    }

    #[test]
    fn quotes_and_escapes_go_away_in_flags() {
        assert_eq!(
            flags(r#"--a="1 2"'3 4'\"x y"#),
            (vec![flag("a", "1 23 4\"x")], "y")
        );
        assert_eq!(flags(r"--a='1\'2' x"), (vec![flag("a", "1'2")], "x"));
        assert_eq!(flags(r"--a=1\"), (vec![flag("a", "1")], ""));
        assert_eq!(flags("--a=\"1 2"), (vec![flag("a", "1 2")], ""));
        assert_eq!(flags("--a=é x"), (vec![flag("a", "é")], "x"));
    }

    #[test]
    fn quotes_protect_blanks_in_words() {
        let words = |text| quoted_words(text, '\\').collect::<Vec<_>>();
        assert_eq!(
            words(r#" a="b c"  d='e f' g\ h "#),
            [r#"a="b c""#, "d='e f'", r"g\ h"]
        );
        assert_eq!(words(r#"a="b\" c" d\"#), [r#"a="b\" c""#, "d"]);
        assert_eq!(words(r"a='b\' c"), [r"a='b\'", "c"]);
        assert_eq!(words(r#"a="b c"#), [r#"a="b c"#]);
        assert!(words("  \\").is_empty());
    }

    #[test]
    fn a_list_of_strings_is_json_and_a_list_of_others_is_refused() {
        assert!(
            matches!(json(r#"["a", "b\n"]"#), Ok(Some(Args::Json(list))) if list == ["a", "b\n"])
        );
        assert!(matches!(json("[]"), Ok(Some(Args::Json(list))) if list.is_empty()));
        assert!(matches!(json("[1]"), Err(Problem::JsonNotStrings)));
        assert!(matches!(json("[null]"), Err(Problem::JsonNotStrings)));
        assert!(matches!(json("['a']"), Ok(None)));
        assert!(matches!(json(r#"["a"] x"#), Ok(None)));
        assert!(matches!(json("[ -f x ]"), Ok(None)));
    }
}
