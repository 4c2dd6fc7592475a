//! Brings a blob into the daemon's store, going on where a broken connection ended.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use content::Store;
use fault::{Class, Classify as _};
use oci::Descriptor;
use progress::{Progress, StatusGuard};
use remotecache::Error;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Response, StatusCode};
use tasks::Cx;
use tokio::sync::mpsc;

use crate::http::{SILENCE, broken};
use crate::objects::Objects;

/// How often a connection may break without having brought anything.
const FRUITLESS: u32 = 4;
/// How often it may break at all.
const BREAKS: u32 = 100;

/// Makes the blob present in the store.
pub(crate) async fn download<O: Objects>(
    objects: &O,
    cx: &Cx,
    blob: &Descriptor,
    store: &Store,
    progress: &Progress,
) -> Result<(), content::Error> {
    if store.contains(&blob.digest) {
        return Ok(());
    }
    let mut writer = store.writer(Some(&blob.digest))?;
    let (sender, mut queue) = mpsc::channel::<Bytes>(4);
    let written = tasks::blocking(move || {
        while let Some(piece) = queue.blocking_recv() {
            writer.write_all(&piece)?;
        }
        Ok::<_, std::io::Error>(writer)
    });
    let read = async {
        let mut transfer = Transfer {
            cx,
            blob,
            // Dropped with the transfer: the writer hears of the end.
            sender,
            status: progress.status(blob.digest.as_str(), "downloading"),
            taken: 0,
        };
        transfer.run(objects).await
    };
    let (read, written) = tokio::join!(read, written);
    read.map_err(|err| match err {
        Error::Cancelled(err) => err.into(),
        err => content::Error::provider(&err),
    })?;
    let writer = written.map_err(|source| content::Error::Write {
        digest: Some(blob.digest.clone()),
        source,
    })?;
    tasks::blocking(move || writer.commit()).await?;
    Ok(())
}

struct Transfer<'a> {
    cx: &'a Cx,
    blob: &'a Descriptor,
    sender: mpsc::Sender<Bytes>,
    status: StatusGuard,
    taken: u64,
}

impl Transfer<'_> {
    async fn run<O: Objects>(&mut self, objects: &O) -> Result<(), Error> {
        let mut fruitless = 0;
        let mut wait = Duration::from_millis(200);
        let mut breaks = 0;
        loop {
            let start = self.taken;
            let opened = objects.open(self.cx, &self.blob.digest, start).await?;
            let err = match self.take(opened).await {
                Ok(()) => return Ok(()),
                Err(err) => err,
            };
            breaks += 1;
            fruitless = if self.taken > start { 0 } else { fruitless + 1 };
            if err.class() != Class::Unavailable || fruitless == FRUITLESS || breaks == BREAKS {
                return Err(err);
            }
            tracing::debug!(digest = %self.blob.digest, taken = self.taken, error = %fault::chain(&err), "blob was cut, going on");
            if fruitless > 0 {
                self.cx.run(tokio::time::sleep(wait)).await?;
                wait *= 2;
            }
        }
    }

    /// Reads what one connection brings. `Ok`: the blob is complete.
    async fn take(&mut self, mut response: Response) -> Result<(), Error> {
        let mut skip = if continues(&response, self.taken) {
            0
        } else {
            // The server does not know ranges.
            self.taken
        };
        let expected = u64::try_from(self.blob.size).ok().filter(|size| *size > 0);
        let announced = response.headers().get(CONTENT_LENGTH);
        let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let announced = announced.map(|len| len + self.taken - skip);
        if let (Some(announced), Some(expected)) = (announced, expected)
            && announced != expected
        {
            return Err(self.wrong_size(announced, expected));
        }
        while let Some(mut piece) = self.next(&mut response).await? {
            if skip > 0 {
                let cut = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                skip -= cut as u64;
                piece = piece.slice(cut..);
            }
            self.taken += piece.len() as u64;
            if let Some(expected) = expected
                && self.taken > expected
            {
                return Err(self.wrong_size(self.taken, expected));
            }
            let current = i64::try_from(self.taken).unwrap_or(i64::MAX);
            self.status.set(current, self.blob.size);
            if self.sender.send(piece).await.is_err() {
                // The writer says why.
                return Ok(());
            }
        }
        match expected.or(announced) {
            Some(expected) if self.taken < expected => Err(Error::Place {
                text: format!("{}: unexpected EOF", self.what()),
                class: Class::Unavailable,
            }),
            _ => Ok(()),
        }
    }

    async fn next(&self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        let read = tokio::time::timeout(SILENCE, response.chunk());
        match self.cx.run(read).await? {
            Ok(read) => read.map_err(|err| broken(&self.what(), err)),
            Err(_) => Err(Error::Place {
                text: format!("{}: i/o timeout", self.what()),
                class: Class::Unavailable,
            }),
        }
    }

    fn what(&self) -> String {
        format!("failed to read blob {}", self.blob.digest)
    }

    fn wrong_size(&self, actual: u64, expected: u64) -> Error {
        let what = self.what();
        Error::Place {
            text: format!("{what}: it has {actual} bytes, expected {expected}"),
            class: Class::User,
        }
    }
}

/// Whether the answer begins where the last one ended.
fn continues(response: &Response, start: u64) -> bool {
    if start == 0 {
        return true;
    }
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}
