//! The copy action: which sources, where to, and what is made on the way.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use fstree::{Patterns, Root, Time, path};
use tasks::Cx;

use crate::copier::Copier;
use crate::error::on;
use crate::sharing::Sharing;
use crate::simple::{dress, make_dirs};
use crate::unpack::unpack;
use crate::wildcard::{expand, place};
use crate::{Error, ModeChange, Owner};

/// Files to be copied.
#[derive(Debug, Clone, Default)]
pub struct Copy {
    /// What, in the source.
    pub src: String,
    /// Where to, in the target. A trailing slash (or `/.`) says that it is a directory.
    pub dest: String,
    /// Who owns the copies, if not who owns the sources.
    pub owner: Option<Owner>,
    /// Permission bits of everything copied and of directories made on the way.
    pub mode: Option<u32>,
    /// A mode in letters; goes before `mode`.
    pub mode_str: String,
    /// Times of everything, if not those of the sources.
    pub timestamp: Option<Time>,
    /// Follow a link at the end of `src`.
    pub follow_symlink: bool,
    /// Copy what is in a source directory, not the directory.
    pub dir_copy_contents: bool,
    /// Unpack sources that are archives.
    pub attempt_unpack: bool,
    /// Make the directory that `dest` is in.
    pub create_dest_path: bool,
    /// `src` may have wildcards.
    pub allow_wildcard: bool,
    /// They may match nothing.
    pub allow_empty_wildcard: bool,
    /// Only what matches these, relative to the source directory.
    pub include_patterns: Vec<String>,
    /// Not what matches these.
    pub exclude_patterns: Vec<String>,
    /// A copy replaces whatever has its name, except that directories are merged.
    pub always_replace: bool,
}

/// What holds for all sources of one action.
pub(crate) struct Plan<'a> {
    pub cx: &'a Cx,
    pub action: &'a Copy,
    pub source: &'a Root,
    pub target: &'a Root,
    pub mode: Option<ModeChange>,
    pub include: Option<Patterns>,
    pub exclude: Option<Patterns>,
}

/// Copies files from `source` into `target`. Blocking, on several threads when there are many.
pub fn copy(
    cx: &Cx,
    source: &Root,
    target: &Root,
    action: &Copy,
    mut sharing: Option<Sharing<'_>>,
) -> Result<(), Error> {
    if !action.create_dest_path {
        require_parent(target, &action.dest)?;
    }
    let sources = sources(source, action)?;
    let plan = Plan::new(cx, source, target, action)?;
    let mut fresh = HashSet::new();
    let several = sources.len() > 1;
    for found in sources {
        cx.check()?;
        if action.attempt_unpack && unpack(cx, source, &found, target, action)? {
            continue;
        }
        copy_one(&plan, &found, sharing.as_mut(), &mut fresh)?;
        if several && let Some(sharing) = &mut sharing {
            sharing.linked.clear();
        }
    }
    Ok(())
}

impl<'a> Plan<'a> {
    fn new(
        cx: &'a Cx,
        source: &'a Root,
        target: &'a Root,
        action: &'a Copy,
    ) -> Result<Self, Error> {
        let mode = match (action.mode_str.as_str(), action.mode) {
            ("", mode) => mode.map(ModeChange::octal),
            (text, _) => Some(ModeChange::parse(text)?),
        };
        let patterns = |list: &[String]| -> Result<Option<Patterns>, fstree::PatternError> {
            let patterns = Patterns::new(list)?;
            Ok((!list.is_empty()).then_some(patterns))
        };
        let include =
            patterns(&action.include_patterns).map_err(|source| fstree::FilterError::Include {
                patterns: action.include_patterns.clone(),
                source,
            })?;
        let exclude =
            patterns(&action.exclude_patterns).map_err(|source| fstree::FilterError::Exclude {
                patterns: action.exclude_patterns.clone(),
                source,
            })?;
        Ok(Self {
            cx,
            action,
            source,
            target,
            mode,
            include,
            exclude,
        })
    }
}

fn require_parent(target: &Root, dest: &str) -> Result<(), Error> {
    let at = target
        .resolve(path::relative(dest))
        .map_err(on("lstat", dest))?;
    let above = at.parent().unwrap_or(Path::new(""));
    match target.symlink_meta(above) {
        Ok(_) => Ok(()),
        Err(err) => Err(Error::NoParent {
            dest: dest.to_owned(),
            source: fstree::Error::new("lstat", path::rooted(above), err),
        }),
    }
}

