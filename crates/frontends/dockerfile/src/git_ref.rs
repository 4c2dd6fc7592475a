//! Texts that name a git repository.

use llb::build::Git;

use crate::error::{Error, text};
use crate::paths;

/// A repository, and what to take of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GitRef {
    url: String,
    location: String,
    reference: String,
    subdir: String,
    pub(crate) checksum: String,
    pub(crate) keep_git_dir: Option<bool>,
    submodules: Option<bool>,
    pub(crate) mtime: String,
    fetch_by_commit: bool,
    over_ssh: bool,
    /// `github.com/…` without scheme: could be a path as well.
    pub(crate) could_be_path: bool,
}

/// Reads `text`; `None` if it names no repository.
pub(crate) fn parse(text: &str) -> Option<Result<GitRef, Error>> {
    if text.starts_with("./") || text.starts_with("../") {
        return None;
    }
    let mut parts = if text.starts_with("github.com/") {
        let mut parts = split_url(text, "https")?;
        parts.git.url = format!("https://{}", parts.git.url);
        parts.git.could_be_path = true;
        parts
    } else if let Some((scheme, rest)) = scheme_of(text) {
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "ssh" | "git") {
            return None;
        }
        let mut parts = split_url(rest, &scheme)?;
        if scheme.starts_with("http") && !parts.path.ends_with(".git") {
            return None;
        }
        parts.git.url = format!("{scheme}://{}", parts.git.url);
        parts
    } else {
        split_scp(text)?
    };
    Some(parts.git.read_query(&parts.query).map(|()| parts.git))
}

struct Parts {
    git: GitRef,
    path: String,
    query: String,
}

/// `scheme://`, where the scheme is letters and digits.
fn scheme_of(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let valid = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric());
    valid.then_some((scheme, rest))
}

/// What stands behind `scheme://`.
fn split_url(rest: &str, scheme: &str) -> Option<Parts> {
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (bare, query) = rest.split_once('?').unwrap_or((rest, ""));
    let at = bare.find('/').unwrap_or(bare.len());
    let (authority, path) = bare.split_at(at);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let path = unescape(path)?;
    let mut git = GitRef {
        url: bare.to_owned(),
        location: format!("{host}{}", paths::rooted(&path)),
        over_ssh: scheme == "ssh",
        ..GitRef::default()
    };
    git.read_fragment(&unescape(fragment)?);
    Some(Parts {
        git,
        path,
        query: query.to_owned(),
    })
}

