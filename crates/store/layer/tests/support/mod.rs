//! Trees as the recorded cases describe them: made on disk, and read back.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::Value;

pub fn vector(name: &str) -> Value {
    let path = format!(
        "{}/../../../testing/vectors/layers/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).expect("a vector file");
    serde_json::from_str(&text).expect("a JSON document")
}

pub fn base64(text: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(text.as_str().expect("base64"))
        .expect("base64")
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap_or(0)).expect("small")
}

fn text<'a>(entry: &'a Value, key: &str) -> &'a str {
    entry[key].as_str().unwrap_or_default()
}

pub fn mode(entry: &Value) -> u32 {
    u32::from_str_radix(text(entry, "mode"), 8).expect("octal")
}

/// Makes the entries; metadata last, directories after everything in them.
pub fn make(root: &Path, entries: &Value) {
    let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default();
    for entry in entries {
        make_one(root, entry);
    }
    let (dirs, others): (Vec<&Value>, Vec<&Value>) = entries
        .iter()
        .partition(|entry| text(entry, "type") == "dir");
    for entry in others.into_iter().chain(dirs.into_iter().rev()) {
        if text(entry, "type") != "hardlink" {
            set_times(&root.join(text(entry, "path")), entry);
        }
    }
}

fn make_one(root: &Path, entry: &Value) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let path = root.join(text(entry, "path"));
    let device = rustix::fs::makedev(number(&entry["devmajor"]), number(&entry["devminor"]));
    let node = |kind, device| {
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o600), device).expect("mknod");
    };
    match text(entry, "type") {
        "dir" => std::fs::create_dir(&path).expect("mkdir"),
        "file" => std::fs::write(&path, content(entry)).expect("write"),
        "symlink" => std::os::unix::fs::symlink(text(entry, "linkname"), &path).expect("symlink"),
        "hardlink" => {
            std::fs::hard_link(root.join(text(entry, "linkname")), &path).expect("link");
            return;
        }
        "fifo" => node(FileType::Fifo, 0),
        "socket" => node(FileType::Socket, 0),
        "char" => node(FileType::CharacterDevice, device),
        "block" => node(FileType::BlockDevice, device),
        other => panic!("strange type {other}"),
    }
    let (uid, gid) = (number(&entry["uid"]), number(&entry["gid"]));
    std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).expect("chown");
    for (name, value) in entry["xattrs_base64"].as_object().into_iter().flatten() {
        let value = base64(value);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::lsetxattr(&path, name, &value, flags).expect("setxattr");
    }
    if text(entry, "type") != "symlink" {
        let mode = std::fs::Permissions::from_mode(mode(entry));
        std::fs::set_permissions(&path, mode).expect("chmod");
    }
}

fn content(entry: &Value) -> Vec<u8> {
    match entry["size"].as_u64() {
        Some(size) => b"abcdefgh"
            .iter()
            .copied()
            .cycle()
            .take(usize::try_from(size).expect("small"))
            .collect(),
        None => text(entry, "text").as_bytes().to_vec(),
    }
}

fn set_times(path: &Path, entry: &Value) {
    let time = rustix::fs::Timespec {
        tv_sec: entry["mtime"][0].as_i64().expect("seconds"),
        tv_nsec: entry["mtime"][1].as_i64().expect("nanoseconds"),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).expect("utimens");
}

/// What a tree looks like, one line an entry, in the order of a walk.
pub fn describe(root: &Path) -> Vec<String> {
    let root = fstree::Root::open(root).expect("open");
    let mut first = BTreeMap::new();
    let mut lines = Vec::new();
    for entry in fstree::Walk::new(&root).expect("walk") {
        let entry = entry.expect("entry");
        let path = entry.path.display().to_string();
        let meta = &entry.meta;
        let key = meta.inode();
        if !meta.is_dir()
            && meta.nlink > 1
            && let Some(earlier) = first.insert(key, path.clone())
        {
            first.insert(key, earlier.clone());
            lines.push(format!("{path} hardlink {earlier}"));
            continue;
        }
        let real = PathBuf::from(format!("{}/{path}", root.proc_path().display()));
        let file_type = std::fs::symlink_metadata(&real).expect("stat").file_type();
        let (kind, detail) = if file_type.is_dir() {
            ("dir", String::new())
        } else if file_type.is_symlink() {
            ("symlink", entry.link.display().to_string())
        } else if file_type.is_fifo() {
            ("fifo", String::new())
        } else if file_type.is_char_device() {
            let (major, minor) = (meta.rdev.major, meta.rdev.minor);
            ("char", format!("{major}:{minor}"))
        } else {
            ("file", std::fs::read_to_string(&real).expect("text"))
        };
        let xattrs: Vec<String> = entry
            .xattrs()
            .expect("xattrs")
            .iter()
            .map(|(name, value)| format!("{}={}", name.display(), String::from_utf8_lossy(value)))
            .collect();
        lines.push(format!(
            "{path} {kind} {:04o} {}:{} {} {detail} {xattrs:?}",
            meta.permissions(),
            meta.uid,
            meta.gid,
            time(meta.mtime.sec, meta.mtime.nsec),
        ));
    }
    lines
}

/// Times of the run are all the same.
fn time(sec: i64, nsec: u32) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    if now.as_secs().abs_diff(sec.cast_unsigned()) < 600 {
        return "now".to_owned();
    }
    format!("{sec}.{nsec}")
}

/// The same lines for a recorded tree.
pub fn describe_recorded(entries: &Value) -> Vec<String> {
    let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<(String, String)> = entries
        .iter()
        .map(|entry| {
            let path = text(entry, "path").to_owned();
            if text(entry, "type") == "hardlink" {
                let line = format!("{path} hardlink {}", text(entry, "linkname"));
                return (path, line);
            }
            let detail = match text(entry, "type") {
                "symlink" => text(entry, "linkname").to_owned(),
                "char" => format!(
                    "{}:{}",
                    number(&entry["devmajor"]),
                    number(&entry["devminor"])
                ),
                "file" => text(entry, "text").to_owned(),
                _ => String::new(),
            };
            let xattrs: Vec<String> = entry["xattrs_base64"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(&base64(value))))
                .collect();
            let seconds = entry["mtime"][0].as_i64().expect("seconds");
            let time = match seconds {
                -1 => "now".to_owned(),
                _ => format!("{seconds}.{}", entry["mtime"][1].as_i64().unwrap_or(0)),
            };
            let line = format!(
                "{path} {} {:04o} {}:{} {time} {detail} {xattrs:?}",
                text(entry, "type"),
                mode(entry),
                number(&entry["uid"]),
                number(&entry["gid"]),
            );
            (path, line)
        })
        .collect();
    lines.sort_by(|(left, _), (right, _)| {
        fstree::path::walk_order(left.as_bytes(), right.as_bytes())
    });
    lines.into_iter().map(|(_, line)| line).collect()
}
