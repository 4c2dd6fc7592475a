//! Which devices there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::document::{ContainerEdits, Document};
use super::edits::Edits;
use super::{Error, Wanted};

/// Says what a device is a kind of, for those who ask for no device in particular.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Says that every build may have the device.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// The devices of some directories. Where two directories have the same device, the later directory counts.
#[derive(Debug)]
pub struct Registry {
    dirs: Vec<PathBuf>,
    auto_allowed: BTreeSet<String>,
    read: Mutex<Read>,
}

/// What was read, and of which files.
#[derive(Debug, Default)]
struct Read {
    files: Option<Vec<Stamp>>,
    devices: Arc<BTreeMap<String, Device>>,
}

/// A file as it was when it was read.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    path: PathBuf,
    /// Position of its directory.
    rank: usize,
    /// Device, inode, size, time of change.
    state: (u64, u64, u64, i64, i64),
}

#[derive(Debug)]
struct Device {
    annotations: BTreeMap<String, String>,
    edits: ContainerEdits,
    file: Arc<Source>,
}

/// The document a device is from.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    rank: usize,
    edits: ContainerEdits,
}

/// A device as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `vendor/class=name`.
    pub name: String,
    /// Every build may have it.
    pub auto_allow: bool,
    /// Its own and those of its document.
    pub annotations: BTreeMap<String, String>,
}

/// The devices there were at one moment.
#[derive(Debug)]
pub struct Known<'a> {
    registry: &'a Registry,
    devices: Arc<BTreeMap<String, Device>>,
}

impl Registry {
    /// Devices described in these directories; every build may have those whose name or kind is in `auto_allowed`.
    pub fn new(dirs: Vec<PathBuf>, auto_allowed: impl IntoIterator<Item = String>) -> Self {
        Self {
            dirs,
            auto_allowed: auto_allowed.into_iter().collect(),
            read: Mutex::default(),
        }
    }

    /// The devices there are now. Blocking: looks whether a file changed.
    pub fn known(&self) -> Known<'_> {
        let files = self.files();
        let mut read = self.read.lock();
        if read.files.as_ref() != Some(&files) {
            read.devices = Arc::new(load(&files));
            read.files = Some(files);
        }
        Known {
            registry: self,
            devices: read.devices.clone(),
        }
    }

    fn files(&self) -> Vec<Stamp> {
        let mut files = Vec::new();
        for (rank, dir) in self.dirs.iter().enumerate() {
            match stamps(dir, rank) {
                Ok(found) => files.extend(found),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => {
                    tracing::warn!(dir = %dir.display(), error = %err, "failed to list CDI documents");
                }
            }
        }
        files
    }
}

/// Documents in a directory, by name.
fn stamps(dir: &Path, rank: usize) -> io::Result<Vec<Stamp>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let named = path
            .extension()
            .is_some_and(|it| it == "json" || it == "yaml");
        // What went away meanwhile is not there.
        if let Some(meta) = named.then(|| std::fs::metadata(&path).ok()).flatten()
            && !meta.is_dir()
        {
            let state = state(&meta);
            found.push(Stamp { path, rank, state });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn state(meta: &Metadata) -> (u64, u64, u64, i64, i64) {
    (
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.ctime(),
        meta.ctime_nsec(),
    )
}

/// Reads the documents. One that is no good is told of and left out; so are devices that two of equal rank describe.
fn load(files: &[Stamp]) -> BTreeMap<String, Device> {
    let mut devices: BTreeMap<String, Device> = BTreeMap::new();
    let mut conflicts = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file.path).map_err(|err| err.to_string());
        let document = match text.and_then(|text| Document::parse(&text)) {
            Ok(document) => document,
            Err(problem) => {
                tracing::warn!(path = %file.path.display(), problem, "failed to load CDI document");
                continue;
            }
        };
        let source = Arc::new(Source {
            path: file.path.clone(),
            rank: file.rank,
            edits: document.edits,
        });
        for device in document.devices {
            let name = format!("{}={}", document.kind, device.name);
            if let Some(other) = devices.get(&name)
                && other.file.rank == file.rank
            {
                let (first, second) = (other.file.path.display(), file.path.display());
                tracing::warn!(device = name, %first, %second, "two CDI documents describe one device");
                conflicts.insert(name.clone());
            }
            let mut annotations = document.annotations.clone();
            annotations.extend(device.annotations);
            let device = Device {
                annotations,
                edits: device.edits,
                file: source.clone(),
            };
            devices.insert(name, device);
        }
    }
    devices.retain(|name, _| !conflicts.contains(name));
    devices
}

