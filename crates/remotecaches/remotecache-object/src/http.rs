//! Connections to stores of objects: what is sent, how long to wait, when to ask again, and how a refusal reads.

use std::future::Future;
use std::io::SeekFrom;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use content::Store;
use fault::{Class, Classify};
use hmac::{Hmac, KeyInit, Mac};
use oci::Digest;
use remotecache::Error;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use sha2::Sha256;
use tasks::Cx;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// Bytes read from a file at a time.
const PIECE: usize = 256 << 10;

/// The first wait before asking again; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// No wait is longer, unless a server that has too much to do asks for it.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A peer that says nothing for so long is gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// Bytes a second that any connection must bring about.
const SLOWEST: u64 = 32 << 10;

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
        .pool_idle_timeout(Duration::from_secs(90));
    builder.build().map_err(|err| setup(fault::chain(&err)))
}

/// What is sent.
#[derive(Clone)]
pub(crate) enum Body {
    Nothing,
    Bytes(Bytes),
    /// Part of a blob of the daemon's store, or all of it.
    Blob {
        store: Store,
        digest: Digest,
        offset: u64,
        size: u64,
    },
}

impl Body {
    /// A whole blob.
    pub(crate) fn blob(store: &Store, digest: &Digest) -> Result<Self, Error> {
        Ok(Self::Blob {
            size: store.info(digest)?.size,
            offset: 0,
            store: store.clone(),
            digest: digest.clone(),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }

    /// It, cut into pieces of this size at most: where each begins, and the piece. At least one.
    pub(crate) fn pieces(&self, size: u64) -> Vec<(u64, Self)> {
        let whole = self.size();
        let count = whole.div_ceil(size.max(1)).max(1);
        let starts = (0..count).map(|index| index * size);
        starts
            .map(|start| (start, self.part(start, size.min(whole - start))))
            .collect()
    }

    fn part(&self, start: u64, len: u64) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            Self::Bytes(bytes) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
                Self::Bytes(bytes.slice(at(start)..at(start + len)))
            }
            Self::Blob {
                store,
                digest,
                offset,
                ..
            } => Self::Blob {
                store: store.clone(),
                digest: digest.clone(),
                offset: offset + start,
                size: len,
            },
        }
    }

    /// Opens it anew.
    pub(crate) async fn open(&self) -> Result<reqwest::Body, Error> {
        Ok(match self {
            Self::Nothing => reqwest::Body::from(Bytes::new()),
            Self::Bytes(bytes) => reqwest::Body::from(bytes.clone()),
            Self::Blob {
                store,
                digest,
                offset,
                size,
            } => {
                let opened = (store.clone(), digest.clone());
                let file = tasks::blocking(move || opened.0.open_blob(&opened.1)).await?;
                let mut file = tokio::fs::File::from_std(file);
                let sought = file.seek(SeekFrom::Start(*offset)).await;
                sought.map_err(|source| content::Error::Read {
                    digest: digest.clone(),
                    source,
                })?;
                reqwest::Body::wrap_stream(ReaderStream::with_capacity(file.take(*size), PIECE))
            }
        })
    }

    /// How long sending it and hearing of it may take.
    pub(crate) fn deadline(&self) -> Duration {
        SILENCE + Duration::from_secs(self.size() / SLOWEST)
    }
}

/// How often to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// Times in all.
    pub(crate) attempts: u32,
    /// How long to go on, however often that is, while there are said to be too many requests. Zero: they count like
    /// other failures.
    pub(crate) throttled: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            throttled: Duration::from_secs(60),
        }
    }
}

/// Asks, and asks again where that may help.
pub(crate) async fn patiently<F>(
    cx: &Cx,
    patience: Patience,
    once: impl Fn() -> F + Send,
) -> Result<Response, Error>
where
    F: Future<Output = Result<Response, Error>> + Send,
{
    let start = tokio::time::Instant::now();
    let (mut failed, mut turned_away) = (0, 0);
    loop {
        let sent = cx.run(once()).await?;
        let (told, busy) = match &sent {
            Ok(response) if is_passing(response.status()) => {
                let busy = response.status() == StatusCode::TOO_MANY_REQUESTS;
                (retry_after(response.headers()), busy)
            }
            Err(err) if err.class() == Class::Unavailable => (None, false),
            _ => return sent,
        };
        let by_time = busy && !patience.throttled.is_zero();
        let count = if by_time {
            &mut turned_away
        } else {
            &mut failed
        };
        *count += 1;
        let wait = FIRST_WAIT
            .saturating_mul(1 << (*count - 1).min(8))
            .min(LONGEST_WAIT);
        // Also who is told to come at once comes less and less often.
        let pause = told.map_or(wait, |told| told.max(wait / 10));
        let goes_on = if by_time {
            start.elapsed() + pause <= patience.throttled
        } else {
            failed < patience.attempts && pause <= LONGEST_WAIT
        };
        if !goes_on {
            return sent;
        }
        tracing::debug!(?pause, "object store cannot answer now, asking again");
        cx.run(tokio::time::sleep(pause)).await?;
    }
}

/// When a server wants to be asked again: seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

/// Sends a request that was made for `body`; what stands in errors is `what`.
pub(crate) async fn send(
    request: reqwest::RequestBuilder,
    body: &Body,
    what: &str,
) -> Result<Response, Error> {
    match tokio::time::timeout(body.deadline(), request.send()).await {
        Ok(sent) => sent.map_err(|err| broken(what, err)),
        Err(_) => Err(Error::Place {
            text: format!("{what}: i/o timeout"),
            class: Class::Unavailable,
        }),
    }
}