/// `user@host:path`
fn split_scp(text: &str) -> Option<Parts> {
    let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (bare, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (user, rest) = bare.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let word = |text: &str, more: &[u8]| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    if !word(user, b"-_") || !word(host, b"-.") || text.contains('\n') {
        return None;
    }
    let mut git = GitRef {
        url: bare.to_owned(),
        location: format!("{host}{}", paths::rooted(path)),
        over_ssh: true,
        ..GitRef::default()
    };
    git.read_fragment(fragment);
    Some(Parts {
        git,
        path: path.to_owned(),
        query: query.to_owned(),
    })
}

/// Resolves `%xx`; `None` if that is broken.
pub(crate) fn unescape(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = char::from(rest.next()?).to_digit(16)?;
        let low = char::from(rest.next()?).to_digit(16)?;
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

impl GitRef {
    fn read_fragment(&mut self, fragment: &str) {
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        reference.clone_into(&mut self.reference);
        subdir.clone_into(&mut self.subdir);
    }

    fn read_query(&mut self, query: &str) -> Result<(), Error> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| unescape(&text.replace('+', " "));
            if let (Some(key), Some(value)) = (decode(key), decode(value)) {
                pairs.push((key, value));
            }
        }
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        for two in pairs.windows(2) {
            if two[0].0 == two[1].0 {
                return Err(text(format!(
                    "query {} has multiple values",
                    quoted(&two[0].0)
                )));
            }
        }
        let (mut tag, mut branch) = (None, None);
        for (key, value) in &pairs {
            let flag = matches!(
                key.as_str(),
                "submodules" | "keep-git-dir" | "fetch-by-commit"
            );
            if value.is_empty() && !flag {
                return Err(text(format!("query {} has no value", quoted(key))));
            }
            match key.as_str() {
                "tag" => tag = Some(value),
                "branch" => branch = Some(value),
                _ => self.set(key, value)?,
            }
        }
        if let Some(tag) = tag {
            self.set_reference(&with_prefix("refs/tags/", tag))?;
        }
        if let Some(branch) = branch {
            if tag.is_some() {
                return Err(Error::Says("branch conflicts with tag"));
            }
            self.set_reference(&with_prefix("refs/heads/", branch))?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let flag = |value: &str| match value {
            "" => Ok(true),
            other => fault::truth(other)
                .ok_or_else(|| text(format!("invalid {key} value: {}", quoted(other)))),
        };
        match key {
            "ref" => self.set_reference(value)?,
            "subdir" => {
                if !self.subdir.is_empty() && self.subdir != value {
                    return Err(conflict("subdir", &self.subdir, value));
                }
                value.clone_into(&mut self.subdir);
            }
            "checksum" | "commit" => value.clone_into(&mut self.checksum),
            "keep-git-dir" => self.keep_git_dir = Some(flag(value)?),
            "submodules" => self.submodules = Some(flag(value)?),
            "fetch-by-commit" => self.fetch_by_commit = flag(value)?,
            "mtime" if matches!(value, "checkout" | "commit") => value.clone_into(&mut self.mtime),
            "mtime" => {
                return Err(text(format!(
                    "invalid mtime value: {} (must be \"checkout\" or \"commit\")",
                    quoted(value)
                )));
            }
            other => return Err(text(format!("unexpected query {}", quoted(other)))),
        }
        Ok(())
    }

    fn set_reference(&mut self, reference: &str) -> Result<(), Error> {
        if !self.reference.is_empty() && self.reference != reference {
            return Err(conflict("ref", &self.reference, reference));
        }
        reference.clone_into(&mut self.reference);
        Ok(())
    }

    /// The source, without what only some places allow: checksum, kept directory and times.
    pub(crate) fn source(&self) -> Git {
        Git {
            location: self.location.clone(),
            url: self.url.clone(),
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            skip_submodules: self.submodules == Some(false),
            fetch_by_commit: self.fetch_by_commit,
            ssh: self.over_ssh.then(String::new),
            ..Git::default()
        }
    }
}

fn with_prefix(prefix: &str, name: &str) -> String {
    if name.starts_with(prefix) {
        name.to_owned()
    } else {
        format!("{prefix}{name}")
    }
}

fn conflict(what: &str, one: &str, other: &str) -> Error {
    text(format!(
        "{what} conflicts: {} vs {}",
        quoted(one),
        quoted(other)
    ))
}

fn quoted(text: &str) -> String {
    dockerfile_syntax::quote::go(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Option<(String, String)> {
        let git = parse(text)?.expect("valid").source();
        Some((git.location, git.url))
    }

    #[test]
    fn repositories_are_told_from_files() {
        for text in [
            "./a.git",
            "a/b.git",
            "https://h/a",
            "ftp://h/a.git",
            "x@y",
            "/git@h:a",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
        let both = |location: &str, url: &str| Some((location.to_owned(), url.to_owned()));
        assert_eq!(
            source("https://h:1/a//b.git#x:y"),
            both("h:1/a/b.git", "https://h:1/a//b.git")
        );
        assert_eq!(source("git@h:a/b.git"), both("h/a/b.git", "git@h:a/b.git"));
        assert_eq!(
            source("github.com/o/r"),
            both("github.com/o/r", "https://github.com/o/r")
        );
        assert_eq!(source("ssh://u@h/a"), both("h/a", "ssh://u@h/a"));
    }
}
