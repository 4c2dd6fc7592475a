//! The service's two protocols: finding an entry, and saving one, which is reserved, filled and committed.

use std::collections::BTreeSet;

use bytes::Bytes;
use fault::Class;
use futures::{StreamExt as _, TryStreamExt as _};
use oci::Digest;
use remotecache::Error;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tasks::Cx;
use url::Url;

use super::options::{Options, Version};
use crate::azure::{Access, Azure};
use crate::http::{self, Body, Patience, accepted, patiently};

/// Entries are sent to the first protocol in pieces of that size.
const CHUNK: u64 = 32 << 20;
/// Pieces under way at a time.
const AT_ONCE: usize = 4;
/// Entries on a page of the list of all.
const PAGE: usize = 100;

/// The service as one workflow sees it.
pub(crate) struct Service {
    http: reqwest::Client,
    base: String,
    version: Version,
    bearer: String,
    patience: Patience,
    /// Where entries of the second protocol lie.
    azure: Azure,
    pub(crate) chunk: u64,
}

/// An entry that is there.
pub(crate) struct Entry {
    /// The whole key.
    pub(crate) key: String,
    /// Where it can be read, for some time.
    pub(crate) url: Url,
}

/// What became of an entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// It is there.
    New,
    /// Its name was given away before.
    Taken,
}

/// The right to fill an entry.
enum Slot {
    Number(i64),
    Address(Url),
}

/// The answer to a request of the first protocol.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    #[serde(default)]
    cache_key: String,
    #[serde(default)]
    archive_location: String,
}

/// Answers of the second protocol.
#[derive(Deserialize)]
struct Twirp {
    #[serde(default)]
    ok: bool,
    #[serde(default, alias = "signedUploadUrl")]
    signed_upload_url: String,
    #[serde(default, alias = "signedDownloadUrl")]
    signed_download_url: String,
    #[serde(default, alias = "matchedKey")]
    matched_key: String,
}

#[derive(Deserialize)]
struct Page {
    total_count: usize,
    actions_caches: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    key: String,
}

impl Service {
    pub(crate) fn new(http: reqwest::Client, options: &Options) -> Self {
        let patience = Patience {
            throttled: options.timeout,
            ..Patience::default()
        };
        Self {
            azure: Azure::new(http.clone(), Access::Address, patience),
            http,
            base: options.url.as_str().trim_end_matches('/').to_owned(),
            version: options.version,
            bearer: options.token.bearer(),
            patience,
            chunk: CHUNK,
        }
    }

    /// The newest entry whose key begins so.
    pub(crate) async fn find(&self, cx: &Cx, key: &str) -> Result<Option<Entry>, Error> {
        let what = "failed to look for cache entry";
        let (key, url) = match self.version {
            Version::One => {
                let path = format!("cache?keys={}&version={}", encode(key), version());
                let answer = self
                    .rest(cx, Method::GET, &path, None, &Body::Nothing)
                    .await?;
                if answer.status() == StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                let bytes = http::read(what, accepted(what, answer).await?).await?;
                if bytes.is_empty() {
                    return Ok(None);
                }
                let found: Found = parse(what, &bytes)?;
                (found.cache_key, found.archive_location)
            }
            Version::Two => {
                let request = json!({"key": key, "restore_keys": [key], "version": version()});
                let answer = self.twirp(cx, "GetCacheEntryDownloadURL", &request).await?;
                if answer.status() == StatusCode::NOT_FOUND {
                    return Ok(None);
                }
                let bytes = http::read(what, accepted(what, answer).await?).await?;
                let found: Twirp = parse(what, &bytes)?;
                if !found.ok {
                    return Ok(None);
                }
                (found.matched_key, found.signed_download_url)
            }
        };
        if key.is_empty() {
            return Ok(None);
        }
        let url = url.parse().map_err(|_| nonsense(what))?;
        Ok(Some(Entry { key, url }))
    }

