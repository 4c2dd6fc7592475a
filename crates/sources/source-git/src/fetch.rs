//! The shared repository of a remote, and getting a commit into it.

use std::path::{Path, PathBuf};

use cache::{Cache, MutableRef, RecordOptions};
use source::GitFacts;

use crate::attrs::Attrs;
use crate::cli::Cli;
use crate::remote::is_commit;
use crate::resolve::Resolved;
use crate::{Call, Error, bundle};

/// A bare repository that has the wanted commit. Nobody else uses it meanwhile.
pub(crate) struct Repository {
    /// git in it.
    pub(crate) cli: Cli,
    pub(crate) dir: PathBuf,
    /// Keeps it from being collected.
    _record: MutableRef,
}

/// Where a repository is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// In the one there is.
    Shared,
    /// In a new one: what the old one has got in the way.
    Anew,
}

/// The repository of the remote with what was resolved in it.
pub(crate) async fn fetch(
    call: &Call<'_>,
    attrs: &Attrs,
    resolved: &Resolved,
    cli: &Cli,
) -> Result<Repository, Error> {
    match attempt(call, attrs, resolved, cli, Start::Shared).await {
        Err(err) if is_in_the_way(err.stderr()) => {
            attempt(call, attrs, resolved, cli, Start::Anew).await
        }
        result => result,
    }
}

/// A tag that moved, or a branch that became a directory of branches.
fn is_in_the_way(stderr: &str) -> bool {
    let moved = stderr.contains("rejected") && stderr.contains("(would clobber existing tag)");
    let nested = stderr.contains("some local refs could not be updated;")
        && (stderr.contains("(unable to update local ref)") || stderr.contains("refname conflict"));
    moved || nested
}

async fn attempt(
    call: &Call<'_>,
    attrs: &Attrs,
    resolved: &Resolved,
    cli: &Cli,
    start: Start,
) -> Result<Repository, Error> {
    let repository = open(&call.git.0.cache, attrs, resolved, cli, start).await?;
    let mut wanted = Wanted {
        attrs,
        resolved,
        cli: &repository.cli,
        dir: &repository.dir,
        origin: "origin".to_owned(),
    };
    if wanted.is_there().await {
        return Ok(repository);
    }
    let staged = match &attrs.bundle {
        Some(bundle) => Some(bundle::stage(bundle, attrs, call, cli).await?),
        None => None,
    };
    if let Some(staged) = &staged {
        wanted.origin = staged.url();
    }
    wanted.bring().await?;
    Ok(repository)
}

async fn open(
    cache: &Cache,
    attrs: &Attrs,
    resolved: &Resolved,
    cli: &Cli,
    start: Start,
) -> Result<Repository, Error> {
    let index = format!("git-remote::{}", attrs.remote);
    while let Some(record) = cache.find_mutable(&index) {
        if start == Start::Anew {
            record.discard();
            continue;
        }
        let dir = record.layer_directory()?;
        return Ok(Repository {
            cli: cli.at(&dir),
            dir,
            _record: record,
        });
    }
    let options = RecordOptions {
        description: format!("shared git repo for {}", attrs.shown()),
        ..RecordOptions::default()
    };
    let record = cache.new_mutable(cli.cx(), None, options).await?;
    let dir = record.layer_directory()?;
    let cli = cli.at(&dir);
    let mut init = vec!["init", "--bare"];
    if resolved.is_sha256() {
        init.push("--object-format=sha256");
    }
    let made = cli.quiet(&init).await;
    made.map_err(|err| err.during(format!("failed to init repo at {}", dir.display())))?;
    let added = cli
        .quiet(&["remote", "add", "--", "origin", &attrs.remote])
        .await;
    added.map_err(|err| err.during(format!("failed add origin repo at {}", dir.display())))?;
    record.set_index(&index)?;
    Ok(Repository {
        cli,
        dir,
        _record: record,
    })
}

struct Wanted<'a> {
    attrs: &'a Attrs,
    resolved: &'a Resolved,
    cli: &'a Cli,
    dir: &'a Path,
    /// Where it comes from: the remote, or a bundle.
    origin: String,
}

