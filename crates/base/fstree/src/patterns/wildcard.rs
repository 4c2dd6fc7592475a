//! Shell wildcards over a whole path, as Go's `path.Match` takes them: `*`, `?`, `[a-z]`, `[^a]` and `\c`.

use super::PatternError;

/// One thing a pattern asks for.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// Any run of characters but slashes.
    Star,
    /// One character but a slash.
    Any,
    Literal(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether `name` as a whole matches `pattern`. A pattern with a syntax error matches nothing, as an error.
pub fn match_path(pattern: &[u8], name: &[u8]) -> Result<bool, PatternError> {
    let tokens = parse(pattern)?;
    let name: Vec<char> = super::text_of(name).chars().collect();
    Ok(matches(&tokens, &name))
}

/// Whether the pattern is well formed.
pub(super) fn check(pattern: &[u8]) -> Result<(), PatternError> {
    parse(pattern).map(drop)
}

fn parse(pattern: &[u8]) -> Result<Vec<Token>, PatternError> {
    let text = super::text_of(pattern);
    let mut chars = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' => Token::Star,
            '?' => Token::Any,
            '\\' => Token::Literal(chars.next().ok_or(PatternError::Syntax)?),
            '[' => class(&mut chars)?,
            other => Token::Literal(other),
        });
    }
    Ok(tokens)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, PatternError> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() {
            class_char(chars)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, PatternError> {
    let char = match chars.next() {
        None | Some('-' | ']') => return Err(PatternError::Syntax),
        Some('\\') => chars.next().ok_or(PatternError::Syntax)?,
        Some(other) => other,
    };
    // A class must go on: at least its bracket is still to come.
    match chars.peek() {
        Some(_) => Ok(char),
        None => Err(PatternError::Syntax),
    }
}

/// Linear but for the last star met, which takes one more character whenever what follows it does not fit.
fn matches(tokens: &[Token], name: &[char]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match tokens.get(token) {
            Some(Token::Star) => {
                token += 1;
                retry = Some((token, at));
                continue;
            }
            Some(wanted) if name.get(at).is_some_and(|char| fits(wanted, *char)) => {
                token += 1;
                at += 1;
                continue;
            }
            None if at == name.len() => return true,
            _ => {}
        }
        match retry {
            Some((after_star, start)) if name.get(start).is_some_and(|char| *char != '/') => {
                retry = Some((after_star, start + 1));
                (token, at) = (after_star, start + 1);
            }
            _ => return false,
        }
    }
}

fn fits(token: &Token, char: char) -> bool {
    match token {
        Token::Star => false,
        Token::Any => char != '/',
        Token::Literal(wanted) => *wanted == char,
        Token::Class { negated, ranges } => {
            // Compat: a class may hold a slash, a negated one usually does (path.Match of Go).
            *negated
                != ranges
                    .iter()
                    .any(|(low, high)| (*low..=*high).contains(&char))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_matches() {
        for (pattern, name, wanted) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[e-g]", "abc", false),
            ("a\\*b", "a*b", true),
            ("a?b", "a☺b", true),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("a[ζ-ω]*", "αω", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("a?b", "a/b", false),
            ("a[^x]b", "a/b", true),
        ] {
            let found = match_path(pattern.as_bytes(), name.as_bytes());
            assert_eq!(found, Ok(wanted), "{pattern} on {name}");
        }
    }

    #[test]
    fn malformed_patterns_are_errors() {
        for pattern in [
            "[", "[^", "[a", "[a-", "[a-]", "[]a]", "[-]", "[-x]", "a\\", "[^]", "[x-",
        ] {
            assert_eq!(
                match_path(pattern.as_bytes(), b"x"),
                Err(PatternError::Syntax),
                "{pattern}"
            );
        }
    }
}
