//! Places of this machine that options name: whether they can be used is known before a build begins.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use fstree::errno_text;

/// Links followed in one path before it is taken to have no end.
const MOST_LINKS: usize = 255;

/// `NAME=DIR` options; directories without links in their paths.
pub(crate) fn locals(options: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut locals = BTreeMap::new();
    for option in options {
        match option.split_once('=') {
            Some((name, dir)) => locals.insert(name.to_owned(), dir.to_owned()),
            None => bail!("invalid value {option}"),
        };
    }
    locals
        .into_iter()
        .map(|(name, dir)| Ok((name, directory(&dir)?)))
        .collect()
}

fn directory(dir: &str) -> Result<PathBuf> {
    let path = resolve(dir).map_err(|text| anyhow!("resolve : {text}"))?;
    let meta = std::fs::metadata(&path);
    let meta = meta.map_err(|err| anyhow!("stat {}: {}", path.display(), errno_text(&err)))?;
    if !meta.is_dir() {
        bail!("stat {}: not a directory", path.display());
    }
    Ok(path)
}

/// The path without links, or which part of it is missing.
fn resolve(path: &str) -> Result<PathBuf, String> {
    let mut found = PathBuf::from(if path.starts_with('/') { "/" } else { "" });
    let split = |path: &str| path.split_inclusive('/').map(str::to_owned).collect();
    let mut parts: VecDeque<String> = split(path);
    let mut links = 0;
    while let Some(part) = parts.pop_front() {
        let is_last = !part.ends_with('/');
        match part.trim_end_matches('/') {
            "" | "." => continue,
            ".." => {
                if found.file_name().is_none() || !found.pop() {
                    found.push("..");
                }
                continue;
            }
            name => found.push(name),
        }
        let missing = |err| format!("lstat {}: {}", found.display(), errno_text(&err));
        let meta = std::fs::symlink_metadata(&found).map_err(missing)?;
        if !meta.is_symlink() {
            if !meta.is_dir() && !is_last {
                return Err("not a directory".to_owned());
            }
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err("EvalSymlinks: too many links".to_owned());
        }
        let target = std::fs::read_link(&found)
            .map_err(|err| format!("readlink {}: {}", found.display(), errno_text(&err)))?;
        let mut target = target.to_string_lossy().into_owned();
        match target.starts_with('/') {
            true => found = PathBuf::from("/"),
            false => {
                found.pop();
            }
        }
        if !is_last {
            target.push('/');
        }
        let mut ahead: VecDeque<String> = split(&target);
        ahead.append(&mut parts);
        parts = ahead;
    }
    match found.as_os_str().is_empty() {
        true => Ok(PathBuf::from(".")),
        false => Ok(found),
    }
}

/// `ID=DIR` options; directories that are not there are made.
pub(crate) fn layouts(options: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut layouts = BTreeMap::new();
    for option in options {
        let Some((id, dir)) = option.split_once('=') else {
            bail!("oci-layout option must be 'id=path/to/layout', instead had invalid {option}");
        };
        layout(Path::new(dir))
            .with_context(|| format!("oci-layout context at {dir} failed to initialize"))?;
        layouts.insert(id.to_owned(), PathBuf::from(dir));
    }
    Ok(layouts)
}

fn layout(dir: &Path) -> Result<()> {
    let failed = |what: &str, call: &str, err: &io::Error| {
        let text = errno_text(err);
        anyhow!("failed to {what} {dir:?}: {call} {}: {text}", dir.display())
    };
    match std::fs::metadata(dir) {
        Ok(_) => Ok(()),
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(failed("stat", "stat", &err)),
        Err(err) if dir.as_os_str().is_empty() => Err(failed("mkdir", "mkdir", &err)),
        Err(_) => std::fs::create_dir_all(dir).map_err(|err| failed("mkdir", "mkdir", &err)),
    }
}