fn sources(source: &Root, action: &Copy) -> Result<Vec<PathBuf>, Error> {
    let asked = path::rooted(&action.src);
    if !action.allow_wildcard {
        return Ok(vec![asked]);
    }
    let found = expand(source, &asked, action.follow_symlink)?;
    if found.is_empty() && !action.allow_empty_wildcard {
        return Err(Error::NoMatch {
            path: asked.display().to_string(),
        });
    }
    Ok(found)
}

/// The directory that must exist before anything is copied, and the name in it; no name if the destination is written
/// as a directory.
fn split_dest(dest: &str) -> (PathBuf, Option<PathBuf>) {
    let cleaned = path::relative(dest);
    if dest.ends_with('/') || dest.ends_with("/.") {
        return (cleaned, None);
    }
    match (cleaned.parent(), cleaned.file_name()) {
        (Some(above), Some(name)) => (above.to_owned(), Some(PathBuf::from(name))),
        _ => (cleaned, None),
    }
}

/// `fresh` are the directories that this action made on the way. Nothing else can be in them, so that names in them are
/// looked up in the layer: a mount would remember that they were not there.
fn copy_one(
    plan: &Plan<'_>,
    found: &Path,
    sharing: Option<&mut Sharing<'_>>,
    fresh: &mut HashSet<PathBuf>,
) -> Result<(), Error> {
    let Plan {
        action,
        source,
        target,
        ..
    } = *plan;
    let layer = sharing
        .as_ref()
        .map_or(target, |sharing| sharing.target_layer);
    let numeric = action.mode.filter(|_| action.mode_str.is_empty());
    let dir_mode = numeric.unwrap_or(0o755);
    let make = |at: &Path, fresh: &mut HashSet<PathBuf>| {
        let created = make_dirs(target, at, dir_mode, action.owner, action.timestamp)?;
        fresh.extend(created.iter().cloned());
        Ok::<_, Error>(created)
    };

    let (wanted, name) = split_dest(&action.dest);
    let dir = target.resolve(&wanted).map_err(on("lstat", &wanted))?;
    let mut created = make(&dir, fresh)?;
    let mut at = match name {
        None => dir,
        Some(name) if fresh.contains(&dir) => {
            layer.resolve(dir.join(name)).map_err(on("lstat", &dir))?
        }
        Some(name) => {
            let at = dir.join(name);
            target.resolve(&at).map_err(on("lstat", &at))?
        }
    };

    let from = place(source, found, action.follow_symlink)?;
    let meta = source.symlink_meta(&from).map_err(on("lstat", &from))?;
    let above = at.parent().unwrap_or(Path::new(""));
    let view = if fresh.contains(above) { layer } else { target };
    let existing = match view.symlink_meta(&at) {
        Ok(meta) => Some(meta),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => None,
        Err(err) => {
            let source = fstree::Error::new("stat", path::rooted(&at), err);
            return Err(Error::Destination { source });
        }
    };
    let goes_inside = match &existing {
        None => false,
        Some(_) if meta.is_dir() => !action.dir_copy_contents,
        Some(existing) => existing.is_dir(),
    };
    if goes_inside && let Some(name) = found.file_name() {
        at = path::join(&at, name.as_encoded_bytes());
    }
    let dir = if action.dir_copy_contents && meta.is_dir() && existing.is_none() {
        at.clone()
    } else {
        at.parent().unwrap_or(Path::new("")).to_owned()
    };
    if !fresh.contains(&dir) {
        created.extend(make(&dir, fresh)?);
    }

    Copier::new(plan, sharing, fresh).run(&from, &meta, &at)?;

    if action.timestamp.is_some() {
        // What was copied into them has touched their times.
        for dir in created.iter().rev() {
            dress(target, dir, None, action.timestamp)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_written_as_a_directory_must_be_there_itself() {
        for (dest, dir, name) in [
            ("/a/b", "a", Some("b")),
            ("/a/b/", "a/b", None),
            ("/a/b/.", "a/b", None),
            ("/", "", None),
            ("a", "", Some("a")),
            ("/a/b/..", "", Some("a")),
        ] {
            let wanted = (PathBuf::from(dir), name.map(PathBuf::from));
            assert_eq!(split_dest(dest), wanted, "{dest}");
        }
    }
}
