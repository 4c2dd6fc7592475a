//! Users and groups by name, looked up in the account files of a tree.

use std::io::Read;

use fstree::Root;

use crate::error::on;
use crate::{Error, Owner};

/// The largest account file that is read.
const LIMIT: u64 = 10 << 20;

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// By number.
    Id(u32),
    /// By name.
    Name(String),
}

/// The owner somebody asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnerSpec {
    /// The user; a number stands for the group of the same number too, a name for the group in its entry.
    pub user: Option<Account>,
    /// The group, if not the user's.
    pub group: Option<Account>,
}

/// The numbers of an owner. Names are looked up in `/etc/passwd` of `users` and `/etc/group` of `groups`.
///
/// Compat: a name that is not listed, or a file that is not there, means 0.
pub fn find_owner(
    spec: &OwnerSpec,
    users: Option<&Root>,
    groups: Option<&Root>,
) -> Result<Owner, Error> {
    let mut owner = Owner { uid: 0, gid: 0 };
    match &spec.user {
        None => {}
        Some(Account::Id(id)) => {
            owner = Owner { uid: *id, gid: *id };
        }
        Some(Account::Name(name)) => {
            let users = users.ok_or(Error::NoAccounts)?;
            let content = read(users, "/etc/passwd")?;
            if let Some(fields) = entry(&content, name, false) {
                owner = Owner {
                    uid: number(fields.get(2)),
                    gid: number(fields.get(3)),
                };
            }
        }
    }
    match &spec.group {
        None => {}
        Some(Account::Id(id)) => owner.gid = *id,
        Some(Account::Name(name)) => {
            let groups = groups.ok_or(Error::NoAccounts)?;
            let content = read(groups, "/etc/group")?;
            if let Some(fields) = entry(&content, name, true) {
                owner.gid = number(fields.get(2));
            }
        }
    }
    Ok(owner)
}

/// The content of an account file, empty if it is not there.
fn read(root: &Root, path: &'static str) -> Result<String, Error> {
    let meta = match root.meta(path) {
        Ok(meta) => meta,
        Err(err) => {
            let err = fstree::Error::new("open", path, err);
            return if err.is_missing() {
                Ok(String::new())
            } else {
                Err(err.into())
            };
        }
    };
    if !meta.is_file() {
        return Err(Error::NotRegular { path });
    }
    let file = root.open_file(path).map_err(on("open", path))?;
    let mut content = Vec::new();
    file.take(LIMIT + 1)
        .read_to_end(&mut content)
        .map_err(on("read", path))?;
    if content.len() as u64 > LIMIT {
        return Err(Error::TooLarge { path, limit: LIMIT });
    }
    Ok(String::from_utf8_lossy(&content).into_owned())
}

fn entry<'a>(content: &'a str, name: &str, comments: bool) -> Option<Vec<&'a str>> {
    content
        .lines()
        .map(str::trim)
        .filter(|line| !(line.is_empty() || comments && line.starts_with('#')))
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
}

/// Compat: what is no number is 0.
fn number(field: Option<&&str>) -> u32 {
    field
        .and_then(|text| text.parse::<i64>().ok())
        .and_then(|id| u32::try_from(id).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().expect("a scratch folder");
        std::fs::create_dir(dir.path().join("etc")).expect("mkdir");
        let passwd = "root:x:0:0::/root:/bin/sh\n\n  app:x:1000:1001:::\nodd:x:ten\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).expect("write");
        let group = "#g:x:1\ng:x:77:a,b\n";
        std::fs::write(dir.path().join("etc/group"), group).expect("write");
        let root = Root::open(dir.path()).expect("open");
        (dir, root)
    }

    fn check(user: Option<Account>, group: Option<Account>, wanted: (u32, u32)) {
        let (_dir, root) = tree();
        let spec = OwnerSpec { user, group };
        let owner = find_owner(&spec, Some(&root), Some(&root)).expect("an owner");
        assert_eq!((owner.uid, owner.gid), wanted, "{spec:?}");
    }

    fn name(text: &str) -> Option<Account> {
        Some(Account::Name(text.to_owned()))
    }

    #[test]
    fn names_and_numbers_are_resolved() {
        check(name("app"), None, (1000, 1001));
        check(name("app"), name("g"), (1000, 77));
        check(Some(Account::Id(5)), None, (5, 5));
        check(Some(Account::Id(5)), Some(Account::Id(6)), (5, 6));
        check(None, name("g"), (0, 77));
        check(name("nobody"), name("none"), (0, 0));
        check(name("odd"), None, (0, 0));
    }

    #[test]
    fn a_tree_without_accounts_knows_only_root() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let root = Root::open(dir.path()).expect("open");
        let spec = OwnerSpec {
            user: name("app"),
            group: None,
        };
        let owner = find_owner(&spec, Some(&root), None).expect("an owner");
        assert_eq!(owner, Owner { uid: 0, gid: 0 });
        let err = find_owner(&spec, None, None).expect_err("no tree");
        assert_eq!(err.to_string(), "invalid user index: -1");
    }

    #[test]
    fn an_account_file_must_be_a_file() {
        let (dir, root) = tree();
        std::fs::remove_file(dir.path().join("etc/passwd")).expect("remove");
        std::fs::create_dir(dir.path().join("etc/passwd")).expect("mkdir");
        let spec = OwnerSpec {
            user: name("app"),
            group: None,
        };
        let err = find_owner(&spec, Some(&root), None).expect_err("a directory");
        assert_eq!(err.to_string(), "/etc/passwd is not a regular file");
    }
}
