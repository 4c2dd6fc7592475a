//! Where results go.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use filesync::client::{DIR_METHODS, Dirs, TARGET_METHODS, Target, Targets};
use session::client::{self, Client as Offer};

use crate::caches::Caches;
use crate::{Build, Error};

/// One output of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `image`, `local`, `tar`, `oci`, `docker`.
    pub kind: String,
    /// Options for the daemon.
    pub attrs: BTreeMap<String, String>,
    /// Where it goes on this machine.
    pub destination: Destination,
}

/// Where an output goes on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere: the daemon keeps or pushes it.
    None,
    /// A directory.
    Directory(PathBuf),
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl Output {
    /// The folder that becomes an image layout.
    pub(crate) fn layout(&self) -> Option<&Path> {
        match &self.destination {
            Destination::Directory(dir) if self.kind != "local" => Some(dir),
            _ => None,
        }
    }
}

/// Everything the daemon may call back for in this build.
pub(crate) fn add_services(offer: &mut Offer, build: &Build, caches: &Caches) -> Result<(), Error> {
    if !build.locals.is_empty() {
        offer.add(Dirs::new(build.locals.clone()).service(), DIR_METHODS);
    }
    let mut targets = BTreeMap::new();
    let mut stores: BTreeMap<String, PathBuf> = build
        .oci_layouts
        .iter()
        .map(|(name, dir)| (format!("oci:{name}"), dir.clone()))
        .collect();
    stores.extend(caches.stores.clone());
    for (index, output) in build.outputs.iter().enumerate() {
        if let Some(dir) = output.layout() {
            filesync::client::make_all(dir, 0o755)?;
            // Compat: one name for all exporters, so there can be one such output only.
            if stores.insert("export".to_owned(), dir.to_owned()).is_some() {
                return Err(Error::TwoLayouts);
            }
            continue;
        }
        if let Some(target) = target(output)? {
            targets.insert(index, target);
        }
    }
    if !targets.is_empty() {
        offer.add(Targets::new(targets), TARGET_METHODS);
    }
    if !stores.is_empty() {
        let stores = client::stores::Stores::new(stores);
        offer.add(stores.service(), client::stores::METHODS);
    }
    if !build.secrets.is_empty() {
        let service = client::secrets::service(build.secrets.clone());
        offer.add(service, client::secrets::METHODS);
    }
    if !build.ssh.is_empty() {
        offer.add(
            client::ssh::service(build.ssh.clone()),
            client::ssh::METHODS,
        );
    }
    if let Some(credentials) = &build.credentials {
        let auth = client::auth::service(client::auth::Options {
            config: credentials.clone(),
            fetch_tokens: build.fetch_tokens,
            sink: Arc::new(|_: progress::Event| {}),
        });
        offer.add(auth, client::auth::METHODS);
    }
    Ok(())
}

fn target(output: &Output) -> Result<Option<Target>, Error> {
    Ok(match &output.destination {
        Destination::None => None,
        Destination::Directory(path) => Some(Target::Directory {
            path: path.clone(),
            delete: is_delete(output.attrs.get("mode").map_or("", String::as_str))?,
        }),
        Destination::File(path) => {
            check_parent(path)?;
            let path = path.clone();
            Some(Target::File(Arc::new(move |_| {
                Ok(Some(Box::new(create(&path)?) as Box<dyn Write + Send>))
            })))
        }
        Destination::Stdout => Some(Target::File(Arc::new(|_| {
            Ok(Some(Box::new(std::io::stdout()) as Box<dyn Write + Send>))
        }))),
    })
}

/// Makes or empties the file.
///
/// Compat: one that is made is for everybody whom its directory lets in, whatever the umask says.
fn create(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::PermissionsExt as _;
    let is_new = !path.exists();
    let file = std::fs::File::create(path)?;
    if is_new {
        file.set_permissions(std::fs::Permissions::from_mode(0o666))?;
    }
    Ok(file)
}

/// Whether what is in the directory and not in the result goes.
fn is_delete(mode: &str) -> Result<bool, Error> {
    match mode.trim().to_lowercase().as_str() {
        "" | "copy" => Ok(false),
        "delete" => Ok(true),
        _ => Err(Error::Option {
            text: format!("invalid local exporter mode {mode:?}"),
        }),
    }
}

/// A file that cannot be made is better known before the build than after it.
fn check_parent(path: &Path) -> Result<(), Error> {
    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    match std::fs::metadata(dir) {
        Ok(_) => Ok(()),
        Err(err) => Err(fstree::Error::new("open", path, err).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_for_everybody_and_an_old_one_stays_whose_it_was() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.tar");
        let mode = || {
            let meta = create(&path).and_then(|file| file.metadata());
            meta.expect("made").permissions().mode() & 0o777
        };
        assert_eq!(mode(), 0o666);
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("set");
        assert_eq!(mode(), 0o600);
    }

    #[test]
    fn directories_are_added_to_or_replaced() {
        let delete = |mode: &str| {
            let output = Output {
                kind: "local".to_owned(),
                attrs: BTreeMap::from([("mode".to_owned(), mode.to_owned())]),
                destination: Destination::Directory("out".into()),
            };
            match target(&output) {
                Ok(Some(Target::Directory { delete, .. })) => Ok(delete),
                Ok(_) => panic!("no directory"),
                Err(err) => Err((err.to_string(), err.is_of_this_machine())),
            }
        };
        assert_eq!(delete(""), Ok(false));
        assert_eq!(delete("Copy"), Ok(false));
        assert_eq!(delete(" DELETE "), Ok(true));
        let text = "invalid local exporter mode \"move\"".to_owned();
        assert_eq!(delete("move"), Err((text, true)));
    }
}
