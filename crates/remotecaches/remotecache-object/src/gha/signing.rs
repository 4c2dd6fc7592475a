//! Signatures of caches: a command that the daemon's owner names makes one for each index.
//!
//! Checking them needs the certificates and logs of Sigstore, which are not built in. So a daemon that is to believe
//! signed caches only believes none at all.

use std::process::Stdio;

use bytes::Bytes;
use remotecache::Error;
use tasks::Cx;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// What the daemon's configuration says of signatures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signing {
    /// Reads an index, and writes a signature of it.
    pub command: Option<Vec<String>>,
    /// Only signed caches are to be believed.
    pub required: bool,
}

impl Signing {
    /// What is behind the names of indexes that are signed, or should be.
    pub(super) fn suffix(&self) -> &'static str {
        match self.command.is_some() || self.required {
            true => "-sig",
            false => "",
        }
    }

    /// Refuses to read caches that would have to be checked.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.required {
            return Ok(());
        }
        Err(Error::Place {
            text: "unimplemented: cache.gha.verify.required: signatures of caches cannot be checked, so no cache is read"
                .to_owned(),
            class: fault::Class::Unsupported,
        })
    }

    /// The signature of an index; none if nobody signs.
    pub(super) async fn sign(&self, cx: &Cx, index: &Bytes) -> Result<Option<Bytes>, Error> {
        let command = self.command.as_deref().unwrap_or_default();
        let Some((program, args)) = command.split_first() else {
            return Ok(None);
        };
        let failed = |text: &str| Error::Place {
            text: format!("signing command failed: {}", text.trim_end()),
            class: fault::Class::Internal,
        };
        let work = async {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            let stdin = child.stdin.take();
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // A command may know enough before it has read everything.
                    let _ = stdin.write_all(index).await;
                }
            };
            tokio::join!(feed, child.wait_with_output()).1
        };
        let output = cx
            .run(work)
            .await?
            .map_err(|err| failed(&err.to_string()))?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr)));
        }
        Ok(Some(output.stdout.into()))
    }
}
