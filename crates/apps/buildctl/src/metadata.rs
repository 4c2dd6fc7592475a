//! `buildctl debug dump-metadata`: what stands in the databases of a daemon that is not running.
//!
//! The files are copied first: opening a database puts it in order, and looking at it must not change it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use db::Db;

/// Prints all tables of all databases in the daemon's directory.
pub(crate) fn dump(root: &Path) -> Result<()> {
    let lock = root.join("buildkitd.lock");
    let held = File::open(&lock).is_ok_and(|file| file.try_lock().is_err());
    if held {
        bail!("{} is locked, stop the daemon first", lock.display());
    }
    let files = databases(root).with_context(|| format!("failed to read {}", root.display()))?;
    for path in files {
        println!("===== {} =====", path.display());
        print!("{}", tables(&path)?);
    }
    Ok(())
}

fn databases(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "redb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The database as the next start of the daemon finds it.
fn tables(path: &Path) -> Result<String> {
    let (Some(root), Some(name)) = (path.parent(), path.file_stem().and_then(|it| it.to_str()))
    else {
        bail!("strange name of a database: {}", path.display());
    };
    let copy = tempfile::tempdir()?;
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let file = entry.file_name();
        let is_part = file.to_str().is_some_and(|file| {
            file.strip_prefix(name)
                .and_then(|end| end.strip_prefix('.'))
                .is_some_and(|end| end == "redb" || end.ends_with(".log"))
        });
        if is_part {
            std::fs::copy(entry.path(), copy.path().join(file))?;
        }
    }
    let db = Db::open(copy.path(), name, db::Options::default())?;
    let mut text = String::new();
    let mut last = None;
    db.dump(|table, key, value| {
        if last.as_deref() != Some(table) {
            text.push_str(&format!("bucket {table:?}:\n"));
            last = Some(table.to_owned());
        }
        text.push_str(&format!("  {}: {}\n", quoted(key), plain(value)));
    })?;
    Ok(text)
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(|c| c == '\0' || !c.is_control()))
}

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", oci::hex(bytes))
}

/// Two texts in a key have a zero between them; a number begins with one.
fn quoted(key: &[u8]) -> String {
    if is_text(key) && key.first().is_none_or(|first| *first != 0) {
        format!("{:?}", String::from_utf8_lossy(key))
    } else {
        hex(key)
    }
}

fn plain(value: &[u8]) -> String {
    if is_text(value) && !value.contains(&0) {
        String::from_utf8_lossy(value).into_owned()
    } else {
        hex(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_shown_and_stay_as_they_are() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let db = Db::open(dir.path(), "cache-v1", db::Options::default()).expect("made");
        let mut batch = db::Batch::new();
        batch.put(db::Table::new("records"), "abc", "{\"a\":1}");
        batch.put(db::Table::new("children"), "p\0c", "");
        db.commit(batch).expect("written");
        db.sync().expect("synced");
        let mut batch = db::Batch::new();
        batch.put(db::Table::new("sizes"), 7_u64.to_be_bytes(), [1, 0]);
        db.commit(batch).expect("written");
        drop(db);
        let names = || databases(dir.path()).expect("read");
        let list = || {
            let mut names: Vec<_> = std::fs::read_dir(dir.path())
                .expect("read")
                .map(|entry| entry.expect("read").file_name())
                .collect();
            names.sort();
            names
        };
        let before = list();
        assert_eq!(
            tables(&names()[0]).expect("read"),
            "bucket \"children\":\n  \"p\\0c\": \n\
             bucket \"records\":\n  \"abc\": {\"a\":1}\n\
             bucket \"sizes\":\n  0x0000000000000007: 0x0100\n"
        );
        assert_eq!(list(), before);
    }
}
