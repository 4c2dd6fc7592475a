//! From what the user typed to what the client library takes.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use client::{CacheOption, Destination, Output, SecretSource};

use crate::{csv, exporters};

/// `KEY=VALUE` options; the last one of a key wins. A build argument without a value takes that of the environment.
pub(crate) fn opts(options: &[String]) -> Result<BTreeMap<String, String>> {
    let mut attrs = BTreeMap::new();
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => {
                attrs.insert(key.to_owned(), value.to_owned());
            }
            None => match option.strip_prefix("build-arg:") {
                Some(name) => {
                    if let Ok(value) = std::env::var(name) {
                        attrs.insert(option.clone(), value);
                    }
                }
                None => bail!("invalid value {option}: expected KEY=VALUE"),
            },
        }
    }
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        attrs
            .entry("build-arg:SOURCE_DATE_EPOCH".to_owned())
            .or_insert(epoch);
    }
    Ok(attrs)
}

/// `NAME=DIR` options.
pub(crate) fn locals(options: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    options
        .iter()
        .map(|option| match option.split_once('=') {
            Some((name, dir)) => Ok((name.to_owned(), PathBuf::from(dir))),
            None => bail!("invalid value {option}: expected NAME=DIRECTORY"),
        })
        .collect()
}

/// One `--output`.
pub(crate) fn output(option: &str) -> Result<Output> {
    let mut attrs: BTreeMap<String, String> = csv::pairs(option)?.into_iter().collect();
    let Some(kind) = attrs.remove("type").filter(|kind| !kind.is_empty()) else {
        bail!("--output requires type=<type>");
    };
    if let Some(value) = attrs.get("output") {
        bail!("output={value} not supported for --output, you meant dest={value}?");
    }
    let dest = attrs.remove("dest");
    for warning in exporters::unknown(&kind, &attrs) {
        eprintln!("warning: {warning}");
    }
    let destination = destination(&kind, dest, &attrs).context("invalid output option: output")?;
    Ok(Output {
        kind,
        attrs,
        destination,
    })
}

fn destination(
    kind: &str,
    dest: Option<String>,
    attrs: &BTreeMap<String, String>,
) -> Result<Destination> {
    let dest = dest.filter(|dest| !dest.is_empty());
    let as_tar = !matches!(
        attrs.get("tar").map(String::as_str),
        Some("false" | "0" | "f" | "F" | "FALSE" | "False")
    );
    let (file, directory) = match kind {
        "local" => (false, true),
        "tar" => (true, false),
        "oci" | "docker" => (as_tar, !as_tar),
        _ => (false, false),
    };
    match (file, directory, dest) {
        (_, true, Some(dir)) => Ok(Destination::Directory(dir.into())),
        (_, true, None) => bail!("output directory is required for {kind} exporter"),
        (true, _, Some(dest)) if dest != "-" => {
            if Path::new(&dest).is_dir() {
                bail!("destination file is a directory: {dest}");
            }
            Ok(Destination::File(dest.into()))
        }
        (true, ..) => {
            if std::io::stdout().is_terminal() {
                bail!("output file is required for {kind} exporter. refusing to write to console");
            }
            Ok(Destination::Stdout)
        }
        (false, false, Some(dest)) => bail!("output {dest} is not supported by {kind} exporter"),
        (false, false, None) => Ok(Destination::None),
    }
}

/// One `--export-cache` or `--import-cache`; `flag` names it in errors.
pub(crate) fn cache(flag: &str, option: &str) -> Result<CacheOption> {
    // Compat: whatever names no type is a ref, whatever else it looks like.
    if !option.contains("type=") {
        eprintln!("{flag} {option} is deprecated, use {flag} type=registry,ref={option}");
        return Ok(CacheOption {
            kind: "registry".to_owned(),
            attrs: BTreeMap::from([("ref".to_owned(), option.to_owned())]),
        });
    }
    let mut attrs: BTreeMap<String, String> = csv::pairs(option)?.into_iter().collect();
    let Some(kind) = attrs.remove("type").filter(|kind| !kind.is_empty()) else {
        bail!("{flag} requires type=<type>");
    };
    if kind == "gha" {
        crate::workflow::fill(&mut attrs, |name| std::env::var(name).ok())?;
    }
    Ok(CacheOption { kind, attrs })
}

