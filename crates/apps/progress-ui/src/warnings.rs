//! What was found fault with, once more at the end, where it is read.

use std::io::{self, Write};

use proto::control::VertexWarning;
use proto::pb;

/// Lists warnings: each with its place, what it means, where to read more, and the lines it is about.
pub(crate) fn list(warnings: &[VertexWarning], out: &mut impl Write) -> io::Result<()> {
    let mut shown: Vec<&VertexWarning> = Vec::new();
    for warning in warnings {
        if !shown.iter().any(|other| same(other, warning)) {
            shown.push(warning);
        }
    }
    match shown.len() {
        0 => return Ok(()),
        1 => writeln!(out, "\n 1 warning found:")?,
        count => writeln!(out, "\n {count} warnings found:")?,
    }
    for warning in shown {
        let short = text(&warning.short);
        // Most say it themselves.
        let place = line(warning)
            .map(|line| format!(" (line {line})"))
            .filter(|place| !short.ends_with(place.as_str()))
            .unwrap_or_default();
        writeln!(out, " - {short}{place}")?;
        for detail in &warning.detail {
            writeln!(out, "{}", text(detail))?;
        }
        if !warning.url.is_empty() {
            writeln!(out, "More info: {}", warning.url)?;
        }
        if let Some(excerpt) = excerpt(warning) {
            write!(out, "{excerpt}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// The same finding of two builds of one definition is one.
fn same(a: &VertexWarning, b: &VertexWarning) -> bool {
    a.short == b.short && a.detail == b.detail && a.url == b.url && a.ranges == b.ranges
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn line(warning: &VertexWarning) -> Option<i32> {
    let first: &pb::Range = warning.ranges.first()?;
    first.start.as_ref().map(|start| start.line)
}

fn excerpt(warning: &VertexWarning) -> Option<String> {
    diagnostics::excerpt(warning.info.as_ref()?, &warning.ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warning(vertex: &str) -> VertexWarning {
        let position = |line| Some(pb::Position { line, character: 0 });
        VertexWarning {
            vertex: vertex.into(),
            level: 1,
            short: "Rule: do not".into(),
            detail: vec!["because".into()],
            url: "https://example.com/rule".into(),
            info: Some(pb::SourceInfo {
                filename: "Dockerfile".into(),
                data: "FROM a\nRUN b".into(),
                ..pb::SourceInfo::default()
            }),
            ranges: vec![pb::Range {
                start: position(2),
                end: position(2),
            }],
        }
    }

    #[test]
    fn a_warning_says_where_and_why_and_comes_once() {
        let mut out = Vec::new();
        list(&[warning("a"), warning("b")], &mut out).expect("written");
        let expected = "
 1 warning found:
 - Rule: do not (line 2)
because
More info: https://example.com/rule
Dockerfile:2
--------------------
   1 |     FROM a
   2 | >>> RUN b
--------------------

";
        assert_eq!(text(&out), expected);
    }

    #[test]
    fn a_place_that_is_said_already_is_not_said_again() {
        let mut warning = warning("a");
        warning.short = "Rule: do not (line 2)".into();
        let mut out = Vec::new();
        list(&[warning], &mut out).expect("written");
        assert!(text(&out).contains(" - Rule: do not (line 2)\n"));
    }

    #[test]
    fn without_warnings_nothing_is_said() {
        let mut out = Vec::new();
        list(&[], &mut out).expect("written");
        assert!(out.is_empty());
    }
}
