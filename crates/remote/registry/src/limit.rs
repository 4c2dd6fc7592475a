//! How much is transferred at a time: a few blobs per registry, and one document more.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tasks::{Cancelled, Cx};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The limits of all registries.
pub(crate) struct Limits {
    transfers: usize,
    hosts: Mutex<HashMap<String, Arc<Gate>>>,
}

/// The limit of one registry.
pub(crate) struct Gate {
    blobs: Arc<Semaphore>,
    /// One more than `blobs`, so that a document need not wait for large blobs.
    all: Arc<Semaphore>,
}

/// The right to transfer something; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _blob: Option<OwnedSemaphorePermit>,
    _any: OwnedSemaphorePermit,
}

impl Limits {
    pub(crate) fn new(transfers: usize) -> Self {
        Self {
            transfers: transfers.max(1),
            hosts: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, domain: &str) -> Arc<Gate> {
        let mut hosts = self.hosts.lock();
        let gate = hosts.entry(domain.to_owned()).or_insert_with(|| {
            Arc::new(Gate {
                blobs: Arc::new(Semaphore::new(self.transfers)),
                all: Arc::new(Semaphore::new(self.transfers + 1)),
            })
        });
        gate.clone()
    }
}

impl Gate {
    /// Waits for the right to transfer something of this type.
    pub(crate) async fn enter(&self, cx: &Cx, media_type: &str) -> Result<Permit, Cancelled> {
        let blob = if media_type.ends_with("+json") {
            None
        } else {
            cx.run(self.blobs.clone().acquire_owned()).await?.ok()
        };
        let any = cx.run(self.all.clone().acquire_owned()).await?;
        Ok(Permit {
            _blob: blob,
            _any: any.expect("the semaphore is never closed"),
        })
    }

    /// The right to one more transfer if nobody else needs it now.
    pub(crate) fn spare(&self) -> Option<Permit> {
        let blob = self.blobs.clone().try_acquire_owned().ok()?;
        let any = self.all.clone().try_acquire_owned().ok()?;
        Some(Permit {
            _blob: Some(blob),
            _any: any,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::media_type::{OCI_LAYER_GZIP, OCI_MANIFEST};

    #[tokio::test]
    async fn a_document_gets_in_where_blobs_must_wait() {
        let limits = Limits::new(1);
        let (gate, cx) = (limits.of("x"), Cx::root());
        let first = gate.enter(&cx, OCI_LAYER_GZIP).await.expect("free");
        assert!(gate.spare().is_none());
        let document = gate.enter(&cx, OCI_MANIFEST).await.expect("one more");
        drop((first, document));
        assert!(gate.spare().is_some());
    }

    #[tokio::test]
    async fn waiting_ends_with_the_work() {
        let (limits, cx) = (Limits::new(1), Cx::root());
        let gate = limits.of("x");
        let _first = gate.enter(&cx, OCI_LAYER_GZIP).await.expect("free");
        cx.cancel("enough");
        let err = gate.enter(&cx, OCI_LAYER_GZIP).await.expect_err("stopped");
        assert_eq!(err.to_string(), "enough");
    }
}
