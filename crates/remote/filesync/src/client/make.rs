//! Directories that results are put into.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use fstree::Error;

/// Makes a directory and those above it that are missing, and says which one cannot be made.
///
/// Compat: what is no directory is told as Go's os.MkdirAll tells it; the standard library says that it exists.
pub fn make_all(dir: &Path, mode: u32) -> Result<(), Error> {
    let failed = |err: io::Error| Error::new("mkdir", dir, err);
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => return Err(failed(rustix::io::Errno::NOTDIR.into())),
        Err(_) => {}
    }
    if let Some(parent) = dir.parent().filter(|it| !it.as_os_str().is_empty()) {
        make_all(parent, mode)?;
    }
    let made = fs::DirBuilder::new().mode(mode).create(dir);
    // Somebody else may have made it meanwhile.
    made.or_else(|err| match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        _ => Err(failed(err)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().display();
        fs::write(dir.path().join("file"), "").expect("a file");
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).expect("a link");
        let refused = |path: &str| {
            let err = make_all(&dir.path().join(path), 0o755).expect_err(path);
            fault::chain(&err)
        };
        for path in ["file", "file/x", "file/x/y"] {
            assert_eq!(refused(path), format!("mkdir {at}/file: not a directory"));
        }
        assert_eq!(
            refused("dangling"),
            format!("mkdir {at}/dangling: file exists")
        );
        make_all(&dir.path().join("a/b/c"), 0o755).expect("made");
        make_all(&dir.path().join("a/b/c"), 0o755).expect("there");
        assert!(dir.path().join("a/b/c").is_dir());
    }
}