/// One `--secret`.
pub(crate) fn secret(option: &str) -> Result<(String, SecretSource)> {
    let (mut id, mut file, mut env, mut kind) = (String::new(), None, None, None);
    for field in csv::fields(option)? {
        let Some((key, value)) = field.split_once('=') else {
            bail!("invalid field '{field}' must be a key=value pair");
        };
        match key.to_lowercase().as_str() {
            "type" if value != "file" && value != "env" => {
                bail!("unsupported secret type {value:?}")
            }
            "type" => kind = Some(value.to_owned()),
            "id" => id = value.to_owned(),
            "source" | "src" => file = Some(value.to_owned()),
            "env" => env = Some(value.to_owned()),
            other => bail!("unexpected key '{other}' in '{field}'"),
        }
    }
    if id.is_empty() {
        bail!("secret missing ID");
    }
    let source = match (kind.as_deref(), file, env) {
        (Some("env"), Some(name), None) | (_, None, Some(name)) => SecretSource::Env(name),
        (_, Some(path), _) => SecretSource::File(path.into()),
        (_, None, None) if std::env::var_os(&id).is_some() => SecretSource::Env(id.clone()),
        (_, None, None) => SecretSource::File(PathBuf::from(&id)),
    };
    if let SecretSource::File(path) = &source {
        let meta = std::fs::metadata(path)
            .with_context(|| format!("failed to stat {}", path.display()))?;
        if meta.len() > 500 << 10 {
            bail!("secret {id} too big. max size 500KiB");
        }
    }
    Ok((id, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_have_a_type_and_a_place() {
        let local = output("type=local,dest=out").expect("valid");
        assert_eq!(local.destination, Destination::Directory("out".into()));
        let oci = output("type=oci,dest=x.tar,name=a").expect("valid");
        assert_eq!(oci.destination, Destination::File("x.tar".into()));
        assert_eq!(oci.attrs["name"], "a");
        for (wrong, text) in [
            ("dest=x", "--output requires type=<type>"),
            (
                "type=local",
                "invalid output option: output: output directory is required for local exporter",
            ),
            (
                "type=local,output=x",
                "output=x not supported for --output, you meant dest=x?",
            ),
            (
                "type=image,dest=x",
                "invalid output option: output: output x is not supported by image exporter",
            ),
        ] {
            assert_eq!(format!("{:#}", output(wrong).expect_err(wrong)), text);
        }
        let unknown = output("type=image,psuh=true").expect("it may mean something to the daemon");
        assert_eq!(unknown.attrs["psuh"], "true");
    }

    #[test]
    fn a_cache_without_a_type_is_a_ref() {
        for text in [
            "a.b/c:d",
            "ref=x",
            "mode=max",
            "TYPE=registry,REF=a.b/c",
            "\"",
        ] {
            let option = cache("--import-cache", text).expect("a ref");
            assert_eq!(option.kind, "registry");
            let attrs = BTreeMap::from([("ref".to_owned(), text.to_owned())]);
            assert_eq!(option.attrs, attrs);
        }
        let option = cache("--import-cache", "Type=local,subtype=x,SRC=y").expect("has a type");
        assert_eq!(
            (option.kind.as_str(), &*option.attrs["src"]),
            ("local", "y")
        );
        let err = cache("--export-cache", "type=,ref=x").expect_err("no type");
        assert_eq!(err.to_string(), "--export-cache requires type=<type>");
    }

    #[test]
    fn the_last_option_of_a_key_wins() {
        let attrs = opts(&[
            "a=1".into(),
            "a=2=3".into(),
            "build-arg:SURELY_NOT_SET".into(),
        ])
        .expect("valid");
        assert_eq!(attrs["a"], "2=3");
        assert!(!attrs.contains_key("build-arg:SURELY_NOT_SET"));
        assert!(opts(&["a".into()]).is_err());
    }

    #[test]
    fn secrets_name_their_source() {
        let (id, source) = secret("id=a,env=B").expect("valid");
        assert_eq!((id.as_str(), source), ("a", SecretSource::Env("B".into())));
        assert!(secret("id=a,colour=red").is_err());
        assert!(secret("id=a,src=/surely/not/there").is_err());
    }
}
