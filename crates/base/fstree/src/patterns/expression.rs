//! Decides how a pattern is compared, and turns those that need it into regular expressions.
//!
//! Two steps. The pattern becomes the expression upstream would give to its engine (RE2 syntax); that is rewritten
//! into one that means the same to ours. The detour keeps oddities such as `[*]`, where the star grows into
//! `[^/]*` inside the class.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

use super::{PatternError, Way};

/// How the cleaned pattern `text` is compared.
pub(super) fn way_of(text: &str) -> Result<Way, PatternError> {
    let (found, source) = translate(text);
    Ok(match found {
        Found::Exact => Way::Exact,
        Found::Prefix => Way::Prefix(text[..text.len() - 2].to_owned()),
        Found::Suffix => Way::Suffix(text[2..].to_owned()),
        Found::Expression => {
            let ours = rewrite(&source)?;
            Way::Expression(Regex::new(&ours).map_err(|_| PatternError::Syntax)?)
        }
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Exact,
    Prefix,
    Suffix,
    Expression,
}

/// The kind of a pattern and its RE2 expression.
fn translate(text: &str) -> (Found, String) {
    let mut chars = text.chars().peekable();
    let mut found = Found::Exact;
    let mut source = String::from("^");
    let mut first = true;
    while let Some(char) = chars.next() {
        match char {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_some() {
                    source.push_str("(.*/)?");
                    found = Found::Expression;
                } else if found == Found::Exact {
                    found = Found::Prefix;
                } else {
                    source.push_str(".*");
                    found = Found::Expression;
                }
                if first {
                    found = Found::Suffix;
                }
            }
            '*' => {
                source.push_str("[^/]*");
                found = Found::Expression;
            }
            '?' => {
                source.push_str("[^/]");
                found = Found::Expression;
            }
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => {
                source.push('\\');
                source.push(char);
            }
            '\\' => {
                source.push('\\');
                if let Some(escaped) = chars.next() {
                    source.push(escaped);
                    found = Found::Expression;
                }
            }
            '[' | ']' => {
                source.push(char);
                found = Found::Expression;
            }
            other => source.push(other),
        }
        first = false;
    }
    source.push('$');
    (found, source)
}

/// The RE2 expression in our engine's syntax.
fn rewrite(source: &str) -> Result<String, PatternError> {
    let mut chars = source.chars().peekable();
    let mut ours = String::with_capacity(source.len() + 16);
    while let Some(char) = chars.next() {
        match char {
            '[' => class(&mut chars, &mut ours)?,
            '\\' => {
                let escaped = chars.next().ok_or(PatternError::Syntax)?;
                match perl_class(escaped) {
                    Some(class) => ours.push_str(class),
                    None => escape(escaped, &mut chars, &mut ours)?,
                }
            }
            ']' => ours.push_str(r"\]"),
            other => ours.push(other),
        }
    }
    Ok(ours)
}

/// A class, from behind its opening bracket, with every character written as its number.
fn class(chars: &mut Peekable<Chars<'_>>, ours: &mut String) -> Result<(), PatternError> {
    ours.push('[');
    if chars.next_if_eq(&'^').is_some() {
        ours.push('^');
    }
    let mut first = true;
    loop {
        let char = chars.next().ok_or(PatternError::Syntax)?;
        if char == ']' && !first {
            break;
        }
        first = false;
        if char == '['
            && chars.peek() == Some(&':')
            && let Some(name) = posix_name(chars)
        {
            ours.push_str(&name);
            continue;
        }
        if char == '\\'
            && let Some(class) = chars.peek().and_then(|next| perl_class(*next))
        {
            chars.next();
            ours.push_str(class);
            continue;
        }
        let low = class_char(char, chars)?;
        let mut ahead = chars.clone();
        let high = if ahead.next() == Some('-') && ahead.peek().is_some_and(|next| *next != ']') {
            chars.next();
            let next = chars.next().ok_or(PatternError::Syntax)?;
            class_char(next, chars)?
        } else {
            low
        };
        if high < low {
            return Err(PatternError::Syntax);
        }
        push_number(low, ours);
        ours.push('-');
        push_number(high, ours);
    }
    ours.push(']');
    Ok(())
}

/// `[:name:]` with the bracket already read; nothing is consumed when it is none.
fn posix_name(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut ahead = chars.clone();
    ahead.next();
    let mut name = String::from("[:");
    loop {
        match ahead.next()? {
            ':' if ahead.peek() == Some(&']') => {
                ahead.next();
                break;
            }
            char if char.is_ascii_alphabetic() || char == '^' => name.push(char),
            _ => return None,
        }
    }
    *chars = ahead;
    name.push_str(":]");
    Some(name)
}

fn class_char(char: char, chars: &mut Peekable<Chars<'_>>) -> Result<char, PatternError> {
    if char != '\\' {
        return Ok(char);
    }
    let escaped = chars.next().ok_or(PatternError::Syntax)?;
    control(escaped).ok_or(PatternError::Syntax)
}

/// What a backslash before this character means, where it means one character.
fn control(escaped: char) -> Option<char> {
    match escaped {
        'a' => Some('\x07'),
        'f' => Some('\x0c'),
        't' => Some('\t'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        'v' => Some('\x0b'),
        other if other.is_ascii_alphanumeric() => None,
        other => Some(other),
    }
}

fn perl_class(escaped: char) -> Option<&'static str> {
    Some(match escaped {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => r"[\t\n\x0C\r ]",
        'S' => r"[^\t\n\x0C\r ]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        _ => return None,
    })
}

/// An escape outside of classes.
fn escape(
    escaped: char,
    chars: &mut Peekable<Chars<'_>>,
    ours: &mut String,
) -> Result<(), PatternError> {
    if let Some(char) = control(escaped) {
        push_number(char, ours);
        return Ok(());
    }
    match escaped {
        'A' | 'z' => {
            ours.push('\\');
            ours.push(escaped);
        }
        'b' | 'B' => {
            ours.push_str(r"(?-u:\");
            ours.push(escaped);
            ours.push(')');
        }
        'Q' => {
            while let Some(char) = chars.next() {
                if char == '\\' && chars.next_if_eq(&'E').is_some() {
                    break;
                }
                push_number(char, ours);
            }
        }
        _ => return Err(PatternError::Syntax),
    }
    Ok(())
}

fn push_number(char: char, ours: &mut String) {
    ours.push_str(&format!(r"\x{{{:x}}}", u32::from(char)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pattern: &str, path: &str) -> bool {
        match way_of(pattern).expect("a pattern") {
            Way::Expression(expression) => expression.is_match(path),
            other => panic!("{pattern} became {other:?}"),
        }
    }

    #[test]
    fn a_star_in_a_class_grows_into_a_class_and_a_repetition() {
        // The engine sees `^[[^/]*]$`: any of `[`, `^`, `/`, any number of times, then a bracket.
        assert!(hits("[*]", "^[/]"));
        assert!(!hits("[*]", "*"));
    }

    #[test]
    fn characters_special_to_our_engine_are_plain_in_classes() {
        assert!(hits("[a&&b]", "&"));
        assert!(hits("[x~~y]", "~"));
        assert!(hits("[+--]", ","));
        assert!(hits("[.]", "."));
    }

    #[test]
    fn letters_behind_a_backslash_keep_the_engine_s_meaning() {
        assert!(hits(r"\d", "7"));
        assert!(!hits(r"\d", "d"));
        assert!(hits(r"[\w]x", "_x"));
        assert!(hits("[[:alpha:]]", "q"));
        assert!(way_of(r"\y").is_err());
    }

    #[test]
    fn newlines_are_no_part_of_double_stars() {
        assert!(!hits("a/**/b", "a/x\ny/b"));
        assert!(hits("a*b", "a\nb"));
    }
}
