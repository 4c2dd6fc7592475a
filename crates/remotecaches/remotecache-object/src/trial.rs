//! What every store of objects is put through in tests.

use std::sync::Arc;

use content::{Provider as _, Store};
use oci::{Descriptor, Digest};
use progress::Progress;
use remotecache::Error;
use tasks::Cx;
use tempfile::TempDir;
use testkit::stores::Troubles;
use testkit::web::Response;

use crate::Environment;
use crate::attrs::Attrs;
use crate::objects::{Objects, Stored};

/// Nothing is known of the daemon's surroundings.
pub(crate) fn nowhere() -> Environment {
    Arc::new(|_| None)
}

/// Options as users give them.
fn attrs(given: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    given.iter().map(owned).collect()
}

/// A place with these options.
pub(crate) fn open<O: Objects>(
    given: &[(&str, &str)],
    further: &[(&str, &str)],
    environment: &Environment,
) -> Result<O, Error> {
    let mut given = attrs(given);
    given.extend(attrs(further));
    O::configured(&Attrs {
        given: &given,
        signing: &crate::Signing::default(),
        environment,
    })
}

/// A store with nothing in it.
pub(crate) fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path()).expect("a store");
    (dir, store)
}

/// Bytes that are not all the same.
pub(crate) fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 7 % 251) as u8).collect()
}

fn layer(bytes: &[u8]) -> Descriptor {
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let size = i64::try_from(bytes.len()).expect("it is small");
    Descriptor::new(kind, Digest::of(bytes), size)
}

/// Sends a blob.
pub(crate) async fn send<O: Objects>(objects: &O, bytes: &[u8]) -> Result<Descriptor, Error> {
    let (_dir, store) = store();
    store.put(bytes).expect("it can be written");
    let blob = layer(bytes);
    objects.send(&Cx::root(), &blob, &store).await?;
    Ok(blob)
}

/// Fetches a blob into a store that has nothing.
pub(crate) async fn fetch<O: Objects>(
    objects: &Arc<O>,
    blob: &Descriptor,
) -> Result<Vec<u8>, content::Error> {
    let (_dir, store) = store();
    let provider = Stored(objects.clone());
    provider
        .fetch(&Cx::root(), blob, &store, &Progress::none())
        .await?;
    Ok(store.read(&blob.digest)?.to_vec())
}

/// A blob is not there, is sent, is there, and comes back.
pub(crate) async fn cross<O: Objects>(objects: &Arc<O>, size: usize) {
    let sent = bytes(size);
    let blob = layer(&sent);
    let cx = Cx::root();
    assert!(!objects.keep(&cx, &blob.digest).await.expect("an answer"));
    send(&**objects, &sent).await.expect("it is sent");
    assert!(objects.keep(&cx, &blob.digest).await.expect("an answer"));
    let came = fetch(objects, &blob).await.expect("it comes");
    assert!(came == sent, "{} bytes came", came.len());
}

/// A server makes trouble of all kinds, where `part` is what addresses of blobs being read have in common.
pub(crate) async fn trouble_while_reading<O: Objects>(
    objects: &Arc<O>,
    troubles: &Troubles,
    part: &str,
) {
    let sent = bytes(1000);
    let blob = send(&**objects, &sent).await.expect("it is sent");
    let all = "cut at every tenth";
    troubles.spoil("GET", part, 9, |answer| answer.cut(100));
    assert!(fetch(objects, &blob).await.expect(all) == sent, "{all}");
    let passing = "refused for the moment";
    troubles.refuse("GET", part, 2, Response::status(503));
    assert!(
        fetch(objects, &blob).await.expect(passing) == sent,
        "{passing}"
    );
    let throttled = Response::status(429).with("Retry-After", "0");
    troubles.refuse("GET", part, 2, throttled);
    assert!(
        fetch(objects, &blob).await.expect(passing) == sent,
        "{passing}"
    );
    let said = |text: &str, err: content::Error| {
        let said = fault::chain(&err);
        assert!(said.contains(text), "{said}");
    };
    for size in [999, 1001] {
        troubles.spoil("GET", part, 1, move |mut answer| {
            answer.body.resize(size, 0);
            answer
        });
        let err = fetch(objects, &blob).await.expect_err("a wrong length");
        said(&format!("it has {size} bytes, expected 1000"), err);
    }
    troubles.spoil("GET", part, 1, |mut answer| {
        answer.body[0] ^= 1;
        answer
    });
    let err = fetch(objects, &blob).await.expect_err("another content");
    said("unexpected commit digest", err);
    troubles.spoil("GET", part, 4, |answer| answer.cut(0));
    let err = fetch(objects, &blob).await.expect_err("nothing comes");
    said(&format!("failed to read blob {}", blob.digest), err);
    assert!(fetch(objects, &blob).await.expect("an honest one") == sent);
}

/// A server makes trouble while blobs are sent; `part` is in the addresses they are sent to.
pub(crate) async fn trouble_while_sending<O: Objects>(
    objects: &Arc<O>,
    troubles: &Troubles,
    part: &str,
) {
    troubles.refuse("PUT", part, 2, Response::status(500));
    cross(objects, 1001).await;
    troubles.refuse("PUT", part, 1, Response::status(500).cut(0));
    cross(objects, 1002).await;
    let busy = Response::status(429).with("Retry-After", "0");
    troubles.refuse("PUT", part, 2, busy);
    cross(objects, 1003).await;
    // It was written, and nobody heard of it.
    troubles.spoil("PUT", part, 1, |_| Response::status(503));
    cross(objects, 1004).await;
}

/// Fails with this text.
#[track_caller]
pub(crate) fn fails<T>(result: Result<T, Error>, text: &str) {
    let said = result.err().map(|err| fault::chain(&err));
    let said = said.unwrap_or_else(|| panic!("it succeeded"));
    assert!(said.contains(text), "{said}");
}
