//! Who a step runs as: names and numbers looked up in the passwd and group files of its root.
//!
//! The files are the image's, so they are opened without leaving the root and read up to a limit. Lines are taken as
//! container tools take them: a number that does not parse is 0, comments are lines like any other.

use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use crate::rootfs::Root;

/// Bytes of passwd or group that are read.
const LIMIT: u64 = 10 * 1024 * 1024;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Groups besides, as the files list them.
    pub groups: Vec<u32>,
}

impl User {
    /// All groups of the process: the primary one is always among them, in front if the files do not list it.
    pub fn all_groups(&self) -> Vec<u32> {
        let mut all = self.groups.clone();
        if !all.contains(&self.gid) {
            all.insert(0, self.gid);
        }
        all
    }
}

/// Why a user could not be resolved.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum UserError {
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoUser { name: String },
    #[error("unable to find group {name}: no matching entries in group file")]
    NoGroup { name: String },
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
    #[error("{path:?} exceeds {LIMIT} bytes")]
    TooLong { path: &'static str },
    #[error("{path:?} is not a regular file")]
    NotAFile { path: &'static str },
    #[error("failed to read {path}")]
    Read {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
}

/// Resolves `user[:group]` inside a root. No user at all is user 0, whether the files say anything about it or not.
pub fn resolve(root: &Root, user: &str) -> Result<User, UserError> {
    if user.is_empty() {
        return Ok(lookup(root, "0").unwrap_or_default());
    }
    if let Some(user) = numeric(user) {
        return Ok(user);
    }
    lookup(root, user)
}

/// The home directory of a user id, `/` when the root does not know one.
pub fn home(root: &Root, uid: u32) -> String {
    let passwd = read(root, "/etc/passwd").unwrap_or_default();
    let home = lines(&passwd)
        .map(Passwd::parse)
        .find(|line| line.uid == i64::from(uid))
        .map(|line| line.home.to_owned());
    home.unwrap_or_else(|| "/".to_owned())
}

/// `n:m` where both are numbers or `root`: no file is asked.
fn numeric(user: &str) -> Option<User> {
    let mut fields = user.split(':');
    let id = |text: &str| {
        if text == "root" {
            Some(0)
        } else {
            text.parse::<u32>().ok()
        }
    };
    let uid = id(fields.next()?)?;
    let gid = id(fields.next()?)?;
    Some(User {
        uid,
        gid,
        groups: Vec::new(),
    })
}

fn lookup(root: &Root, text: &str) -> Result<User, UserError> {
    let mut fields = text.split(':');
    let user = fields.next().unwrap_or_default();
    let group = fields.next().unwrap_or_default();
    let passwd = read(root, "/etc/passwd")?;
    let number = user.parse::<i64>().ok();
    let found = lines(&passwd).map(Passwd::parse).find(|line| match number {
        _ if user.is_empty() => line.uid == 0,
        Some(uid) => line.uid == uid,
        None => line.name == user,
    });
    let (uid, gid, name) = match found {
        Some(line) => (line.uid, line.gid, line.name),
        None if user.is_empty() => (0, 0, ""),
        None => match number {
            None => {
                return Err(UserError::NoUser {
                    name: user.to_owned(),
                });
            }
            Some(uid) => (in_range(uid)?, 0, ""),
        },
    };
    let mut user = User {
        uid: id(uid)?,
        gid: id(gid)?,
        groups: Vec::new(),
    };
    if !group.is_empty() || !name.is_empty() {
        choose_groups(root, &mut user, name, group)?;
    }
    Ok(user)
}

/// An explicit group replaces the primary one; without, the memberships of the user's name are added.
fn choose_groups(root: &Root, user: &mut User, name: &str, group: &str) -> Result<(), UserError> {
    let text = read(root, "/etc/group")?;
    let mut groups = lines(&text)
        .filter(|line| !line.starts_with('#'))
        .map(Group::parse);
    if group.is_empty() {
        for line in groups.filter(|line| line.members.split(',').any(|member| member == name)) {
            user.groups.push(id(line.gid)?);
        }
        return Ok(());
    }
    let number = group.parse::<i64>().ok();
    let found = groups.find(|line| match number {
        Some(gid) => line.gid == gid,
        None => line.name == group,
    });
    user.gid = match (found, number) {
        (Some(line), _) => id(line.gid)?,
        (None, Some(gid)) => id(in_range(gid)?)?,
        (None, None) => {
            return Err(UserError::NoGroup {
                name: group.to_owned(),
            });
        }
    };
    Ok(())
}

fn in_range(number: i64) -> Result<i64, UserError> {
    if (0..=i64::from(i32::MAX)).contains(&number) {
        Ok(number)
    } else {
        Err(UserError::Range)
    }
}

/// Numbers from the files may use all 32 bits.
fn id(number: i64) -> Result<u32, UserError> {
    u32::try_from(number).map_err(|_| UserError::Range)
}

struct Passwd<'a> {
    name: &'a str,
    uid: i64,
    gid: i64,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    fn parse(line: &'a str) -> Self {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or_default();
        let mut fields = fields.skip(1);
        let uid = integer(fields.next());
        let gid = integer(fields.next());
        let home = fields.nth(1).unwrap_or_default();
        Self {
            name,
            uid,
            gid,
            home,
        }
    }
}

struct Group<'a> {
    name: &'a str,
    gid: i64,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Self {
        let mut fields = line.split(':');
        let name = fields.next().unwrap_or_default();
        let gid = integer(fields.nth(1));
        Self {
            name,
            gid,
            members: fields.next().unwrap_or_default(),
        }
    }
}

