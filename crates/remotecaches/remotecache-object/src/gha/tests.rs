//! Against a small service that speaks both protocols.

use std::sync::Arc;

use testkit::stores::Actions;
use testkit::web::Response;

use super::*;
use crate::Environment;
use crate::trial::{self, bytes, fails, fetch, nowhere, send};

const VERSIONS: [&str; 2] = ["url", "url_v2"];

fn entries(server: &Actions, url: &str, further: &[(&str, &str)]) -> Entries {
    let (address, token) = (server.url(), Actions::token());
    let given = [(url, address.as_str()), ("token", token.as_str())];
    let mut entries: Entries = trial::open(&given, further, &nowhere()).expect("options");
    entries.look = Duration::from_millis(1);
    entries
}

#[tokio::test]
async fn blobs_come_back_as_they_were_sent() {
    for url in VERSIONS {
        let server = Actions::start();
        let mut entries = entries(&server, url, &[]);
        entries.service.chunk = 1000;
        let entries = Arc::new(entries);
        trial::cross(&entries, 10).await;
        trial::cross(&entries, 10_500).await;
        let key = format!("buildkit-blob-1-{}", Digest::of(bytes(10)));
        assert!(server.keys().contains(&key), "{url}");
    }
}

#[tokio::test]
async fn each_index_is_a_new_entry_and_the_newest_is_read() {
    for url in VERSIONS {
        let server = Actions::start();
        let entries = entries(&server, url, &[]);
        let cx = Cx::root();
        let key = entries.options.index_key(Actions::SCOPE);
        assert_eq!(entries.index(&cx, Actions::SCOPE).await.ok(), Some(None));
        for text in ["one", "two"] {
            let saved = entries.save_index(&cx, &key, text.into()).await;
            saved.expect("saved");
            let read = entries.index(&cx, Actions::SCOPE).await.expect("read");
            assert_eq!(read.as_deref(), Some(text.as_bytes()), "{url}");
        }
        assert_eq!(server.keys(), [format!("{key}#1"), format!("{key}#2")]);
    }
}

#[tokio::test]
async fn an_index_that_nobody_finishes_is_passed_over() {
    for url in VERSIONS {
        let server = Actions::start();
        let entries = entries(&server, url, &[]);
        let key = entries.options.index_key(Actions::SCOPE);
        let version = Digest::of("|go-actionscache-1.0");
        server.reserve(&format!("{key}#1"), version.hex());
        let saved = entries.save_index(&Cx::root(), &key, "x".into()).await;
        saved.expect("saved");
        assert_eq!(server.keys(), [format!("{key}#2")], "{url}");
    }
}

#[tokio::test]
async fn an_address_that_ended_is_asked_for_again() {
    let server = Actions::start();
    let entries = Arc::new(entries(&server, "url_v2", &[]));
    let blob = send(&*entries, &bytes(100)).await.expect("sent");
    assert!(
        entries
            .keep(&Cx::root(), &blob.digest)
            .await
            .expect("an answer")
    );
    server.expire();
    assert!(fetch(&entries, &blob).await.expect("it comes") == bytes(100));
}

#[tokio::test]
async fn the_list_of_all_keys_saves_asking_for_each() {
    let server = Actions::start();
    let address = server.url();
    let environment: Environment =
        Arc::new(move |name| (name == "GITHUB_API_URL").then(|| address.clone()));
    let (url, token) = (server.url(), Actions::token());
    for (ghtoken, asked) in [("listing", 0), ("wrong", 2)] {
        let given = [("url_v2", url.as_str()), ("token", token.as_str())];
        let further = [("repository", "o/r"), ("ghtoken", ghtoken)];
        let entries: Entries = trial::open(&given, &further, &environment).expect("options");
        let blob = send(&entries, &bytes(100)).await.expect("sent");
        let before = server.requests().len();
        let cx = Cx::root();
        assert!(entries.keep(&cx, &blob.digest).await.expect("an answer"));
        assert!(
            !entries
                .keep(&cx, &Digest::of("other"))
                .await
                .expect("an answer")
        );
        let requests = server.requests().split_off(before);
        let finds = requests.iter().filter(|it| it.contains("GetCacheEntry"));
        assert_eq!(finds.count(), asked, "{requests:?}");
    }
}