    /// Starts reading an entry.
    pub(crate) async fn read(&self, cx: &Cx, url: &Url, start: u64) -> Result<Response, Error> {
        let once = || async {
            let mut request = self.http.get(url.clone());
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            http::send(request, &Body::Nothing, "failed to read cache entry").await
        };
        patiently(cx, self.patience, once).await
    }

    /// Makes an entry.
    pub(crate) async fn save(&self, cx: &Cx, key: &str, body: &Body) -> Result<Saved, Error> {
        let Some(slot) = self.reserve(cx, key).await? else {
            return Ok(Saved::Taken);
        };
        let what = "error writing layer blob";
        match &slot {
            Slot::Address(url) => {
                self.azure.upload(cx, url, body, false, what).await?;
            }
            Slot::Number(number) => self.chunks(cx, *number, body, what).await?,
        }
        self.commit(cx, key, &slot, body.size()).await?;
        Ok(Saved::New)
    }

    /// `None`: the key is taken, for ever.
    async fn reserve(&self, cx: &Cx, key: &str) -> Result<Option<Slot>, Error> {
        let what = "failed to reserve cache";
        let request = json!({"key": key, "version": version()});
        let answer = match self.version {
            Version::One => {
                let body = Body::Bytes(request.to_string().into());
                self.rest(cx, Method::POST, "caches", None, &body).await?
            }
            Version::Two => self.twirp(cx, "CreateCacheEntry", &request).await?,
        };
        let status = answer.status();
        if !status.is_success() {
            if status == StatusCode::CONFLICT {
                return Ok(None);
            }
            return Err(http::refused(what, answer).await);
        }
        let bytes = http::read(what, answer).await?;
        if self.version == Version::One {
            let number = parse::<Value>(what, &bytes)?;
            let number = number["cacheId"].as_i64().or(number["cacheID"].as_i64());
            let number = number.filter(|number| *number != 0);
            return number
                .map(|number| Some(Slot::Number(number)))
                .ok_or_else(|| nonsense(what));
        }
        let given: Twirp = parse(what, &bytes)?;
        if !given.ok {
            return Err(nonsense(what));
        }
        let url = given.signed_upload_url.parse();
        Ok(Some(Slot::Address(url.map_err(|_| nonsense(what))?)))
    }

