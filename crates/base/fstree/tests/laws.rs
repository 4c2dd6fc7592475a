//! What holds for every path, pattern and link.

use std::os::unix::fs::symlink;

use fstree::{Patterns, Root, Walk, match_path, path};
use proptest::prelude::*;

/// The same question asked by trying everything.
fn naive(pattern: &[char], name: &[char]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => {
            naive(rest, name)
                || name
                    .split_first()
                    .is_some_and(|(char, behind)| *char != '/' && naive(pattern, behind))
        }
        (Some(('?', rest)), Some((char, behind))) => *char != '/' && naive(rest, behind),
        (Some((wanted, rest)), Some((char, behind))) => wanted == char && naive(rest, behind),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cleaning_twice_changes_nothing(text in "[a./]{0,12}") {
        let once = path::clean(text.as_bytes());
        prop_assert_eq!(path::clean(&once), once);
    }

    #[test]
    fn a_rooted_path_has_no_dots(text in "[a./]{0,12}") {
        let rooted = path::rooted(&text);
        let dots = path::bytes(&rooted).split(|byte| *byte == b'/').any(|part| part == b".." || part == b".");
        prop_assert!(!dots, "{:?}", rooted);
    }

    #[test]
    fn wildcards_match_what_the_naive_matcher_matches(pattern in "[ab*?/]{0,8}", name in "[ab/]{0,8}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let found = match_path(pattern.as_bytes(), name.as_bytes()).expect("well formed");
        prop_assert_eq!(found, naive(&chars(&pattern), &chars(&name)));
    }

    #[test]
    fn one_component_patterns_of_both_languages_agree(pattern in "[ab?*]{1,6}", name in "[ab]{1,6}") {
        // Two stars mean something else in lists.
        prop_assume!(!pattern.contains("**"));
        let list = Patterns::new(&[&pattern]).expect("well formed");
        let single = match_path(pattern.as_bytes(), name.as_bytes()).expect("well formed");
        prop_assert_eq!(list.matches(name.as_bytes()), single);
    }

    #[test]
    fn patterns_of_any_kind_are_read_or_refused(pattern in "\\PC{0,12}", name in "\\PC{0,12}") {
        if let Ok(list) = Patterns::new(&[&pattern]) {
            list.matches(name.as_bytes());
        }
    }

    #[test]
    fn a_match_in_a_walk_is_a_match_on_its_own_without_exceptions(
        patterns in prop::collection::vec("[ab*/]{1,5}", 0..4),
        names in prop::collection::vec("[ab]{1,2}", 1..4),
    ) {
        let list = Patterns::new(&patterns).expect("well formed");
        let mut hits = None;
        let mut at = String::new();
        for name in names {
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(&name);
            let (matched, found) = list.matches_below(at.as_bytes(), hits.as_ref());
            prop_assert_eq!(matched, list.matches(at.as_bytes()), "{:?} on {}", patterns, at);
            hits = Some(found);
        }
    }

    #[test]
    fn no_path_leads_out_of_a_root(links in prop::collection::vec("[abc./]{1,8}", 3), asked in "[abc./]{1,10}") {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).expect("mkdir");
        std::fs::write(dir.path().join("secret"), "x").expect("write");
        for (name, target) in ["a", "b", "c"].iter().zip(&links) {
            symlink(target, inner.join(name)).expect("symlink");
        }
        let root = Root::open(&inner).expect("open");
        for path in [asked.clone(), format!("{asked}/../../secret"), format!("{asked}/secret")] {
            let content = root.open_file(&path).and_then(std::io::read_to_string);
            prop_assert!(content.is_err(), "{} is readable", path);
            if let Ok(resolved) = root.resolve(&path) {
                let at = path::bytes(&resolved).split(|byte| *byte == b'/').any(|part| part == b"..");
                prop_assert!(!at, "{:?}", resolved);
            }
        }
    }

    #[test]
    fn a_walk_is_sorted(names in prop::collection::btree_set("[a-b.-]{1,3}/[a-b.-]{1,3}", 0..8)) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        for name in &names {
            let at = dir.path().join(name);
            let above = at.parent().expect("below the scratch folder");
            if name.split('/').any(|part| part == "." || part == "..") || above.is_file() {
                continue;
            }
            std::fs::create_dir_all(above).expect("mkdir");
            std::fs::write(at, "x").expect("write");
        }
        let root = Root::open(dir.path()).expect("open");
        let walk = Walk::new(&root).expect("walk");
        let found: Vec<_> = walk.map(|entry| entry.expect("entry").path).collect();
        let sorted = found.is_sorted_by(|a, b| path::walk_order(path::bytes(a), path::bytes(b)).is_lt());
        prop_assert!(sorted, "{:?}", found);
    }
}