/// Why there was no answer. Addresses are left out: some of them are as good as passwords.
pub(crate) fn broken(what: &str, err: reqwest::Error) -> Error {
    let reason = match err.url() {
        Some(url) => registry::unanswered(url, &err).1,
        None => fault::chain(&err),
    };
    Error::Place {
        text: format!("{what}: {reason}"),
        class: Class::Unavailable,
    }
}

/// The answer, if it says yes.
pub(crate) async fn accepted(what: &str, response: Response) -> Result<Response, Error> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(refused(what, response).await)
}

/// An answer that says no.
pub(crate) async fn refused(what: &str, response: Response) -> Error {
    let status = response.status();
    let code = response.headers().get("x-ms-error-code");
    let code = code
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let read = tokio::time::timeout(SILENCE, response.text()).await;
    let body = read.ok().and_then(Result::ok).unwrap_or_default();
    let said = match (tagged(&body, "Code").or(code), tagged(&body, "Message")) {
        (Some(code), Some(message)) => format!(": {code}: {message}"),
        (Some(code), None) => format!(": {code}"),
        _ if body.is_empty() => String::new(),
        _ => format!(": {body}"),
    };
    let said: String = said.chars().take(256).collect();
    Error::Place {
        text: format!("{what}: {status}{}", said.trim_end()),
        class: match status {
            StatusCode::NOT_FOUND => Class::NotFound,
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Class::Denied,
            status if is_passing(status) => Class::Unavailable,
            _ => Class::User,
        },
    }
}

/// The whole of a small answer.
pub(crate) async fn read(what: &str, response: Response) -> Result<Bytes, Error> {
    match tokio::time::timeout(SILENCE * 5, response.bytes()).await {
        Ok(read) => read.map_err(|err| broken(what, err)),
        Err(_) => Err(Error::Place {
            text: format!("{what}: i/o timeout"),
            class: Class::Unavailable,
        }),
    }
}

/// The text in the first element of this name. Whoever needs more of XML than that is not in here.
pub(crate) fn tagged(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = [
        ("&quot;", "\""),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    let plain = plain.iter().fold(text.to_owned(), |text, (coded, letter)| {
        text.replace(coded, letter)
    });
    Some(plain)
}

/// Whether asking again may help.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
        )
}

/// A key as part of a path, or of a query if slashes are to be encoded as well.
pub(crate) fn encode(key: &str, slash: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' => out.push_str(slash),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A signature of a text.
pub(crate) fn hash(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac =
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("a key of any length will do");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_knows_its_size_and_its_pieces() {
        let body = Body::Bytes(Bytes::from_static(b"abcdefg"));
        assert_eq!(body.size(), 7);
        let pieces = body.pieces(3);
        let sizes: Vec<_> = pieces.iter().map(|(at, it)| (*at, it.size())).collect();
        assert_eq!(sizes, [(0, 3), (3, 3), (6, 1)]);
        assert_eq!(Body::Nothing.pieces(3).len(), 1);
    }

    #[test]
    fn keys_are_encoded() {
        assert_eq!(encode("blobs/sha256:ab c", "/"), "blobs/sha256%3Aab%20c");
        assert_eq!(encode("a/b", "%2F"), "a%2Fb");
    }

    #[test]
    fn servers_say_when_to_come_back() {
        let after = |text: &str| {
            let value = text.parse().expect("a header value");
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value)]))
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("later"), None);
    }

    #[test]
    fn text_is_found_in_xml() {
        let xml = "<A><Code>X</Code><ETag>&quot;1&amp;2&quot;</ETag></A>";
        assert_eq!(tagged(xml, "ETag").as_deref(), Some("\"1&2\""));
        assert_eq!(tagged(xml, "Message"), None);
    }

    fn answer(status: u16, after: Option<&str>) -> Result<Response, Error> {
        let mut builder = http::Response::builder().status(status);
        if let Some(after) = after {
            builder = builder.header(RETRY_AFTER, after);
        }
        let response = builder.body("").expect("an answer");
        Ok(Response::from(response))
    }

    /// How often was asked, and how long that took.
    async fn asked(patience: Patience, status: u16, after: Option<&str>) -> (u32, u64) {
        let count = std::sync::atomic::AtomicU32::new(0);
        let start = tokio::time::Instant::now();
        let once = || {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            std::future::ready(answer(status, after))
        };
        let last = patiently(&Cx::root(), patience, once).await;
        assert_eq!(last.map(|it| it.status().as_u16()).ok(), Some(status));
        (count.into_inner(), start.elapsed().as_secs())
    }

    const PATIENCE: Patience = Patience {
        attempts: 3,
        throttled: Duration::from_secs(60),
    };

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_asked_again_and_nothing_else() {
        assert_eq!(asked(PATIENCE, 503, None).await, (3, 0));
        assert_eq!(asked(PATIENCE, 403, None).await, (1, 0));
        assert_eq!(asked(PATIENCE, 200, None).await, (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_to_come_later_comes_later_for_some_time() {
        assert_eq!(asked(PATIENCE, 429, Some("20")).await, (4, 60));
        assert_eq!(asked(PATIENCE, 503, Some("2")).await, (3, 4));
        // Nobody waits for an hour.
        assert_eq!(asked(PATIENCE, 429, Some("3600")).await, (1, 0));
    }
}
