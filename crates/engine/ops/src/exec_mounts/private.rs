//! What a step gets of the client's that is no tree: secrets and agents.
//!
//! A secret lives in memory only, in a file system of its own that goes with the step.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use diagnostics::Failure;
use executor::MountSource;
use fault::{Class, Classify as _};
use mount::Attached;
use proto::pb;
use session::secrets;
use session::ssh::{self, Forward, SocketOptions};
use solver::Work;

use super::SecretBytes;
use crate::Worker;

/// A directory of the daemon's with something private in it; gone when dropped.
pub(crate) struct Private {
    forward: Option<Forward>,
    memory: Option<Attached>,
    dir: PathBuf,
}

impl Drop for Private {
    fn drop(&mut self) {
        self.memory.take();
        if let Err(err) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), error = %err, "private files of a step were not removed");
        }
    }
}

/// The bytes of a secret; `None` when it is optional and nobody has it.
pub(crate) async fn secret(
    worker: &Worker,
    work: &Work,
    id: &str,
    optional: bool,
) -> Result<Option<SecretBytes>, Failure> {
    match secrets::fetch(&work.cx, &worker.group(work), id).await {
        Ok(secret) => Ok(Some(secret.reveal().clone())),
        Err(session::Error::SecretMissing { .. }) if optional => Ok(None),
        Err(err) => Err(Failure::from_error(&err)),
    }
}

fn private_dir(worker: &Worker, prefix: &str) -> io::Result<PathBuf> {
    let scratch = &worker.options.scratch;
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(scratch)?;
    let dir = scratch.join(format!("{prefix}{}", identity::new_id()));
    DirBuilder::new().mode(0o711).create(&dir)?;
    Ok(dir)
}

fn failed(err: &io::Error) -> Failure {
    Failure::new(
        err.class(),
        format!("failed to prepare a private mount: {err}"),
    )
}

/// A secret as a file that can be mounted.
pub(crate) async fn secret_file(
    worker: &Arc<Worker>,
    options: &pb::SecretOpt,
    data: SecretBytes,
) -> Result<(Private, MountSource), Failure> {
    let worker = worker.clone();
    let options = options.clone();
    tasks::blocking(move || write_secret(&worker, &options, &data))
        .await
        .map_err(|err| failed(&err))
}

fn write_secret(
    worker: &Worker,
    options: &pb::SecretOpt,
    data: &SecretBytes,
) -> io::Result<(Private, MountSource)> {
    let dir = private_dir(worker, "secrets-")?;
    let mut private = Private {
        forward: None,
        memory: None,
        dir,
    };
    let mut flags = vec!["nodev".to_owned(), "nosuid".to_owned()];
    if options.mode & 0o111 == 0 {
        flags.push("noexec".to_owned());
    }
    let memory = mount::Tmpfs {
        options: flags.clone(),
        ..mount::Tmpfs::default()
    };
    private.memory = Some(memory.attach(&private.dir)?);
    let path = private.dir.join(identity::new_id());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(data)?;
    std::os::unix::fs::fchown(&file, Some(options.uid), Some(options.gid))?;
    file.set_permissions(Permissions::from_mode(options.mode & 0o777))?;
    let source = MountSource::Path {
        path,
        options: flags,
    };
    Ok((private, source))
}

/// A socket behind which the client's agent answers; `None` when it is optional and there is none.
pub(crate) async fn ssh_socket(
    worker: &Arc<Worker>,
    work: &Work,
    options: &pb::SshOpt,
) -> Result<Option<(Private, MountSource)>, Failure> {
    let session = match ssh::check(&work.cx, &worker.group(work), &options.id).await {
        Ok(session) => session,
        // Compat: whatever keeps an optional agent away.
        Err(err) if options.optional && err.class() != Class::Cancelled => return Ok(None),
        Err(err) => return Err(Failure::from_error(&err)),
    };
    let dir = private_dir(worker, "ssh-").map_err(|err| failed(&err))?;
    let path = dir.join("ssh_auth_sock");
    let socket = SocketOptions {
        uid: options.uid,
        gid: options.gid,
        mode: options.mode & 0o777,
    };
    let mut private = Private {
        forward: None,
        memory: None,
        dir,
    };
    let forward = ssh::forward(&work.cx, session, &options.id, &path, socket)
        .map_err(|err| Failure::from_error(&err))?;
    private.forward = Some(forward);
    let source = MountSource::Path {
        path,
        options: Vec::new(),
    };
    Ok(Some((private, source)))
}
