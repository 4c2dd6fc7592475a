//! What a token is good for: sets of `type:name:action,action`.

use std::collections::{BTreeMap, BTreeSet};

/// Scopes, merged by type and name. They print sorted, so equal sets have equal texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// Reads scopes; a text may hold several, separated by blanks.
    pub(crate) fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scopes = Self::default();
        for text in texts.into_iter().flat_map(str::split_whitespace) {
            let last = text.rfind(':');
            let (name, actions) = match last {
                // A name alone, or `type:name`.
                Some(at) if text[..at].contains(':') => (&text[..at], &text[at + 1..]),
                _ => (text, ""),
            };
            let known = scopes.0.entry(name.to_owned()).or_default();
            let actions = actions.split(',').filter(|action| !action.is_empty());
            known.extend(actions.map(str::to_owned));
        }
        scopes
    }

    /// One text per name.
    pub(crate) fn texts(&self) -> Vec<String> {
        let print = |(name, actions): (&String, &BTreeSet<String>)| {
            if actions.is_empty() {
                return name.clone();
            }
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{name}:{}", actions.join(","))
        };
        self.0.iter().map(print).collect()
    }

    /// Both.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (name, actions) in &other.0 {
            let known = all.0.entry(name.clone()).or_default();
            known.extend(actions.iter().cloned());
        }
        all
    }

    /// Whether nothing in `other` is missing here.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|(name, actions)| {
            self.0
                .get(name)
                .is_some_and(|known| known.is_superset(actions))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scopes: &[&str]) -> Vec<String> {
        Scopes::parse(scopes.iter().copied()).texts()
    }

    #[test]
    fn scopes_are_merged_and_sorted() {
        assert_eq!(
            texts(&[
                "repository:my/au:push,pull repository:library/alpine:pull",
                "repository:my/au:pull"
            ]),
            [
                "repository:library/alpine:pull",
                "repository:my/au:pull,push"
            ]
        );
    }

    #[test]
    fn a_port_in_a_name_is_no_action() {
        assert_eq!(
            texts(&["repository:localhost:5000/x:pull"]),
            ["repository:localhost:5000/x:pull"]
        );
        assert_eq!(
            texts(&["registry:catalog:*", "plain"]),
            ["plain", "registry:catalog:*"]
        );
    }

    #[test]
    fn covering_looks_at_names_and_actions() {
        let wide = Scopes::parse(["repository:a:pull,push"]);
        let narrow = Scopes::parse(["repository:a:pull"]);
        assert!(wide.covers(&narrow));
        assert!(!narrow.covers(&wide));
        assert!(!narrow.covers(&Scopes::parse(["repository:b:pull"])));
        assert!(narrow.union(&wide).covers(&wide));
    }
}
