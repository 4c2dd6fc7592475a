//! `s3`: a bucket.

mod options;
mod sign;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use content::Store;
use oci::{Descriptor, Digest, Timestamp};
use remotecache::{Error, Exporter, Graph, Importer, Kind, Work};
use reqwest::{Method, Response, StatusCode};
use tasks::Cx;

use crate::Environment;
use crate::http::{self, Body};
use crate::objects::{self, Objects};

use options::Options;
use sign::Request;

/// Objects larger than that cannot be copied onto themselves in one request.
const COPY_LIMIT: i64 = 5 << 30;

/// Caches in buckets.
pub struct S3 {
    environment: Environment,
}

impl S3 {
    /// Options that are not given are looked up in `environment`.
    pub fn new(environment: Environment) -> Self {
        Self { environment }
    }
}

impl Kind for S3 {
    fn name(&self) -> &'static str {
        "s3"
    }

    fn importer(
        &self,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Option<Arc<dyn Importer>>, Error> {
        Ok(Some(Arc::new(Cache(Arc::new(Bucket::open(
            attrs,
            &self.environment,
        )?)))))
    }

    fn exporter(&self, attrs: &BTreeMap<String, String>) -> Result<Arc<dyn Exporter>, Error> {
        Ok(Arc::new(Cache(Arc::new(Bucket::open(
            attrs,
            &self.environment,
        )?))))
    }
}

struct Cache(Arc<Bucket>);

#[async_trait]
impl Importer for Cache {
    async fn import(&self, work: &Work) -> Result<Graph, Error> {
        // Compat: of several names only the first is read.
        let name = self.0.options.names.first().map_or("", String::as_str);
        let key = self.0.options.manifest_key(name);
        let response = self
            .0
            .ask(&work.cx, Method::GET, &key, &[], Body::Nothing, None)
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(Graph::default());
        }
        let bytes = accepted("failed to read cache manifest", response)
            .await?
            .bytes()
            .await;
        let bytes = bytes.map_err(|err| http::broken("failed to read cache manifest", &err))?;
        objects::import(&self.0, &bytes)
    }
}

#[async_trait]
impl Exporter for Cache {
    fn name(&self) -> &'static str {
        "exporting cache to Amazon S3"
    }

    fn layers(&self) -> layer::Options {
        layer::Options::default()
    }

    async fn export(&self, work: &Work, graph: &Graph) -> Result<BTreeMap<String, String>, Error> {
        let bucket = &self.0;
        let at_once = bucket.options.parallelism;
        let Some(document) = objects::export(bucket, work, graph, at_once).await? else {
            return Ok(BTreeMap::new());
        };
        for name in &bucket.options.names {
            let key = bucket.options.manifest_key(name);
            let digest = Digest::of(&document);
            let body = Body::Bytes(document.clone());
            let sent = bucket
                .ask(&work.cx, Method::PUT, &key, &[], body, Some(&digest))
                .await?;
            accepted("error writing manifest", sent).await?;
        }
        Ok(BTreeMap::new())
    }
}

async fn accepted(what: &str, response: Response) -> Result<Response, Error> {
    if response.status().is_success() {
        return Ok(response);
    }
    Err(http::refused(what, response).await)
}

/// A bucket and how to speak to it.
struct Bucket {
    http: reqwest::Client,
    options: Options,
}

impl Bucket {
    fn open(attrs: &BTreeMap<String, String>, environment: &Environment) -> Result<Self, Error> {
        Ok(Self {
            options: Options::parse(attrs, environment)?,
            http: http::client()?,
        })
    }

    /// Asks, and asks again where that may help.
    async fn ask(
        &self,
        cx: &Cx,
        method: Method,
        key: &str,
        headers: &[(&str, String)],
        body: Body,
        digest: Option<&Digest>,
    ) -> Result<Response, Error> {
        let mut wait = Duration::from_millis(200);
        for attempt in 1.. {
            let last = attempt >= self.options.attempts;
            let sent = cx
                .run(self.once(&method, key, headers, &body, digest))
                .await?;
            match sent {
                Ok(response) if last || !http::is_passing(response.status()) => {
                    return Ok(response);
                }
                Err(err) if last => return Err(err),
                _ => {}
            }
            cx.run(tokio::time::sleep(wait)).await?;
            wait *= 2;
        }
        unreachable!("the loop ends at the last attempt")
    }

