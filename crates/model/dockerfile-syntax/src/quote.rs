//! Quoted text in messages, as the Go tools print it.

use std::fmt;

/// Shows `text` in double quotes with Go's escapes.
pub fn go(text: &str) -> Quoted<'_> {
    Quoted(text)
}

/// Made by [`go`].
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\u{7}' => f.write_str("\\a")?,
                '\u{8}' => f.write_str("\\b")?,
                '\u{c}' => f.write_str("\\f")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\u{b}' => f.write_str("\\v")?,
                ' '..='~' => f.write_char(c)?,
                '\0'..='\u{7f}' => write!(f, "\\x{:02x}", c as u32)?,
                _ if c != '\u{a0}' && c.escape_debug().len() == 1 => f.write_char(c)?,
                '\u{80}'..='\u{ffff}' => write!(f, "\\u{:04x}", c as u32)?,
                _ => write!(f, "\\U{:08x}", c as u32)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_seen_is_escaped() {
        assert_eq!(
            go("a \"b\" \\ é \u{fffd}").to_string(),
            r#""a \"b\" \\ é �""#
        );
        assert_eq!(
            go("\t\n\u{1}\u{7f}\u{a0}").to_string(),
            r#""\t\n\x01\x7f\u00a0""#
        );
    }
}
