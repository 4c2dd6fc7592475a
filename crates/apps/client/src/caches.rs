//! Remote caches that are folders of this machine: what the daemon may reach, and the index of each.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::build::CacheOption;
use crate::{Build, Error, Response, layout};

/// What there is to do for caches besides asking the daemon.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    /// Folders by the names the daemon asks for.
    pub(crate) stores: BTreeMap<String, PathBuf>,
    /// Folders that get a cache, and the tags it gets there.
    written: Vec<(PathBuf, String)>,
    /// Of those, the ones that keep nothing else.
    reset: Vec<PathBuf>,
}

impl Caches {
    /// Reads the options of a build and completes them: an import from a folder gets the digest that the folder's
    /// index has. One that is not there is left out.
    pub(crate) fn prepare(build: &mut Build) -> Result<Self, Error> {
        let mut caches = Self::default();
        for export in &build.cache_exports {
            caches.export(export)?;
        }
        let mut imports = Vec::with_capacity(build.cache_imports.len());
        for import in std::mem::take(&mut build.cache_imports) {
            imports.extend(caches.import(import)?);
        }
        build.cache_imports = imports;
        if !build.cache_imports.is_empty() && build.definition.is_none() {
            let list: Vec<Value> = build
                .cache_imports
                .iter()
                .map(|import| json!({"Type": import.kind, "Attrs": import.attrs}))
                .collect();
            let list = Value::from(list).to_string();
            build.attrs.insert("cache-imports".to_owned(), list);
        }
        Ok(caches)
    }

    fn export(&mut self, export: &CacheOption) -> Result<(), Error> {
        match export.kind.as_str() {
            "local" => {
                let dest = given(export, "dest", "local cache exporter requires dest")?;
                let dir = PathBuf::from(dest);
                filesync::client::make_all(&dir, 0o755)?;
                self.stores.insert(format!("local:{dest}"), dir.clone());
                let tag = export.attrs.get("tag").map_or("latest", String::as_str);
                self.written.push((dir.clone(), tag.to_owned()));
                if let Some(reset) = export.attrs.get("reset")
                    && flag("reset", reset)?
                {
                    self.reset.push(dir);
                }
            }
            "registry" => {
                given(export, "ref", "registry cache exporter requires ref")?;
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, mut import: CacheOption) -> Result<Option<CacheOption>, Error> {
        match import.kind.as_str() {
            "local" => {
                let src = given(&import, "src", "local cache importer requires src")?.to_owned();
                let dir = PathBuf::from(&src);
                check_named(&import)?;
                match find(&dir, &import) {
                    Ok(digest) => {
                        import.attrs.insert("digest".to_owned(), digest);
                        self.stores.insert(format!("local:{src}"), dir);
                    }
                    Err(reason) => {
                        // Compat: a cache that is not there yet is nothing to fail for.
                        eprintln!("warning: local cache import at {src} skipped{reason}");
                        return Ok(None);
                    }
                }
            }
            "registry" => {
                given(&import, "ref", "registry cache importer requires ref")?;
            }
            _ => {}
        }
        Ok(Some(import))
    }

    /// Writes down in each folder what the daemon put there.
    pub(crate) fn record(&self, response: &Response) -> Result<(), Error> {
        let Some(manifest) = response.exporter.get("cache.manifest") else {
            return Ok(());
        };
        let Ok(descriptor) = serde_json::from_str::<Value>(manifest) else {
            return Ok(());
        };
        for (dir, tag) in &self.written {
            layout::tag(dir, &descriptor, tag)?;
        }
        for dir in &self.reset {
            if let Err(source) = remove_unlisted(dir) {
                eprintln!(
                    "warning: failed to reset cache store {}: {source}",
                    dir.display()
                );
            }
        }
        Ok(())
    }
}

fn given<'a>(option: &'a CacheOption, key: &str, missing: &str) -> Result<&'a str, Error> {
    let value = option.attrs.get(key).filter(|value| !value.is_empty());
    value.map(String::as_str).ok_or_else(|| Error::Option {
        text: missing.to_owned(),
    })
}

