//! The checks that need nothing but the parsed file.

use std::collections::HashSet;

use bytestring::ByteString;

use crate::ast::Dockerfile;
use crate::case::{is_lower, is_upper};
use crate::span::Span;

use super::{Lint, Linter};

/// Reports reserved and repeated stage names.
pub fn check_stage_names(file: &Dockerfile, linter: &mut Linter) {
    let mut seen = HashSet::new();
    for stage in &file.stages {
        let Some(name) = stage.name.as_deref() else {
            continue;
        };
        if matches!(name, "context" | "scratch") {
            linter.report(Lint::ReservedStageName { name }, stage.span, &[]);
        }
        if !seen.insert(name) {
            linter.report(Lint::DuplicateStageName { name }, stage.span, &[]);
        }
    }
}

/// Reports instruction words of another case than most of them. Lower case needs a strict majority.
pub fn check_casing(file: &Dockerfile, linter: &mut Linter) {
    let words = || {
        file.stages.iter().flat_map(|stage| {
            let own = std::iter::once((&*stage.keyword, stage.span));
            own.chain(
                stage
                    .instructions
                    .iter()
                    .map(|one| (&*one.keyword, one.span)),
            )
        })
    };
    let (mut lower, mut upper) = (0usize, 0usize);
    for (word, _) in words() {
        if is_lower(word) {
            lower += 1;
        } else if is_upper(word) {
            upper += 1;
        }
    }
    let (casing, fits): (&str, fn(&str) -> bool) = if lower > upper {
        ("lowercase", is_lower)
    } else {
        ("uppercase", is_upper)
    };
    for (keyword, span) in words() {
        if !fits(keyword) {
            linter.report(
                Lint::ConsistentInstructionCasing { keyword, casing },
                span,
                &[],
            );
        }
    }
}

/// Whether a variable of this name looks like it holds a secret.
pub fn is_secret_name(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has = |words: &[&str]| {
        name.split('_')
            .any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)))
    };
    has(&SECRET) && !has(&HARMLESS)
}

/// Reports upper case in a stage name and `as` in another case than `FROM`, given the words of a `FROM` instruction.
pub(crate) fn from_casing(
    keyword: &str,
    args: &[ByteString],
    span: Span,
    comments: &[String],
    linter: &mut Linter,
) {
    if let [_, _, name] = args
        && !is_lower(name)
    {
        linter.report(Lint::StageNameCasing { name }, span, comments);
    }
    if let [_, as_word, _, ..] = args {
        let matches = match (is_lower(keyword), is_upper(keyword)) {
            (true, _) => is_lower(as_word),
            (_, true) => is_upper(as_word),
            // A mixed word is a finding of its own.
            _ => true,
        };
        if !matches {
            linter.report(
                Lint::FromAsCasing {
                    from: keyword,
                    as_word,
                },
                span,
                comments,
            );
        }
    }
}

/// Reports a last comment that describes none of `names`.
pub(crate) fn definition_description(
    keyword: &str,
    names: &[&str],
    span: Span,
    comments: &[String],
    linter: &mut Linter,
) {
    let (Some(comment), Some(first)) = (comments.last(), names.first()) else {
        return;
    };
    let word = comment.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let name = if names.len() > 1 { "<arg_key>" } else { first };
    linter.report(
        Lint::InvalidDefinitionDescription { keyword, name },
        span,
        comments,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_a_whole_part_of_the_name() {
        for name in [
            "API_KEY",
            "key",
            "github_token",
            "AUTH",
            "x_PassWD_y",
            "APIKEY",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in [
            "KEYS",
            "PUBLIC_KEY",
            "TOKEN_FILE",
            "monkey",
            "my-token",
            "SECRET_VERSION",
            "tokens",
            "",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
