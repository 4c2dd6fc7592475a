//! Licences and duplicate versions of dependencies.

use std::collections::{BTreeMap, BTreeSet};

use crate::metadata::Metadata;
use crate::tidy::Layers;

/// Checks all external crates.
pub(crate) fn check(layers: &Layers, metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata.external() {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
        let (name, version) = (&package.name, &package.version);
        match &package.license {
            None => findings.push(format!("{name} {version} names no licence")),
            Some(licence) if !accepts(licence, &layers.licences.allowed) => {
                findings.push(format!(
                    "{name} {version} has licence {licence}, which is not on the list"
                ));
            }
            Some(_) => {}
        }
    }
    for (name, versions) in &versions {
        if versions.len() > 1 && !layers.duplicates.contains_key(*name) {
            let versions: Vec<&str> = versions.iter().copied().collect();
            findings.push(format!(
                "{name} stands in the tree as {}",
                versions.join(" and ")
            ));
        }
    }
    for name in layers.duplicates.keys() {
        if versions
            .get(name.as_str())
            .is_none_or(|versions| versions.len() < 2)
        {
            findings.push(format!(
                "layers.toml accepts several versions of {name}, but there are none"
            ));
        }
    }
    findings
}

/// Whether an SPDX expression can be met: one side of each OR, both of each AND.
fn accepts(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression.split(" AND ").all(|all| {
        all.split(" OR ").any(|licence| {
            let licence = licence.split_whitespace().collect::<Vec<_>>().join(" ");
            allowed.contains(&licence)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_met_by_one_side_of_each_or() {
        let allowed = BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()]);
        assert!(accepts("MIT OR GPL-3.0", &allowed));
        assert!(accepts("GPL-3.0/MIT", &allowed));
        assert!(accepts("(MIT OR Apache-2.0) AND ISC", &allowed));
        assert!(!accepts("MIT AND GPL-3.0", &allowed));
    }
}
