//! `tar=false`: blobs go one by one into the content store that the client serves; it writes the index itself.
//!
//! Children go before parents, so that the client's store never has a manifest without what it lists. A blob that the
//! client has is not sent.

use content::Store;
use export::{Error, Work};
use fault::Classify;
use oci::Descriptor;
use session::stores;
use tasks::{Cx, Scope};

use crate::archive::Reachable;

/// The client's name for the store of outputs.
const NAME: &str = "export";
/// Blobs sent beside each other.
const AT_ONCE: usize = 4;

/// Sends all blobs of an image.
pub(crate) async fn send(work: &Work, store: &Store, blobs: Reachable) -> Result<(), Error> {
    let client = stores::Store::new(&work.sessions, NAME);
    for some in blobs.leaves.chunks(AT_ONCE) {
        let mut scope: Scope<Error> = Scope::new(&work.cx, "send blobs");
        for blob in some {
            let (cx, client) = (scope.cx().clone(), client.clone());
            let (store, blob) = (store.clone(), blob.clone());
            scope.spawn("send blob", async move {
                send_blob(&cx, &client, &store, &blob).await
            });
        }
        scope.join().await?;
    }
    for blob in &blobs.documents {
        send_blob(&work.cx, &client, store, blob).await?;
    }
    Ok(())
}

async fn send_blob(
    cx: &Cx,
    client: &stores::Store,
    store: &Store,
    blob: &Descriptor,
) -> Result<(), Error> {
    let sent = client.push(cx, blob, store).await;
    sent.map_err(|err| Error {
        message: format!("failed to copy {}: {}", blob.digest, fault::chain(&err)),
        class: err.class(),
    })
}
