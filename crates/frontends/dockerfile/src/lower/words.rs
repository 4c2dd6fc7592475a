//! Expansion of words, with the lint that goes with it, and paths of contexts.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bytestring::ByteString;
use dockerfile_syntax::Instruction;
use dockerfile_syntax::lint::Lint;
use dockerfile_syntax::shell::{Env as Lookup, Lex};
use dockerfile_syntax::suggest::{Case, closest};
use llb::build::Env;

use super::Lower;
use crate::error::Result;

/// Arguments that never become variables.
pub(super) const NO_VARIABLES: [&str; 2] =
    ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Variables as words look them up.
pub(super) struct Vars<'a>(pub(super) &'a Env);

impl Lookup for Vars<'_> {
    fn get(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.get(name).map(Cow::Borrowed)
    }
}

impl Lower<'_> {
    /// Expands a word of an instruction with the variables of its stage.
    pub(super) fn expand<'w>(
        &mut self,
        at: usize,
        instruction: &Instruction,
        word: &'w str,
    ) -> Result<Cow<'w, str>> {
        if self.lex.leaves_alone(word) {
            return Ok(word.into());
        }
        let expanded = self.expand_with(self.lex, at, instruction, word);
        Ok(expanded?.into())
    }

    pub(super) fn expand_all<'w>(
        &mut self,
        at: usize,
        instruction: &Instruction,
        words: &'w [ByteString],
    ) -> Result<Vec<Cow<'w, str>>> {
        words
            .iter()
            .map(|word| self.expand(at, instruction, word))
            .collect()
    }

    pub(super) fn expand_with(
        &mut self,
        lex: Lex,
        at: usize,
        instruction: &Instruction,
        word: &str,
    ) -> Result<String> {
        let expanded = lex.expand(word, &Vars(self.records[at].state.env_list()));
        let unset = match &expanded {
            Ok((_, unmatched)) => unmatched,
            Err(err) => &err.unmatched,
        };
        for name in unset {
            let record = &self.records[at];
            let known = record.args.iter().any(|arg| *arg.name == **name);
            if known || NO_VARIABLES.contains(&name.as_str()) {
                continue;
            }
            let names = record.state.env_list().iter().map(|(name, _)| name);
            let suggestion = closest(name, names, Case::Sensitive);
            let lint = Lint::UndefinedVar {
                name,
                suggestion: suggestion.as_deref(),
            };
            self.linter
                .report(lint, instruction.span, &instruction.comments);
        }
        Ok(expanded?.0)
    }
}

/// Adds a path that is used.
pub(super) fn note_path(used: &mut BTreeSet<String>, path: Cow<'_, str>) {
    if !used.contains(&*path) {
        used.insert(path.into_owned());
    }
}

/// The paths to follow in a directory of the client; none: all of it.
pub(super) fn follow_paths(used: &BTreeSet<String>) -> Vec<String> {
    if used.contains("/") {
        return Vec::new();
    }
    let mut paths: Vec<String> = used
        .iter()
        .map(|path| crate::paths::clean(path.strip_prefix('/').unwrap_or(path)).into_owned())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_means_everything() {
        let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect();
        assert!(follow_paths(&set(&["/", "/a"])).is_empty());
        assert_eq!(follow_paths(&set(&["/b", "/a/*"])), ["a/*", "b"]);
    }
}
