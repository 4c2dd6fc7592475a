//! Reading a filter.

use regex::Regex;

use crate::{Error, Selector, Test};

/// All selectors of a text; none for an empty one.
pub(crate) fn selectors(text: &str) -> Result<Vec<Selector>, Error> {
    let mut all = Vec::new();
    if text.is_empty() {
        return Ok(all);
    }
    let mut reader = Reader { text, at: 0 };
    loop {
        all.push(reader.selector()?);
        match reader.peek() {
            None => return Ok(all),
            Some(',') => reader.at += 1,
            Some(other) => {
                return Err(reader.error(reader.at, format!("unexpected input: {other}")));
            }
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// What stands at the beginning of the rest and consists of such characters.
    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn skip_space(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn error(&self, at: usize, message: impl Into<String>) -> Error {
        let place = match self.text[at..].chars().next() {
            Some(here) => format!(
                "[{} >|{here}|< {}]",
                &self.text[..at],
                &self.text[at + here.len_utf8()..]
            ),
            None => format!("[{}]", self.text),
        };
        Error {
            place,
            message: message.into(),
        }
    }

    fn selector(&mut self) -> Result<Selector, Error> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        if matches!(self.peek(), None | Some(',')) {
            let test = Test::Present;
            return Ok(Selector { path, test });
        }
        self.skip_space();
        let at = self.at;
        let test = match self.take_while(|c| matches!(c, '=' | '!' | '~')) {
            "==" => Test::Is(self.value(false)?),
            "!=" => Test::IsNot(self.value(false)?),
            "~=" => Test::Matches(Regex::new(&self.value(true)?).ok()),
            "" => {
                let text = r#"expected an operator ("=="|"!="|"~=")"#;
                return Err(self.error(at, text));
            }
            other => {
                return Err(self.error(at, format!("unsupported operator {other:?}")));
            }
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, Error> {
        self.skip_space();
        let at = self.at;
        if let Some(quote) = self.quote() {
            return self.quoted(quote, false);
        }
        let name = self.take_while(|c| c == '_' || c.is_ascii_alphanumeric());
        if name.is_empty() {
            return Err(self.error(at, "expected field or quoted"));
        }
        Ok(name.to_owned())
    }

    fn value(&mut self, expression: bool) -> Result<String, Error> {
        self.skip_space();
        let at = self.at;
        if let Some(quote) = self.quote() {
            return self.quoted(quote, expression);
        }
        // Compat: a bare value cannot begin like an operator or a separator.
        let begins = self
            .peek()
            .is_some_and(|c| !matches!(c, '.' | ',' | '=' | '!' | '~'));
        if !begins {
            return Err(self.error(at, "expected value or quoted"));
        }
        let is_part = |c: char| c != ',' && !c.is_whitespace() && !c.is_control();
        Ok(self.take_while(is_part).to_owned())
    }

    fn quote(&self) -> Option<char> {
        self.peek().filter(|c| matches!(c, '"' | '/' | '|'))
    }

    /// Something in quotes; other quotes than `"` only around expressions.
    fn quoted(&mut self, quote: char, any_quote: bool) -> Result<String, Error> {
        let begin = self.at;
        self.at += 1;
        let mut value = String::new();
        loop {
            let Some(next) = self.peek().filter(|c| *c != '\n') else {
                return Err(self.error(begin, "quoted literal not terminated"));
            };
            self.at += next.len_utf8();
            if next == quote {
                break;
            }
            if next != '\\' {
                value.push(next);
                continue;
            }
            match self.escape(quote) {
                Some(escaped) => value.push(escaped),
                None => return Err(self.error(begin, "illegal escape sequence")),
            }
        }
        if quote != '"' && !any_quote {
            return Err(self.error(begin, "invalid quote encountered"));
        }
        Ok(value)
    }

    /// What stands behind a backslash.
    fn escape(&mut self, quote: char) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(match next {
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '\\' => '\\',
            'x' => self.digits(2, 16)?,
            'u' => self.digits(4, 16)?,
            'U' => self.digits(8, 16)?,
            '0'..='7' => {
                self.at -= 1;
                self.digits(3, 8)?
            }
            other if other == quote => other,
            _ => return None,
        })
    }

    fn digits(&mut self, count: usize, base: u32) -> Option<char> {
        let digits = self.rest().get(..count)?;
        if !digits.chars().all(|c| c.is_digit(base)) {
            return None;
        }
        self.at += count;
        char::from_u32(u32::from_str_radix(digits, base).ok()?)
    }
}
