//! Lines of a source file around the place of a failure.

use std::fmt::Write as _;

use proto::pb;

use crate::{Detail, Failure};

const RULE: &str = "--------------------";

/// The lines around `ranges`, those inside marked. `None` when the ranges point nowhere.
pub fn excerpt(info: &pb::SourceInfo, ranges: &[pb::Range]) -> Option<String> {
    let text = String::from_utf8_lossy(&info.data);
    let lines: Vec<&str> = text.split('\n').collect();
    let marked: Vec<(usize, usize)> = ranges.iter().map(bounds).collect();
    let first = marked.iter().map(|(start, _)| *start).min()?;
    let last = marked.iter().map(|(_, end)| *end).max()?;
    if first < 1 || first > lines.len() {
        return None;
    }
    let last = last.min(lines.len());
    let around = if first == last { 2 } else { 1 };
    let from = first.saturating_sub(around).max(1);
    let to = (last + around).min(lines.len());

    let mut out = format!("{}:{first}\n{RULE}\n", info.filename);
    for (number, line) in (1..).zip(&lines).skip(from - 1).take(to + 1 - from) {
        let inside = |(start, end): &(usize, usize)| (*start..=*end).contains(&number);
        let mark = if marked.iter().any(inside) {
            ">>>"
        } else {
            "   "
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, " {number:3} | {mark} {line}");
    }
    out.push_str(RULE);
    out.push('\n');
    Some(out)
}

/// First and last line; a range without an end is one line.
fn bounds(range: &pb::Range) -> (usize, usize) {
    let line = |position: &Option<pb::Position>| {
        let line = position.as_ref().map_or(0, |position| position.line);
        usize::try_from(line).unwrap_or(0)
    };
    let start = line(&range.start);
    (start, line(&range.end).max(start))
}

/// All excerpts of a failure, the innermost first, as clients print them.
pub fn excerpts(failure: &Failure) -> Vec<String> {
    let sources = failure.details().iter().rev();
    sources
        .filter_map(|detail| match detail {
            Detail::Source { info, ranges } => excerpt(info, ranges),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(data: &str, lines: &[(i32, i32)], expected: &str) {
        let info = pb::SourceInfo {
            filename: "Dockerfile".to_owned(),
            data: data.to_owned().into(),
            ..Default::default()
        };
        let ranges: Vec<_> = lines
            .iter()
            .map(|(start, end)| pb::Range {
                start: Some(pb::Position {
                    line: *start,
                    character: 0,
                }),
                end: Some(pb::Position {
                    line: *end,
                    character: 0,
                }),
            })
            .collect();
        assert_eq!(excerpt(&info, &ranges).unwrap_or_default(), expected);
    }

    #[test]
    fn one_line_is_shown_with_two_on_each_side() {
        check(
            "a\nb\nc\nd\ne\nf\n",
            &[(4, 4)],
            "Dockerfile:4\n--------------------\n   2 |     b\n   3 |     c\n   4 | >>> d\n   5 |     e\n   6 |     f\n--------------------\n",
        );
    }

    #[test]
    fn several_lines_are_shown_with_one_on_each_side() {
        check(
            "a\nb\nc\nd\ne\n",
            &[(2, 3)],
            "Dockerfile:2\n--------------------\n   1 |     a\n   2 | >>> b\n   3 | >>> c\n   4 |     d\n--------------------\n",
        );
    }

    #[test]
    fn the_end_of_the_file_is_the_end() {
        check(
            "a\nb\n",
            &[(2, 2)],
            "Dockerfile:2\n--------------------\n   1 |     a\n   2 | >>> b\n   3 |     \n--------------------\n",
        );
    }

    #[test]
    fn a_place_outside_the_file_shows_nothing() {
        check("a\n", &[(9, 9)], "");
        check("a\n", &[(0, 0)], "");
        check("a\n", &[], "");
    }
}
