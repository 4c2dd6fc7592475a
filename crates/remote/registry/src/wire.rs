//! One request to one server: authorization, redirects, and the repeats that belong to a single question.

mod failure;

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, RANGE, RETRY_AFTER,
};
use http::{Method, StatusCode};
use reqwest::Response;
use tasks::Cx;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::io::ReaderStream;
use url::Url;

use crate::auth::scope::Scopes;
use crate::auth::{Asker, Keys, Purpose};
use crate::error::{Broken, Error};
use crate::hosts::{Endpoint, Hosts, Traffic};
use crate::{Credentials, Inner};

pub use failure::unanswered;
pub(crate) use failure::{broken, reason, redacted, timed_out, unexpected};

/// How often one question is asked at most.
const ATTEMPTS: u32 = 5;
/// How many redirects are followed.
const REDIRECTS: u32 = 10;
/// How much more patience there is for an answer to what was sent: a registry may look at all of it first.
const DIGESTION: u32 = 10;
/// The longest wait that a server can order.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The largest answer that is read only to keep its connection.
const SMALL: u64 = 64 << 10;
/// Pieces of an upload. Smaller ones cost more calls than they save memory.
const PIECE: usize = 256 << 10;

/// A question.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) place: Place,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// What it takes, besides what the access is for.
    pub(crate) scopes: Scopes,
}

/// Where to ask.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Inside the repository, with a query.
    Path { rest: String, query: String },
    /// Where the server said.
    Url(Url),
}

/// What to send along. Can be sent again.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    None,
    Bytes(Bytes),
    /// Some bytes of a file.
    File {
        path: PathBuf,
        range: Range<u64>,
    },
}

impl Request {
    pub(crate) fn new(method: Method, rest: impl Into<String>) -> Self {
        let place = Place::Path {
            rest: rest.into(),
            query: String::new(),
        };
        Self::at(method, place)
    }

    pub(crate) fn at(method: Method, place: Place) -> Self {
        Self {
            method,
            place,
            headers: HeaderMap::new(),
            body: Body::None,
            scopes: Scopes::default(),
        }
    }

    pub(crate) fn accept(self, value: &str) -> Self {
        self.header(ACCEPT, value)
    }

    pub(crate) fn content_type(self, value: &str) -> Self {
        self.header(CONTENT_TYPE, value)
    }

    /// `end` is the first byte that is not wanted.
    pub(crate) fn range(self, start: u64, end: Option<u64>) -> Self {
        match end {
            None if start == 0 => self,
            None => self.header(RANGE, &format!("bytes={start}-")),
            Some(end) => self.header(RANGE, &format!("bytes={start}-{}", end - 1)),
        }
    }

    /// A value that is no header value is left out: media types come from documents others wrote.
    fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// One party's way into one repository.
pub(crate) struct Access<'a> {
    pub(crate) cx: &'a Cx,
    pub(crate) who: &'a dyn Credentials,
    pub(crate) hosts: &'a Hosts,
    keys: &'a Keys,
    pub(crate) purpose: Purpose,
    /// Path of the repository.
    pub(crate) repository: &'a str,
    scopes: Scopes,
}

/// Which of several answers may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// There is another server to ask.
    Left,
    /// This is the last.
    None,
}

impl<'a> Access<'a> {
    /// For pulling from `domain`.
    pub(crate) fn pull(
        client: &'a Inner,
        cx: &'a Cx,
        who: &'a dyn Credentials,
        domain: &str,
        repository: &'a str,
    ) -> Self {
        Self {
            cx,
            who,
            hosts: &client.hosts,
            keys: &client.keys,
            purpose: Purpose {
                name: format!("{domain}/{repository}"),
                push: false,
                insecure: false,
                holders: Vec::new(),
            },
            repository,
            scopes: Scopes::parse([format!("repository:{repository}:pull").as_str()]),
        }
    }

    /// For pushing to `domain`.
    pub(crate) fn push(
        client: &'a Inner,
        cx: &'a Cx,
        who: &'a dyn Credentials,
        domain: &str,
        repository: &'a str,
        insecure: bool,
    ) -> Self {
        let mut access = Self::pull(client, cx, who, domain, repository);
        access.purpose.push = true;
        access.purpose.insecure = insecure;
        access.purpose.holders = who.holders().to_vec();
        access.scopes = Scopes::parse([format!("repository:{repository}:pull,push").as_str()]);
        access
    }

