//! From what the user typed to what the client library takes.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use client::{CacheOption, Destination, Output, SecretSource};
use fstree::errno_text;

use crate::{csv, exporters, places};

/// `KEY=VALUE` options; the last one of a key wins. A build argument without a value takes that of the environment.
pub(crate) fn opts(options: &[String]) -> Result<BTreeMap<String, String>> {
    let mut attrs = BTreeMap::new();
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => {
                attrs.insert(key.to_owned(), value.to_owned());
            }
            None => match option.strip_prefix("build-arg:") {
                Some(name) if !name.is_empty() => {
                    if let Ok(value) = std::env::var(name) {
                        attrs.insert(option.clone(), value);
                    }
                }
                _ => bail!("invalid value {option}"),
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

/// One `--allow`.
pub(crate) fn entitlement(option: &str) -> Result<String> {
    match option.split_once('=').unwrap_or((option, "")) {
        ("device", "") => {}
        ("device", device) => {
            for field in csv::fields(device)?.iter().skip(1) {
                match field.split_once('=') {
                    Some(("alias", _)) => {}
                    Some((key, _)) => bail!("unknown device config key {key:?}"),
                    None => bail!("invalid device config {field:?}"),
                }
            }
        }
        _ if matches!(option, "security.insecure" | "network.host") => {}
        _ => bail!("unknown entitlement {option}"),
    }
    Ok(option.to_owned())
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
            places::file(&dest)?;
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
    let completed = |mut attrs: BTreeMap<String, String>| {
        if flag == "--export-cache" {
            attrs.entry("mode".to_owned()).or_insert("min".to_owned());
        }
        attrs
    };
    if !option.contains("type=") {
        eprintln!("warning: {}", deprecated(flag));
        return Ok(CacheOption {
            kind: "registry".to_owned(),
            attrs: completed(BTreeMap::from([("ref".to_owned(), option.to_owned())])),
        });
    }
    let mut attrs: BTreeMap<String, String> = csv::pairs(option)?.into_iter().collect();
    let Some(kind) = attrs.remove("type").filter(|kind| !kind.is_empty()) else {
        bail!("{flag} requires type=<type>");
    };
    attrs = completed(attrs);
    if kind == "gha" {
        crate::workflow::fill(&mut attrs, |name| std::env::var(name).ok())?;
    }
    Ok(CacheOption { kind, attrs })
}

/// What to say of a ref without a type. Compat: only one of the two is a sentence.
fn deprecated(flag: &str) -> String {
    let end = if flag == "--import-cache" { "." } else { "" };
    format!(
        "{flag} <ref> is deprecated. \
         Please use {flag} type=registry,ref=<ref>,<opt>=<optval>[,<opt>=<optval>] instead{end}"
    )
}

/// One `--secret`.
pub(crate) fn secret(option: &str) -> Result<(String, SecretSource)> {
    let (mut id, mut file, mut env, mut kind) = (String::new(), None, None, None);
    for field in csv::fields(option).context("failed to parse csv secret")? {
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
    let given = |value: Option<String>| value.filter(|value| !value.is_empty());
    let source = match (kind.as_deref(), given(file), given(env)) {
        (Some("env"), Some(name), None) | (_, None, Some(name)) => SecretSource::Env(name),
        (_, Some(path), _) => SecretSource::File(path.into()),
        (_, None, None) if std::env::var_os(&id).is_some() => SecretSource::Env(id.clone()),
        (_, None, None) => SecretSource::File(PathBuf::from(&id)),
    };
    if let SecretSource::File(path) = &source {
        let shown = path.display();
        let meta = std::fs::metadata(path)
            .map_err(|err| anyhow!("failed to stat {shown}: stat {shown}: {}", errno_text(&err)))?;
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
        for text in ["a.b/c", "type=registry,ref=a.b/c"] {
            let option = cache("--export-cache", text).expect("a cache");
            assert_eq!(option.attrs["mode"], "min");
        }
        assert_eq!(
            deprecated("--export-cache"),
            "--export-cache <ref> is deprecated. Please use \
             --export-cache type=registry,ref=<ref>,<opt>=<optval>[,<opt>=<optval>] instead"
        );
        assert!(deprecated("--import-cache").ends_with("] instead."));
        let option = cache("--export-cache", "type=inline,mode=").expect("a cache");
        assert_eq!(option.attrs["mode"], "");
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
        for wrong in ["a", "", "build-arg:"] {
            let err = opts(&[wrong.to_owned()]).expect_err(wrong);
            assert_eq!(err.to_string(), format!("invalid value {wrong}"));
        }
    }

    #[test]
    fn secrets_name_their_source() {
        let (id, source) = secret("id=a,env=B").expect("valid");
        assert_eq!((id.as_str(), source), ("a", SecretSource::Env("B".into())));
        assert!(secret("id=a,colour=red").is_err());
        let refused = |text: &str| format!("{:#}", secret(text).expect_err(text));
        assert_eq!(refused(""), "failed to parse csv secret: EOF");
        assert_eq!(
            refused("id=a,src=/surely/not/there"),
            "failed to stat /surely/not/there: stat /surely/not/there: no such file or directory"
        );
        for empty in ["src", "env"] {
            assert_eq!(
                refused(&format!("id=surely-not-there,{empty}=")),
                "failed to stat surely-not-there: stat surely-not-there: no such file or directory"
            );
        }
    }

    #[test]
    fn what_may_be_allowed_is_known() {
        for known in [
            "network.host",
            "security.insecure",
            "device",
            "device=",
            "device=a,alias=b",
        ] {
            assert_eq!(entitlement(known).expect(known), known);
        }
        for (wrong, text) in [
            ("", "unknown entitlement "),
            ("network.host=x", "unknown entitlement network.host=x"),
            ("device=a,b", "invalid device config \"b\""),
            ("device=a,b=c", "unknown device config key \"b\""),
        ] {
            assert_eq!(entitlement(wrong).expect_err(wrong).to_string(), text);
        }
    }
}
