//! "Did you mean": the nearest of the words that would have been right.

use std::fmt;

/// Whether upper and lower case letters are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// They differ.
    Sensitive,
    /// They are the same, and a suggestion takes the case of the word.
    Insensitive,
}

/// A suggestion behind an error text; prints as nothing if there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hint(pub Option<String>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(word) => write!(f, " (did you mean {word}?)"),
            None => Ok(()),
        }
    }
}

/// [`closest`] as a [`Hint`].
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>, case: Case) -> Hint {
    Hint(closest(word, candidates, case))
}

/// The candidate with the smallest edit distance below 3, the first of equals. None if `word` itself is a candidate:
/// then it is not the word that was wrong.
pub fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    case: Case,
) -> Option<String> {
    let folded = fold(word, case);
    let mut best = None;
    let mut limit = 3;
    for candidate in candidates {
        let candidate = fold(candidate, case);
        if candidate == folded {
            return None;
        }
        // The distance is never smaller than the difference in length.
        if candidate.len().abs_diff(folded.len()) >= 4 * limit {
            continue;
        }
        let distance = strsim::levenshtein(&folded, &candidate);
        if distance < limit {
            limit = distance;
            best = Some(candidate);
        }
    }
    let best = best.filter(|best| !best.is_empty())?;
    Some(match case {
        Case::Insensitive if word.to_lowercase() != word && word.to_uppercase() == word => {
            best.to_uppercase()
        }
        _ => best,
    })
}

fn fold(word: &str, case: Case) -> String {
    match case {
        Case::Sensitive => word.to_owned(),
        Case::Insensitive => word.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_wins_and_the_first_of_equals() {
        let near = |word| closest(word, ["run", "copy", "add", "arg"], Case::Sensitive);
        assert_eq!(near("rum").as_deref(), Some("run"));
        assert_eq!(near("agd").as_deref(), Some("add"));
        assert_eq!(near("blahblah"), None);
        assert_eq!(near("run"), None);
    }

    #[test]
    fn a_suggestion_takes_the_case_of_the_word() {
        let near = |word| closest(word, ["RUN", "COPY"], Case::Insensitive);
        assert_eq!(near("RUM").as_deref(), Some("RUN"));
        assert_eq!(near("rum").as_deref(), Some("run"));
        assert_eq!(near("Rum").as_deref(), Some("run"));
        assert_eq!(near("rUn"), None);
    }
}
