//! What is there instead of a path that is not.

use std::collections::BTreeSet;

use dockerfile_syntax::quote;
use dockerfile_syntax::suggest::{Case, closest};

/// Shorter names are like too many others.
const SHORTEST: usize = 3;

/// Paths that exist.
#[derive(Debug, Default)]
pub(super) struct Listing(BTreeSet<String>);

impl Listing {
    pub(super) fn add(&mut self, path: &str) {
        self.0.insert(path.trim_start_matches('/').to_owned());
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.0.contains(path.trim_start_matches('/'))
    }

    /// The first path below a directory.
    pub(super) fn first_in(&self, dir: &str) -> Option<&str> {
        let start = format!("{}/", dir.trim_start_matches('/'));
        let first = self.0.range(start.clone()..).next()?;
        first.starts_with(&start).then_some(first)
    }

    /// Names of what is directly in a directory; empty for the root.
    fn names<'a>(&'a self, dir: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter_map(move |path| {
            let rest = match dir {
                "" => path.as_str(),
                dir => path.strip_prefix(dir)?.strip_prefix('/')?,
            };
            (!rest.is_empty() && !rest.contains('/')).then_some(rest)
        })
    }

    /// Says what comes nearest to a path.
    pub(super) fn nearest(&self, path: &str) -> String {
        let path = path.trim_start_matches('/');
        let mut dir = String::new();
        for part in path.split('/') {
            let next = join(&dir, part);
            // A listing of one directory says nothing of those above it.
            let known = self.has(&next) || self.first_in(&next).is_some();
            if !known {
                return self.instead(&dir, part);
            }
            dir = next;
        }
        exists(&dir)
    }

    /// `missing` is not in `dir`.
    fn instead(&self, dir: &str, missing: &str) -> String {
        let likely = (missing.chars().count() >= SHORTEST)
            .then(|| {
                let mut names = self.names(dir);
                let same = |name: &&str| name.eq_ignore_ascii_case(missing);
                names
                    .find(same)
                    .map(str::to_owned)
                    .or_else(|| closest(missing, self.names(dir), Case::Sensitive))
            })
            .flatten();
        match likely {
            Some(name) => format!("did you mean {}?", quote::go(&rooted(&join(dir, &name)))),
            None => exists(dir),
        }
    }
}

fn exists(dir: &str) -> String {
    format!(
        "the nearest path that exists is {}",
        quote::go(&rooted(dir))
    )
}

fn rooted(path: &str) -> String {
    format!("/{path}")
}

fn join(dir: &str, name: &str) -> String {
    match dir {
        "" => name.to_owned(),
        dir => format!("{dir}/{name}"),
    }
}

/// The directories a path is in, the deepest first.
pub(super) fn parents(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.rmatch_indices('/').map(|(at, _)| at.max(1));
    ends.map(|end| &path[..end])
}

/// Patterns for everything but what is directly in the directories on the way to `path`, and in it.
pub(super) fn elsewhere(path: &str) -> Vec<String> {
    let mut patterns = vec!["*/*".to_owned()];
    let mut dir = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        dir = join(&dir, &escaped(part));
        // What a directory matched while it was not left out does not bring back what is in it: name that.
        patterns.push(format!("!{dir}/*"));
        patterns.push(format!("{dir}/*/*"));
    }
    patterns
}

fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use fstree::Patterns;

    use super::*;

    fn nearest(paths: &[&str], path: &str) -> String {
        let mut listing = Listing::default();
        for path in paths {
            listing.add(path);
        }
        listing.nearest(path)
    }

    #[test]
    fn a_similar_name_in_the_last_directory_that_exists_is_suggested() {
        let paths = ["src", "src/main.rs", "src/lib.rs", "README.md"];
        assert_eq!(
            nearest(&paths, "/src/mian.rs"),
            "did you mean \"/src/main.rs\"?"
        );
        assert_eq!(nearest(&paths, "/scr/main.rs"), "did you mean \"/src\"?");
        assert_eq!(
            nearest(&paths, "/readme.md"),
            "did you mean \"/README.md\"?"
        );
    }

    #[test]
    fn without_one_the_deepest_directory_is_named() {
        let paths = ["src", "src/main.rs", "a"];
        let named = |dir: &str| format!("the nearest path that exists is \"{dir}\"");
        assert_eq!(nearest(&paths, "/src/app/x/y"), named("/src"));
        assert_eq!(nearest(&paths, "/src/main.rs/y"), named("/src/main.rs"));
        assert_eq!(nearest(&paths, "/b"), named("/"));
        assert_eq!(nearest(&[], "/b/c"), named("/"));
    }

    #[test]
    fn the_listing_of_a_tree_may_lack_the_directories_above() {
        let paths = ["/usr/local/bin/tool"];
        let wanted = "did you mean \"/usr/local/bin/tool\"?";
        assert_eq!(nearest(&paths, "/usr/local/bin/tol"), wanted);
    }

    #[test]
    fn only_what_is_on_the_way_is_listed() {
        let patterns = Patterns::new(&elsewhere("/src/a[b/c")).expect("patterns");
        // As a walk decides it: with what the directory above matched.
        let listed = |path: &str| {
            let ends = path.match_indices('/').map(|(at, _)| at);
            let (mut left_out, mut hits) = (false, None);
            for end in ends.chain([path.len()]) {
                let (matched, all) = patterns.matches_below(&path.as_bytes()[..end], hits.as_ref());
                (left_out, hits) = (matched, Some(all));
            }
            !left_out
        };
        for path in [
            "x",
            "src",
            "src/x",
            "src/a[b",
            "src/a[b/x",
            "src/a[b/c",
            "src/a[b/c/x",
        ] {
            assert!(listed(path), "{path}");
        }
        for path in ["x/y", "src/x/y", "src/a[b/x/y", "src/a[b/c/x/y"] {
            assert!(!listed(path), "{path}");
        }
    }

    #[test]
    fn parents_come_from_the_deepest_up() {
        assert_eq!(parents("/a/b/c").collect::<Vec<_>>(), ["/a/b", "/a", "/"]);
        assert_eq!(parents("/a").collect::<Vec<_>>(), ["/"]);
    }
}