/// Whether a result can become this file. One that is there stays as it is until the result comes.
pub(crate) fn file(path: &str) -> Result<()> {
    let is_new = match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => bail!("destination file is a directory"),
        // What waits for a reader is opened once only.
        Ok(meta) if !meta.is_file() => return Ok(()),
        Ok(_) => false,
        Err(err) if err.kind() == io::ErrorKind::NotFound => true,
        Err(err) => bail!(
            "invalid destination file: {path}: stat {path}: {}",
            errno_text(&err)
        ),
    };
    let opened = OpenOptions::new().write(true).create_new(is_new).open(path);
    match opened {
        Ok(_) if is_new => {
            // It was made to see that it can be.
            let _ = std::fs::remove_file(path);
            Ok(())
        }
        Ok(_) => Ok(()),
        // A link to what is not there yet.
        Err(err) if is_new && err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(err) => bail!("open {path}: {}", errno_text(&err)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(result: Result<T>) -> String {
        match result {
            Ok(_) => "nothing".to_owned(),
            Err(err) => format!("{err:#}"),
        }
    }

    #[test]
    fn a_local_directory_that_is_none_is_told_as_upstream_tells_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("a path");
        let at = root.display().to_string();
        std::fs::write(root.join("file"), "").expect("a file");
        std::fs::create_dir(root.join("sub")).expect("a folder");
        for (link, target) in [("dangling", "nowhere"), ("link", "sub"), ("loop", "loop")] {
            std::os::unix::fs::symlink(target, root.join(link)).expect("a link");
        }
        let local = |text: String| locals(&[format!("a={text}")]).map(|mut it| it.remove("a"));
        for (path, text) in [
            (
                "no/such",
                format!("resolve : lstat {at}/no: no such file or directory"),
            ),
            (
                "./no/",
                format!("resolve : lstat {at}/no: no such file or directory"),
            ),
            ("file", format!("stat {at}/file: not a directory")),
            ("file/x", "resolve : not a directory".to_owned()),
            (
                "link/../dangling",
                format!("resolve : lstat {at}/nowhere: no such file or directory"),
            ),
            ("loop", "resolve : EvalSymlinks: too many links".to_owned()),
        ] {
            assert_eq!(refused(local(format!("{at}/{path}"))), text, "{path}");
        }
        let relative = refused(local("surely/not".to_owned()));
        assert_eq!(
            relative,
            "resolve : lstat surely: no such file or directory"
        );
        assert_eq!(refused(locals(&["a".to_owned()])), "invalid value a");
        let found = local(format!("{at}/link/../link/.")).expect("a folder");
        assert_eq!(found, Some(root.join("sub")));
        let here = local(String::new()).expect("the working directory");
        assert_eq!(here, Some(PathBuf::from(".")));
    }

    #[test]
    fn a_layout_is_a_directory_or_can_be_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().display().to_string();
        std::fs::write(dir.path().join("file"), "").expect("a file");
        assert_eq!(
            refused(layouts(&["a".to_owned()])),
            "oci-layout option must be 'id=path/to/layout', instead had invalid a"
        );
        assert_eq!(
            refused(layouts(&[format!("a={at}/file/x")])),
            format!(
                "oci-layout context at {at}/file/x failed to initialize: \
                 failed to stat \"{at}/file/x\": stat {at}/file/x: not a directory"
            )
        );
        assert_eq!(
            refused(layouts(&["a=".to_owned()])),
            "oci-layout context at  failed to initialize: failed to mkdir \"\": mkdir : no such file or directory"
        );
        layouts(&[format!("a={at}/new/one")]).expect("made");
        assert!(dir.path().join("new/one").is_dir());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_known_before_the_build() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().display().to_string();
        let old = format!("{at}/old");
        std::fs::write(&old, "old").expect("a file");
        assert_eq!(refused(file(&at)), "destination file is a directory");
        assert_eq!(
            refused(file(&format!("{at}/no/x"))),
            format!("open {at}/no/x: no such file or directory")
        );
        assert_eq!(
            refused(file(&format!("{old}/x"))),
            format!("invalid destination file: {old}/x: stat {old}/x: not a directory")
        );
        file(&old).expect("can be written");
        file(&format!("{at}/new")).expect("can be made");
        assert_eq!(std::fs::read_to_string(&old).expect("read"), "old");
        assert!(!dir.path().join("new").exists());
    }
}
