//! Bundles: files with commits and their history, as a source of commits and as a result.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use content::Provider as _;
use oci::{Descriptor, Digest, Locator, Reference};
use progress::Progress;
use registry::{Client, Sessions};
use session::stores::Store;
use tempfile::TempDir;

use crate::attrs::Attrs;
use crate::cli::Cli;
use crate::fetch::Repository;
use crate::remote::is_commit;
use crate::resolve::Resolved;
use crate::{Call, Error};

/// Where a bundle is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    name: String,
    digest: Digest,
    pub(crate) place: Place,
}

/// A registry, or a store of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    Registry(Reference),
    Layout(Layout),
}

/// A store of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Empty: whichever session has it.
    pub(crate) session: String,
    pub(crate) store: String,
}

impl Bundle {
    /// Reads `docker-image+blob://name@digest` or `oci-layout+blob://store@digest`.
    pub(crate) fn parse(locator: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Locator {
            locator: locator.to_owned(),
            reason: reason.to_owned(),
        };
        let Some((scheme, name)) = locator.split_once("://") else {
            return Err(wrong("missing scheme"));
        };
        if !matches!(scheme, "docker-image+blob" | "oci-layout+blob") {
            return Err(Error::Scheme {
                scheme: scheme.to_owned(),
            });
        }
        let parsed = Locator::parse(name).map_err(|err| wrong(&err.to_string()))?;
        let digest = parsed
            .object
            .split_once('@')
            .and_then(|(_, digest)| digest.parse::<Digest>().ok())
            .ok_or_else(|| wrong("invalid digest"))?;
        let place = if scheme == "oci-layout+blob" {
            Place::Layout(Layout {
                session: String::new(),
                store: parsed.locator,
            })
        } else {
            Place::Registry(Reference::parse(name).map_err(|err| wrong(&err.to_string()))?)
        };
        Ok(Self {
            name: name.to_owned(),
            digest,
            place,
        })
    }
}

/// A bundle, unpacked into a repository that is gone when this is dropped.
pub(crate) struct Staged {
    dir: TempDir,
}

impl Staged {
    /// Where git finds it.
    pub(crate) fn url(&self) -> String {
        file_url(self.dir.path())
    }
}

/// A path as git takes it for a remote: never as a repository of this machine.
pub(crate) fn file_url(path: &Path) -> String {
    format!("file://{}", path.to_string_lossy().replace('%', "%25"))
}

fn scratch() -> Result<TempDir, Error> {
    let dir = tempfile::Builder::new().prefix("git-bundle-").tempdir();
    dir.map_err(Error::file("make a folder"))
}

/// A new empty repository.
async fn empty(cli: &Cli, sha256: bool) -> Result<(TempDir, Cli), Error> {
    let dir = scratch()?;
    let cli = cli.at(dir.path());
    let mut init = vec!["init", "--bare"];
    if sha256 {
        init.push("--object-format=sha256");
    }
    cli.quiet(&init).await?;
    Ok((dir, cli))
}

/// Brings a bundle here and unpacks it.
pub(crate) async fn stage(
    bundle: &Bundle,
    attrs: &Attrs,
    call: &Call<'_>,
    cli: &Cli,
) -> Result<Staged, Error> {
    let path = bring(bundle, call).await;
    let path =
        path.map_err(|err| err.during(format!("failed to fetch git bundle {}", bundle.name)))?;
    let path = path.to_string_lossy();
    let listed = cli.quiet(&["ls-remote", "--", &path]).await;
    let listed =
        listed.map_err(|err| err.during(format!("failed to inspect git bundle {path}")))?;
    let sha256 = listed
        .split('\t')
        .next()
        .is_some_and(|object| object.len() == 64);
    let (dir, repository) = empty(cli, sha256).await?;
    let unpacked = repository.run(&["fetch", &path, "+refs/*:refs/*"]).await;
    unpacked.map_err(|err| {
        err.during(format!(
            "failed to import git bundle {} into temp",
            bundle.name
        ))
    })?;
    let commit = format!("{}^{{commit}}", attrs.checksum);
    if repository
        .quiet(&["cat-file", "-e", &commit])
        .await
        .is_err()
    {
        return Err(Error::NotInBundle {
            commit: attrs.checksum.clone(),
            name: bundle.name.clone(),
        });
    }
    Ok(Staged { dir })
}

