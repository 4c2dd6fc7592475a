//! What the machine says about itself in documents about its builds.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use oci::Platform;
use provenance::Environment;
use serde_json::Value;

use crate::DOCKERFILE_VERSION;

/// Where the owner of the machine puts what is to be said, unless the configuration names another place.
const DIRECTORY: &str = "/etc/buildkit/provenance.d";

/// What only the daemon says.
const OURS: [&str; 3] = ["buildConfig", "builderPlatform", "platform"];

/// Reads the files of the directory; one that is not there says nothing.
pub(crate) fn load(directory: Option<&Path>) -> Result<Environment> {
    let directory = directory.filter(|path| !path.as_os_str().is_empty());
    let custom = read(directory.unwrap_or(Path::new(DIRECTORY)))?;
    Ok(Environment {
        platform: Platform::host().normalized().to_string(),
        dockerfile_version: DOCKERFILE_VERSION.to_owned(),
        custom,
    })
}

fn read(directory: &Path) -> Result<BTreeMap<String, Value>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(err) => return Err(err).context(format!("failed to read {}", directory.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "json") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    let mut all = BTreeMap::new();
    for path in files {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let fields: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(&path)?)
            .with_context(|| format!("failed to parse {name}"))?;
        all.extend(fields);
    }
    if let Some(key) = OURS.iter().find(|key| all.contains_key(**key)) {
        bail!("key {key:?} is builtin and not allowed to be modified in provenance config");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_files_win_and_what_is_ours_is_refused() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        assert!(read(&dir.path().join("none")).expect("nothing").is_empty());
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
        };
        write("a.json", r#"{"foo":"old","n":[1,2]}"#);
        write("b.json", r#"{"foo":"bar"}"#);
        write("c.txt", "no JSON");
        let all = read(dir.path()).expect("fields");
        assert_eq!(all["foo"], "bar");
        write("c.json", r#"{"platform":"mine"}"#);
        let refused = read(dir.path()).expect_err("refused").to_string();
        assert_eq!(
            refused,
            "key \"platform\" is builtin and not allowed to be modified in provenance config"
        );
    }
}
