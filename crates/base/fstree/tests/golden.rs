//! The filter and ignore file vectors that stock code answered.

use std::collections::BTreeSet;
use std::path::Path;

use fstree::{Filter, FilterOptions, Patterns, Root};
use serde_json::Value;

fn vectors(name: &str) -> Value {
    let path = format!(
        "{}/../../../testing/vectors/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).expect(&path);
    serde_json::from_str(&text).expect("JSON")
}

fn texts(value: &Value) -> Vec<String> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|text| text.as_str().expect("text").to_owned())
        .collect()
}

fn make(dir: &Path, entry: &Value) {
    let field = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let path = dir.join(field("Path"));
    std::fs::create_dir_all(path.parent().expect("below the root")).expect("mkdir");
    match field("Type").as_str() {
        "dir" => std::fs::create_dir_all(path).expect("mkdir"),
        "file" => std::fs::write(path, field("Text")).expect("write"),
        "symlink" => std::os::unix::fs::symlink(field("Link"), path).expect("symlink"),
        other => panic!("a new type {other}"),
    }
}

fn sent(root: &Root, filter: &Filter, slash: bool) -> Vec<String> {
    let walk = filter.walk(root).expect("walk");
    walk.map(|entry| {
        let entry = entry.expect("entry");
        let slash = if slash && entry.meta.is_dir() {
            "/"
        } else {
            ""
        };
        format!("{}{slash}", entry.path.display())
    })
    .collect()
}

#[test]
fn filters_show_what_stock_code_sends() {
    let vectors = vectors("transfer/filter-cases.json");
    let dir = tempfile::tempdir().expect("a scratch folder");
    for entry in vectors["tree"].as_array().expect("a tree") {
        make(dir.path(), entry);
    }
    let root = Root::open(dir.path()).expect("open");
    let cases = vectors["cases"].as_array().expect("cases");
    assert!(cases.len() >= 46);
    for case in cases {
        let options = FilterOptions {
            include: texts(&case["Include"]),
            exclude: texts(&case["Exclude"]),
            follow: texts(&case["Follow"]),
        };
        if !options.follow.is_empty() {
            let followed = fstree::follow_paths(&root, &options.follow).expect("follow");
            let wanted = &case["Resolved_follow"];
            assert_eq!(followed.is_some(), wanted.is_array(), "{case}");
            assert_eq!(followed.unwrap_or_default(), texts(wanted), "{case}");
        }
        match Filter::new(&root, &options) {
            Ok(filter) => {
                let sent = sent(&root, &filter, false);
                assert_eq!(sent, texts(&case["Sent"]), "{case}");
                assert!(case["Err"].is_null(), "{case}");
            }
            Err(err) => {
                let wanted = case["Err"].as_str().unwrap_or("no error");
                assert_eq!(fault::chain(&err), wanted, "{case}");
            }
        }
    }
}

#[test]
fn ignore_files_exclude_what_stock_code_excludes() {
    let vectors = vectors("dockerfile/ignore.json");
    for case in vectors.as_array().expect("cases") {
        check_ignore_file(case);
    }
}

fn check_ignore_file(case: &Value) {
    let text = case["ignore"].as_str().expect("text");
    let list = fstree::ignore::parse(text.as_bytes()).expect("short lines");
    assert_eq!(list, texts(&case["patterns"]), "{text:?}");
    let patterns = match Patterns::new(&list) {
        Ok(patterns) => patterns,
        Err(err) => {
            assert_eq!(case["error"], err.to_string(), "{text:?}");
            return;
        }
    };
    assert!(case["error"].is_null(), "{text:?} fails: {}", case["error"]);
    let paths = texts(&case["paths"]);
    for path in &paths {
        let wanted = case["excluded"][path].as_bool().unwrap_or(false);
        let found = patterns.matches(path.as_bytes());
        assert_eq!(found, wanted, "{text:?} on {path}");
    }
    let dir = tempfile::tempdir().expect("a scratch folder");
    for path in &paths {
        let at = dir.path().join(path);
        // In the last rows `a` is a file, so there is no `a/x/b` in the tree.
        if paths
            .iter()
            .any(|file| path.starts_with(&format!("{file}/")))
        {
            continue;
        }
        std::fs::create_dir_all(at.parent().expect("below the root")).expect("mkdir");
        std::fs::write(at, "x").expect("write");
    }
    let root = Root::open(dir.path()).expect("open");
    let filter = Filter::from_lists(Vec::new(), list).expect("filter");
    let found: BTreeSet<_> = sent(&root, &filter, true).into_iter().collect();
    let wanted: BTreeSet<_> = texts(&case["sent"]).into_iter().collect();
    assert_eq!(found, wanted, "{text:?}");
}