fn integer(field: Option<&str>) -> i64 {
    field.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// The text of a file inside the root; empty when it does not exist.
fn read(root: &Root, path: &'static str) -> Result<String, UserError> {
    let failed = |source| UserError::Read { path, source };
    // Opening a fifo must not wait for somebody to write.
    let fd = match root.open_at(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => fd,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(err) => return Err(failed(err)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(UserError::NotAFile { path });
    }
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(fd).take(LIMIT + 1);
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LIMIT {
        return Err(UserError::TooLong { path });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn vectors() -> Value {
        let text = include_str!("../../../../testing/vectors/exec/user-cases.json");
        serde_json::from_str(text).expect("vector is JSON")
    }

    fn roots(vectors: &Value) -> (tempfile::TempDir, Root, Root) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let etc = dir.path().join("full/etc");
        std::fs::create_dir_all(&etc).expect("writable");
        std::fs::create_dir_all(dir.path().join("none")).expect("writable");
        for name in ["passwd", "group"] {
            let text = vectors[name].as_str().expect("a text");
            std::fs::write(etc.join(name), text).expect("writable");
        }
        let open = |name: &str| Root::open(&dir.path().join(name)).expect("just made");
        let (full, none) = (open("full"), open("none"));
        (dir, full, none)
    }

    #[test]
    fn every_recorded_user_resolves_as_recorded() {
        let vectors = vectors();
        let (_dir, full, none) = roots(&vectors);
        for case in vectors["cases"].as_array().expect("a list") {
            let text = case["user"].as_str().expect("a text");
            let root = if case["root"] == "full" { &full } else { &none };
            let numbers = |value: &Value| -> Vec<u32> {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                list.iter()
                    .map(|n| n.as_u64().expect("a number") as u32)
                    .collect()
            };
            let expected = match case["error"].as_str() {
                Some(error) => Err(error.to_owned()),
                None => Ok(User {
                    uid: case["uid"].as_u64().expect("a number") as u32,
                    gid: case["gid"].as_u64().expect("a number") as u32,
                    groups: numbers(&case["additional_groups_before_primary_is_added"]),
                }),
            };
            let got = resolve(root, text).map_err(|err| err.to_string());
            assert_eq!(got, expected, "user {text:?} in root {}", case["root"]);
        }
    }

    #[test]
    fn the_primary_group_is_put_in_front_unless_it_is_listed() {
        let user = |gid, groups: &[u32]| User {
            uid: 0,
            gid,
            groups: groups.to_vec(),
        };
        assert_eq!(user(0, &[10]).all_groups(), [0, 10]);
        assert_eq!(user(10, &[0, 10]).all_groups(), [0, 10]);
    }

    #[test]
    fn files_behind_links_are_read_inside_the_root() {
        let (dir, full, _) = roots(&vectors());
        let etc = dir.path().join("full/etc");
        std::fs::rename(etc.join("passwd"), etc.join("real")).expect("writable");
        std::os::unix::fs::symlink("/etc/real", etc.join("passwd")).expect("writable");
        assert_eq!(resolve(&full, "bob").expect("found").uid, 1234);
        assert_eq!(home(&full, 1234), "/home/bob");
        assert_eq!(home(&full, 77), "/");
    }

    #[test]
    fn a_directory_in_place_of_passwd_is_refused() {
        let (dir, _, none) = roots(&vectors());
        std::fs::create_dir_all(dir.path().join("none/etc/passwd")).expect("writable");
        let err = resolve(&none, "bob").expect_err("not a file");
        assert_eq!(err.to_string(), "\"/etc/passwd\" is not a regular file");
    }
}