impl Wanted<'_> {
    /// The ref by which the commit is kept. Branches are tags here, so that later fetches offer what there is.
    fn local_ref(&self) -> String {
        let asked = self.resolved.asked.as_str();
        format!(
            "refs/tags/{}",
            asked.strip_prefix("refs/tags/").unwrap_or(asked)
        )
    }

    async fn has(&self, object: &str) -> bool {
        self.cli.quiet(&["cat-file", "-e", object]).await.is_ok()
    }

    async fn point(&self) -> Result<(), Error> {
        let (name, object) = (self.local_ref(), &self.resolved.checksum);
        let args = ["update-ref", "--no-deref", &name, object];
        self.cli.quiet(&args).await.map(drop)
    }

    fn failed(&self) -> impl Fn(Error) -> Error {
        let what = format!("failed to fetch remote {}", self.attrs.shown());
        move |err| err.during(what.clone())
    }

    fn is_shallow(&self) -> bool {
        self.dir.join("shallow").exists()
    }

    /// Whether nothing need be fetched.
    async fn is_there(&self) -> bool {
        let Resolved {
            asked, checksum, ..
        } = self.resolved;
        let whole = !self.attrs.checkout_bundle || !self.is_shallow();
        whole
            && self.has(&format!("{checksum}^{{commit}}")).await
            && (is_commit(asked) || self.point().await.is_ok())
    }

    async fn bring(&self) -> Result<(), Error> {
        let Resolved {
            asked, checksum, ..
        } = self.resolved;
        // A lock nobody holds: this repository is ours alone.
        let _ = std::fs::remove_file(self.dir.join("shallow.lock"));
        if is_commit(asked) {
            return self.by_name(checksum).await;
        }
        let by_commit = self.attrs.fetch_by_commit && !self.attrs.checksum.is_empty();
        let from = if by_commit { checksum } else { asked };
        let spec = format!("{from}:{}", self.local_ref());
        let args = [
            "fetch",
            "--depth=1",
            "--no-tags",
            "origin",
            "--force",
            "--",
            &spec,
        ];
        self.cli.run(&args).await.map_err(self.failed())?;
        let got = self
            .cli
            .quiet(&["rev-parse", "--verify", &self.local_ref()])
            .await?;
        if got.trim() == checksum {
            return Ok(());
        }
        // The remote changed meanwhile. What this build has seen counts, if it can still be had.
        if !self.has(checksum).await {
            self.by_name(checksum).await?;
        }
        self.point().await
    }

    /// Fetches an object by its name: alone if the server gives it out, else with all there is.
    async fn by_name(&self, object: &str) -> Result<(), Error> {
        if !self.attrs.checkout_bundle {
            let shallow = ["fetch", "--depth=1", "--no-tags", &self.origin, object];
            let alone = self.cli.quiet(&shallow).await;
            if let Err(err @ Error::Stopped { .. }) = alone {
                return Err(err);
            }
            if self.has(object).await {
                return Ok(());
            }
        }
        let mut args = vec!["fetch", "--tags", "--force"];
        if self.is_shallow() {
            args.push("--unshallow");
        }
        args.extend([self.origin.as_str(), object]);
        self.cli.run(&args).await.map_err(self.failed())?;
        if self.has(object).await {
            return Ok(());
        }
        Err(Error::Moved {
            reference: self.resolved.asked.clone(),
            commit: object.to_owned(),
        })
    }
}

/// Adds the raw objects to the facts.
pub(crate) async fn objects(repository: &Repository, facts: &mut GitFacts) -> Result<(), Error> {
    let cli = &repository.cli;
    let kind = cli.quiet(&["cat-file", "-t", &facts.checksum]).await?;
    match kind.trim() {
        "commit" => facts.commit_checksum.clear(),
        "tag" => {
            if facts.commit_checksum.is_empty() {
                let peeled = format!("{}^{{commit}}", facts.checksum);
                let commit = cli.quiet(&["rev-parse", &peeled]).await?;
                commit.trim().clone_into(&mut facts.commit_checksum);
            }
            facts.tag = cli.bytes(&["cat-file", "tag", &facts.checksum]).await?;
        }
        other => {
            return Err(Error::Kind {
                kind: other.to_owned(),
            });
        }
    }
    let commit = match facts.commit_checksum.as_str() {
        "" => &facts.checksum,
        commit => commit,
    };
    facts.commit = cli.bytes(&["cat-file", "commit", commit]).await?;
    Ok(())
}
