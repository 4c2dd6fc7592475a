//! Reasons in words.

use cachekeys::{Changes, Part, Reason, SUM};

/// How many files of each kind are named.
const NAMED: usize = 8;
/// Longer values are cut.
const LONGEST: usize = 160;
/// So much is shown before the place where two long values differ.
const CONTEXT: usize = 40;

/// A reason, but for changed content.
pub(super) fn reason(reason: &Reason) -> String {
    match reason {
        Reason::First => "no earlier step to compare with".to_owned(),
        Reason::Ignored => "the cache was to be ignored".to_owned(),
        Reason::Failed => "nothing changed, but it failed the last time".to_owned(),
        Reason::Gone => "nothing changed, but the earlier result has been removed".to_owned(),
        Reason::Part { name, old, new } => part(name, old.as_ref(), new.as_ref()),
        Reason::Follows { name } => format!("follows {}, which was made anew", cut(name)),
        Reason::Source { old, new } => format!("base changed: {} -> {}", cut(old), cut(new)),
        Reason::Content { input, .. } => content(*input),
        Reason::Selection { input } => format!("other paths of input {input} are read"),
        Reason::Input { input } => format!("input {input} changed"),
    }
}

/// Changed content of which no list is known.
pub(super) fn content(input: usize) -> String {
    format!("files of input {input} changed")
}

fn part(name: &str, old: Option<&Part>, new: Option<&Part>) -> String {
    let shown = |part: &Part| (!part.hidden).then(|| format!("{:?}", cut(&part.value)));
    match (old, new) {
        (Some(old), Some(new)) if old.hidden || new.hidden => format!("{name} changed"),
        (Some(old), Some(new)) => {
            let from = differs_from(&old.value, &new.value);
            let (old, new) = (cut_from(&old.value, from), cut_from(&new.value, from));
            format!("{name} changed: {old:?} -> {new:?}")
        }
        (None, Some(new)) => match shown(new) {
            Some(new) => format!("{name} added: {new}"),
            None => format!("{name} added"),
        },
        (Some(_), None) => format!("{name} removed"),
        (None, None) => format!("{name} changed"),
    }
}

/// Where what is shown of two long texts begins, so that it tells them apart.
fn differs_from(old: &str, new: &str) -> usize {
    let equal = old.chars().zip(new.chars());
    let equal = equal.take_while(|(old, new)| old == new).count();
    if equal + CONTEXT < LONGEST {
        return 0;
    }
    equal - CONTEXT
}

/// The text from its character `from` on.
fn cut_from(text: &str, from: usize) -> String {
    if from == 0 {
        return cut(text);
    }
    let rest: String = text.chars().skip(from).collect();
    format!("…{}", cut(&rest))
}

fn cut(text: &str) -> String {
    let mut cut: String = text.chars().take(LONGEST).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// Which files differ. `mode` tells the old and the new mode of a file of which nothing else changed.
pub(super) fn files(
    changes: &Changes,
    mode: impl Fn(&[u8], &[u8; SUM]) -> Option<(u32, u32)>,
) -> String {
    let mut pieces = Vec::new();
    let name = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let changed = changes.changed.iter().take(NAMED).map(|(path, sum)| {
        let mode = mode(path, sum).map(|(old, new)| format!(" (mode {old:04o} -> {new:04o})"));
        name(path) + &mode.unwrap_or_default()
    });
    add(
        &mut pieces,
        "files changed",
        changed.collect(),
        changes.changed.len(),
    );
    for (what, paths) in [("added", &changes.added), ("removed", &changes.removed)] {
        let names = paths.iter().take(NAMED).map(|path| name(path));
        add(&mut pieces, what, names.collect(), paths.len());
    }
    if pieces.is_empty() {
        return "what is read of the files changed".to_owned();
    }
    let text = pieces.join(", ");
    if changes.changed.is_empty() {
        format!("files {text}")
    } else {
        text
    }
}

fn add(pieces: &mut Vec<String>, what: &str, names: Vec<String>, all: usize) {
    if names.is_empty() {
        return;
    }
    let more = match all - names.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    pieces.push(format!("{what}: {}{more}", names.join(" ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(value: &str, hidden: bool) -> Option<Part> {
        Some(Part {
            name: "variable A".to_owned(),
            value: value.to_owned(),
            hidden,
        })
    }

    #[test]
    fn parts_are_shown_unless_they_are_secret() {
        let changed = |old, new| {
            let name = "variable A".to_owned();
            reason(&Reason::Part { name, old, new })
        };
        assert_eq!(
            changed(part("1", false), part("2", false)),
            "variable A changed: \"1\" -> \"2\""
        );
        assert_eq!(
            changed(part("1", true), part("2", true)),
            "variable A changed"
        );
        assert_eq!(changed(None, part("2", false)), "variable A added: \"2\"");
        assert_eq!(changed(part("1", false), None), "variable A removed");
    }

    #[test]
    fn long_values_are_shown_where_they_differ() {
        let part = |end: &str| part(&("ä".repeat(500) + end), false);
        let name = "command".to_owned();
        let (old, new) = (part("one"), part("two"));
        let same = "ä".repeat(40);
        assert_eq!(
            reason(&Reason::Part { name, old, new }),
            format!("command changed: \"…{same}one\" -> \"…{same}two\"")
        );
    }

    #[test]
    fn files_are_named_by_what_happened_to_them() {
        let path = |text: &str| text.as_bytes().to_vec();
        let changes = Changes {
            changed: vec![(path("a"), [0; SUM]), (path("run.sh"), [1; SUM])],
            added: vec![path("b")],
            removed: (0..10).map(|at| path(&at.to_string())).collect(),
        };
        let mode = |_: &[u8], sum: &[u8; SUM]| (sum[0] == 1).then_some((0o644, 0o755));
        assert_eq!(
            files(&changes, mode),
            "files changed: a run.sh (mode 0644 -> 0755), added: b, \
             removed: 0 1 2 3 4 5 6 7 and 2 more"
        );
        let added = Changes {
            added: vec![path("b")],
            ..Changes::default()
        };
        assert_eq!(files(&added, |_, _| None), "files added: b");
    }
}
