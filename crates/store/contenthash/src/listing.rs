//! What is behind a checksum: the files it was made from, for people who want to know what changed.

use crate::disk::Disk;
use crate::header::Sum;
use crate::records::{Dir, Miss, Node, Records};
use crate::resolve::{Found, find, resolve};
use crate::{Query, filtered};

/// A file, a link or a directory's own metadata, with its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// From the root of the tree; a directory's ends with a slash.
    pub path: Vec<u8>,
    /// What the checksum was made from.
    pub sum: Sum,
}

impl Records {
    /// Everything that counted for the answer to a query, by path. Only for queries that were answered before: what is
    /// not known is left out.
    pub fn list(&mut self, query: &Query) -> Vec<Listed> {
        let Some(root) = &mut self.root else {
            return Vec::new();
        };
        let mut listed = if query.is_filtered() {
            match filtered::select(root, &Disk::none(), query) {
                Ok((_, items)) => items
                    .into_iter()
                    .map(|item| Listed {
                        path: relative(&item.shown),
                        sum: item.sum,
                    })
                    .collect(),
                Err(_) => Vec::new(),
            }
        } else {
            plain(root, query).unwrap_or_default()
        };
        listed.sort_by(|a, b| a.path.cmp(&b.path));
        listed
    }
}

fn relative(path: &[u8]) -> Vec<u8> {
    path.strip_prefix(b"/").unwrap_or(path).to_vec()
}

fn plain(root: &mut Dir, query: &Query) -> Result<Vec<Listed>, Miss> {
    let none = Disk::none();
    let asked = fstree::path::rooted(&query.path);
    let asked = fstree::path::bytes(&asked);
    let place = resolve(root, &none, asked, query.follow)?;
    let path = relative(asked);
    let mut listed = Vec::new();
    match find(root, &none, &place.names)? {
        Some(Found::Dir(dir)) => add(dir, &path, &mut listed),
        Some(Found::Other(Node::File { sum } | Node::Symlink { sum, .. })) => {
            listed.extend(sum.map(|sum| Listed { path, sum }));
        }
        Some(Found::Other(Node::Dir(_))) | None => {}
    }
    Ok(listed)
}

fn add(dir: &Dir, path: &[u8], listed: &mut Vec<Listed>) {
    let mut left = vec![(dir, path.to_vec())];
    while let Some((dir, path)) = left.pop() {
        let inside = if path.is_empty() {
            Vec::new()
        } else {
            [&path[..], b"/"].concat()
        };
        if let Some(sum) = dir.header.filter(|_| !inside.is_empty()) {
            listed.push(Listed {
                path: inside.clone(),
                sum,
            });
        }
        for (name, node) in &dir.children {
            let path = [&inside[..], name].concat();
            match node {
                Node::Dir(dir) => left.push((dir, path)),
                Node::File { sum } | Node::Symlink { sum, .. } => {
                    listed.extend(sum.map(|sum| Listed { path, sum }));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Change;

    fn records() -> Records {
        let mut records = Records::new();
        records.insert(b"a", Change::Dir(Sum::of(b"a")));
        records.insert(b"a/b", Change::File(Sum::of(b"b")));
        records.insert(b"c", Change::File(Sum::of(b"c")));
        records
    }

    fn paths(query: &Query) -> Vec<String> {
        let listed = records().list(query).into_iter();
        listed
            .map(|listed| String::from_utf8_lossy(&listed.path).into_owned())
            .collect()
    }

    #[test]
    fn a_directory_is_listed_with_everything_below() {
        assert_eq!(paths(&Query::of("/")), ["a/", "a/b", "c"]);
        assert_eq!(paths(&Query::of("/a")), ["a/", "a/b"]);
        assert_eq!(paths(&Query::of("/c")), ["c"]);
        assert!(paths(&Query::of("/x")).is_empty());
    }

    #[test]
    fn only_what_a_filter_lets_through_is_listed() {
        let mut query = Query::of("/");
        query.exclude = vec!["a".to_owned()];
        assert_eq!(paths(&query), ["c"]);
        query.exclude.clear();
        query.path = "/*".to_owned();
        query.wildcard = true;
        let shown = paths(&query);
        assert!(shown.contains(&"a/b".to_owned()) && shown.contains(&"c".to_owned()));
    }
}