    /// Asks, and asks again where that can change the answer. Any status may come back but those that were settled on
    /// the way.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        others: Others,
    ) -> Result<Response, Error> {
        let mut request = request.clone();
        let mut last: Option<StatusCode> = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let again = attempt < ATTEMPTS;
            let encrypted = endpoint.is_encrypted();
            let response = match self.once(endpoint, &request).await {
                Ok(response) => response,
                Err(err)
                    if again && self.may_repeat(endpoint, encrypted, &request, &err, others) =>
                {
                    // A server without TLS is asked in plain words at once.
                    if encrypted == endpoint.is_encrypted() {
                        let pause = tokio::time::sleep(Duration::from_millis(50));
                        self.cx.run(pause).await?;
                    }
                    continue;
                }
                Err(err) => return Err(err),
            };
            let status = response.status();
            let repeat = again
                && self
                    .answered(endpoint, &mut request, &response, last, others)
                    .await?;
            if !repeat {
                return Ok(response);
            }
            last = Some(status);
            settle(response).await;
        }
    }

    /// The next bytes of what a server was asked for.
    pub(crate) async fn next_piece(&self, answer: &mut Response) -> Result<Option<Bytes>, Error> {
        let patience = self.hosts.config().patience;
        match timeout(patience, answer.chunk()).await {
            Ok(piece) => piece.map_err(|err| broken(&Method::GET, answer.url(), &err)),
            Err(_) => Err(timed_out(&Method::GET, answer.url())),
        }
    }

    /// Whether a request that got no answer is sent again at once.
    fn may_repeat(
        &self,
        endpoint: &Endpoint,
        encrypted: bool,
        request: &Request,
        err: &Error,
        others: Others,
    ) -> bool {
        let Error::Transport { kind, .. } = err else {
            return false;
        };
        let no_tls = match kind {
            Broken::Plain => true,
            Broken::Connect | Broken::TimedOut => !endpoint.has_port(),
            _ => false,
        };
        if encrypted && no_tls && endpoint.give_up_tls() {
            return true;
        }
        // An upload need not begin anew; whoever began it knows better.
        !matches!(request.body, Body::File { .. })
            && others == Others::None
            && matches!(kind, Broken::TimedOut | Broken::Closed)
    }

    /// Whether an answer calls for the same question again.
    async fn answered(
        &self,
        endpoint: &Endpoint,
        request: &mut Request,
        response: &Response,
        last: Option<StatusCode>,
        others: Others,
    ) -> Result<bool, Error> {
        let status = response.status();
        match status {
            StatusCode::UNAUTHORIZED if endpoint.serves(response.url()) => {
                let again = last == Some(StatusCode::UNAUTHORIZED);
                self.keys
                    .refused(
                        &self.asker(endpoint),
                        &endpoint.host,
                        response.headers(),
                        again,
                    )
                    .await
            }
            StatusCode::METHOD_NOT_ALLOWED if request.method == Method::HEAD => {
                // Some registries know HEAD for blobs only.
                let manifest = response.url().path().contains("/manifests/");
                if manifest {
                    request.method = Method::GET;
                }
                Ok(manifest)
            }
            StatusCode::REQUEST_TIMEOUT => Ok(true),
            StatusCode::TOO_MANY_REQUESTS => {
                let wait = wait_ordered(response.headers(), self.hosts.config().backoff);
                tracing::debug!(host = endpoint.host, ?wait, "registry asks to slow down");
                self.cx.run(tokio::time::sleep(wait)).await?;
                Ok(true)
            }
            StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Ok(others == Others::None && last != Some(status)),
            _ => Ok(false),
        }
    }

    fn asker<'b>(&'b self, endpoint: &'b Endpoint) -> Asker<'b> {
        Asker {
            endpoint,
            cx: self.cx,
            who: self.who,
            hosts: self.hosts,
            purpose: &self.purpose,
        }
    }

    /// Asks once, following redirects.
    async fn once(&self, endpoint: &Endpoint, request: &Request) -> Result<Response, Error> {
        let mut url = match &request.place {
            Place::Path { rest, query } => endpoint.url(self.repository, rest, query)?,
            Place::Url(url) => url.clone(),
        };
        for _ in 0..=REDIRECTS {
            let response = self.ask(endpoint, request, &url).await?;
            let target = match response.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => response.headers().get(LOCATION),
                _ => None,
            };
            let Some(target) = target.and_then(|target| target.to_str().ok()) else {
                return Ok(response);
            };
            url = url.join(target).map_err(|_| Error::Location {
                location: failure::redact(target),
            })?;
        }
        Err(Error::Redirects)
    }

    async fn ask(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        url: &Url,
    ) -> Result<Response, Error> {
        let traffic = match request.body {
            Body::File { .. } => Traffic::Uploads,
            Body::None | Body::Bytes(_) => Traffic::Questions,
        };
        let http = self.hosts.towards(endpoint, url, traffic).await?;
        match self.ask_with(endpoint, &http, request, url).await {
            // It knows HTTP/2 only.
            Err(Error::Transport {
                kind: Broken::Tls, ..
            }) if traffic == Traffic::Uploads => {
                let http = self.hosts.towards(endpoint, url, Traffic::Questions);
                let http = http.await?;
                self.ask_with(endpoint, &http, request, url).await
            }
            other => other,
        }
    }

    async fn ask_with(
        &self,
        endpoint: &Endpoint,
        http: &reqwest::Client,
        request: &Request,
        url: &Url,
    ) -> Result<Response, Error> {
        let own = endpoint.serves(url);
        let mut builder = http
            .request(request.method.clone(), url.clone())
            .headers(request.headers.clone());
        if own {
            let scopes = self.scopes.union(&request.scopes);
            let known = self
                .keys
                .authorization(&self.asker(endpoint), &endpoint.host, &scopes)
                .await
                .map_err(|err| match err {
                    Error::Cancelled(_) => err,
                    other => Error::Authorize(Box::new(other)),
                })?;
            if let Some(known) = known.and_then(|known| HeaderValue::try_from(known).ok()) {
                builder = builder.header(AUTHORIZATION, secret(known));
            }
        }
        let patience = self.hosts.config().patience;
        let answered_within = match request.body {
            Body::None => patience,
            _ => patience * DIGESTION,
        };
        let (builder, beats) = self.with_body(builder, &request.body).await?;
        tracing::trace!(method = %request.method, url = %failure::redacted(url), "request");
        let answer = in_time(builder.send(), beats, patience, answered_within);
        match self.cx.run(answer).await? {
            Ok(Ok(response)) => {
                tracing::trace!(status = %response.status(), "answer");
                Ok(response)
            }
            Ok(Err(err)) => Err(broken(&request.method, url, &err)),
            Err(_) => Err(failure::timed_out(&request.method, url)),
        }
    }

    async fn with_body(
        &self,
        builder: reqwest::RequestBuilder,
        body: &Body,
    ) -> Result<(reqwest::RequestBuilder, Option<watch::Receiver<()>>), Error> {
        Ok(match body {
            Body::None => (builder, None),
            Body::Bytes(bytes) => (builder.body(bytes.clone()), None),
            Body::File { path, range } => {
                let failed = |source| content::Error::Store {
                    path: path.clone(),
                    source,
                };
                let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
                if range.start > 0 {
                    let start = std::io::SeekFrom::Start(range.start);
                    file.seek(start).await.map_err(failed)?;
                }
                let size = range.end - range.start;
                let (beat, beats) = watch::channel(());
                let stream = ReaderStream::with_capacity(file.take(size), PIECE);
                let stream = stream.inspect(move |_| beat.send_replace(()));
                let builder = builder
                    .header(CONTENT_LENGTH, size)
                    .body(reqwest::Body::wrap_stream(stream));
                (builder, Some(beats))
            }
        })
    }
}

/// Waits for an answer, as long as something moves: `beats` tells of every piece that was taken, and ends with the last
/// one. Then there is `within` for the answer.
async fn in_time<T>(
    send: impl Future<Output = T>,
    beats: Option<watch::Receiver<()>>,
    patience: Duration,
    within: Duration,
) -> Result<T, Elapsed> {
    let mut send = pin!(send);
    if let Some(mut beats) = beats {
        loop {
            tokio::select! {
                answer = &mut send => return Ok(answer),
                beat = timeout(patience, beats.changed()) => {
                    if beat?.is_err() {
                        break;
                    }
                }
            }
        }
    }
    timeout(within, send).await
}

/// Reads what is left of an answer nobody wants, so that the connection can be used again.
async fn settle(response: Response) {
    if response.content_length().is_some_and(|left| left <= SMALL) {
        // A connection that breaks here is replaced by the next request.
        let _ = tokio::time::timeout(Duration::from_secs(1), response.bytes()).await;
    }
}

fn secret(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// What a server that asks to slow down orders, within reason.
fn wait_ordered(headers: &HeaderMap, otherwise: Duration) -> Duration {
    headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map_or(otherwise, Duration::from_secs)
        .min(LONGEST_WAIT)
}
