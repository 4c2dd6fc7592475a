//! Slash paths as text: cleaning, joining, and what Windows images make of them. No file system is asked.

use std::borrow::Cow;

/// Why a Windows path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("removing drive letter: {0}")]
    Nested(Box<PathError>),
    #[error("No relative path specified in {path:?}")]
    OnlyDrive { path: String },
    #[error("UNC paths are not supported")]
    Unc,
    #[error("The specified path is not on the system drive (C:)")]
    OtherDrive,
}

/// The shortest path that means the same. Empty becomes `.`.
pub(crate) fn clean(path: &str) -> Cow<'_, str> {
    if is_clean(path) {
        return path.into();
    }
    put_together(path.starts_with('/'), path.len(), path.split('/')).into()
}

/// The shortest path that means these parts; `room` is how long they are.
fn put_together<'p>(rooted: bool, room: usize, parts: impl Iterator<Item = &'p str>) -> String {
    let mut cleaned = String::with_capacity(room + 1);
    if rooted {
        cleaned.push('/');
    }
    // What stands before `fixed` cannot be taken back by `..`.
    let mut fixed = cleaned.len();
    for part in parts {
        match part {
            "" | "." => {}
            ".." if cleaned.len() > fixed => {
                let parent = cleaned[fixed..].rfind('/').map_or(fixed, |at| fixed + at);
                cleaned.truncate(parent);
            }
            ".." if rooted => {}
            _ => {
                if !cleaned.is_empty() && !cleaned.ends_with('/') {
                    cleaned.push('/');
                }
                cleaned.push_str(part);
                if part == ".." {
                    fixed = cleaned.len();
                }
            }
        }
    }
    if cleaned.is_empty() {
        cleaned.push('.');
    }
    cleaned
}

fn cleaned(path: String) -> String {
    match clean(&path) {
        Cow::Owned(cleaned) => cleaned,
        Cow::Borrowed(_) => path,
    }
}

/// Whether there is nothing to clean. May say no where there is not.
fn is_clean(path: &str) -> bool {
    let bytes = path.as_bytes();
    let rest = match bytes {
        b"/" => return true,
        b"" => return false,
        [b'/', rest @ ..] => rest,
        _ => bytes,
    };
    // What is there since the last slash: so many dots, or something else.
    const OTHER: u32 = 3;
    let mut part = 0;
    for &byte in rest {
        part = match byte {
            b'/' if part < OTHER => return false,
            b'/' => 0,
            b'.' => (part + 1).min(OTHER),
            _ => OTHER,
        };
    }
    part == OTHER
}

/// Joins and cleans; empty elements do not count.
pub(crate) fn join(first: &str, second: &str) -> String {
    match (first, second) {
        ("", "") => String::new(),
        ("", only) | (only, "") => clean(only).into_owned(),
        _ => {
            let parts = first.split('/').chain(second.split('/'));
            put_together(
                first.starts_with('/'),
                first.len() + 1 + second.len(),
                parts,
            )
        }
    }
}

/// The path taken as absolute, `..` cut at the root.
pub(crate) fn rooted(path: &str) -> Cow<'_, str> {
    if path.starts_with('/') {
        clean(path)
    } else {
        put_together(true, path.len(), path.split('/')).into()
    }
}

/// The same for a path that is not needed any more.
pub(crate) fn into_rooted(path: String) -> String {
    if path.starts_with('/') {
        cleaned(path)
    } else {
        rooted(&path).into_owned()
    }
}

/// The last element; `/` for the root and `.` for nothing.
pub(crate) fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    match (path, trimmed) {
        ("", _) => ".",
        (_, "") => "/",
        _ => trimmed.rsplit('/').next().unwrap_or(trimmed),
    }
}

/// Everything but the last element, cleaned.
pub(crate) fn dir(path: &str) -> Cow<'_, str> {
    clean(path.rfind('/').map_or("", |at| &path[..=at]))
}

/// Backslashes turned, for Windows only.
pub(crate) fn to_slash<'p>(path: &'p str, os: &str) -> Cow<'p, str> {
    match os {
        "windows" if path.contains('\\') => path.replace('\\', "/").into(),
        _ => path.into(),
    }
}

