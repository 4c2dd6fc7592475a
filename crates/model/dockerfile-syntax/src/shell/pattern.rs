//! Patterns of `${name#pattern}` and the like: `*`, `?` and escapes, over characters.
//!
//! Neither `*` nor `?` matches a line feed. There are no bracket expressions.

use super::Problem;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Any,
    Star,
}

struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut tokens = Vec::with_capacity(text.len());
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match rest.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Char(escaped),
                    other => {
                        return Err(Problem::Pattern {
                            pattern: text.to_owned(),
                            escaped: other.unwrap_or(char::REPLACEMENT_CHARACTER),
                        });
                    }
                },
                c => Token::Char(c),
            });
        }
        Ok(Self { tokens })
    }

    /// The length in bytes of the shortest or longest start of `text` that matches.
    fn match_start(&self, text: &str, longest: bool) -> Option<usize> {
        // Which tokens may come next: a set over all prefixes of the pattern, stepped through the text.
        let count = self.tokens.len();
        let mut states = vec![false; count + 1];
        states[0] = true;
        self.skip_stars(&mut states);
        let mut found = states[count].then_some(0);
        if found.is_some() && !longest {
            return found;
        }
        let mut next = vec![false; count + 1];
        for (at, c) in text.char_indices() {
            next.fill(false);
            let mut alive = false;
            for (index, token) in self.tokens.iter().enumerate() {
                if !states[index] {
                    continue;
                }
                let target = match token {
                    Token::Char(wanted) if *wanted == c => index + 1,
                    Token::Any if c != '\n' => index + 1,
                    Token::Star if c != '\n' => index,
                    _ => continue,
                };
                next[target] = true;
                alive = true;
            }
            if !alive {
                break;
            }
            self.skip_stars(&mut next);
            std::mem::swap(&mut states, &mut next);
            if states[count] {
                found = Some(at + c.len_utf8());
                if !longest {
                    break;
                }
            }
        }
        found
    }

    /// A star may also match nothing.
    fn skip_stars(&self, states: &mut [bool]) {
        for (index, token) in self.tokens.iter().enumerate() {
            if states[index] && *token == Token::Star {
                states[index + 1] = true;
            }
        }
    }

    /// The first match at or after byte `from`, as long as possible.
    fn find(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let starts = text[from..]
            .char_indices()
            .map(|(at, _)| from + at)
            .chain([text.len()]);
        for start in starts {
            if let Some(length) = self.match_start(&text[start..], true) {
                return Some((start, start + length));
            }
        }
        None
    }
}

/// `value` without the shortest or longest start that matches.
pub(super) fn trim_start<'v>(
    value: &'v str,
    pattern: &str,
    longest: bool,
) -> Result<&'v str, Problem> {
    let length = Pattern::parse(pattern)?
        .match_start(value, longest)
        .unwrap_or(0);
    Ok(&value[length..])
}

/// `value` without the shortest or longest end that matches.
pub(super) fn trim_end(value: &str, pattern: &str, longest: bool) -> Result<String, Problem> {
    // Backwards, the end is a start. Compat: error texts show the pattern reversed, see shell/lex.go.
    let backwards: String = value.chars().rev().collect();
    let rest = trim_start(&backwards, &reverse_pattern(pattern), longest)?;
    Ok(rest.chars().rev().collect())
}

/// `value` with the first match replaced by `replacement` as it is.
pub(super) fn replace_first(
    value: &str,
    pattern: &str,
    replacement: &str,
) -> Result<String, Problem> {
    Ok(match Pattern::parse(pattern)?.find(value, 0) {
        Some((start, end)) => [&value[..start], replacement, &value[end..]].concat(),
        None => value.to_owned(),
    })
}

/// `value` with every match replaced.
///
/// Compat: `$` has a meaning of its own in `template` here: `$0` is the match, other names are empty, `$$` is `$`.
pub(super) fn replace_all(value: &str, pattern: &str, template: &str) -> Result<String, Problem> {
    let pattern = Pattern::parse(pattern)?;
    let mut result = String::with_capacity(value.len());
    let (mut copied, mut from) = (0, 0);
    while let Some((start, end)) = pattern.find(value, from) {
        // Nothing is not matched again right behind a match.
        if end > start || start > copied || start == 0 {
            result.push_str(&value[copied..start]);
            fill_template(template, &value[start..end], &mut result);
            copied = end;
        }
        from = if end > start {
            end
        } else {
            match value[start..].chars().next() {
                Some(c) => start + c.len_utf8(),
                None => break,
            }
        };
    }
    result.push_str(&value[copied..]);
    Ok(result)
}

/// Reverses a pattern but keeps escapes in front of what they escape.
fn reverse_pattern(pattern: &str) -> String {
    let mut units = Vec::new();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let mut length = c.len_utf8();
        if c == '\\' {
            length += rest[length..].chars().next().map_or(0, char::len_utf8);
        }
        let (unit, tail) = rest.split_at(length);
        units.push(unit);
        rest = tail;
    }
    units.into_iter().rev().collect()
}

fn fill_template(template: &str, found: &str, result: &mut String) {
    let mut rest = template;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            result.push('$');
            rest = tail;
        } else if let Some((name, tail)) = template_name(rest) {
            if name == "0" {
                result.push_str(found);
            }
            rest = tail;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
}

/// `name` or `{name}` at the start of `text`, and what follows.
fn template_name(text: &str) -> Option<(&str, &str)> {
    let (inner, braced) = match text.strip_prefix('{') {
        Some(inner) => (inner, true),
        None => (text, false),
    };
    let end = inner
        .find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(inner.len());
    let (name, tail) = inner.split_at(end);
    if name.is_empty() {
        return None;
    }
    let tail = if braced {
        tail.strip_prefix('}')?
    } else {
        tail
    };
    Some((name, tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortest_and_longest_starts_differ() {
        assert_eq!(trim_start("a.b.c", "*.", false), Ok("b.c"));
        assert_eq!(trim_start("a.b.c", "*.", true), Ok("c"));
        assert_eq!(trim_start("a.b.c", "x", true), Ok("a.b.c"));
    }

    #[test]
    fn shortest_and_longest_ends_differ() {
        assert_eq!(trim_end("a.b.c", ".*", false).as_deref(), Ok("a.b"));
        assert_eq!(trim_end("a.b.c", ".*", true).as_deref(), Ok("a"));
        assert_eq!(trim_end("a*", "\\*", true).as_deref(), Ok("a"));
    }

    #[test]
    fn nothing_is_matched_between_all_characters() {
        assert_eq!(replace_all("abc", "", "-").as_deref(), Ok("-a-b-c-"));
        assert_eq!(replace_all("abc", "*", "-").as_deref(), Ok("-"));
        assert_eq!(replace_all("a\nb", "*", "-").as_deref(), Ok("-\n-"));
        assert_eq!(replace_all("", "", "-").as_deref(), Ok("-"));
    }

    #[test]
    fn dollars_in_a_template_mean_something() {
        assert_eq!(
            replace_all("ab", "a", "<$0${1}$$$>").as_deref(),
            Ok("<a$$>b")
        );
        assert_eq!(replace_first("ab", "a", "<$0>").as_deref(), Ok("<$0>b"));
    }
}