impl Known<'_> {
    /// All devices, by name.
    pub fn list(&self) -> Vec<Listed> {
        let listed = |(name, device): (&String, &Device)| Listed {
            name: name.clone(),
            auto_allow: self.is_auto_allowed(name),
            annotations: device.annotations.clone(),
        };
        self.devices.iter().map(listed).collect()
    }

    /// Whether every build may have the device.
    pub fn is_auto_allowed(&self, name: &str) -> bool {
        let kind = name.split('=').next().unwrap_or(name);
        let allowed = &self.registry.auto_allowed;
        allowed.contains(name) || allowed.contains(kind) || {
            let value = |device: &Device| device.annotations.get(AUTO_ALLOW).cloned();
            let value = self.devices.get(name).and_then(value);
            value.is_some_and(|value| fault::truth(&value) == Some(true))
        }
    }

    /// The names of the devices a step asks for, each once.
    pub fn find(&self, wanted: &[Wanted]) -> Result<Vec<String>, Error> {
        let mut found: Vec<String> = Vec::new();
        for wanted in wanted {
            let names = self.matching(&wanted.name);
            if names.is_empty() {
                if !wanted.optional {
                    let name = wanted.name.clone();
                    return Err(Error::NotRegistered { name });
                }
                tracing::info!(device = wanted.name, "optional device is not registered");
            }
            for name in names {
                if !found.iter().any(|earlier| earlier == name) {
                    found.push(name.to_owned());
                }
            }
        }
        Ok(found)
    }

    fn matching(&self, wanted: &str) -> Vec<&str> {
        let (kind, name) = wanted.split_once('=').unwrap_or((wanted, ""));
        let is_kind = kind
            .split_once('/')
            .is_some_and(|(vendor, class)| !vendor.is_empty() && !class.is_empty());
        let names = || self.devices.keys().map(String::as_str);
        let of_kind = || names().filter(|known| known.split('=').next() == Some(kind));
        let mut found: Vec<&str> = match name {
            _ if !is_kind => Vec::new(),
            "" => of_kind().take(1).collect(),
            "*" => of_kind().collect(),
            _ => names().filter(|known| *known == wanted).collect(),
        };
        if found.is_empty() {
            let is_class = |(_, device): &(&String, &Device)| {
                device
                    .annotations
                    .get(CLASS)
                    .is_some_and(|class| class == wanted)
            };
            let devices = self.devices.iter().filter(is_class);
            found = devices.map(|(name, _)| name.as_str()).collect();
        }
        found
    }

    /// What a step's devices change: for each document what it says of all its devices, then what it says of each.
    pub fn edits(&self, wanted: &[Wanted]) -> Result<Edits, Error> {
        let mut edits = Edits::default();
        let mut seen: Vec<&Path> = Vec::new();
        for name in self.find(wanted)? {
            let Some(device) = self.devices.get(&name) else {
                continue;
            };
            if !seen.contains(&device.file.path.as_path()) {
                seen.push(&device.file.path);
                edits.add(&device.file.edits);
            }
            edits.add(&device.edits);
        }
        Ok(edits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, optional: bool) -> Wanted {
        Wanted {
            name: name.to_owned(),
            optional,
        }
    }

    fn document(kind: &str, devices: &str) -> String {
        format!("cdiVersion: 0.6.0\nkind: {kind}\ndevices:\n{devices}")
    }

    fn device(name: &str, annotation: &str) -> String {
        format!(
            "- name: {name}\n  annotations: {{{annotation}}}\n  containerEdits: {{env: [{name}=1]}}\n"
        )
    }

    struct Fixture {
        dirs: Vec<tempfile::TempDir>,
        registry: Registry,
    }

    fn fixture(auto_allowed: &[&str]) -> Fixture {
        let dir = || tempfile::tempdir().expect("a directory");
        let dirs = vec![dir(), dir()];
        let paths = dirs.iter().map(|dir| dir.path().to_owned());
        let paths = paths.chain([PathBuf::from("/nonexistent")]).collect();
        let registry = Registry::new(paths, auto_allowed.iter().map(|&it| it.to_owned()));
        Fixture { dirs, registry }
    }

    impl Fixture {
        fn write(&self, dir: usize, name: &str, text: &str) {
            std::fs::write(self.dirs[dir].path().join(name), text).expect("written");
        }

        fn find(&self, name: &str) -> Vec<String> {
            self.registry
                .known()
                .find(&[wanted(name, true)])
                .expect("optional")
        }
    }

    #[test]
    fn a_name_stands_for_one_device_a_kind_for_the_first_a_star_for_all() {
        let it = fixture(&[]);
        let devices = [device("foo", ""), device("bar", "")].concat();
        it.write(0, "a.yaml", &document("v.com/d", &devices));
        it.write(0, "b.yaml", &document("v.com/dx", &device("a", "")));
        assert_eq!(it.find("v.com/d=foo"), ["v.com/d=foo"]);
        assert_eq!(it.find("v.com/d"), ["v.com/d=bar"]);
        assert_eq!(it.find("v.com/d=*"), ["v.com/d=bar", "v.com/d=foo"]);
        assert_eq!(it.find("v.com/d=none"), [""; 0]);
        let missing = it.registry.known().find(&[wanted("v.com/d=none", false)]);
        let text = missing.expect_err("required").to_string();
        assert_eq!(text, "required device \"v.com/d=none\" is not registered");
    }

    #[test]
    fn a_class_of_annotations_is_a_name_too() {
        let it = fixture(&[]);
        let class = |name: &str| format!("{CLASS}: {name}");
        let devices = [
            device("a", &class("x")),
            device("b", &class("y")),
            device("c", &class("x")),
        ];
        it.write(0, "a.yaml", &document("v/d", &devices.concat()));
        assert_eq!(it.find("x"), ["v/d=a", "v/d=c"]);
    }

    #[test]
    fn changes_show_at_once_and_a_bad_document_hides_nothing_else() {
        let it = fixture(&[]);
        assert!(it.registry.known().list().is_empty());
        it.write(0, "a.json", r#"{"cdiVersion":"0.6.0","kind":"v/d","devices":[{"name":"a","containerEdits":{"env":["A=1"]}}]}"#);
        it.write(0, "bad.yaml", "kind: [");
        it.write(0, "ignored.yml", &document("v/e", &device("a", "")));
        assert_eq!(it.find("v/d=*"), ["v/d=a"]);
        it.write(0, "c.yaml", &document("v/d", &device("b", "")));
        assert_eq!(it.find("v/d=*"), ["v/d=a", "v/d=b"]);
        std::fs::remove_file(it.dirs[0].path().join("a.json")).expect("removed");
        assert_eq!(it.find("v/d=*"), ["v/d=b"]);
        assert_eq!(it.find("v/e=*"), [""; 0]);
    }

    #[test]
    fn the_later_directory_counts_and_equals_cancel_each_other() {
        let it = fixture(&[]);
        it.write(0, "a.yaml", &document("v/d", &device("a", "x: first")));
        it.write(1, "a.yaml", &document("v/d", &device("a", "x: second")));
        assert_eq!(it.registry.known().list()[0].annotations["x"], "second");
        it.write(1, "b.yaml", &document("v/d", &device("a", "")));
        assert!(it.registry.known().list().is_empty());
    }

    #[test]
    fn devices_are_allowed_by_configuration_or_by_themselves() {
        let it = fixture(&["v/kind", "v/d=named"]);
        let allow = format!("{AUTO_ALLOW}: true");
        let devices = [
            device("named", ""),
            device("other", ""),
            device("self", &allow),
        ];
        it.write(0, "a.yaml", &document("v/d", &devices.concat()));
        it.write(0, "b.yaml", &document("v/kind", &device("a", "")));
        let listed = it.registry.known().list();
        let allowed: Vec<_> = listed
            .iter()
            .map(|it| (it.name.as_str(), it.auto_allow))
            .collect();
        assert_eq!(
            allowed,
            [
                ("v/d=named", true),
                ("v/d=other", false),
                ("v/d=self", true),
                ("v/kind=a", true)
            ]
        );
    }

    #[test]
    fn a_document_s_own_edits_come_once_and_first() {
        let it = fixture(&[]);
        let devices = [device("a", ""), device("b", "")].concat();
        let text = document("v/d", &devices) + "containerEdits: {env: [ALL=1]}\n";
        it.write(0, "a.yaml", &text);
        let edits = it
            .registry
            .known()
            .edits(&[wanted("v/d=b", false), wanted("v/d=*", false)]);
        let mut spec = super::super::edits::tests::spec();
        edits
            .expect("known")
            .apply(&mut spec)
            .expect("only variables");
        assert_eq!(spec.process.env, ["ALL=1", "b=1", "a=1"]);
    }
}
