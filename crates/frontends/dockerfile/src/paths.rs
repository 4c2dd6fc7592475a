//! Slash paths as text: cleaning, joining, and what Windows images make of them. No file system is asked.

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
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.last() {
                Some(&last) if last != ".." => {
                    parts.pop();
                }
                _ if rooted => {}
                _ => parts.push(".."),
            },
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Joins and cleans; empty elements do not count.
pub(crate) fn join(first: &str, second: &str) -> String {
    match (first, second) {
        ("", "") => String::new(),
        ("", only) | (only, "") => clean(only),
        _ => clean(&format!("{first}/{second}")),
    }
}

/// The path taken as absolute, `..` cut at the root.
pub(crate) fn rooted(path: &str) -> String {
    clean(&format!("/{path}"))
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
pub(crate) fn dir(path: &str) -> String {
    clean(path.rfind('/').map_or("", |at| &path[..=at]))
}

/// Backslashes turned, for Windows only.
pub(crate) fn to_slash(path: &str, os: &str) -> String {
    if os == "windows" {
        path.replace('\\', "/")
    } else {
        path.to_owned()
    }
}

/// Takes the drive letter off a Windows path and cleans it; other paths stay as they are.
pub(crate) fn without_drive(path: &str, os: &str, keep_slash: bool) -> Result<String, PathError> {
    if os != "windows" {
        return Ok(path.to_owned());
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
        None => slashed.as_str(),
        Some((drive, rest)) if drive.eq_ignore_ascii_case("c") => rest,
        Some(_) => return Err(PathError::OtherDrive),
    };
    let mut cleaned = clean(rest);
    if keep_slash && cleaned.len() > 1 && rest.ends_with('/') {
        cleaned.push('/');
    }
    Ok(cleaned)
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
        "/".to_owned()
    } else {
        to_slash(parent, os)
    };
    let mut parent = without_drive(&parent, os, keep_slash).map_err(nested)?;
    if !parent.starts_with('/') {
        parent = rooted(&parent);
    }
    let wanted = if original.is_empty() {
        &parent
    } else {
        &original
    };
    let mut path = without_drive(wanted, os, keep_slash).map_err(nested)?;
    if !path.starts_with('/') {
        path = join(&parent, &path);
    }
    if keep_slash {
        restore_ending(&original, &mut path);
    }
    Ok(path)
}

/// Cleans an absolute path; a trailing `/` or `/.` says something about what is copied and stays.
pub(crate) fn clean_keeping_ending(path: &str) -> String {
    let mut cleaned = rooted(path);
    restore_ending(path, &mut cleaned);
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
            ("/../a", "/a"),
            ("../../a", "../../a"),
            ("/", "/"),
            ("a/..", "."),
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
