//! Single blobs of a registry, and what is told when there is none.

use cache::Cache;
use oci::Digest;
use progress::Progress;
use registry::Client;
use session::Group;
use source::{Identifier, Source as _};
use source_image::{Blobs, Images, Offline};
use tasks::Cx;
use testkit::web::{Response, Web};

const BLOB: &str = "a blob";

/// The file that becomes of a blob, or the error; `{host}` stands for the registry.
async fn file(name: &str, attrs: &[(&str, &str)]) -> Result<String, String> {
    let web = Web::start(|request| match request.path.as_str() {
        path if path.ends_with(Digest::of(BLOB).as_str()) => Response::file(BLOB),
        path if path.contains("/broken/") => Response::status(500),
        _ => Response::status(404),
    });
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::open(cache::Options::new(dir.path())).expect("a cache");
    let client = Client::new(registry::Config {
        backoff: std::time::Duration::from_millis(5),
        ..registry::Config::default()
    });
    let blobs = Blobs::new(Images::new(client, cache, Offline::Warn));
    let url = web.url();
    let host = url.strip_prefix("http://").expect("plain");
    let id = Identifier {
        scheme: "docker-image+blob".to_owned(),
        name: name.replace("{host}", host),
        attrs: attrs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        platform: oci::Platform::host(),
    };
    let (cx, nobody, progress) = (Cx::root(), Group::none(), Progress::none());
    let told = |err: source::Error| err.message.replace(host, "{host}");
    let blob = blobs.instance(id, &std::sync::Arc::default());
    let tree = blob.map_err(told)?.snapshot(&cx, &nobody, &progress).await;
    let tree = tree.map_err(told)?.expect("not scratch");
    let tree = tree.tree(&cx).await.expect("readable");
    let mut names = std::fs::read_dir(tree.path()).expect("a folder");
    let only = names.next().expect("a file").expect("readable");
    Ok(only.file_name().to_string_lossy().into_owned())
}

#[tokio::test]
async fn a_blob_becomes_a_file() {
    testkit::require!(root);
    let digest = Digest::of(BLOB);
    let name = format!("{{host}}/a/b@{digest}");
    assert_eq!(file(&name, &[]).await, Ok(digest.hex().to_owned()));
    let named = file(&name, &[("http.filename", "x/y")]).await;
    assert_eq!(named.as_deref(), Ok("y"));
}

#[tokio::test]
async fn what_is_wrong_with_a_digest_is_told() {
    testkit::require!(root);
    let zeros = "0".repeat(64);
    for (digest, why) in [
        ("@sha256:abc", "invalid checksum digest length"),
        ("@md5:00", "unsupported digest algorithm"),
        (&format!("@random:{zeros}"), "unsupported digest algorithm"),
        ("@sha256:", "invalid checksum digest format"),
        (":v1", "invalid checksum digest format"),
    ] {
        let told = file(&format!("{{host}}/a/b{digest}"), &[]).await;
        assert_eq!(told, Err(format!("invalid reference digest: {why}")));
    }
}

#[tokio::test]
async fn a_blob_that_is_not_there_is_told_as_upstream_does() {
    testkit::require!(root);
    let none = Digest::of("none");
    for (repository, status) in [
        ("a/b", "404 Not Found"),
        ("broken/b", "500 Internal Server Error"),
    ] {
        let told = file(&format!("{{host}}/{repository}@{none}"), &[]).await;
        let url = format!("http://{{host}}/v2/{repository}/blobs/{none}");
        let wanted = format!("unexpected HEAD status code {url}: {status}");
        assert_eq!(told, Err(wanted));
    }
    let port = testkit::registry::free_port();
    let told = file(&format!("127.0.0.1:{port}/a/b@{none}"), &[]).await;
    let told = told.expect_err("nobody there");
    let wanted = "failed to do request: Head \"http://127.0.0.1:";
    assert!(told.starts_with(wanted), "{told}");
}

#[tokio::test]
async fn a_file_that_cannot_be_made_is_told_without_more_words() {
    testkit::require!(root);
    let name = format!("{{host}}/a/b@{}", Digest::of(BLOB));
    let slash = file(&name, &[("http.filename", "/")]).await;
    let wanted = "openat /: path escapes from parent";
    assert_eq!(slash, Err(wanted.to_owned()));
    let mode = file(&name, &[("http.filename", "f"), ("http.perm", "04755")]).await;
    assert_eq!(mode, Err("openat f: unsupported file mode".to_owned()));
}