/// Makes the blob present; it is a file git can read.
async fn bring(bundle: &Bundle, call: &Call<'_>) -> Result<PathBuf, Error> {
    let (cx, content) = (call.cx, call.git.0.cache.content());
    let blob = |size| Descriptor::new("application/octet-stream", bundle.digest.clone(), size);
    match &bundle.place {
        Place::Registry(reference) => {
            let client: &Client = &call.git.0.registry;
            let who = Sessions::credentials(call.sessions);
            let blob = blob(0);
            if !content.contains(&bundle.digest) || !client.has_seen(reference, &bundle.digest) {
                let fetched = client.fetch(cx, &who, reference, &blob, content, call.progress);
                fetched.await?;
            }
        }
        Place::Layout(layout) => {
            let group = match layout.session.as_str() {
                "" => call.sessions.clone(),
                session => call.sessions.manager().group([session]),
            };
            let store = Store::new(&group, format!("oci:{}", layout.store));
            let size = store.size(cx, &bundle.digest).await?.unwrap_or(0);
            let blob = blob(i64::try_from(size).unwrap_or(i64::MAX));
            store.fetch(cx, &blob, content, &Progress::none()).await?;
        }
    }
    Ok(content.path(&bundle.digest))
}

/// Writes what was resolved, with its history, to `dir/bundle`.
pub(crate) async fn write(
    resolved: &Resolved,
    repository: &Repository,
    dir: &Path,
) -> Result<(), Error> {
    let commit = resolved.checksum.as_str();
    let (_scratch, cli) = empty(&repository.cli, resolved.is_sha256()).await?;
    let from = file_url(&repository.dir);
    let fetched = cli.run(&["fetch", &from, "--", commit]).await;
    fetched.map_err(|err| {
        let what = format!("failed to fetch commit {commit} from shared repo for bundle creation");
        err.during(what)
    })?;
    let name = target(&resolved.asked);
    cli.quiet(&["update-ref", &name, commit]).await?;
    let file = dir.join("bundle");
    let path = file.to_string_lossy();
    let made = cli.run(&["bundle", "create", &path, &name]).await;
    made.map_err(|err| err.during(format!("failed to create git bundle for {commit}")))?;
    // Compat: everybody may write, as upstream leaves it.
    std::fs::set_permissions(&file, Permissions::from_mode(0o666))
        .map_err(Error::file("set the mode of the bundle"))
}

/// What the commit is called in a bundle: as at the remote, for a tag that is named in full; else as a branch.
fn target(asked: &str) -> String {
    if asked.is_empty() || is_commit(asked) {
        return "refs/heads/main".to_owned();
    }
    if asked.starts_with("refs/tags/") {
        return asked.to_owned();
    }
    let name = asked.strip_prefix("refs/").unwrap_or(asked);
    format!("refs/heads/{}", name.strip_prefix("heads/").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_have_a_name_in_bundles() {
        for (asked, name) in [
            ("", "refs/heads/main"),
            ("v1", "refs/heads/v1"),
            ("refs/tags/v1", "refs/tags/v1"),
            ("refs/heads/x", "refs/heads/x"),
        ] {
            assert_eq!(target(asked), name);
        }
    }

    #[test]
    fn places_are_checked() {
        let error = |text: &str| Bundle::parse(text).expect_err("refused").to_string();
        assert_eq!(
            error("x"),
            "failed to parse git.bundle locator \"x\": missing scheme"
        );
        assert_eq!(
            error("http://x/y"),
            "git.bundle locator scheme \"http\" is not supported; expected \
             \"docker-image+blob\" or \"oci-layout+blob\""
        );
        assert_eq!(
            error("oci-layout+blob://x/y:latest"),
            "failed to parse git.bundle locator \"oci-layout+blob://x/y:latest\": invalid digest"
        );
    }
}