fn flag(key: &str, value: &str) -> Result<bool, Error> {
    fault::truth(value).ok_or_else(|| Error::Option {
        text: format!(
            "failed to parse {key} attribute: strconv.ParseBool: parsing {value:?}: invalid syntax"
        ),
    })
}

/// Which cache of a folder is meant has to be said; not a word of it means the latest.
fn check_named(import: &CacheOption) -> Result<(), Error> {
    let said = |key| import.attrs.get(key).map(String::as_str);
    match (said("digest").unwrap_or_default(), said("tag")) {
        ("", Some("")) => Err(Error::Option {
            text: "local cache importer requires either explicit digest, \"latest\" tag or custom tag on index.json"
                .to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The digest of the cache in a folder, or why there is none.
fn find(dir: &Path, import: &CacheOption) -> Result<String, String> {
    let given = import
        .attrs
        .get("digest")
        .filter(|digest| !digest.is_empty());
    let digest = match given {
        Some(digest) => digest.clone(),
        None => {
            let tag = import.attrs.get("tag").map_or("latest", String::as_str);
            let index = layout::read(dir).map_err(|err| {
                let (path, text) = (dir.join("index.json"), fstree::errno_text(&err));
                let path = path.display();
                format!(" due to err: could not read {path}: open {path}: {text}")
            })?;
            let found = layout::find(&index, tag);
            found.ok_or_else(|| format!(": no digest found for tag {tag}"))?
        }
    };
    match blob(dir, &digest) {
        Some(path) if path.is_file() => Ok(digest),
        _ => Err(format!(": digest {digest} unavailable")),
    }
}

/// Where a blob is; `None` for what is no digest.
fn blob(dir: &Path, digest: &str) -> Option<PathBuf> {
    let (algorithm, hex) = digest.split_once(':')?;
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (plain(algorithm) && plain(hex)).then(|| dir.join("blobs").join(algorithm).join(hex))
}

/// Removes blobs that nothing in the folder's index leads to.
fn remove_unlisted(dir: &Path) -> std::io::Result<()> {
    let index = layout::read(dir)?;
    let mut needed = BTreeSet::new();
    let mut open = digests(&index);
    while let Some(digest) = open.pop() {
        let path = blob(dir, &digest);
        if !needed.insert(digest) {
            continue;
        }
        // Only documents list others; a layer is no JSON, and large.
        let small = |path: &PathBuf| {
            std::fs::metadata(path).is_ok_and(|meta| meta.len() < 64 << 20) && starts_as_json(path)
        };
        if let Some(path) = path.filter(small)
            && let Ok(document) = serde_json::from_slice::<Value>(&std::fs::read(path)?)
        {
            open.extend(digests(&document));
        }
    }
    for algorithm in std::fs::read_dir(dir.join("blobs"))? {
        let algorithm = algorithm?;
        for entry in std::fs::read_dir(algorithm.path())? {
            let entry = entry?;
            let name = format!(
                "{}:{}",
                algorithm.file_name().to_string_lossy(),
                entry.file_name().to_string_lossy()
            );
            if !needed.contains(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

fn starts_as_json(path: &Path) -> bool {
    use std::io::Read as _;
    let mut first = [0_u8; 1];
    std::fs::File::open(path).is_ok_and(|mut file| file.read_exact(&mut first).is_ok())
        && &first == b"{"
}

/// What a manifest or an index lists.
fn digests(document: &Value) -> Vec<String> {
    let lists = ["manifests", "layers"].map(|key| document[key].as_array());
    let listed = lists.into_iter().flatten().flatten();
    let all = listed.chain([&document["config"], &document["subject"]]);
    all.filter_map(|it| it["digest"].as_str().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(kind: &str, attrs: &[(&str, &str)]) -> CacheOption {
        CacheOption {
            kind: kind.to_owned(),
            attrs: attrs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// Writes a blob and says its digest.
    fn put(dir: &Path, hex: &str, content: &str) -> String {
        std::fs::create_dir_all(dir.join("blobs/sha256")).expect("a folder");
        std::fs::write(dir.join("blobs/sha256").join(hex), content).expect("written");
        format!("sha256:{hex}")
    }

    #[test]
    fn an_import_from_a_folder_gets_the_digest_of_its_tag() {
        let dir = tempfile::tempdir().expect("a folder");
        let digest = put(dir.path(), "aa", "{}");
        let src = dir.path().display().to_string();
        layout::tag(dir.path(), &json!({"digest": digest}), "main").expect("tagged");
        let mut build = Build::frontend("dockerfile.v0");
        build.cache_imports = vec![
            option("local", &[("src", &src), ("tag", "main")]),
            option("local", &[("src", &src)]),
            option("local", &[("src", "/no/such/folder")]),
            option("registry", &[("ref", "a.b/c")]),
        ];
        let caches = Caches::prepare(&mut build).expect("prepared");
        assert_eq!(caches.stores.len(), 1);
        assert_eq!(build.cache_imports.len(), 2);
        assert_eq!(build.cache_imports[0].attrs["digest"], digest);
        let told: Value = serde_json::from_str(&build.attrs["cache-imports"]).expect("JSON");
        assert_eq!(
            told[1],
            json!({"Type": "registry", "Attrs": {"ref": "a.b/c"}})
        );
    }

    #[test]
    fn what_is_missing_is_said_in_upstreams_words() {
        let error = |export: bool, option: CacheOption| {
            let mut build = Build::frontend("x");
            let list = if export {
                &mut build.cache_exports
            } else {
                &mut build.cache_imports
            };
            list.push(option);
            Caches::prepare(&mut build)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            error(true, option("local", &[])),
            "local cache exporter requires dest"
        );
        assert_eq!(
            error(false, option("local", &[])),
            "local cache importer requires src"
        );
        assert_eq!(
            error(true, option("registry", &[])),
            "registry cache exporter requires ref"
        );
        assert_eq!(
            error(false, option("registry", &[])),
            "registry cache importer requires ref"
        );
    }

    #[test]
    fn an_empty_tag_names_no_cache() {
        let dir = tempfile::tempdir().expect("a folder");
        let src = dir.path().display().to_string();
        let digest = put(dir.path(), "aa", "{}");
        let prepare = |attrs: &[(&str, &str)]| {
            let mut build = Build::frontend("dockerfile.v0");
            build.cache_imports = vec![option("local", attrs)];
            Caches::prepare(&mut build)
        };
        for attrs in [
            [("src", src.as_str()), ("tag", ""), ("digest", "")],
            [("src", "/no/such/folder"), ("tag", ""), ("digest", "")],
        ] {
            assert_eq!(
                prepare(&attrs).expect_err("refused").to_string(),
                "local cache importer requires either explicit digest, \"latest\" tag or custom tag on index.json"
            );
        }
        let named = prepare(&[("src", &src), ("tag", ""), ("digest", &digest)]);
        assert_eq!(named.expect("the digest says which").stores.len(), 1);
    }

    #[test]
    fn a_reset_keeps_only_what_the_index_leads_to() {
        let dir = tempfile::tempdir().expect("a folder");
        let layer = put(dir.path(), "01", "layer");
        let config = put(dir.path(), "02", "{}");
        let manifest = json!({"config": {"digest": config}, "layers": [{"digest": layer}]});
        let manifest = put(dir.path(), "03", &manifest.to_string());
        put(dir.path(), "04", "old");
        layout::tag(dir.path(), &json!({"digest": manifest}), "latest").expect("tagged");
        remove_unlisted(dir.path()).expect("removed");
        let mut left: Vec<_> = std::fs::read_dir(dir.path().join("blobs/sha256"))
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["01", "02", "03"]);
    }
}
