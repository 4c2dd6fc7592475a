//! Looking into results: what frontends may read.

use std::io;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use diagnostics::Failure;
use fault::{Class, Classify as _};
use fstree::{Kind, Meta, Patterns, Root};
use ops::Value;
use proto::fsutil::Stat;
use tasks::Cx;

/// The largest file a frontend may read at once: what fits into a message.
const MAX_READ: u64 = 16 << 20;

async fn root(cx: &Cx, value: &Value) -> Result<Option<Root>, Failure> {
    let Some(tree) = &value.0 else {
        return Ok(None);
    };
    tree.ensure(cx, &progress::Progress::none())
        .await
        .map_err(|err| Failure::from_error(&err))?;
    let tree = tree
        .tree(cx)
        .await
        .map_err(|err| Failure::from_error(&err))?;
    // The mount behind the tree stays alive through the descriptor.
    let root = Root::from_borrowed(tree.fd());
    root.map(Some)
        .map_err(|err| Failure::new(err.class(), format!("failed to open tree: {err}")))
}

fn failed(op: &str, path: &str, err: &io::Error) -> Failure {
    Failure::new(
        err.class(),
        format!("{op} {path}: {}", fstree::errno_text(err)),
    )
}

/// Reads a file, or the given part of it.
pub(crate) async fn read_file(
    cx: &Cx,
    value: &Value,
    path: &str,
    range: Option<(i64, i64)>,
) -> Result<Bytes, Failure> {
    read_file_in(root(cx, value).await?, path, range).await
}

async fn read_file_in(
    root: Option<Root>,
    path: &str,
    range: Option<(i64, i64)>,
) -> Result<Bytes, Failure> {
    let (shown, path) = (path.to_owned(), absolute(path));
    tasks::blocking(move || {
        let result = root
            .ok_or_else(|| io::Error::from_raw_os_error(2))
            .and_then(|root| read(&root, &path, range));
        result.map_err(|err| failed("open", &shown, &err).reclassified(Class::User))
    })
    .await
}

fn read(root: &Root, path: &str, range: Option<(i64, i64)>) -> io::Result<Bytes> {
    let mut file = root.open_file(path)?;
    let (offset, length) = range.unwrap_or((0, 0));
    if let Ok(offset) = u64::try_from(offset)
        && offset > 0
    {
        file.seek(SeekFrom::Start(offset))?;
    }
    let limit = u64::try_from(length)
        .ok()
        .filter(|length| *length > 0)
        .unwrap_or(MAX_READ);
    let mut data = Vec::new();
    file.take(limit.min(MAX_READ)).read_to_end(&mut data)?;
    Ok(Bytes::from(data))
}

/// Lists a directory; `include` is a pattern for names, empty for all.
pub(crate) async fn read_dir(
    cx: &Cx,
    value: &Value,
    path: &str,
    include: &str,
) -> Result<Vec<Stat>, Failure> {
    read_dir_in(root(cx, value).await?, path, include).await
}

async fn read_dir_in(root: Option<Root>, path: &str, include: &str) -> Result<Vec<Stat>, Failure> {
    let (shown, path) = (path.to_owned(), absolute(path));
    let patterns = if include.is_empty() {
        None
    } else {
        let patterns =
            Patterns::new(&[include]).map_err(|err| Failure::new(Class::User, err.to_string()))?;
        Some(patterns)
    };
    tasks::blocking(move || {
        let result = match root {
            Some(root) => list(&root, &path, patterns.as_ref()),
            None if path.bytes().all(|byte| byte == b'/') => Ok(Vec::new()),
            None => Err(io::Error::from_raw_os_error(2)),
        };
        result.map_err(|err| failed("open", &shown, &err).reclassified(Class::User))
    })
    .await
}

fn list(root: &Root, path: &str, patterns: Option<&Patterns>) -> io::Result<Vec<Stat>> {
    let dir = root.open_dir(path)?;
    let mut names: Vec<PathBuf> = std::fs::read_dir(dir.proc_path())?
        .map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())))
        .collect::<io::Result<_>>()?;
    names.sort();
    let mut stats = Vec::new();
    for name in names {
        let included =
            patterns.is_none_or(|patterns| patterns.matches(name.as_os_str().as_encoded_bytes()));
        if included {
            let meta = dir.symlink_meta(&name)?;
            stats.push(stat(&dir, &name, &meta)?);
        }
    }
    Ok(stats)
}

/// Looks at a path; a final link is not followed.
pub(crate) async fn stat_file(cx: &Cx, value: &Value, path: &str) -> Result<Stat, Failure> {
    let root = root(cx, value).await?;
    let shown = absolute(path);
    tasks::blocking(move || {
        let result = root
            .ok_or_else(|| io::Error::from_raw_os_error(2))
            .and_then(|root| {
                let meta = root.symlink_meta(&shown)?;
                stat(&root, Path::new(&shown), &meta)
            });
        result.map_err(|err| failed("lstat", &shown, &err).reclassified(Class::User))
    })
    .await
}

