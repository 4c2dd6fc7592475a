//! What is said about a tree, as files beside its own.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;

use bytes::Bytes;
use export::attestation::{self, Attestation, Named};
use export::{Error, Input, Part, Work};
use filesync::{Content, Emit, Item, Listing, Tree, stat};
use fstree::{Kind, Root, path::walk_order};
use oci::{Digest, Hasher};
use proto::fsutil::Stat;
use tasks::Cx;

use crate::options::Options;

/// Who runs the build may read it.
const MODE: u32 = 0o600;

/// Files at the root of a tree, in the order of a walk.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    files: Vec<(String, Bytes)>,
    /// In nanoseconds.
    time: i64,
}

/// The statements about one platform's tree.
pub(crate) async fn statements(
    work: &Work,
    input: &Input,
    options: &Options,
    part: &Part,
    root: Option<&Root>,
    started: i64,
) -> Result<Statements, Error> {
    let said = input.attestations.get(&part.id).into_iter().flatten();
    let said: Vec<Attestation> = said.filter(|it| !it.is_inline_only()).cloned().collect();
    let said = attestation::unbundle(work, &said).await?;
    if said.is_empty() {
        return Ok(Statements::default());
    }
    let subjects = match root {
        Some(root) => {
            let (cx, root) = (work.cx.clone(), root.clone());
            let listed = tasks::blocking(move || subjects(&cx, root)).await;
            listed.map_err(crate::failed)?
        }
        None => Vec::new(),
    };
    let made = attestation::statements(work, &said, &subjects).await?;
    let shared = input.is_map() && !options.splits(true);
    let mut names = BTreeSet::new();
    let mut files = Vec::new();
    for (attestation, statement) in said.iter().zip(&made) {
        let platform = shared.then_some(part.id.as_str());
        let name = name(&options.attestation_prefix, &attestation.path, platform);
        if !names.insert(name.clone()) {
            return Err(Error::user(format!(
                "duplicate attestation path name {name}"
            )));
        }
        files.push((in_tree(&name).to_owned(), statement.indented()?.into()));
    }
    files.sort_by(|left, right| walk_order(left.0.as_bytes(), right.0.as_bytes()));
    let time = started.saturating_mul(1_000_000_000);
    Ok(Statements { files, time })
}

/// The prefix and the last part of the path; the platform goes in front of the extension.
fn name(prefix: &str, path: &str, platform: Option<&str>) -> String {
    let base = path.trim_end_matches('/').rsplit('/').next();
    let name = format!("{prefix}{}", base.unwrap_or_default());
    let Some(platform) = platform else {
        return name;
    };
    let platform = platform.replace('/', "_");
    match name.rfind('.') {
        Some(dot) => format!("{}.{platform}{}", &name[..dot], &name[dot..]),
        None => format!("{name}.{platform}"),
    }
}

/// Compat: a prefix may begin with a slash.
fn in_tree(name: &str) -> &str {
    name.strip_prefix('/').unwrap_or(name)
}

/// All regular files of a tree with their digests, in the order of a walk.
fn subjects(cx: &Cx, root: Root) -> Result<Vec<Named>, filesync::Error> {
    let mut known: HashMap<String, Digest> = HashMap::new();
    let mut subjects = Vec::new();
    Tree::new(root).list(&mut |item| {
        cx.check()?;
        if stat::kind(&item.stat) != Kind::File {
            return Ok(());
        }
        let path = item.stat.path;
        let digest = match item.content {
            Content::File { root, path } => hash(&root, &path)?,
            Content::Bytes(bytes) => Digest::of(bytes),
            Content::None => match known.get(&item.stat.linkname) {
                Some(first) => first.clone(),
                None => Digest::of(""),
            },
        };
        subjects.push(Named::new(path.clone(), &digest));
        known.insert(path, digest);
        Ok(())
    })?;
    Ok(subjects)
}

fn hash(root: &Root, path: &std::path::Path) -> Result<Digest, filesync::Error> {
    let failed = |op| move |err| fstree::Error::new(op, path.to_string_lossy().into_owned(), err);
    let mut file = root.open_file(path).map_err(failed("open"))?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer).map_err(failed("read"))?;
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..read]);
    }
}

impl Statements {
    /// The tree with these files in it; they hide files of the same name.
    pub(crate) fn with(
        self,
        tree: impl FnOnce(Emit<'_>) -> Result<(), filesync::Error>,
        emit: Emit<'_>,
    ) -> Result<(), filesync::Error> {
        let time = self.time;
        let mut files = self.files.into_iter().peekable();
        tree(&mut |item: Item| {
            let path = item.stat.path.clone();
            let mut hidden = false;
            while let Some((name, bytes)) = files.next_if(|(name, _)| {
                walk_order(name.as_bytes(), path.as_bytes()) != Ordering::Greater
            }) {
                hidden = name == path;
                emit(entry(name, bytes, time))?;
            }
            if hidden { Ok(()) } else { emit(item) }
        })?;
        files.try_for_each(|(name, bytes)| emit(entry(name, bytes, time)))
    }
}

fn entry(path: String, bytes: Bytes, time: i64) -> Item {
    Item {
        stat: Stat {
            path,
            mode: MODE,
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            mod_time: time,
            ..Stat::default()
        },
        content: Content::Bytes(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_that_share_a_directory_are_told_apart() {
        for (prefix, path, platform, wanted) in [
            ("", "provenance.json", None, "provenance.json"),
            ("p-", "a/b.spdx.json", None, "p-b.spdx.json"),
            (
                "",
                "b.spdx.json",
                Some("linux/arm/v7"),
                "b.spdx.linux_arm_v7.json",
            ),
            ("", "b", Some("linux/arm64"), "b.linux_arm64"),
        ] {
            assert_eq!(name(prefix, path, platform), wanted);
        }
        assert_eq!(in_tree(&name("/p-", "x.json", None)), "p-x.json");
    }

    #[test]
    fn statements_stand_where_a_walk_finds_them() {
        let said = Statements {
            files: vec![
                ("b".to_owned(), Bytes::from_static(b"1")),
                ("z".to_owned(), Bytes::from_static(b"2")),
            ],
            time: 7,
        };
        let mut seen = Vec::new();
        let tree = |emit: Emit<'_>| {
            for path in ["a", "a/x", "b", "c"] {
                emit(entry(path.to_owned(), Bytes::new(), 0))?;
            }
            Ok(())
        };
        let listed = said.with(tree, &mut |item| {
            seen.push((item.stat.path, item.stat.mod_time));
            Ok(())
        });
        assert!(listed.is_ok());
        let seen: Vec<_> = seen
            .iter()
            .map(|(path, time)| (path.as_str(), *time))
            .collect();
        assert_eq!(seen, [("a", 0), ("a/x", 0), ("b", 7), ("c", 0), ("z", 7)]);
    }

    #[test]
    fn every_name_of_a_file_is_a_subject() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("d")).expect("mkdir");
        std::fs::write(at("d/f"), "hello").expect("write");
        std::fs::hard_link(at("d/f"), at("g")).expect("link");
        std::fs::write(at("e"), "").expect("write");
        std::os::unix::fs::symlink("e", at("l")).expect("link");
        let root = Root::open(dir.path()).expect("open");
        let found = subjects(&Cx::root(), root).expect("subjects");
        let wanted = [("d/f", "hello"), ("e", ""), ("g", "hello")];
        let wanted = wanted.map(|(name, text)| Named::new(name, &Digest::of(text)));
        assert_eq!(found, wanted);
    }
}
