//! The rules of the house that the compiler does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::metadata::{Metadata, Package};

/// Lines of code a file may have, tests not counted.
const MAX_LINES: usize = 500;
/// Names that hide a concept without a name.
const EMPTY_NAMES: [&str; 6] = ["util", "utils", "helper", "helpers", "common", "misc"];

/// `layers.toml`.
#[derive(Debug, Deserialize)]
pub(crate) struct Layers {
    ranks: BTreeMap<String, u32>,
    families: Families,
    r#unsafe: Unsafe,
    pub(crate) licences: Licences,
    #[serde(default)]
    pub(crate) duplicates: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Families {
    folders: BTreeSet<String>,
    contracts: BTreeSet<String>,
    may_name_implementations: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Unsafe {
    crates: BTreeSet<String>,
}

/// Licences we accept.
#[derive(Debug, Deserialize)]
pub(crate) struct Licences {
    pub(crate) allowed: BTreeSet<String>,
}

impl Layers {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(root.join("layers.toml")).context("failed to read layers.toml")?;
        toml::from_str(&text).context("failed to parse layers.toml")
    }
}

/// Checks everything and prints each finding.
pub(crate) fn run(root: &Path) -> Result<()> {
    let layers = Layers::load(root)?;
    let metadata = Metadata::load(root)?;
    let mut findings = ranks(root, &layers, &metadata);
    for file in source_files(root)? {
        let text = fs::read_to_string(&file)?;
        let shown = file.strip_prefix(root).unwrap_or(&file);
        findings.extend(check_file(shown, &text, &layers));
    }
    findings.extend(crate::status::check(root)?);
    findings.extend(crate::licences::check(&layers, &metadata));
    for finding in &findings {
        println!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    println!("tidy: nothing to say");
    Ok(())
}

/// The folder of a workspace crate: `crates/FOLDER/NAME`.
fn folder(root: &Path, package: &Package) -> Option<String> {
    let path = Path::new(&package.manifest_path)
        .strip_prefix(root.join("crates"))
        .ok()?;
    Some(
        path.components()
            .next()?
            .as_os_str()
            .to_string_lossy()
            .into_owned(),
    )
}

fn ranks(root: &Path, layers: &Layers, metadata: &Metadata) -> Vec<String> {
    let folders: BTreeMap<&str, String> = metadata
        .workspace()
        .filter_map(|package| Some((package.name.as_str(), folder(root, package)?)))
        .collect();
    let mut findings = Vec::new();
    for package in metadata.workspace() {
        let Some(own) = folders.get(package.name.as_str()) else {
            continue;
        };
        let Some(rank) = layers.ranks.get(own) else {
            findings.push(format!("folder crates/{own} has no rank in layers.toml"));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(other) = folders.get(dependency.name.as_str()) else {
                continue;
            };
            let name = &package.name;
            let lower = layers.ranks.get(other).is_some_and(|other| other < rank);
            if own != other && !lower {
                findings.push(format!(
                    "{name} ({own}) must not depend on {} ({other})",
                    dependency.name
                ));
            }
            let implementation = layers.families.folders.contains(other)
                && !layers.families.contracts.contains(&dependency.name)
                && dependency.kind.is_none();
            if implementation && !layers.families.may_name_implementations.contains(name) {
                findings.push(format!(
                    "{name} names an implementation: {}",
                    dependency.name
                ));
            }
        }
    }
    findings
}

fn source_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> = ["crates", "testing", "xtask"]
        .iter()
        .map(|dir| root.join(dir))
        .collect();
    while let Some(dir) = dirs.pop() {
        for entry in
            fs::read_dir(&dir).with_context(|| format!("failed to list {}", dir.display()))?
        {
            let path = entry?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !["gen", "target", "vectors"].contains(&name.as_str()) {
                    dirs.push(path);
                }
            } else if name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn check_file(path: &Path, text: &str, layers: &Layers) -> Vec<String> {
    let shown = path.display();
    let mut findings = Vec::new();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    // Cargo takes every other file in tests/ for a test of its own.
    if stem == "mod" && !in_tests {
        findings.push(format!("{shown}: write foo.rs beside foo/, not foo/mod.rs"));
    }
    if EMPTY_NAMES.contains(&&*stem) {
        findings.push(format!("{shown}: {stem:?} names nothing"));
    }
    if !text.trim_start().starts_with("//!") {
        findings.push(format!(
            "{shown}: the first line says what the file is for (//!)"
        ));
    }
    let lines = code_lines(path, text);
    if lines > MAX_LINES {
        findings.push(format!(
            "{shown}: {lines} lines of code, {MAX_LINES} at most"
        ));
    }
    let allows = ["#![allow(unsafe_code", "#[allow(unsafe_code"];
    let own = path.starts_with("xtask");
    if !own && allows.iter().any(|allow| text.contains(allow)) {
        let owner = path
            .components()
            .nth(2)
            .map(|part| part.as_os_str().to_string_lossy().into_owned());
        if !owner.is_some_and(|owner| layers.r#unsafe.crates.contains(&owner)) {
            findings.push(format!("{shown}: unsafe code is not allowed in this crate"));
        }
    }
    findings
}

/// Lines before the tests; files of tests have none.
fn code_lines(path: &Path, text: &str) -> usize {
    let in_tests = path.components().any(|part| part.as_os_str() == "tests");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    if in_tests || stem == "tests" || stem.ends_with("_tests") {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| {
            pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{')
        })
        .unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_do_not_count_as_code() {
        let text = "//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(code_lines(Path::new("crates/a/b/src/c.rs"), text), 2);
        assert_eq!(code_lines(Path::new("crates/a/b/tests/c.rs"), text), 0);
    }
}