/// The tree of a mount that may be written to meanwhile.
async fn place(tree: mount::Mount) -> Result<Option<Root>, Failure> {
    let failed = |err: io::Error| Failure::new(err.class(), format!("failed to open tree: {err}"));
    tasks::blocking(move || {
        let tree = tree.detached().map_err(failed)?;
        // The mount behind the tree stays alive through the descriptor.
        Root::from_borrowed(tree.fd()).map(Some).map_err(failed)
    })
    .await
}

/// As [`read_file`], from a mount.
pub(crate) async fn read_file_at(
    tree: mount::Mount,
    path: &str,
    range: Option<(i64, i64)>,
) -> Result<Bytes, Failure> {
    read_file_in(place(tree).await?, path, range).await
}

/// As [`read_dir`], from a mount.
pub(crate) async fn read_dir_at(
    tree: mount::Mount,
    path: &str,
    include: &str,
) -> Result<Vec<Stat>, Failure> {
    read_dir_in(place(tree).await?, path, include).await
}

/// As [`stat_file`], from a mount. Links are followed as far as they lead to something.
pub(crate) async fn stat_file_at(tree: mount::Mount, path: &str) -> Result<Stat, Failure> {
    let root = place(tree).await?;
    let shown = absolute(path);
    tasks::blocking(move || {
        let look = |root: Root| {
            let path = Path::new(&shown);
            let target = root.resolve(path).ok();
            let target = target.filter(|target| root.symlink_meta(target).is_ok());
            let target = target.unwrap_or_else(|| path.to_owned());
            let meta = root.symlink_meta(&target)?;
            let mut stat = stat(&root, &target, &meta)?;
            if let Some(name) = path.file_name() {
                stat.path = name.to_string_lossy().into_owned();
            }
            Ok(stat)
        };
        let result = root
            .ok_or_else(|| io::Error::from_raw_os_error(2))
            .and_then(look);
        result.map_err(|err| failed("lstat", &shown, &err).reclassified(Class::User))
    })
    .await
}

/// What is told of an entry. Compat: the path is the base name.
fn stat(root: &Root, path: &Path, meta: &Meta) -> io::Result<Stat> {
    let linkname = if meta.kind() == Kind::Symlink {
        root.read_link(path)?.to_string_lossy().into_owned()
    } else {
        String::new()
    };
    let name = path
        .file_name()
        .map_or_else(|| "/".into(), |name| name.to_string_lossy());
    let xattrs = match path.file_name() {
        Some(_) => root
            .parent(path)
            .and_then(|parent| fstree::xattr::of_entry(&parent.dir, parent.name.to_bytes())),
        None => fstree::xattr::of_file(root.fd()),
    };
    let name = name.into_owned();
    Ok(filesync::stat::of_meta(name, linkname, meta, xattrs.ok()))
}

fn absolute(path: &str) -> String {
    format!("/{}", path.trim_start_matches("./").trim_start_matches('/'))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn entries_are_told_as_clients_know_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("dir")).expect("made");
        std::fs::write(at("file"), "four").expect("written");
        symlink("file", at("link")).expect("linked");
        let _socket = UnixListener::bind(at("socket")).expect("bound");
        let file = std::fs::File::open(at("file")).expect("opened");
        let set = |name: &[u8]| fstree::xattr::set_of_file(&file, name, b"value");
        set(b"user.kept").expect("attributes work here");

        let root = Root::open(dir.path()).expect("opened");
        let found = list(&root, "/", None).expect("listed");
        let told: Vec<_> = found
            .iter()
            .map(|stat| (stat.path.as_str(), stat.size, stat.linkname.as_str()))
            .collect();
        let expected = [
            ("dir", 0, ""),
            ("file", 4, ""),
            ("link", 4, "file"),
            ("socket", 0, ""),
        ];
        assert_eq!(told, expected);
        assert_eq!(found[3].mode & (1 << 24), 0);
        let names: Vec<_> = found[1].xattrs.keys().map(String::as_str).collect();
        assert!(names.contains(&"user.kept"), "{names:?}");
        let dev = Root::open("/dev").expect("opened");
        let meta = dev.symlink_meta("null").expect("looked at");
        let stat = stat(&dev, Path::new("null"), &meta).expect("told");
        assert_eq!((stat.devmajor, stat.devminor), (1, 3));
    }

    #[test]
    fn the_tree_itself_can_be_looked_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = Root::open(dir.path()).expect("opened");
        let meta = root.symlink_meta("/").expect("looked at");
        let stat = stat(&root, Path::new("/"), &meta).expect("told");
        assert_eq!((stat.path.as_str(), stat.size), ("/", 0));
    }
}