/// Takes the drive letter off a Windows path and cleans it; other paths stay as they are.
pub(crate) fn without_drive<'p>(
    path: &'p str,
    os: &str,
    keep_slash: bool,
) -> Result<Cow<'p, str>, PathError> {
    if os != "windows" {
        return Ok(path.into());
    }
    if path.len() == 2 && path.ends_with(':') {
        return Err(PathError::OnlyDrive {
            path: path.to_owned(),
        });
    }
    let slashed = to_slash(path, os);
    if slashed.starts_with("//") {
        return Err(PathError::Unc);
    }
    let rest = match slashed.split_once(':') {
        None => &slashed,
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err(PathError::OtherDrive),
    };
    let mut cleaned = clean(rest).into_owned();
    if keep_slash && cleaned.len() > 1 && rest.ends_with('/') {
        cleaned.push('/');
    }
    Ok(cleaned.into())
}

/// Whether the path starts at the root of the image.
pub(crate) fn is_absolute(path: &str, os: &str) -> bool {
    without_drive(path, os, false).is_ok_and(|path| path.starts_with('/'))
}

/// `path` as an absolute slash path below `parent`. Compat: absolute paths of other systems than Windows are not
/// cleaned here (util/system/path.go); whoever makes an op of them does that.
pub(crate) fn normalize(
    parent: &str,
    path: &str,
    os: &str,
    keep_slash: bool,
) -> Result<String, PathError> {
    let nested = |err| PathError::Nested(Box::new(err));
    let original = to_slash(path, os);
    let parent = if parent.is_empty() {
        "/".into()
    } else {
        to_slash(parent, os)
    };
    let mut parent = without_drive(&parent, os, keep_slash).map_err(nested)?;
    if !parent.starts_with('/') {
        parent = rooted(&parent).into_owned().into();
    }
    let wanted = if original.is_empty() {
        &parent
    } else {
        &original
    };
    let path = without_drive(wanted, os, keep_slash).map_err(nested)?;
    let mut path = if path.starts_with('/') {
        path.into_owned()
    } else if parent == "/" && !path.is_empty() {
        rooted(&path).into_owned()
    } else {
        join(&parent, &path)
    };
    if keep_slash {
        restore_ending(&original, &mut path);
    }
    Ok(path)
}

/// Cleans an absolute path; a trailing `/` or `/.` says something about what is copied and stays.
pub(crate) fn clean_keeping_ending(path: String) -> String {
    let bare = path.strip_suffix('/').unwrap_or(&path);
    if bare.starts_with('/') && is_clean(bare) {
        return path;
    }
    let mut cleaned = rooted(&path).into_owned();
    restore_ending(&path, &mut cleaned);
    cleaned
}

fn restore_ending(original: &str, path: &mut String) {
    if original.ends_with('/') {
        if !path.ends_with('/') {
            path.push('/');
        }
    } else if original.ends_with("/.") && !path.ends_with("/.") {
        if path != "/" {
            path.push('/');
        }
        path.push('.');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_keeps_the_meaning() {
        for (path, expected) in [
            ("", "."),
            ("a/../b//c/.", "b/c"),
            ("/a/.b/..c/...", "/a/.b/..c/..."),
            ("a./b../.", "a./b.."),
            ("a/", "a"),
            ("/../a", "/a"),
            ("../../a", "../../a"),
            ("/", "/"),
            ("a/..", "."),
            ("/a/..", "/"),
            ("../a/../..", "../.."),
            ("a/b/../../..", ".."),
            ("a//", "a"),
            ("/a/", "/a"),
            ("//", "/"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn relative_paths_are_joined_and_endings_kept() {
        assert_eq!(normalize("/w", "x/", "linux", true), Ok("/w/x/".to_owned()));
        assert_eq!(normalize("/w", "./", "linux", true), Ok("/w/".to_owned()));
        assert_eq!(
            normalize("/w", "x/.", "linux", true),
            Ok("/w/x/.".to_owned())
        );
        assert_eq!(normalize("", "", "linux", false), Ok("/".to_owned()));
    }

    #[test]
    fn windows_paths_lose_their_drive() {
        assert_eq!(
            normalize("/", r"C:\dst\", "windows", true),
            Ok("/dst/".to_owned())
        );
        assert_eq!(
            normalize("/", "d:/x", "windows", true).map_err(|err| err.to_string()),
            Err(
                "removing drive letter: The specified path is not on the system drive (C:)"
                    .to_owned()
            )
        );
    }
}
