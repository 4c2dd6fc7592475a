//! `s3`: a bucket.

mod credentials;
mod multipart;
mod options;
mod pace;
mod profiles;
mod roles;
mod sign;

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use content::Store;
use oci::{Descriptor, Digest, Timestamp};
use remotecache::Error;
use reqwest::{Method, Response, StatusCode};
use tasks::Cx;

use crate::attrs::Attrs;
use crate::http::{self, Body, accepted, patiently};
use crate::objects::Objects;

use credentials::Credentials;
use options::Options;
use pace::Pace;
use sign::Request;

/// Objects that are not smaller cannot be copied onto themselves in one request.
const COPY_LIMIT: u64 = 5 << 30;
/// Larger objects are sent in parts.
const PART: u64 = 64 << 20;

/// A bucket and how to speak to it.
pub(crate) struct Bucket {
    http: reqwest::Client,
    credentials: Credentials,
    options: Options,
    /// With `retry_mode=adaptive`.
    pace: Option<Pace>,
    /// Larger objects are sent in parts of that size.
    part: u64,
    /// Larger objects are copied in parts of that size.
    copy_limit: u64,
}

/// A request.
struct Ask<'a> {
    method: Method,
    key: &'a str,
    /// Encoded, its parts sorted.
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Body,
    /// Of the body.
    digest: Digest,
}

impl<'a> Ask<'a> {
    fn new(method: Method, key: &'a str) -> Self {
        Self {
            method,
            key,
            query: String::new(),
            headers: Vec::new(),
            body: Body::Nothing,
            digest: Digest::of(""),
        }
    }
}

impl Bucket {
    /// Asks, and asks again where that may help.
    async fn ask(&self, cx: &Cx, ask: &Ask<'_>) -> Result<Response, Error> {
        patiently(cx, self.options.patience, || self.in_turn(cx, ask)).await
    }

    async fn in_turn(&self, cx: &Cx, ask: &Ask<'_>) -> Result<Response, Error> {
        let Some(pace) = &self.pace else {
            return self.once(cx, ask).await;
        };
        pace.turn(cx).await?;
        let answer = self.once(cx, ask).await?;
        // A bucket says `503 SlowDown`.
        pace.answered(matches!(
            answer.status(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        ));
        Ok(answer)
    }

    async fn once(&self, cx: &Cx, ask: &Ask<'_>) -> Result<Response, Error> {
        let path = format!("{}/{}", self.options.path, http::encode(ask.key, "/"));
        let keys = self.credentials.keys(cx).await?;
        let signed = Request {
            method: ask.method.as_str(),
            service: "s3",
            host: &self.options.host,
            path: &path,
            query: &ask.query,
            headers: &ask.headers,
            payload: ask.digest.hex(),
            time: SystemTime::now(),
        }
        .sign(&self.options.region, &keys);
        let place = format!("{}://{}{path}", self.options.scheme, self.options.host);
        let url = match ask.query.as_str() {
            "" => place.clone(),
            query => format!("{place}?{query}"),
        };
        let mut request = self.http.request(ask.method.clone(), &url);
        for (name, value) in signed {
            request = request.header(name, value);
        }
        if matches!(ask.method, Method::PUT | Method::POST) {
            request = request
                .header("content-length", ask.body.size())
                .body(ask.body.open().await?);
        }
        let what = format!("{} {place}", ask.method);
        http::send(request, &ask.body, &what).await
    }

    async fn put(&self, cx: &Cx, key: &str, document: Bytes) -> Result<Response, Error> {
        let mut ask = Ask::new(Method::PUT, key);
        ask.digest = Digest::of(&document);
        ask.body = Body::Bytes(document);
        self.ask(cx, &ask).await
    }

    /// What is told of an object, if it is there.
    async fn stat(&self, cx: &Cx, key: &str) -> Result<Option<Response>, Error> {
        let answer = self.ask(cx, &Ask::new(Method::HEAD, key)).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if answer.status().is_success() {
            return Ok(Some(answer));
        }
        // Only answers to another method have a body, which says why.
        let what = "failed to check file presence in cache";
        let told = self.ask(cx, &Ask::new(Method::GET, key)).await?;
        let told = accepted(what, told).await.err();
        Err(match told {
            Some(err) => err,
            None => http::refused(what, answer).await,
        })
    }

    /// Makes an object as new as one that was just sent.
    async fn touch(&self, cx: &Cx, key: &str, size: u64) -> Result<(), Error> {
        // Compat: some stores take the colon of a digest only as it is.
        let key_of_source = http::encode(key, "/").replace("%3A", ":");
        let source = format!("{}/{key_of_source}", self.options.bucket);
        let what = "failed to touch file";
        if size >= self.copy_limit {
            return self.copy_in_parts(cx, key, &source, size, what).await;
        }
        let mut ask = Ask::new(Method::PUT, key);
        ask.headers = vec![
            ("x-amz-copy-source", source),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
            (
                "x-amz-meta-updated-at",
                Timestamp::from(SystemTime::now()).to_string(),
            ),
        ];
        let touched = self.ask(cx, &ask).await?;
        accepted(what, touched).await.map(drop)
    }
}

#[async_trait]
impl Objects for Bucket {
    const KIND: &'static str = "s3";
    const EXPORT: &'static str = "exporting cache to Amazon S3";

