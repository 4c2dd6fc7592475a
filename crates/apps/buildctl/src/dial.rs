//! `buildctl dial-stdio`: the other end of `ssh://`, `docker-container://` and their like.

use anyhow::{Context as _, Result, bail};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

use crate::args::Global;

/// Copies between standard input, standard output and the daemon's socket until both directions have ended.
pub(crate) async fn run(global: &Global) -> Result<()> {
    let address = global
        .addr
        .as_deref()
        .unwrap_or("unix:///run/buildkit/buildkitd.sock");
    let Some((scheme, path)) = address.split_once("://") else {
        bail!("invalid address {address}");
    };
    if scheme != "unix" {
        bail!("invalid address {address} (expected unix://, got {scheme}://)");
    }
    let socket = UnixStream::connect(path)
        .await
        .with_context(|| format!("failed to connect to {address}"))?;
    let (mut from_daemon, mut to_daemon) = socket.into_split();
    let upload = async {
        tokio::io::copy(&mut tokio::io::stdin(), &mut to_daemon).await?;
        to_daemon.shutdown().await
    };
    let download = async {
        let mut stdout = tokio::io::stdout();
        tokio::io::copy(&mut from_daemon, &mut stdout).await?;
        stdout.flush().await
    };
    // The daemon's end of the conversation is the end; what we still could send nobody reads.
    tokio::select! {
        result = download => result?,
        result = async { upload.await?; std::future::pending::<std::io::Result<()>>().await } => result?,
    }
    Ok(())
}
