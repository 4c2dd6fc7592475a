//! What went wrong with a request, in words that help, and without secrets.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use http::Method;
use reqwest::Response;
use rustls::CertificateError;
use url::Url;

use crate::error::{Broken, Error, UnexpectedStatus, document};

/// How much of a refusal is read.
const READ: usize = 64 << 10;
/// For how long.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// An answer that is no success.
pub(crate) async fn unexpected(method: &Method, url: &Url, mut response: Response) -> Error {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(piece)) = response.chunk().await {
            let room = READ - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() == READ {
                break;
            }
        }
    };
    // What cannot be read does not help; the status tells enough.
    let _ = tokio::time::timeout(READ_WITHIN, read).await;
    let status = response.status();
    Error::Status(Box::new(UnexpectedStatus {
        method: method.clone(),
        url: redacted(url),
        status,
        refusal: document::read(status, &body),
    }))
}

/// No answer.
pub(crate) fn broken(method: &Method, url: &Url, err: &reqwest::Error) -> Error {
    let (kind, reason) = unanswered(url, err);
    Error::Transport {
        method: capitalized(method),
        url: redacted(url),
        reason,
        kind,
    }
}

/// Why there was no answer from `url`, or only a part of one: the kind, and words without the URL itself.
///
/// Compat: users look for the words upstream has. Whoever speaks HTTP tells failures like this.
pub fn unanswered(url: &Url, err: &reqwest::Error) -> (Broken, String) {
    let (kind, reason) = reason(err);
    let host = url.host_str().unwrap_or_default();
    let told = if reason.contains("failed to lookup address") {
        format!("dial tcp: lookup {host}: no such host")
    } else if reason.starts_with("connect: ") {
        let port = url.port_or_known_default().unwrap_or_default();
        format!("dial tcp {host}:{port}: {reason}")
    } else {
        reason
    };
    (kind, told)
}

/// No answer in time.
pub(crate) fn timed_out(method: &Method, url: &Url) -> Error {
    Error::Transport {
        method: capitalized(method),
        url: redacted(url),
        reason: "timeout awaiting response headers".to_owned(),
        kind: Broken::TimedOut,
    }
}

/// What kind of failure it was, in words.
pub(crate) fn reason(err: &reqwest::Error) -> (Broken, String) {
    let mut cause = err.source();
    let mut last = None;
    while let Some(inner) = cause {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return of_tls(tls);
        }
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && let Some(found) = of_io(io, err.is_connect())
        {
            return found;
        }
        if inner
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
        {
            // Somebody answered, but in another language.
            return (Broken::Other, inner.to_string());
        }
        last = Some(inner);
        cause = inner.source();
    }
    if err.is_timeout() {
        return (Broken::TimedOut, "i/o timeout".to_owned());
    }
    let text = match last {
        Some(last) => last.to_string(),
        None => {
            let mut text = err.to_string();
            // A URL may be as good as a password.
            text.truncate(text.find(" for url (").unwrap_or(text.len()));
            text
        }
    };
    if text.contains("connection closed") || text.contains("end of file") {
        return (Broken::Closed, "EOF".to_owned());
    }
    if text.contains("invalid peer certificate") {
        return (Broken::Tls, text);
    }
    let kind = if err.is_connect() {
        Broken::Connect
    } else if err.is_body() || err.is_request() || err.is_decode() {
        Broken::Closed
    } else {
        Broken::Other
    };
    (kind, text)
}

fn of_tls(err: &rustls::Error) -> (Broken, String) {
    match err {
        // What follows is the beginning of an HTTP answer.
        rustls::Error::InvalidMessage(_) => (
            Broken::Plain,
            "http: server gave HTTP response to HTTPS client".to_owned(),
        ),
        rustls::Error::InvalidCertificate(problem) => {
            let text = match problem {
                CertificateError::UnknownIssuer => "certificate signed by unknown authority",
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => {
                    "certificate has expired or is not yet valid"
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    "certificate is not valid for this name"
                }
                _ => return (Broken::Tls, format!("tls: {err}")),
            };
            // Compat: users look for these words.
            let text = format!("tls: failed to verify certificate: x509: {text}");
            (Broken::Tls, text)
        }
        other => (Broken::Tls, format!("tls: {other}")),
    }
}

/// `None`: look further down.
fn of_io(err: &io::Error, connecting: bool) -> Option<(Broken, String)> {
    use io::ErrorKind;
    if let Some(inner) = err.get_ref() {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
            return Some(of_tls(tls));
        }
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && let Some(found) = of_io(io, connecting)
        {
            return Some(found);
        }
        if err.kind() == ErrorKind::UnexpectedEof {
            return Some((Broken::Closed, "EOF".to_owned()));
        }
        return None;
    }
    let (kind, text) = match err.kind() {
        ErrorKind::ConnectionRefused => (Broken::Connect, "connect: connection refused"),
        ErrorKind::NetworkUnreachable => (Broken::Connect, "connect: network is unreachable"),
        ErrorKind::HostUnreachable => (Broken::Connect, "connect: no route to host"),
        ErrorKind::TimedOut => (Broken::TimedOut, "i/o timeout"),
        ErrorKind::ConnectionReset => (Broken::Closed, "connection reset by peer"),
        ErrorKind::ConnectionAborted => (Broken::Closed, "connection aborted"),
        ErrorKind::BrokenPipe => (Broken::Closed, "broken pipe"),
        ErrorKind::UnexpectedEof => (Broken::Closed, "EOF"),
        _ if connecting => return Some((Broken::Connect, err.to_string())),
        _ => return None,
    };
    Some((kind, text.to_owned()))
}

/// `Head`, as in upstream's messages.
fn capitalized(method: &Method) -> String {
    let text = method.as_str();
    let (first, rest) = text.split_at(1);
    format!("{first}{}", rest.to_lowercase())
}

/// A URL that can be shown: no password, and of the query only what is known to be no secret.
pub(crate) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot have either.
    let _ = shown.set_password(None);
    let _ = shown.set_username("");
    if url.query().is_some() {
        let harmless = |name: &str| {
            matches!(
                name,
                "ns" | "mount" | "from" | "digest" | "scope" | "service" | "account"
            )
        };
        let pairs: Vec<(String, String)> = url
            .query_pairs()
            .map(|(name, value)| {
                let value = if harmless(&name) {
                    value
                } else {
                    "redacted".into()
                };
                (name.into_owned(), value.into_owned())
            })
            .collect();
        shown.query_pairs_mut().clear().extend_pairs(pairs);
    }
    shown.to_string()
}

/// The same for a text that may be a URL.
pub(crate) fn redact(text: &str) -> String {
    text.parse()
        .map_or_else(|_| "<not a URL>".to_owned(), |url| redacted(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_secrets() {
        let url = "https://user:pass@host/v2/x/blobs/y?sig=abc&ns=docker.io"
            .parse()
            .expect("a URL");
        assert_eq!(
            redacted(&url),
            "https://host/v2/x/blobs/y?sig=redacted&ns=docker.io"
        );
    }

    #[test]
    fn methods_are_written_as_upstream_does() {
        assert_eq!(capitalized(&Method::HEAD), "Head");
    }
}
