//! Documents inside a Dockerfile.

use std::borrow::Cow;

use crate::shell::{Empty, Lex};

/// A heredoc of a `RUN`, `COPY` or `ADD` instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, without quotes; also the name of the file it becomes.
    pub name: String,
    /// File descriptor written in front of `<<`; 0 if none.
    pub fd: u32,
    /// Whether variables in the body are expanded (the name was not quoted).
    pub expand: bool,
    /// Whether leading tabs are removed (`<<-`).
    pub chomp: bool,
    /// The body as written, line ends included. Bytes, as a document need not be UTF-8.
    pub content: Vec<u8>,
}

impl Heredoc {
    /// The body as written. What is not UTF-8 is replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.content)
    }

    /// The body as a file: leading tabs of each line removed if `<<-` asked for it.
    pub fn file_bytes(&self) -> Cow<'_, [u8]> {
        if !self.chomp || !self.content.contains(&b'\t') {
            return Cow::Borrowed(&self.content);
        }
        let mut bytes = Vec::with_capacity(self.content.len());
        for line in self.content.split_inclusive(|&byte| byte == b'\n') {
            let tabs = line.iter().take_while(|&&byte| byte == b'\t').count();
            bytes.extend_from_slice(&line[tabs..]);
        }
        Cow::Owned(bytes)
    }

    /// Like [`Heredoc::file_bytes`], as text. What is not UTF-8 is replaced.
    pub fn file_text(&self) -> Cow<'_, str> {
        match self.file_bytes() {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// The documents a joined line announces, in order, without their bodies.
pub(crate) fn in_line(line: &str) -> Vec<Heredoc> {
    let lex = Lex {
        keep_quotes: true,
        keep_escapes: true,
        keep_unset: true,
        ..Lex::new('\\')
    };
    // What is no list of words announces nothing.
    let words = lex.process_words(line, &Empty).unwrap_or_default();
    words.iter().filter_map(|word| from_word(word)).collect()
}

/// The document announced by one word such as `<<EOF` or `3<<-"EOF"`.
pub(crate) fn from_word(word: &str) -> Option<Heredoc> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (fd, rest) = word.split_at(digits);
    let rest = rest.strip_prefix("<<")?;
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lex = Lex {
        keep_unset: true,
        ..Lex::new('\\')
    };
    let name = single(lex.process_words(rest, &Empty).ok()?)?;
    let written = single(
        Lex {
            keep_quotes: true,
            ..lex
        }
        .process_words(rest, &Empty)
        .ok()?,
    )?;
    let quotes = |word: &str| word.chars().filter(|c| matches!(c, '\'' | '"')).count();
    let expand = quotes(&name) == quotes(&written);
    Some(Heredoc {
        name,
        fd: fd.parse().unwrap_or(0),
        expand,
        chomp,
        content: Vec::new(),
    })
}

fn single(words: Vec<String>) -> Option<String> {
    let mut words = words.into_iter();
    words.next().filter(|_| words.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(line: &str) -> Vec<(String, u32, bool, bool)> {
        in_line(line)
            .into_iter()
            .map(|one| (one.name, one.fd, one.expand, one.chomp))
            .collect()
    }

    #[test]
    fn words_with_two_angles_announce_documents() {
        assert_eq!(announced("RUN <<EOF"), [("EOF".into(), 0, true, false)]);
        assert_eq!(
            announced("RUN cat <<A 3<<-B x"),
            [("A".into(), 0, true, false), ("B".into(), 3, true, true)]
        );
        assert_eq!(announced("RUN << EOF"), [("EOF".into(), 0, true, false)]);
    }

    #[test]
    fn quotes_around_the_name_turn_expansion_off() {
        assert_eq!(announced("RUN <<'EOF'"), [("EOF".into(), 0, false, false)]);
        assert_eq!(
            announced("RUN <<E\"O\"F"),
            [("EOF".into(), 0, false, false)]
        );
        assert_eq!(
            announced("RUN <<\"E F\""),
            [("E F".into(), 0, false, false)]
        );
    }

    #[test]
    fn other_angles_announce_nothing() {
        for line in [
            "RUN cat <<<EOF",
            "RUN cat \"<<EOF\"",
            "RUN cat \\<<EOF",
            "RUN cat <EOF",
            "RUN x<<EOF",
            "RUN '<<EOF",
        ] {
            assert!(announced(line).is_empty(), "{line}");
        }
    }

    #[test]
    fn tabs_in_front_go_away_where_asked() {
        let mut one = from_word("<<-X").expect("a document");
        one.content = b"\ta\n\t\tb\tc\nd".to_vec();
        assert_eq!(one.file_text(), "a\nb\tc\nd");
        one.chomp = false;
        assert_eq!(one.file_text(), "\ta\n\t\tb\tc\nd");
    }
}
