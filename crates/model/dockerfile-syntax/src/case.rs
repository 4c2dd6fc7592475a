//! Letters of any case, for words that nearly always have the right one.

use std::borrow::Cow;

/// The word in lower case.
pub fn lower(word: &str) -> Cow<'_, str> {
    if is_lower(word) {
        word.into()
    } else {
        word.to_lowercase().into()
    }
}

/// Whether the word is in lower case.
pub(crate) fn is_lower(word: &str) -> bool {
    if word.is_ascii() {
        !word.bytes().any(|byte| byte.is_ascii_uppercase())
    } else {
        word.to_lowercase() == word
    }
}

/// Whether the word is in upper case.
pub(crate) fn is_upper(word: &str) -> bool {
    if word.is_ascii() {
        !word.bytes().any(|byte| byte.is_ascii_lowercase())
    } else {
        word.to_uppercase() == word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_right_case_are_not_copied() {
        for (word, wanted, same) in [
            ("a1-b", "a1-b", true),
            ("", "", true),
            ("é", "é", true),
            ("Ab", "ab", false),
            ("É", "é", false),
        ] {
            let lower = lower(word);
            assert_eq!(lower, wanted);
            assert_eq!(matches!(lower, Cow::Borrowed(_)), same, "{word}");
        }
    }
}
