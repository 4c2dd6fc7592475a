//! What is checked of every entry before anything is done with it.

use std::collections::HashSet;

use fstree::{Kind, path};
use proto::fsutil::Stat;

use crate::{Error, stat};

/// Checks one listing.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// Directories above the last entry, each with the name that was last seen in it; the root is not among them.
    dirs: Vec<(String, String)>,
    last_in_root: String,
    last: String,
    /// Paths that hard links may name.
    files: HashSet<Box<str>>,
}

impl Checker {
    /// Says whether the entry may come now.
    pub fn check(&mut self, stat: &Stat) -> Result<(), Error> {
        let at = &stat.path;
        check_path(at)?;
        let (parent, name) = at.rsplit_once('/').unwrap_or(("", at));
        while self.dirs.last().is_some_and(|(dir, _)| dir != parent) {
            self.dirs.pop();
        }
        let before = match self.dirs.last_mut() {
            Some((_, before)) => before,
            None if parent.is_empty() => &mut self.last_in_root,
            None => return Err(self.out_of_order(at)),
        };
        if name.as_bytes() <= before.as_bytes() {
            return Err(self.out_of_order(at));
        }
        name.clone_into(before);
        at.clone_into(&mut self.last);
        if stat::is_hard_link(stat) {
            if !self.files.contains(stat.linkname.as_str()) {
                return Err(Error::Link {
                    path: at.clone(),
                    target: stat.linkname.clone(),
                });
            }
            return Ok(());
        }
        match stat::kind(stat) {
            Kind::Dir => self.dirs.push((at.clone(), String::new())),
            Kind::Symlink => {}
            _ => {
                self.files.insert(at.as_str().into());
            }
        }
        Ok(())
    }

    fn out_of_order(&self, path: &str) -> Error {
        Error::Order {
            path: path.to_owned(),
            last: self.last.clone(),
        }
    }
}

fn check_path(at: &str) -> Result<(), Error> {
    let path = at.to_owned();
    if path::clean_str(at) != at || at.contains('\0') || at == "." {
        return Err(Error::Unclean { path });
    }
    if at.starts_with('/') {
        return Err(Error::Absolute { path });
    }
    // A clean path can only climb at its beginning.
    if at == ".." || at.starts_with("../") {
        return Err(Error::Escape { path });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: u32 = 1 << 31 | 0o755;
    const FILE: u32 = 0o644;

    fn check(entries: &[(&str, u32, &str)]) -> String {
        let mut checker = Checker::default();
        for (path, mode, linkname) in entries {
            let stat = Stat {
                path: (*path).to_owned(),
                mode: *mode,
                linkname: (*linkname).to_owned(),
                ..Stat::default()
            };
            if let Err(err) = checker.check(&stat) {
                return err.to_string();
            }
        }
        String::new()
    }

    #[test]
    fn a_sorted_listing_passes() {
        let listing = [
            ("foo", DIR, ""),
            ("foo/x", FILE, ""),
            ("foo/y", FILE, "foo/x"),
            ("foo-bar", FILE, ""),
            ("foo.txt", FILE, "foo/x"),
        ];
        assert_eq!(check(&listing), "");
    }

    #[test]
    fn paths_must_be_clean_and_stay_inside() {
        assert_eq!(
            check(&[("a//b", FILE, "")]),
            "unclean path a//b: invalid argument"
        );
        assert_eq!(check(&[(".", DIR, "")]), "unclean path .: invalid argument");
        assert_eq!(
            check(&[("/a", FILE, "")]),
            "absolute path /a: invalid argument"
        );
        assert_eq!(
            check(&[("../a", FILE, "")]),
            "escape check ../a: invalid argument"
        );
        assert_eq!(
            check(&[("..", DIR, "")]),
            "escape check ..: invalid argument"
        );
    }

    #[test]
    fn order_is_checked_within_each_directory() {
        assert_eq!(
            check(&[("b", FILE, ""), ("a", FILE, "")]),
            "changes out of order: \"a\" \"b\""
        );
        assert_eq!(
            check(&[("a", FILE, ""), ("a", FILE, "")]),
            "changes out of order: \"a\" \"a\""
        );
    }

    #[test]
    fn nothing_lies_below_what_is_no_directory() {
        assert_eq!(
            check(&[("a", FILE, ""), ("a/b", FILE, "")]),
            "changes out of order: \"a/b\" \"a\""
        );
        let link = 1 << 27 | 0o777;
        assert_eq!(
            check(&[("a", link, "/etc"), ("a/passwd", FILE, "")]),
            "changes out of order: \"a/passwd\" \"a\""
        );
        assert_eq!(
            check(&[("a", DIR, ""), ("b", DIR, ""), ("a/x", FILE, "")]),
            "changes out of order: \"a/x\" \"b\""
        );
    }

    #[test]
    fn a_hard_link_names_an_earlier_file() {
        assert_eq!(
            check(&[("b", FILE, "/etc/passwd")]),
            "invalid link b to unknown path: \"/etc/passwd\""
        );
        assert_eq!(
            check(&[("a", DIR, ""), ("b", FILE, "a")]),
            "invalid link b to unknown path: \"a\""
        );
    }
}
