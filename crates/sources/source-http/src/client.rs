//! Requests, and who may be asked for credentials.

use std::sync::OnceLock;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use registry::unanswered;
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH,
    LAST_MODIFIED, USER_AGENT,
};
use reqwest::{Method, StatusCode};
use session::{Group, secrets, upload};
use tasks::Cx;
use url::{Host, Url};

use crate::Error;
use crate::attrs::Attrs;
use crate::known::Known;

/// Makes requests. Connections are set up when the first is needed.
pub(crate) struct Client {
    agent: String,
    direct: OnceLock<reqwest::Client>,
    /// Through the proxies of the environment.
    proxied: OnceLock<reqwest::Client>,
}

/// Bytes as they come.
pub(crate) type Body = BoxStream<'static, Result<bytes::Bytes, Error>>;

/// An answer whose body has not been read.
pub(crate) struct Answer {
    status: StatusCode,
    /// `None`: the client sent it.
    headers: Option<HeaderMap>,
    body: Body,
}

impl Answer {
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.headers.as_ref()
    }

    pub(crate) fn is_not_modified(&self) -> bool {
        self.status == StatusCode::NOT_MODIFIED
    }

    fn text(&self, name: reqwest::header::HeaderName) -> Option<&str> {
        let value = self.headers.as_ref()?.get(name)?;
        value.to_str().ok().filter(|text| !text.is_empty())
    }

    /// The entity tag, without the mark of a weak one.
    pub(crate) fn own_tag(&self) -> Option<String> {
        let tag = self.text(ETAG)?;
        Some(tag.strip_prefix("W/").unwrap_or(tag).to_owned())
    }

    /// The entity tag the answer is about: some servers leave it out when they were asked about a single one.
    pub(crate) fn tag(&self, asked: &[Known]) -> Option<String> {
        match (self.own_tag(), asked) {
            (Some(tag), _) => Some(tag),
            (None, [only]) if self.is_not_modified() => Some(only.tag.clone()),
            (None, _) => None,
        }
    }

    /// Seconds since the epoch.
    pub(crate) fn modified(&self) -> Option<i64> {
        let text = self.text(LAST_MODIFIED)?;
        // Go's servers like to call the zone by its other name.
        let named = match text.strip_suffix("UTC") {
            Some(rest) => format!("{rest}GMT"),
            None => text.to_owned(),
        };
        let time = httpdate::parse_http_date(&named).ok()?;
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_secs()).ok()
    }

    /// The body is packed because we said that we can unpack it.
    pub(crate) fn is_gzip(&self) -> bool {
        self.text(CONTENT_ENCODING)
            .is_some_and(|coding| coding.eq_ignore_ascii_case("gzip"))
    }

    pub(crate) fn into_body(self) -> Body {
        self.body
    }
}

impl Client {
    pub(crate) fn new(agent: &str) -> Self {
        Self {
            agent: agent.to_owned(),
            direct: OnceLock::new(),
            proxied: OnceLock::new(),
        }
    }

    /// Asks about the file without having it sent. Only answers that say something about it are answers.
    pub(crate) async fn head(
        &self,
        cx: &Cx,
        attrs: &Attrs,
        sessions: &Group,
        tags: &[&str],
    ) -> Result<Answer, Error> {
        let answer = self.send(cx, Method::HEAD, attrs, sessions, tags).await?;
        match answer.status {
            StatusCode::OK | StatusCode::NOT_MODIFIED => Ok(answer),
            status => Err(Error::Status {
                status: status.as_u16(),
            }),
        }
    }

    /// Asks for the file.
    pub(crate) async fn get(
        &self,
        cx: &Cx,
        attrs: &Attrs,
        sessions: &Group,
        tags: &[&str],
    ) -> Result<Answer, Error> {
        if attrs.is_upload() {
            return uploaded(cx, attrs, sessions).await;
        }
        let answer = self.send(cx, Method::GET, attrs, sessions, tags).await?;
        match answer.status.as_u16() {
            200..400 => Ok(answer),
            status => Err(Error::Status { status }),
        }
    }

