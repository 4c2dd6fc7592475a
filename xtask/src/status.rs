//! `docs/status.md` names every feature once and says how far it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Chapters of the feature inventory and how many features each has.
const CHAPTERS: [(&str, u32); 33] = [
    ("A", 19),
    ("B", 27),
    ("C", 13),
    ("D", 31),
    ("E", 23),
    ("F", 19),
    ("G", 15),
    ("H", 16),
    ("I", 4),
    ("J", 26),
    ("K", 25),
    ("L", 32),
    ("M", 17),
    ("N", 17),
    ("O", 13),
    ("P", 21),
    ("Q", 13),
    ("R", 8),
    ("S", 21),
    ("T", 36),
    ("U", 23),
    ("V", 37),
    ("W", 15),
    ("X", 8),
    ("Y", 8),
    ("Z", 9),
    ("AA", 10),
    ("AB", 8),
    ("AC", 7),
    ("AD", 5),
    ("AE", 9),
    ("AF", 10),
    ("AG", 7),
];

/// What may stand in the second column.
const STATES: [&str; 3] = ["works", "partly", "not yet"];

/// Checks the table: `| ID | state | what is missing |`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(root.join("docs/status.md")).context("failed to read docs/status.md")?;
    Ok(findings(&text))
}

fn findings(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut findings = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, state, note, ..] = cells.as_slice() else {
            continue;
        };
        if !is_id(id) {
            continue;
        }
        *seen.entry((*id).to_owned()).or_default() += 1;
        if !STATES.contains(state) {
            findings.push(format!(
                "docs/status.md: {id} is {state:?}, not one of {STATES:?}"
            ));
        }
        if *state == "partly" && note.is_empty() {
            findings.push(format!("docs/status.md: {id} does not say what is missing"));
        }
    }
    for (chapter, count) in CHAPTERS {
        for number in 1..=count {
            let id = format!("{chapter}{number:02}");
            match seen.remove(&id) {
                Some(1) => {}
                Some(times) => {
                    findings.push(format!("docs/status.md: {id} stands there {times} times"))
                }
                None => findings.push(format!("docs/status.md: {id} is missing")),
            }
        }
    }
    findings.extend(
        seen.keys()
            .map(|id| format!("docs/status.md: there is no feature {id}")),
    );
    findings
}

fn is_id(text: &str) -> bool {
    let letters = text.trim_end_matches(|c: char| c.is_ascii_digit());
    text.len() - letters.len() == 2
        && (1..=2).contains(&letters.len())
        && letters.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_state_and_a_missing_feature_are_found() {
        let findings = findings("| A01 | nearly | |\n| A02 | partly | |\n");
        assert!(findings.iter().any(|it| it.contains("A01 is \"nearly\"")));
        assert!(findings.iter().any(|it| it.contains("A02 does not say")));
        assert!(findings.iter().any(|it| it.contains("A03 is missing")));
    }
}