#[tokio::test]
async fn trouble_passes_or_is_told() {
    for (url, read) in [("url", "/archives/"), ("url_v2", "/blobs/")] {
        let server = Actions::start();
        let entries = Arc::new(entries(&server, url, &[]));
        trial::trouble_while_reading(&entries, &server.troubles, read).await;
    }
    let server = Actions::start();
    let entries = Arc::new(entries(&server, "url_v2", &[]));
    trial::trouble_while_sending(&entries, &server.troubles, "/blobs/").await;
    for (size, name) in [
        (2001, "CreateCacheEntry"),
        (2002, "FinalizeCacheEntryUpload"),
        (2003, "GetCacheEntryDownloadURL"),
    ] {
        let busy = Response::status(429).with("Retry-After", "0");
        server.troubles.refuse("POST", name, 6, busy);
        server
            .troubles
            .refuse("POST", name, 2, Response::status(502));
        trial::cross(&entries, size).await;
    }
    server
        .troubles
        .refuse("POST", "CreateCacheEntry", 5, Response::status(502));
    fails(
        send(&*entries, b"x").await,
        "failed to reserve cache: 502 Bad Gateway",
    );
}

#[tokio::test]
async fn a_token_that_is_refused_is_told_of() {
    let server = Actions::start();
    let other = Actions::token_until(88_888_888_888);
    let entries = entries(&server, "url_v2", &[("token", &other)]);
    fails(
        send(&entries, b"x").await,
        "failed to reserve cache: 401 Unauthorized",
    );
    fails(
        entries.index(&Cx::root(), Actions::SCOPE).await,
        "failed to look for cache entry: 401 Unauthorized",
    );
}

#[test]
fn a_token_that_ended_is_told_of_before_anything_is_done() {
    let token = Actions::token_until(1_700_000_000);
    let given = [("url_v2", "http://127.0.0.1:1"), ("token", token.as_str())];
    fails(
        trial::open::<Entries>(&given, &[], &nowhere()),
        "cache token expired at 2023-11-14 22:13:20 +0000 UTC",
    );
}

fn signed_by(script: &str) -> Signing {
    let command = ["/bin/sh", "-c", script].map(str::to_owned);
    Signing {
        command: Some(command.to_vec()),
        required: false,
    }
}

#[tokio::test]
async fn an_index_is_signed_before_it_can_be_found() {
    for url in VERSIONS {
        let server = Actions::start();
        let mut entries = entries(&server, url, &[]);
        entries.signing = signed_by("printf 'signed '; cat");
        let cx = Cx::root();
        let document = Bytes::from_static(b"index");
        entries.publish(&cx, document.clone()).await.expect("saved");
        let index = format!("{}-sig#1", entries.options.index_key(Actions::SCOPE));
        let signature = format!("buildkit-blob-1-{}-sig", Digest::of(&document));
        let mut wanted = [index, signature.clone()];
        wanted.sort();
        let mut keys = server.keys();
        keys.sort();
        assert_eq!(keys, wanted);
        let found = entries.service.find(&cx, &signature).await.expect("asked");
        let place = found.expect("there").url;
        let answer = entries.service.read(&cx, &place, 0).await.expect("read");
        let body = http::read("", answer).await.expect("read");
        assert_eq!(&body[..], b"signed index");
        assert_eq!(entries.documents(&cx).await.expect("read"), [document]);
    }
}

#[tokio::test]
async fn what_cannot_be_signed_is_not_published() {
    let server = Actions::start();
    let mut entries = entries(&server, "url_v2", &[]);
    let cx = Cx::root();
    for (script, wanted) in [
        ("echo no key >&2; exit 3", "signing command failed: no key"),
        (
            "exec /no/such/signer 2>/dev/null",
            "signing command failed: ",
        ),
    ] {
        entries.signing = signed_by(script);
        let refused = entries.publish(&cx, Bytes::from_static(b"index")).await;
        let refused = refused.expect_err("refused").to_string();
        assert!(refused.starts_with(wanted), "{refused}");
    }
    assert_eq!(server.keys(), [""; 0]);
}

#[tokio::test]
async fn who_believes_signed_caches_only_believes_none() {
    let server = Actions::start();
    let mut entries = entries(&server, "url_v2", &[]);
    let cx = Cx::root();
    entries
        .publish(&cx, Bytes::from_static(b"index"))
        .await
        .expect("saved");
    entries.signing.required = true;
    let refused = entries.documents(&cx).await.expect_err("refused");
    assert!(
        refused
            .to_string()
            .starts_with("unimplemented: cache.gha.verify.required")
    );
}
