//! Copies of random trees, compared with a model that knows only paths.

mod common;

use std::collections::BTreeMap;

use common::{lines, tree};
use fileop::{Copy, copy};
use fstree::Patterns;
use proptest::prelude::*;
use tasks::Cx;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir,
    File(String),
    Link(String),
}

/// Paths in the order of a walk: what is in a directory follows it.
type Tree = BTreeMap<Vec<String>, Node>;

fn names() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "a.x"]).prop_map(str::to_owned)
}

fn trees() -> impl Strategy<Value = Tree> {
    let node = prop_oneof![
        Just(Node::Dir),
        "[0-9]".prop_map(Node::File),
        "[a-c]".prop_map(Node::Link),
    ];
    let entry = (prop::collection::vec(names(), 1..4), node);
    prop::collection::vec(entry, 0..12).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, node) in entries {
            let fits =
                (1..path.len()).all(|len| matches!(tree.get(&path[..len]), None | Some(Node::Dir)));
            if !fits || tree.contains_key(&path) {
                continue;
            }
            for len in 1..path.len() {
                tree.insert(path[..len].to_vec(), Node::Dir);
            }
            tree.insert(path, node);
        }
        tree
    })
}

fn patterns() -> impl Strategy<Value = Vec<String>> {
    let pattern = prop::sample::select(vec!["a", "b", "a/b", "*/a", "**/c", "*.x", "a/*", "b/**"]);
    prop::collection::vec(pattern.prop_map(str::to_owned), 0..3)
}

fn text(tree: &Tree) -> Vec<String> {
    let line = |(path, node): (&Vec<String>, &Node)| {
        let path = path.join("/");
        match node {
            Node::Dir => format!("{path}/"),
            Node::File(content) => format!("{path}={content}"),
            Node::Link(target) => format!("{path}->{target}"),
        }
    };
    tree.iter().map(line).collect()
}

/// The contents of `source` copied over `target`; `None` where kinds do not fit.
fn model(source: &Tree, target: &Tree, action: &Copy) -> Option<Tree> {
    let include = Patterns::new(&action.include_patterns).expect("patterns");
    let exclude = Patterns::new(&action.exclude_patterns).expect("patterns");
    let mut result = target.clone();
    for (path, node) in source {
        let name = path.join("/");
        let wanted = action.include_patterns.is_empty() || include.matches(name.as_bytes());
        if !wanted || exclude.matches(name.as_bytes()) {
            continue;
        }
        for len in 1..=path.len() {
            let (at, is_last) = (&path[..len], len == path.len());
            let new = if is_last { node } else { &Node::Dir };
            match (result.get(at), new) {
                (Some(Node::Dir), Node::Dir) => continue,
                (Some(Node::Dir), _) | (Some(_), Node::Dir) if !action.always_replace => {
                    return None;
                }
                _ => {}
            }
            result.retain(|path, _| !path.starts_with(at));
            result.insert(at.to_vec(), new.clone());
        }
    }
    Some(result)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_copy_does_what_the_model_does(
        source in trees(),
        target in trees(),
        include_patterns in patterns(),
        exclude_patterns in patterns(),
        always_replace in any::<bool>(),
    ) {
        let action = Copy {
            src: "/".to_owned(),
            dest: "/".to_owned(),
            dir_copy_contents: true,
            create_dest_path: true,
            include_patterns,
            exclude_patterns,
            always_replace,
            ..Copy::default()
        };
        let wanted = model(&source, &target, &action);
        let (from, to) = (text(&source), text(&target));
        let from: Vec<&str> = from.iter().map(String::as_str).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        let ((_a, from), (_b, to)) = (tree(&from), tree(&to));
        let result = copy(&Cx::root(), &from, &to, &action, None);
        match wanted {
            Some(wanted) => {
                prop_assert!(result.is_ok(), "{:?}", result);
                prop_assert_eq!(lines(&to), text(&wanted));
            }
            None => prop_assert!(result.is_err()),
        }
    }
}
