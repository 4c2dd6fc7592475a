//! Labels by which SELinux keeps containers apart: each has a pair of categories that no other has.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

/// There are so many categories.
const CATEGORIES: u32 = 1024;

/// Pairs of categories in use.
#[derive(Debug, Default)]
pub(crate) struct Allotted {
    pairs: Arc<Mutex<BTreeSet<(u32, u32)>>>,
}

/// Labels of one container. Dropped, others may get them.
#[derive(Debug)]
pub(crate) struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of what is mounted in it.
    pub mount: String,
    pair: (u32, u32),
    pairs: Arc<Mutex<BTreeSet<(u32, u32)>>>,
}

impl Drop for Labels {
    fn drop(&mut self) {
        self.pairs.lock().remove(&self.pair);
    }
}

impl Allotted {
    /// New labels after the policy that `dir` says is in force.
    pub(crate) fn allot(&self, dir: &Path) -> io::Result<Labels> {
        let contexts = Contexts::read(dir)?;
        let mut pairs = self.pairs.lock();
        let pair = loop {
            let pair = random_pair();
            if pairs.insert(pair) {
                break pair;
            }
        };
        drop(pairs);
        let with = |label: &str| {
            let fields: Vec<&str> = label.splitn(4, ':').collect();
            let place = fields
                .get(..3)
                .map_or_else(|| label.to_owned(), |fields| fields.join(":"));
            format!("{place}:s0:c{},c{}", pair.0, pair.1)
        };
        Ok(Labels {
            process: with(&contexts.process),
            mount: with(&contexts.file),
            pair,
            pairs: self.pairs.clone(),
        })
    }
}

/// Two different categories, the smaller first.
fn random_pair() -> (u32, u32) {
    let id = identity::new_id();
    let number = |text: &str| {
        text.bytes().fold(0, |sum: u32, byte| {
            sum.wrapping_mul(36).wrapping_add(byte.into())
        })
    };
    let (first, second) = id.split_at(id.len() / 2);
    let first = number(first) % CATEGORIES;
    let second = number(second) % (CATEGORIES - 1);
    let second = if second >= first { second + 1 } else { second };
    (first.min(second), first.max(second))
}

/// Labels of containers, as the policy has them.
struct Contexts {
    process: String,
    file: String,
}

impl Contexts {
    fn read(dir: &Path) -> io::Result<Self> {
        let config = std::fs::read_to_string(dir.join("config"))?;
        let policy = value(&config, "SELINUXTYPE").unwrap_or("targeted");
        let path = dir.join(policy).join("contexts/lxc_contexts");
        let named =
            |err: io::Error| io::Error::new(err.kind(), format!("{}: {err}", path.display()));
        let contexts = std::fs::read_to_string(&path).map_err(named)?;
        let label = |name: &str| {
            value(&contexts, name).map(str::to_owned).ok_or_else(|| {
                let text = format!("{}: no {name}", path.display());
                io::Error::new(io::ErrorKind::InvalidData, text)
            })
        };
        Ok(Self {
            process: label("process")?,
            file: label("file")?,
        })
    }
}

/// The value of `name = "value"`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_get_different_categories_and_give_them_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let contexts = dir.path().join("mls/contexts");
        std::fs::create_dir_all(&contexts).expect("writable");
        let write = |path: &Path, text: &str| std::fs::write(path, text).expect("writable");
        write(
            &dir.path().join("config"),
            "# comment\nSELINUX=enforcing\nSELINUXTYPE=mls\n",
        );
        let all = Allotted::default();
        let missing = all.allot(dir.path()).expect_err("no contexts").to_string();
        assert!(missing.contains("lxc_contexts"), "{missing}");
        write(
            &contexts.join("lxc_contexts"),
            "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n",
        );
        let labels: Vec<_> = (0..50)
            .map(|_| all.allot(dir.path()).expect("labels"))
            .collect();
        let first = &labels[0];
        assert!(
            first
                .process
                .starts_with("system_u:system_r:container_t:s0:c"),
            "{}",
            first.process
        );
        assert!(
            first
                .mount
                .starts_with("system_u:object_r:container_file_t:s0:c"),
            "{}",
            first.mount
        );
        let different: BTreeSet<_> = labels.iter().map(|labels| &labels.process).collect();
        assert_eq!(different.len(), 50);
        drop(labels);
        assert!(all.pairs.lock().is_empty());
    }

    #[test]
    fn a_pair_is_in_order_and_in_range() {
        for _ in 0..1000 {
            let (a, b) = random_pair();
            assert!(a < b && b < CATEGORIES);
        }
    }
}