    async fn once(
        &self,
        method: &Method,
        key: &str,
        headers: &[(&str, String)],
        body: &Body,
        digest: Option<&Digest>,
    ) -> Result<Response, Error> {
        let path = format!("{}/{}", self.options.path, sign::encode(key));
        let empty = Digest::of("");
        let signed = Request {
            method: method.as_str(),
            host: &self.options.host,
            path: &path,
            headers,
            payload: digest.unwrap_or(&empty).hex(),
            time: SystemTime::now(),
        }
        .sign(&self.options.region, &self.options.credentials);
        let url = format!("{}://{}{path}", self.options.scheme, self.options.host);
        let mut request = self.http.request(method.clone(), &url);
        for (name, value) in signed {
            request = request.header(name, value);
        }
        if *method == Method::PUT {
            request = request
                .header("content-length", body.size())
                .body(body.open().await?);
        }
        let what = format!("{} {url}", method.as_str());
        request
            .send()
            .await
            .map_err(|err| http::broken(&what, &err))
    }
}

#[async_trait]
impl Objects for Bucket {
    async fn keep(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error> {
        let key = self.options.blob_key(blob);
        let answer = self
            .ask(cx, Method::HEAD, &key, &[], Body::Nothing, None)
            .await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let answer = accepted("failed to check file presence in cache", answer).await?;
        let header = |name: &str| answer.headers().get(name)?.to_str().ok();
        let size = header("content-length").and_then(|text| text.parse::<i64>().ok());
        let age = header("last-modified").and_then(age);
        if age.is_none_or(|age| age <= self.options.touch_refresh) || size > Some(COPY_LIMIT) {
            return Ok(true);
        }
        // Compat: some stores take the colon of a digest only as it is.
        let key_of_source = sign::encode(&key).replace("%3A", ":");
        let source = format!("{}/{key_of_source}", self.options.bucket);
        let headers = [
            ("x-amz-copy-source", source),
            ("x-amz-metadata-directive", "REPLACE".to_owned()),
            (
                "x-amz-meta-updated-at",
                Timestamp::from(SystemTime::now()).to_string(),
            ),
        ];
        let touched = self
            .ask(cx, Method::PUT, &key, &headers, Body::Nothing, None)
            .await?;
        accepted("failed to touch file", touched).await?;
        Ok(true)
    }

    async fn send(&self, cx: &Cx, blob: &Descriptor, store: &Store) -> Result<(), Error> {
        let body = Body::Blob {
            size: store.info(&blob.digest)?.size,
            store: store.clone(),
            digest: blob.digest.clone(),
        };
        let key = self.options.blob_key(&blob.digest);
        let sent = self
            .ask(cx, Method::PUT, &key, &[], body, Some(&blob.digest))
            .await?;
        accepted("error writing layer blob", sent).await.map(drop)
    }

    async fn open(&self, cx: &Cx, blob: &Digest) -> Result<Response, Error> {
        let key = self.options.blob_key(blob);
        let opened = self
            .ask(cx, Method::GET, &key, &[], Body::Nothing, None)
            .await?;
        accepted("error reading layer blob", opened).await
    }
}

/// How long ago a time of a header was: `Wed, 21 Oct 2015 07:28:00 GMT`.
fn age(text: &str) -> Option<Duration> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.split_whitespace().skip(1);
    let (day, month) = (words.next()?, words.next()?);
    let (year, time) = (words.next()?, words.next()?);
    let month = MONTHS.find(month).filter(|at| at % 3 == 0)? / 3 + 1;
    let stamp: Timestamp = format!("{year}-{month:02}-{day:0>2}T{time}Z")
        .parse()
        .ok()?;
    SystemTime::now()
        .duration_since(SystemTime::from(stamp))
        .ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn times_of_headers_are_understood() {
        let old = age("Wed, 21 Oct 2015 07:28:00 GMT").expect("a time");
        assert!(old > Duration::from_secs(10 * 365 * 86_400));
        assert!(age("yesterday").is_none());
    }

    #[test]
    fn a_body_knows_its_size() {
        assert_eq!(Body::Bytes(Bytes::from_static(b"abc")).size(), 3);
    }
}
