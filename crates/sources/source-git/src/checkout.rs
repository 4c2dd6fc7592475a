//! From a commit in a repository to a tree.

use std::fs;
use std::io;
use std::path::Path;

use cache::{Cache, RecordOptions, RecordType};
use fstree::{Root, Walk};
use rustix::fs::{AtFlags, Timespec, Timestamps};

use crate::attrs::Attrs;
use crate::cli::Cli;
use crate::fetch::Repository;
use crate::remote::is_commit;
use crate::resolve::Resolved;
use crate::{Error, bundle};

/// Checks out what was resolved.
pub(crate) async fn tree(
    cache: &Cache,
    attrs: &Attrs,
    resolved: &Resolved,
    repository: &Repository,
) -> Result<cache::Ref, Error> {
    let cx = repository.cli.cx();
    let what = match attrs.checkout_bundle {
        true => "bundle checkout",
        false => "snapshot",
    };
    let description = format!("git {what} for {}#{}", attrs.shown(), resolved.asked);
    let options = RecordOptions {
        description: description.clone(),
        record_type: match attrs.checkout_bundle {
            true => RecordType::Regular,
            false => RecordType::SourceGitCheckout,
        },
        created: None,
    };
    let tree = cache.new_mutable(cx, None, options).await?;
    let dir = tree.layer_directory()?;
    let checkout = Checkout {
        attrs,
        resolved,
        repository,
        dir: &dir,
    };
    if attrs.checkout_bundle {
        bundle::write(resolved, repository, &dir).await?;
        return Ok(tree.commit(cx, &description).await?);
    }
    checkout.fill().await?;
    if attrs.commit_times {
        let time = commit_time(&repository.cli, &resolved.checksum).await?;
        let dir = dir.clone();
        tasks::blocking(move || set_times(&dir, time))
            .await
            .map_err(Error::file("set times"))?;
    }
    Ok(tree.commit(cx, &description).await?)
}

struct Checkout<'a> {
    attrs: &'a Attrs,
    resolved: &'a Resolved,
    repository: &'a Repository,
    dir: &'a Path,
}

impl Checkout<'_> {
    fn failed(&self, what: &str) -> impl Fn(Error) -> Error {
        let what = format!("failed to {what} {}", self.attrs.shown());
        move |err| err.during(what.clone())
    }

    async fn fill(&self) -> Result<(), Error> {
        let whole = self.attrs.subdir.is_empty();
        if self.attrs.keep_git_dir && whole {
            let cli = self.with_git_dir().await?;
            return self.submodules(&cli, self.dir).await;
        }
        if whole {
            return self.plain(self.dir).await;
        }
        let made = tempfile::Builder::new()
            .prefix("checkout")
            .tempdir_in(self.dir);
        let whole = made.map_err(Error::file("make a folder"))?.keep();
        self.plain(&whole).await?;
        let (dir, subdir) = (self.dir.to_owned(), self.attrs.subdir.clone());
        tasks::blocking(move || lift(&dir, &whole, &subdir)).await
    }

    /// The files alone.
    async fn plain(&self, target: &Path) -> Result<(), Error> {
        let cli = self.repository.cli.in_tree(target);
        let args = [
            "checkout",
            "--no-overlay",
            &self.resolved.checksum,
            "--",
            ".",
        ];
        let checked_out = cli.run(&args).await;
        checked_out.map_err(self.failed("checkout remote"))?;
        self.submodules(&cli, target).await?;
        if target.join(".gitmodules").exists() {
            let target = target.to_owned();
            let removed = tasks::blocking(move || remove_links(&target)).await;
            removed.map_err(Error::file("remove links to repositories"))?;
        }
        Ok(())
    }

    async fn submodules(&self, cli: &Cli, target: &Path) -> Result<(), Error> {
        if self.attrs.skip_submodules || !target.join(".gitmodules").exists() {
            return Ok(());
        }
        let args = ["submodule", "update", "--init", "--recursive", "--depth=1"];
        let updated = cli.run(&args).await;
        updated
            .map(drop)
            .map_err(self.failed("update submodules for"))
    }

    /// The files and a repository that has nothing but their commit.
    async fn with_git_dir(&self) -> Result<Cli, Error> {
        let shared = &self.repository.cli;
        let git_dir = self.dir.join(".git");
        let cli = shared.at(&git_dir).in_tree(self.dir);
        let mut init = vec!["init"];
        if self.resolved.is_sha256() {
            init.push("--object-format=sha256");
        }
        cli.run(&init).await?;
        // As from afar: a clone that shares files could be made to share others of this machine.
        let from = bundle::file_url(&self.repository.dir);
        cli.quiet(&["remote", "add", "origin", &from]).await?;
        let (spec, mark) = self.spec().await?;
        let fetched = cli
            .run(&["fetch", "-u", "--depth=1", "--", "origin", &spec])
            .await;
        if let Some(mark) = mark {
            shared.quiet(&["update-ref", "-d", &mark]).await?;
        }
        fetched?;
        let checked_out = cli.run(&["checkout", "FETCH_HEAD"]).await;
        checked_out.map_err(self.failed("checkout remote"))?;
        let shown = self.attrs.shown();
        let set = cli.quiet(&["remote", "set-url", "origin", &shown]).await;
        set.map_err(self.failed("set remote origin to"))?;
        let expired = cli
            .quiet(&["reflog", "expire", "--all", "--expire=now"])
            .await;
        expired.map_err(self.failed("expire reflog for remote"))?;
        match fs::remove_file(git_dir.join("FETCH_HEAD")) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove FETCH_HEAD")(err))
            }
            _ => Ok(cli),
        }
    }

    /// What is fetched from the shared repository, and a mark that is to be removed afterwards.
    async fn spec(&self) -> Result<(String, Option<String>), Error> {
        let Resolved {
            asked, checksum, ..
        } = self.resolved;
        let shared = &self.repository.cli;
        if is_commit(asked) {
            let mark = format!("refs/checkout/{checksum}");
            shared.quiet(&["update-ref", &mark, checksum]).await?;
            return Ok((mark.clone(), Some(mark)));
        }
        let kind = shared.quiet(&["cat-file", "-t", checksum]).await?;
        Ok(match kind.trim() {
            "tag" => {
                let name = asked.strip_prefix("refs/tags/").unwrap_or(asked);
                (format!("{asked}:refs/tags/{name}"), None)
            }
            _ => (format!("{asked}:{asked}"), None),
        })
    }
}