    /// Sends an entry of the first protocol.
    async fn chunks(&self, cx: &Cx, number: i64, body: &Body, what: &str) -> Result<(), Error> {
        let path = format!("caches/{number}");
        let send = async |(start, piece): (u64, Body)| {
            let Some(last) = piece.size().checked_sub(1) else {
                return Ok(());
            };
            let range = format!("bytes {start}-{}/*", start + last);
            let range = Some(range.as_str());
            let answer = self.rest(cx, Method::PATCH, &path, range, &piece).await?;
            if answer.status().is_success() {
                return Ok(());
            }
            Err(http::refused(what, answer).await)
        };
        futures::stream::iter(body.pieces(self.chunk))
            .map(send)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn commit(&self, cx: &Cx, key: &str, slot: &Slot, size: u64) -> Result<(), Error> {
        let what = "error committing cache";
        let answer = match slot {
            Slot::Number(number) => {
                let body = Body::Bytes(json!({ "size": size }).to_string().into());
                let path = format!("caches/{number}");
                self.rest(cx, Method::POST, &path, None, &body).await?
            }
            Slot::Address(_) => {
                let request = json!({"key": key, "size_bytes": size, "version": version()});
                self.twirp(cx, "FinalizeCacheEntryUpload", &request).await?
            }
        };
        if !answer.status().is_success() {
            return Err(http::refused(what, answer).await);
        }
        if self.version == Version::Two {
            let bytes = http::read(what, answer).await?;
            if !parse::<Twirp>(what, &bytes)?.ok {
                return Err(Error::Place {
                    text: "failed to commit cache".to_owned(),
                    class: Class::Unavailable,
                });
            }
        }
        Ok(())
    }

    /// A request of the first protocol.
    async fn rest(
        &self,
        cx: &Cx,
        method: Method,
        path: &str,
        range: Option<&str>,
        body: &Body,
    ) -> Result<Response, Error> {
        let url = format!("{}/_apis/artifactcache/{path}", self.base);
        let once = || async {
            let mut request = self
                .http
                .request(method.clone(), &url)
                .header("authorization", &self.bearer)
                .header("accept", "application/json;api-version=6.0-preview.1");
            if method != Method::GET {
                let kind = match range {
                    Some(_) => "application/octet-stream",
                    None => "application/json",
                };
                request = request
                    .header("content-type", kind)
                    .header("content-length", body.size())
                    .body(body.open().await?);
            }
            if let Some(range) = range {
                request = request.header("content-range", range);
            }
            http::send(request, body, &format!("{method} {}", self.base)).await
        };
        patiently(cx, self.patience, once).await
    }

    /// A request of the second protocol.
    async fn twirp(&self, cx: &Cx, name: &str, request: &Value) -> Result<Response, Error> {
        let service = "github.actions.results.api.v1.CacheService";
        let url = format!("{}/twirp/{service}/{name}", self.base);
        let body = Body::Bytes(request.to_string().into());
        let once = || async {
            let request = self
                .http
                .post(&url)
                .header("authorization", &self.bearer)
                .header("content-type", "application/json")
                .body(body.open().await?);
            http::send(request, &body, &format!("POST {url}")).await
        };
        patiently(cx, self.patience, once).await
    }

    /// All keys that begin so, if the list may be read; else entries are looked up one by one.
    pub(crate) async fn all_keys(
        &self,
        cx: &Cx,
        options: &Options,
        prefix: &str,
    ) -> Result<Option<BTreeSet<String>>, Error> {
        let Some((repository, token)) = &options.listing else {
            return Ok(None);
        };
        let mut keys = BTreeSet::new();
        for scope in &options.token.scopes {
            let place = format!("{}/repos/{repository}/actions/caches", options.rest);
            let parts = format!("key={}&ref={}", encode(prefix), encode(&scope.scope));
            for page in 1.. {
                let url = format!("{place}?per_page={PAGE}&page={page}&{parts}");
                match self.page(cx, &url, token).await {
                    Ok(listed) => {
                        keys.extend(listed.actions_caches.into_iter().map(|it| it.key));
                        if listed.total_count <= page * PAGE {
                            break;
                        }
                    }
                    Err(err @ Error::Cancelled(_)) => return Err(err),
                    Err(err) => {
                        tracing::error!(error = %fault::chain(&err), "caches of the repository not listed");
                        return Ok(None);
                    }
                }
            }
        }
        Ok(Some(keys))
    }

    async fn page(&self, cx: &Cx, url: &str, token: &str) -> Result<Page, Error> {
        let what = "failed to list caches";
        let once = || async {
            let request = self
                .http
                .get(url)
                .header("accept", "application/vnd.github+json")
                .header("authorization", format!("Bearer {token}"))
                .header("x-github-api-version", "2022-11-28")
                .header("user-agent", "buildkit");
            http::send(request, &Body::Nothing, what).await
        };
        let answer = patiently(cx, self.patience, once).await?;
        parse(
            what,
            &http::read(what, accepted(what, answer).await?).await?,
        )
    }
}

/// What all entries of caches like these have in common.
fn version() -> String {
    Digest::of("|go-actionscache-1.0").hex().to_owned()
}

fn encode(text: &str) -> String {
    http::encode(text, "%2F")
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &Bytes) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|_| nonsense(what))
}

fn nonsense(what: &str) -> Error {
    Error::Place {
        text: format!("{what}: invalid response"),
        class: Class::Internal,
    }
}
