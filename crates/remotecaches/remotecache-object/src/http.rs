//! Connections to stores of objects.

use std::time::Duration;

use bytes::Bytes;
use content::Store;
use fault::Class;
use oci::Digest;
use remotecache::Error;
use reqwest::{Response, StatusCode};
use tokio_util::io::ReaderStream;

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// A client for any store.
pub(crate) fn client() -> Result<reqwest::Client, Error> {
    let setup = |text: String| Error::Place {
        text,
        class: Class::Internal,
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|err| setup(err.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(Duration::from_secs(30))
        .read_timeout(Duration::from_secs(60))
        .pool_idle_timeout(Duration::from_secs(90));
    builder.build().map_err(|err| setup(fault::chain(&err)))
}

/// What is sent.
#[derive(Clone)]
pub(crate) enum Body {
    Nothing,
    Bytes(Bytes),
    Blob {
        store: Store,
        digest: Digest,
        size: u64,
    },
}

impl Body {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }

    /// Opens it anew.
    pub(crate) async fn open(&self) -> Result<reqwest::Body, Error> {
        Ok(match self {
            Self::Nothing => reqwest::Body::from(Bytes::new()),
            Self::Bytes(bytes) => reqwest::Body::from(bytes.clone()),
            Self::Blob { store, digest, .. } => {
                let (store, digest) = (store.clone(), digest.clone());
                let file = tasks::blocking(move || store.open_blob(&digest)).await?;
                let file = tokio::fs::File::from_std(file);
                reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, PIECE))
            }
        })
    }
}

/// Why there was no answer.
pub(crate) fn broken(what: &str, err: &reqwest::Error) -> Error {
    let mut reason = fault::chain(err);
    if reason.contains("failed to lookup address")
        && let Some(host) = err.url().and_then(|url| url.host_str())
    {
        // Compat: users look for these words.
        reason = format!("dial tcp: lookup {host}: no such host");
    }
    Error::Place {
        text: format!("{what}: {reason}"),
        class: Class::Unavailable,
    }
}

/// An answer that says no.
pub(crate) async fn refused(what: &str, response: Response) -> Error {
    let status = response.status();
    let body = response.text().await.unwrap_or_default();
    let said: String = body.chars().take(256).collect();
    Error::Place {
        text: format!("{what}: {status}: {said}"),
        class: match status {
            StatusCode::NOT_FOUND => Class::NotFound,
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Class::Denied,
            status if status.is_server_error() => Class::Unavailable,
            _ => Class::User,
        },
    }
}

/// Whether asking again may help.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}
