//! The words of an instruction and where they stand, for editors: names to rename, values to colour, places to point at.

use std::ops::Range;

use crate::args::{json, quoted_words};
use crate::ast::{Dockerfile, Flag, Instruction, Stage};
use crate::source::Text;
use crate::span::Position;

/// A word as it was written, quotes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    /// Where in the text of the instruction it is.
    pub range: Range<usize>,
    /// Where in the file its first byte is.
    pub start: Position,
    /// Where in the file its last byte is; on a later line if an escape character joins the lines.
    pub end: Position,
}

/// What a [`Token`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// The name of the instruction.
    Keyword,
    /// A flag with its value.
    Flag,
    /// A word between blanks. Of a command for the shell, only blanks and quotes are told apart.
    Word,
    /// A string of a JSON list.
    String,
}

impl Stage {
    /// The words of its `FROM`, in order. `file` is the one it is in.
    pub fn tokens(&self, file: &Dockerfile) -> Vec<Token> {
        tokens(&self.text, &self.keyword, &self.flags, file.escape)
    }
}

impl Instruction {
    /// Its words, in order. Documents below it are not among them. `file` is the one it is in.
    pub fn tokens(&self, file: &Dockerfile) -> Vec<Token> {
        tokens(&self.text, &self.keyword, &self.flags, file.escape)
    }
}

fn tokens(text: &Text, keyword: &str, flags: &[Flag], escape: char) -> Vec<Token> {
    let flag_ranges = flags.iter().map(|flag| flag.range.clone());
    let after = flags.last().map_or(keyword.len(), |flag| flag.range.end);
    let rest = &text[after..];
    let arguments = match json(rest.trim()) {
        Ok(Some(_)) | Err(_) => strings(rest)
            .map(|range| (TokenKind::String, range))
            .collect(),
        Ok(None) => words(rest, escape),
    };
    std::iter::once((TokenKind::Keyword, 0..keyword.len()))
        .chain(flag_ranges.map(|range| (TokenKind::Flag, range)))
        .chain(
            arguments
                .into_iter()
                .map(|(kind, range)| (kind, after + range.start..after + range.end)),
        )
        .filter_map(|(kind, range)| {
            Some(Token {
                kind,
                start: text.locate(range.start)?,
                end: text.locate(range.end.checked_sub(1)?)?,
                range,
            })
        })
        .collect()
}

fn words(rest: &str, escape: char) -> Vec<(TokenKind, Range<usize>)> {
    let place = |word: &str| {
        // Words are parts of the text.
        let start = word.as_ptr().addr() - rest.as_ptr().addr();
        (TokenKind::Word, start..start + word.len())
    };
    quoted_words(rest, escape).map(place).collect()
}

/// The strings of a JSON list, quotes included.
fn strings(list: &str) -> impl Iterator<Item = Range<usize>> {
    let mut bytes = list.bytes().enumerate();
    std::iter::from_fn(move || {
        let (start, _) = bytes.by_ref().find(|&(_, byte)| byte == b'"')?;
        let mut escaped = false;
        let (end, _) = bytes.by_ref().find(|&(_, byte)| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        })?;
        Some(start..end + 1)
    })
}

#[cfg(test)]
mod tests {
    use crate::lint::Linter;

    fn shown(source: &str) -> Vec<String> {
        let file = crate::parse(source.as_bytes(), &mut Linter::off()).expect("it parses");
        let stages = file.stages.iter().flat_map(|stage| {
            let own = (&stage.text, stage.tokens(&file));
            let more = stage.instructions.iter();
            std::iter::once(own).chain(more.map(|one| (&one.text, one.tokens(&file))))
        });
        let shown = stages.flat_map(|(text, tokens)| {
            let shown = tokens.into_iter().map(|token| {
                let (start, end) = (token.start, token.end);
                format!(
                    "{}:{}-{}:{} {:?} {}",
                    start.line, start.column, end.line, end.column, token.kind, &text[token.range]
                )
            });
            shown.collect::<Vec<_>>()
        });
        shown.collect()
    }

    #[test]
    fn each_word_has_its_place() {
        assert_eq!(
            shown("FROM --platform=a b AS c\n  COPY --link a\\ b \"c d\" \\\n   /e\n"),
            [
                "1:0-1:3 Keyword FROM",
                "1:5-1:16 Flag --platform=a",
                "1:18-1:18 Word b",
                "1:20-1:21 Word AS",
                "1:23-1:23 Word c",
                "2:2-2:5 Keyword COPY",
                "2:7-2:12 Flag --link",
                "2:14-2:17 Word a\\ b",
                "2:19-2:23 Word \"c d\"",
                "3:3-3:4 Word /e",
            ]
        );
    }

    #[test]
    fn strings_of_lists_are_words_of_their_own() {
        assert_eq!(
            shown("FROM x\nCMD [\"a b\",\\\n \"c\\\"\"]\n")[2..],
            [
                "2:0-2:2 Keyword CMD",
                "2:5-2:9 String \"a b\"",
                "3:1-3:5 String \"c\\\"\"",
            ]
        );
    }

    #[test]
    fn a_word_may_go_on_in_the_next_line() {
        assert_eq!(
            shown("FROM x\nRUN a\\\nb c\n")[2..],
            ["2:0-2:2 Keyword RUN", "2:4-3:0 Word ab", "3:2-3:2 Word c",]
        );
    }
}
