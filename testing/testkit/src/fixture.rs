//! Trees of files written as text.
//!
//! ```text
//! //- Dockerfile
//! FROM scratch
//! //- bin/run mode=0755
//! #!/bin/sh
//! //- link -> bin/run
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Writes the files of `text` below `root`. Times are the same everywhere and always.
pub fn write(root: &Path, text: &str) -> io::Result<()> {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        let line = line.trim_start_matches("            ");
        if let Some(head) = line.trim_start().strip_prefix("//- ") {
            files.push((head, String::new()));
        } else if let Some((_, content)) = files.last_mut() {
            content.push_str(line);
            content.push('\n');
        }
    }
    for (head, content) in files {
        write_one(root, head, &content)?;
    }
    Ok(())
}

fn write_one(root: &Path, head: &str, content: &str) -> io::Result<()> {
    if let Some((name, target)) = head.split_once(" -> ") {
        let path = root.join(name);
        make_parent(&path)?;
        return std::os::unix::fs::symlink(target, path);
    }
    let mut words = head.split_whitespace();
    let name = words.next().unwrap_or_default();
    let path = root.join(name);
    make_parent(&path)?;
    if name.ends_with('/') {
        fs::create_dir_all(&path)?;
    } else {
        fs::write(&path, content)?;
    }
    for word in words {
        if let Some(mode) = word.strip_prefix("mode=") {
            let mode = u32::from_str_radix(mode, 8).map_err(io::Error::other)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

fn make_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

/// Lists a tree: one line an entry, with type, mode, size or target.
pub fn list(root: &Path) -> io::Result<String> {
    let mut lines = Vec::new();
    list_into(root, root, &mut lines)?;
    lines.sort();
    Ok(lines.join("\n"))
}

fn list_into(root: &Path, dir: &Path, lines: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let name = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .display()
            .to_string();
        let mode = meta.permissions().mode() & 0o7777;
        if meta.is_symlink() {
            lines.push(format!("{name} -> {}", fs::read_link(&path)?.display()));
        } else if meta.is_dir() {
            lines.push(format!("{name}/ {mode:04o}"));
            list_into(root, &path, lines)?;
        } else {
            lines.push(format!("{name} {mode:04o} {}", meta.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_listed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(dir.path(), "//- a/b mode=0700\nhi\n//- l -> a/b\n").expect("written");
        assert_eq!(
            list(dir.path()).expect("listed"),
            "a/ 0755\na/b 0700 3\nl -> a/b"
        );
    }
}
