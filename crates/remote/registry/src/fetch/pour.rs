//! Bytes on their way into the store: hashed and written by a thread of its own while more are on the wire.

use std::io::Write;

use bytes::Bytes;
use content::{Error, Store, Writer};
use oci::Digest;
use tasks::Task;
use tokio::sync::mpsc;

/// Pieces that may wait for the disk.
const WAITING: usize = 4;

pub(super) struct Pour {
    digest: Digest,
    taken: u64,
    state: Option<Running>,
}

struct Running {
    pieces: mpsc::Sender<Bytes>,
    written: Task<Result<Writer, Error>>,
}

impl Pour {
    pub(super) fn start(store: &Store, digest: &Digest) -> Result<Self, Error> {
        let mut writer = store.writer(Some(digest))?;
        let (pieces, mut incoming) = mpsc::channel::<Bytes>(WAITING);
        let name = digest.clone();
        let write = move || {
            while let Some(piece) = incoming.blocking_recv() {
                writer.write_all(&piece).map_err(|source| Error::Write {
                    digest: Some(name.clone()),
                    source,
                })?;
            }
            Ok(writer)
        };
        Ok(Self {
            digest: digest.clone(),
            taken: 0,
            state: Some(Running {
                pieces,
                written: tasks::spawn("write blob", tasks::blocking(write)),
            }),
        })
    }

    /// Bytes so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes the next bytes; waits when the disk is slower than the wire.
    pub(super) async fn take(&mut self, piece: Bytes) -> Result<(), Error> {
        let length = piece.len() as u64;
        if let Some(running) = &self.state
            && running.pieces.send(piece).await.is_ok()
        {
            self.taken += length;
            return Ok(());
        }
        // The thread ended early, so writing failed.
        self.finish().await
    }

    /// Waits for the disk, verifies, and makes the blob visible.
    pub(super) async fn finish(&mut self) -> Result<(), Error> {
        let Some(Running { pieces, written }) = self.state.take() else {
            return Err(Error::NotFound {
                digest: self.digest.clone(),
            });
        };
        drop(pieces);
        let writer = written.await?;
        tasks::blocking(move || writer.commit()).await.map(drop)
    }
}
