//! Finds the paths a wildcard names.

use std::path::{Path, PathBuf};

use fstree::{Root, Walk, match_path, path};

use crate::Error;
use crate::error::on;

/// The path itself where it has no wildcard, else everything that matches, in walk order. What matches is not looked
/// into.
pub(crate) fn expand(root: &Root, asked: &Path, follow: bool) -> Result<Vec<PathBuf>, Error> {
    let asked = path::rooted(asked);
    let components: Vec<&[u8]> = path::bytes(&asked)
        .split(|byte| *byte == b'/')
        .skip(1)
        .collect();
    let Some(first) = components.iter().position(|name| path::has_wildcard(name)) else {
        return Ok(vec![asked]);
    };
    let base = path::from_bytes(&components[..first].join(&b'/')).to_owned();
    let pattern = components[first..].join(&b'/');
    let base = place(root, &base, follow)?;
    let meta = root.symlink_meta(&base).map_err(on("lstat", &base))?;
    if !meta.is_dir() {
        return Ok(Vec::new());
    }
    // Classes may match slashes, and then the depth of a match is not the depth of the pattern.
    let depth = (!pattern.contains(&b'[')).then(|| components.len() - first);
    let mut found = Vec::new();
    let mut walk = Walk::below(root, &base)?;
    while let Some(entry) = walk.next() {
        let entry = entry?;
        let name = path::bytes(&entry.path);
        let matched = match_path(&pattern, name).unwrap_or(false);
        let deep = depth.is_some_and(|depth| entry.path.components().count() >= depth);
        if matched || deep {
            walk.skip_dir();
        }
        if matched {
            found.push(path::join(&base, name));
        }
    }
    Ok(found)
}

/// Where a source path leads: links on the way are followed, one at its end only if told to.
pub(crate) fn place(root: &Root, asked: &Path, follow: bool) -> Result<PathBuf, Error> {
    let asked = path::relative(asked);
    if follow || asked.as_os_str().is_empty() {
        return root.resolve(&asked).map_err(on("lstat", &asked));
    }
    let above = asked.parent().unwrap_or(Path::new(""));
    let above = root.resolve(above).map_err(on("lstat", &asked))?;
    let name = asked.file_name().unwrap_or_default();
    Ok(path::join(&above, name.as_encoded_bytes()))
}
