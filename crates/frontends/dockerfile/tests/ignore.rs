//! Ignore files against a matcher that tries everything.

use fstree::{Patterns, ignore};
use proptest::prelude::*;

/// Whether a pattern without classes matches all of a path.
fn all(pattern: &[char], path: &[char]) -> bool {
    match pattern {
        [] => path.is_empty(),
        ['*', '*', '/', rest @ ..] => {
            // Any number of levels, none included.
            let levels = path.iter().enumerate().filter(|(_, c)| **c == '/');
            all(rest, path)
                || levels
                    .map(|(at, _)| at + 1)
                    .any(|at| all(rest, &path[at..]))
        }
        ['*', '*'] => true,
        ['*', rest @ ..] => {
            let end = path.iter().position(|&c| c == '/').unwrap_or(path.len());
            (0..=end).any(|at| all(rest, &path[at..]))
        }
        ['?', rest @ ..] => path.first().is_some_and(|&c| c != '/') && all(rest, &path[1..]),
        [c, rest @ ..] => path.first() == Some(c) && all(rest, &path[1..]),
    }
}

/// The path itself or a directory it is in.
fn one(pattern: &str, path: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let ends = path
        .match_indices('/')
        .map(|(at, _)| at)
        .chain([path.len()]);
    ends.map(|end| path[..end].chars().collect::<Vec<_>>())
        .any(|path| all(&pattern, &path))
}

fn excluded(patterns: &[String], path: &str) -> bool {
    patterns
        .iter()
        .fold(false, |excluded, pattern| match pattern.strip_prefix('!') {
            Some(kept) => excluded && !one(kept, path),
            None => excluded || one(pattern, path),
        })
}

fn pattern() -> impl Strategy<Value = String> {
    let name = prop::sample::select(&["a", "b", "ab", "*", "a*", "*b", "?", "a?", "*.b"][..]);
    let names = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let deep = prop::sample::select(&["", "", "**/"][..]);
    let below = prop::sample::select(&["", "", "/**"][..]);
    let bang = prop::sample::select(&["", "", "!"][..]);
    (bang, deep, names, below)
        .prop_map(|(bang, deep, names, below)| format!("{bang}{deep}{names}{below}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lists_exclude_what_trying_everything_excludes(
        lines in prop::collection::vec(pattern(), 0..5),
        path in prop::collection::vec("(a|b|ab|a\\.b|bb)", 1..5),
    ) {
        let path = path.join("/");
        let patterns = ignore::parse(lines.join("\n").as_bytes()).expect("short lines");
        prop_assert_eq!(&patterns, &lines);
        let matched = Patterns::new(&patterns).expect("valid").matches(path.as_bytes());
        prop_assert_eq!(matched, excluded(&patterns, &path), "{:?} {}", lines, path);
    }
}
