//! Questions to a frontend (`--opt requestid=…`), and its answers on standard output.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use client::Build;

/// Whether the build is a question. One that a frontend must understand says so.
pub(crate) fn is_question(build: &mut Build) -> bool {
    let asks = !build.frontend.is_empty() && build.attrs.contains_key("requestid");
    if asks {
        build
            .attrs
            .entry("frontend.caps".to_owned())
            .or_insert_with(|| "moby.buildkit.frontend.subrequests".to_owned());
    }
    asks
}

/// Prints what is meant for people; without that, everything the frontend answered.
pub(crate) fn print(metadata: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    shown(metadata)
        .iter()
        .try_for_each(|part| out.write_all(part))
        .and_then(|()| out.flush())
        .context("failed to print the answer")
}

fn shown(metadata: &BTreeMap<String, Vec<u8>>) -> Vec<&[u8]> {
    if let Some(text) = metadata.get("result.txt") {
        return vec![text];
    }
    metadata
        .iter()
        .filter(|(key, _)| key.starts_with("result."))
        .flat_map(|(key, value)| [key.as_bytes(), b"\n", value, b"\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(metadata: &[(&str, &str)]) -> String {
        let metadata = metadata
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect();
        String::from_utf8(shown(&metadata).concat()).expect("text")
    }

    #[test]
    fn the_text_for_people_is_all_that_is_printed() {
        let answer = [
            ("result.json", "{}"),
            ("result.txt", "hello\n"),
            ("version", "1.0.0"),
        ];
        assert_eq!(printed(&answer), "hello\n");
    }

    #[test]
    fn without_such_a_text_every_result_is_printed_with_its_name() {
        let answer = [
            ("result.json", "{}"),
            ("version", "1.0.0"),
            ("result.a", "b"),
        ];
        assert_eq!(printed(&answer), "result.a\nb\nresult.json\n{}\n");
    }

    #[test]
    fn a_question_names_the_capability_it_needs() {
        let mut build = Build::frontend("dockerfile.v0");
        assert!(!is_question(&mut build));
        let mut build = build.attr("requestid", "frontend.outline");
        assert!(is_question(&mut build));
        assert_eq!(
            build.attrs["frontend.caps"],
            "moby.buildkit.frontend.subrequests"
        );
        let mut build = build.attr("frontend.caps", "other");
        assert!(is_question(&mut build));
        assert_eq!(build.attrs["frontend.caps"], "other");
    }
}