/// When a commit was committed, in seconds since the epoch.
async fn commit_time(cli: &Cli, object: &str) -> Result<i64, Error> {
    let commit = format!("{object}^{{commit}}");
    let text = cli.quiet(&["log", "-1", "--format=%ct", &commit]).await?;
    text.trim().parse().map_err(|_| Error::BadCommit { text })
}

/// Makes what is in `whole/subdir` all there is in `dir`. Blocks.
fn lift(dir: &Path, whole: &Path, subdir: &str) -> Result<(), Error> {
    let mut at = whole.to_owned();
    let mut walked = String::new();
    for part in subdir.split('/') {
        at.push(part);
        if !walked.is_empty() {
            walked.push('/');
        }
        walked.push_str(part);
        let invalid = |reason: String| Error::Subdir {
            subdir: subdir.to_owned(),
            reason,
        };
        let meta = fs::symlink_metadata(&at).map_err(|err| {
            invalid(format!(
                "failed to lstat {walked:?}: {}",
                fstree::errno_text(&err)
            ))
        })?;
        if !meta.is_dir() {
            return Err(invalid(format!(
                "git subpath {subdir:?} contains non-directory {walked:?}"
            )));
        }
    }
    let move_up = || -> io::Result<()> {
        for entry in fs::read_dir(&at)? {
            let entry = entry?;
            fs::rename(entry.path(), dir.join(entry.file_name()))?;
        }
        fs::remove_dir_all(whole)
    };
    move_up().map_err(Error::file("move a directory up"))
}

/// Submodules have files that say where their repository is, which is not part of the tree and will not stay there. Git
/// takes no such name from a repository. Blocks.
fn remove_links(dir: &Path) -> io::Result<()> {
    let root = Root::open(dir)?;
    for entry in Walk::new(&root).map_err(io::Error::other)? {
        let entry = entry.map_err(io::Error::other)?;
        if entry.name().to_bytes() == b".git" && entry.meta.is_file() {
            rustix::fs::unlinkat(entry.dir(), entry.name(), AtFlags::empty())?;
        }
    }
    Ok(())
}

/// Blocks.
fn set_times(dir: &Path, time: i64) -> io::Result<()> {
    let time = Timespec {
        tv_sec: time,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let root = Root::open(dir)?;
    for entry in Walk::new(&root).map_err(io::Error::other)? {
        let entry = entry.map_err(io::Error::other)?;
        rustix::fs::utimensat(entry.dir(), entry.name(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rustix::fs::utimensat(root.fd(), c".", &times, AtFlags::empty())?;
    Ok(())
}
