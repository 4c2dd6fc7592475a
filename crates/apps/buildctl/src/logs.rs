//! What a build printed and what it spent its time on (`debug logs`), and blobs of the daemon (`debug get`).

use std::cell::RefCell;
use std::io::{IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use progress_ui::{Display, Mode};

use crate::args::Global;
use crate::connection::{Connection, connect};
use crate::histories;

/// Shows the progress of a build, or its spans.
pub(crate) async fn logs(
    global: &Global,
    name: Option<&str>,
    mode: &str,
    trace: bool,
) -> Result<()> {
    let name = name.context("build ref must be specified")?;
    let mode: Mode = mode.parse().map_err(anyhow::Error::msg)?;
    let connection = connect(global).await?;
    if trace {
        let record = histories::find(&connection.client, name).await?;
        let blob = record
            .trace
            .with_context(|| format!("ref {name} does not have trace"))?;
        return copy(&connection, &blob.digest).await;
    }
    let out = std::io::stdout();
    let mode = match mode {
        Mode::Auto if out.is_terminal() => Mode::Tty,
        other => other,
    };
    let display = RefCell::new(Display::new(mode, out));
    let followed = connection
        .client
        .follow(name, |status| display.borrow_mut().update(status))
        .await;
    display.borrow_mut().finish();
    Ok(followed?)
}

/// Copies a blob to standard output.
pub(crate) async fn get(global: &Global, digest: Option<&str>) -> Result<()> {
    let digest = digest.context("blob digest must be specified")?;
    let digest: oci::Digest = digest.parse()?;
    copy(&connect(global).await?, digest.as_str()).await
}

async fn copy(connection: &Connection, digest: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let client = &connection.client;
    client.read_blob(digest, |part| out.write_all(part)).await?;
    out.flush().context("failed to write the blob")
}
