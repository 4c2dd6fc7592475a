//! Reads ignore files: `.dockerignore` and the ones beside a Dockerfile.

use crate::path;

/// The longest line that is read.
const MAX_LINE: usize = 64 << 10;

/// A line longer than 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bufio.Scanner: token too long")]
pub struct LineTooLong;

impl fault::Classify for LineTooLong {
    fn class(&self) -> fault::Class {
        fault::Class::User
    }
}

/// The patterns of an ignore file, cleaned, without comments and empty lines; for [`crate::Patterns::new`].
pub fn parse(content: &[u8]) -> Result<Vec<String>, LineTooLong> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut patterns = Vec::new();
    for line in content.split(|byte| *byte == b'\n') {
        if line.len() >= MAX_LINE {
            return Err(LineTooLong);
        }
        let line = String::from_utf8_lossy(line);
        if line.starts_with('#') {
            continue;
        }
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let (mark, text) = match line.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", line),
        };
        patterns.push(format!("{mark}{}", pattern(text)));
    }
    Ok(patterns)
}

fn pattern(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let cleaned = path::clean_str(text);
    match cleaned.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => cleaned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_trimmed_cleaned_and_freed_of_comments() {
        let text = "\u{feff}# no\n a/ \n\n! /b/../c \n /d\n/\n#e\n #f\r\n";
        assert_eq!(
            parse(text.as_bytes()).expect("short lines"),
            ["a", "!c", "d", "/", "#f"]
        );
    }

    #[test]
    fn a_very_long_line_is_refused() {
        assert_eq!(parse(&vec![b'x'; 70_000]), Err(LineTooLong));
    }
}
