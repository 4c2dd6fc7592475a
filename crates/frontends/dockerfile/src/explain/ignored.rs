//! Which line of an ignore file takes a path away.

use fstree::Patterns;

/// The rules of an ignore file with the lines they stand on.
#[derive(Default)]
pub(super) struct Rules(Vec<Rule>);

/// One of them.
pub(super) struct Rule {
    pub(super) line: usize,
    /// As written.
    pub(super) text: String,
    pattern: Patterns,
    brings_back: bool,
}

impl Rules {
    /// Lines nobody can read are left out: the build would not have come this far with one.
    pub(super) fn read(file: &[u8]) -> Self {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let lines = file.split(|&byte| byte == b'\n').enumerate();
        let rules = lines.filter_map(|(number, line)| {
            let patterns = fstree::ignore::parse(line).ok()?;
            let [pattern] = patterns.as_slice() else {
                return None;
            };
            let plain = pattern.strip_prefix('!');
            Some(Rule {
                line: number + 1,
                text: String::from_utf8_lossy(line).trim().to_owned(),
                pattern: Patterns::new(&[plain.unwrap_or(pattern)]).ok()?,
                brings_back: plain.is_some(),
            })
        });
        Self(rules.collect())
    }

    /// The rule that decides that `path` is left out.
    pub(super) fn excluding(&self, path: &str) -> Option<&Rule> {
        let path = path.trim_start_matches('/').as_bytes();
        let mut deciding: Option<&Rule> = None;
        for rule in &self.0 {
            // A rule matters only where it changes something.
            if deciding.is_some() == rule.brings_back && rule.pattern.matches(path) {
                deciding = (!rule.brings_back).then_some(rule);
            }
        }
        deciding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(file: &str, path: &str) -> Option<(usize, String)> {
        let rules = Rules::read(file.as_bytes());
        let rule = rules.excluding(path)?;
        Some((rule.line, rule.text.clone()))
    }

    #[test]
    fn the_rule_that_decides_is_named_with_its_line() {
        let file = "\u{feff}# logs\n\n *.log \n!keep.log\nkeep.log\ndir/\n";
        assert_eq!(line(file, "/a.log"), Some((3, "*.log".to_owned())));
        assert_eq!(line(file, "/keep.log"), Some((5, "keep.log".to_owned())));
        assert_eq!(line(file, "/dir/a/b"), Some((6, "dir/".to_owned())));
        assert_eq!(line(file, "/dir2"), None);
    }

    #[test]
    fn what_is_brought_back_is_not_left_out() {
        assert_eq!(line("*\n!a", "/a"), None);
        assert_eq!(line("*\n!a", "/b"), Some((1, "*".to_owned())));
        assert_eq!(line("!a\na", "/a"), Some((2, "a".to_owned())));
    }
}