    fn configured(attrs: &Attrs<'_>) -> Result<Self, Error> {
        let options = Options::parse(attrs)?;
        let http = http::client()?;
        let keys = options.keys.clone();
        Ok(Self {
            credentials: Credentials::new(keys, attrs.environment, &options.region, &http),
            pace: options.adaptive.then(Pace::new),
            options,
            http,
            part: PART,
            copy_limit: COPY_LIMIT,
        })
    }

    fn at_once(&self) -> usize {
        self.options.parallelism
    }

    async fn documents(&self, cx: &Cx) -> Result<Vec<Bytes>, Error> {
        // Compat: of several names only the first is read.
        let name = self.options.names.first().map_or("", String::as_str);
        let key = self.options.manifest_key(name);
        let response = self.ask(cx, &Ask::new(Method::GET, &key)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let what = "failed to read cache manifest";
        let response = accepted(what, response).await?;
        Ok(vec![cx.run(http::read(what, response)).await??])
    }

    async fn publish(&self, cx: &Cx, document: Bytes) -> Result<(), Error> {
        for name in &self.options.names {
            let key = self.options.manifest_key(name);
            let sent = self.put(cx, &key, document.clone()).await?;
            accepted(&format!("error writing manifest: {name}"), sent).await?;
        }
        Ok(())
    }

    async fn has(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error> {
        let key = self.options.blob_key(blob);
        Ok(self.stat(cx, &key).await?.is_some())
    }

    async fn keep(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error> {
        let key = self.options.blob_key(blob);
        let Some(answer) = self.stat(cx, &key).await? else {
            return Ok(false);
        };
        let header = |name: &str| answer.headers().get(name)?.to_str().ok();
        let size = header("content-length").and_then(|text| text.parse().ok());
        let age = header("last-modified").and_then(age);
        if let Some(size) = size
            && age.is_some_and(|age| age > self.options.touch_refresh)
        {
            self.touch(cx, &key, size).await?;
        }
        Ok(true)
    }

    async fn send(&self, cx: &Cx, blob: &Descriptor, store: &Store) -> Result<(), Error> {
        let key = self.options.blob_key(&blob.digest);
        let body = Body::blob(store, &blob.digest)?;
        let what = "error writing layer blob";
        if body.size() > self.part {
            return self.send_in_parts(cx, &key, &body, what).await;
        }
        let mut ask = Ask::new(Method::PUT, &key);
        ask.body = body;
        ask.digest = blob.digest.clone();
        let sent = self.ask(cx, &ask).await?;
        accepted(what, sent).await.map(drop)
    }

    async fn open(&self, cx: &Cx, blob: &Digest, start: u64) -> Result<Response, Error> {
        let key = self.options.blob_key(blob);
        let mut ask = Ask::new(Method::GET, &key);
        if start > 0 {
            ask.headers = vec![("range", format!("bytes={start}-"))];
        }
        let opened = self.ask(cx, &ask).await?;
        accepted("error reading layer blob", opened).await
    }
}

/// How long ago a time of a header was: `Wed, 21 Oct 2015 07:28:00 GMT`.
fn age(text: &str) -> Option<Duration> {
    let time = httpdate::parse_http_date(text).ok()?;
    SystemTime::now().duration_since(time).ok()
}

#[cfg(test)]
mod tests;
