//! The vectors as Rust values.

// Each test file uses its own part.
#![allow(dead_code)]

use base64::Engine as _;
use contenthash::Query;
use serde_json::Value;

pub struct Entry {
    pub path: String,
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub content: Vec<u8>,
    pub linkname: String,
    pub devmajor: u32,
    pub devminor: u32,
    pub xattrs: Vec<(String, Vec<u8>)>,
}

pub struct Tree {
    pub name: String,
    pub root: Entry,
    pub entries: Vec<Entry>,
    pub queries: Vec<Asked>,
}

pub struct Asked {
    pub query: Query,
    pub disk: Result<String, String>,
    pub stream: Result<String, String>,
}

pub fn trees() -> Vec<Tree> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../testing/vectors/cachekeys/contenthash.json"
    );
    let text = std::fs::read_to_string(path).expect(path);
    let vectors: Value = serde_json::from_str(&text).expect("JSON");
    let list = vectors["trees"].as_array().expect("trees").iter();
    list.map(tree).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap_or(0)).expect("a small number")
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().map(text).collect()
}

fn base64(value: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD
        .decode(text(value))
        .expect("base64")
}

fn tree(value: &Value) -> Tree {
    let list = |name: &str| value[name].as_array().expect("a list").iter();
    let mut entries: Vec<Entry> = list("entries").map(entry).collect();
    entries.sort_by(|a, b| fstree::path::walk_order(a.path.as_bytes(), b.path.as_bytes()));
    Tree {
        name: text(&value["name"]),
        root: entry(&value["root"]),
        entries,
        queries: list("queries").map(asked).collect(),
    }
}

fn entry(value: &Value) -> Entry {
    let mut content = if value["content_base64"].is_string() {
        base64(&value["content_base64"])
    } else {
        text(&value["content"]).into_bytes()
    };
    if let Some(times) = value["content_repeat"].as_u64() {
        content = content.repeat(usize::try_from(times).expect("a small number"));
    }
    let xattrs = value["xattrs_base64"].as_object().into_iter().flatten();
    Entry {
        path: text(&value["path"]),
        kind: text(&value["type"]),
        mode: u32::from_str_radix(&text(&value["mode"]), 8).expect("octal"),
        uid: number(&value["uid"]),
        gid: number(&value["gid"]),
        content,
        linkname: text(&value["linkname"]),
        devmajor: number(&value["devmajor"]),
        devminor: number(&value["devminor"]),
        xattrs: xattrs
            .map(|(name, value)| (name.clone(), base64(value)))
            .collect(),
    }
}

fn asked(value: &Value) -> Asked {
    let answer = |name: &str| match value[name].as_str() {
        Some(digest) => Ok(digest.to_owned()),
        None => Err(text(&value[format!("{name}_error")])),
    };
    Asked {
        query: Query {
            path: text(&value["path"]),
            follow: value["follow_links"].as_bool().unwrap_or(false),
            wildcard: value["wildcard"].as_bool().unwrap_or(false),
            include: texts(&value["include"]),
            exclude: texts(&value["exclude"]),
            required: texts(&value["required"]),
        },
        disk: answer("disk"),
        stream: answer("stream"),
    }
}

/// Compares an answer; of the texts of errors only ours are compared where upstream's names its mount.
pub fn check(
    tree: &Tree,
    asked: &Asked,
    found: Result<String, String>,
    wanted: &Result<String, String>,
) {
    let wanted = match wanted {
        Err(text) if text.contains("ROOT") => Err(format!("{:?}: not found", asked.query.path)),
        other => other.clone(),
    };
    assert_eq!(found, wanted, "tree {}, {:?}", tree.name, asked.query);
}