    async fn send(
        &self,
        cx: &Cx,
        method: Method,
        attrs: &Attrs,
        sessions: &Group,
        tags: &[&str],
    ) -> Result<Answer, Error> {
        let url = parse(&attrs.url)?;
        let verb = if method == Method::HEAD {
            "Head"
        } else {
            "Get"
        };
        let failed = failure(verb, attrs);
        let mut request = self
            .connections(&url)?
            .request(method, url.clone())
            .header(ACCEPT_ENCODING, "gzip")
            .header(USER_AGENT, &self.agent);
        let mut own = HeaderMap::new();
        for (name, value) in &attrs.headers {
            let value = HeaderValue::from_bytes(value.as_bytes());
            let value = value.map_err(|err| failed(err.to_string()))?;
            own.insert(*name, value);
        }
        if let Some(value) = authorization(cx, attrs, &url, sessions).await? {
            own.insert(AUTHORIZATION, value);
        }
        request = request.headers(own);
        if !tags.is_empty() {
            request = request.header(IF_NONE_MATCH, tags.join(", "));
        }
        let sent = request.send().await;
        let response = sent.map_err(|err| failed(unanswered(&url, &err).1))?;
        Ok(response_body(response, failure(verb, attrs)))
    }

    fn connections(&self, url: &Url) -> Result<&reqwest::Client, Error> {
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        let slot = if loopback {
            &self.direct
        } else {
            &self.proxied
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let made = make(loopback)?;
        Ok(slot.get_or_init(|| made))
    }
}

fn make(direct: bool) -> Result<reqwest::Client, Error> {
    let setup = |reason: String| Error::Setup { reason };
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|err| setup(err.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .referer(false)
        .redirect(reqwest::redirect::Policy::limited(10))
        .connect_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(60))
        .pool_idle_timeout(Duration::from_secs(90));
    if direct {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|err| setup(fault::chain(&err)))
}

fn parse(url: &str) -> Result<Url, Error> {
    Url::parse(url).map_err(|source| Error::Url {
        url: url.to_owned(),
        source,
    })
}

fn failure(method: &'static str, attrs: &Attrs) -> impl Fn(String) -> Error + Send + 'static {
    let url = attrs.shown_url();
    move |reason| Error::Request {
        method,
        url: url.clone(),
        reason,
    }
}

fn response_body(
    response: reqwest::Response,
    failed: impl Fn(String) -> Error + Send + 'static,
) -> Answer {
    let url = response.url().clone();
    Answer {
        status: response.status(),
        headers: Some(response.headers().clone()),
        body: response
            .bytes_stream()
            .map_err(move |err| failed(unanswered(&url, &err).1))
            .boxed(),
    }
}

/// The secret that was named, or those that are named after the host.
async fn authorization(
    cx: &Cx,
    attrs: &Attrs,
    url: &Url,
    sessions: &Group,
) -> Result<Option<HeaderValue>, Error> {
    let header = |name: &str, text: String| {
        let mut value =
            HeaderValue::from_str(text.trim_end_matches(['\r', '\n'])).map_err(|_| {
                Error::Header {
                    name: name.to_owned(),
                }
            })?;
        value.set_sensitive(true);
        Ok(Some(value))
    };
    if !attrs.auth_secret.is_empty() {
        let name = &attrs.auth_secret;
        let secret = secrets::fetch(cx, sessions, name).await;
        let secret = secret.map_err(|source| Error::Secret {
            name: name.clone(),
            source,
        })?;
        return header(name, secret.reveal_text());
    }
    if sessions.is_empty() {
        return Ok(None);
    }
    let host = url.host_str().unwrap_or_default();
    // The token wins over the header when there are both.
    for (name, scheme) in [
        (format!("HTTP_AUTH_TOKEN_{host}"), "Bearer "),
        (format!("HTTP_AUTH_HEADER_{host}"), ""),
    ] {
        if let Ok(secret) = secrets::fetch(cx, sessions, &name).await {
            return header(&name, format!("{scheme}{}", secret.reveal_text()));
        }
    }
    Ok(None)
}

async fn uploaded(cx: &Cx, attrs: &Attrs, sessions: &Group) -> Result<Answer, Error> {
    let url = parse(&attrs.url)?;
    let chunks = sessions
        .any(cx, async |session| {
            upload::pull(cx, &session, url.path(), upload::HOST).await
        })
        .await?;
    Ok(Answer {
        status: StatusCode::OK,
        headers: None,
        body: chunks.map_err(Error::from).boxed(),
    })
}
