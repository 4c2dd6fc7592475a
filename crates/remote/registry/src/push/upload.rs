//! Sending the bytes of one blob, and going on where it broke.
//!
//! 1. The first try sends all of it in one request: that is the fastest, and every registry takes it.
//! 2. When that broke, the registry is asked how much it has, and the rest goes there in pieces. A registry that forgets
//!    what it got of a broken request still keeps the pieces before.
//! 3. A registry that cannot tell, or that takes no pieces, gets the whole blob again in a new upload.

use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};
use oci::Descriptor;
use parking_lot::Mutex;
use reqwest::Response;
use url::Url;

use super::{Opened, Target, location};
use crate::Origin;
use crate::error::Error;
use crate::hosts::Endpoint;
use crate::resolve::denied;
use crate::retry::retrying_from;
use crate::wire::{self, Access, Body, Others, Place, Request};

/// Bytes of a piece.
const PIECE: u64 = 16 << 20;

/// A blob on its way to a registry.
pub(super) struct Upload<'a> {
    target: &'a Target,
    access: &'a Access<'a>,
    host: &'a Endpoint,
    blob: &'a Descriptor,
    origin: &'a Origin,
    stage: Mutex<Stage>,
    /// Bytes the registry is known to have.
    kept: AtomicU64,
}

/// What the next try begins with.
#[derive(Clone)]
enum Stage {
    /// All of it, there.
    Open(Url),
    /// What is missing, there: a try broke.
    Broken(Url),
    /// All of it, in an upload of its own: the registry takes no pieces.
    Whole,
}

/// How a piece was received.
enum Received {
    /// The registry has the bytes before this.
    UpTo(u64, Url),
    /// It takes no pieces, or none here.
    Refused,
}

impl<'a> Upload<'a> {
    pub(super) fn new(
        target: &'a Target,
        access: &'a Access<'a>,
        host: &'a Endpoint,
        blob: &'a Descriptor,
        origin: &'a Origin,
        first: Url,
    ) -> Self {
        Self {
            target,
            access,
            host,
            blob,
            origin,
            stage: Mutex::new(Stage::Open(first)),
            kept: AtomicU64::new(0),
        }
    }

    pub(super) async fn run(&self) -> Result<(), Error> {
        let backoff = self.access.hosts.config().backoff;
        let (cx, progress) = (self.access.cx, &self.target.progress);
        let far = || self.kept.load(Ordering::Relaxed);
        let done = retrying_from(cx, backoff, progress, far, || self.attempt()).await;
        done.map_err(Error::into_refusal)
    }

    async fn attempt(&self) -> Result<(), Error> {
        let size = self.target.store.info(&self.blob.digest)?.size;
        let stage = self.stage.lock().clone();
        match stage {
            Stage::Open(place) => return self.whole(place, size).await,
            Stage::Broken(place) => {
                let (at, place) = match self.status(&place, size).await? {
                    Some(begun) => begun,
                    None => match self.open().await? {
                        Opened::Done => return Ok(()),
                        Opened::To(place) if size <= PIECE => return self.whole(place, size).await,
                        Opened::To(place) => (0, place),
                    },
                };
                if self.in_pieces(at, place, size).await? {
                    return Ok(());
                }
                *self.stage.lock() = Stage::Whole;
            }
            Stage::Whole => {}
        }
        match self.open().await? {
            Opened::Done => Ok(()),
            Opened::To(place) => self.whole(place, size).await,
        }
    }

    async fn open(&self) -> Result<Opened, Error> {
        let (access, host) = (self.access, self.host);
        self.target
            .start(access, host, self.blob, self.origin)
            .await
    }

    /// Sends all of it.
    async fn whole(&self, place: Url, size: u64) -> Result<(), Error> {
        let request = self.last(&place, Some(0..size));
        let done = self.target.done(self.access, self.host, &request).await;
        if done.is_err() {
            let mut stage = self.stage.lock();
            if !matches!(*stage, Stage::Whole) {
                *stage = Stage::Broken(place);
            }
        }
        done
    }

    /// The request that completes the upload, with what is still to be sent.
    fn last(&self, place: &Url, range: Option<std::ops::Range<u64>>) -> Request {
        let mut url = place.clone();
        let digest = self.blob.digest.as_str();
        url.query_pairs_mut().append_pair("digest", digest);
        let request = Request::at(Method::PUT, Place::Url(url));
        let mut request = request.content_type("application/octet-stream");
        request.body = match range {
            Some(range) => self.body(range),
            None => Body::Bytes(bytes::Bytes::new()),
        };
        request
    }

    fn body(&self, range: std::ops::Range<u64>) -> Body {
        let path = self.target.store.path(&self.blob.digest);
        Body::File { path, range }
    }

    /// How much a broken upload has, and where it goes on. `None`: the registry cannot tell, or has nothing.
    async fn status(&self, place: &Url, size: u64) -> Result<Option<(u64, Url)>, Error> {
        let request = Request::at(Method::GET, Place::Url(place.clone()));
        let sent = self.access.send(self.host, &request, Others::None).await;
        let answer = sent.map_err(denied("push"))?;
        let known = matches!(
            answer.status(),
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT
        );
        let end = known.then(|| received(&answer)).flatten();
        let end = end.filter(|end| (1..=size).contains(end));
        let place = next(&answer).unwrap_or_else(|| place.clone());
        tracing::debug!(digest = %self.blob.digest, ?end, "upload broke");
        Ok(end.map(|end| (end, place)))
    }

    /// Sends what comes after `at` in pieces. Whether the registry took them.
    async fn in_pieces(&self, at: u64, place: Url, size: u64) -> Result<bool, Error> {
        let (mut at, mut place) = (at, place);
        loop {
            self.kept.fetch_max(at, Ordering::Relaxed);
            if at == size {
                break;
            }
            let end = size.min(at + PIECE);
            match self.piece(&place, at, end).await {
                Ok(Received::UpTo(end, next)) => (at, place) = (end, next),
                Ok(Received::Refused) => return Ok(false),
                Err(err) => {
                    *self.stage.lock() = Stage::Broken(place);
                    return Err(err);
                }
            }
        }
        let request = self.last(&place, None);
        // If this fails, the next try asks there.
        *self.stage.lock() = Stage::Broken(place);
        let sent = self.access.send(self.host, &request, Others::None).await;
        let answer = sent.map_err(denied("push"))?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(true),
            // What it has may not be what was sent.
            status if is_refusal(status) => Ok(false),
            _ => {
                let url = answer.url().clone();
                Err(wire::unexpected(&request.method, &url, answer).await)
            }
        }
    }

    async fn piece(&self, place: &Url, start: u64, end: u64) -> Result<Received, Error> {
        let request = Request::at(Method::PATCH, Place::Url(place.clone()));
        let mut request = request.content_type("application/octet-stream");
        let range = format!("{start}-{}", end - 1);
        let range = HeaderValue::try_from(range).expect("digits and a dash");
        request.headers.insert(CONTENT_RANGE, range);
        request.body = self.body(start..end);
        let sent = self.access.send(self.host, &request, Others::None).await;
        let answer = sent.map_err(denied("push"))?;
        let status = answer.status();
        if status.is_success() {
            let place = next(&answer).unwrap_or_else(|| place.clone());
            let has = received(&answer).unwrap_or(end);
            return Ok(if start < has && has <= end {
                Received::UpTo(has, place)
            } else {
                Received::Refused
            });
        }
        if is_refusal(status) {
            return Ok(Received::Refused);
        }
        let url = answer.url().clone();
        Err(wire::unexpected(&Method::PATCH, &url, answer).await)
    }
}

/// Whether an answer says that it will never be taken like this.
fn is_refusal(status: StatusCode) -> bool {
    match status {
        StatusCode::NOT_IMPLEMENTED => true,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => false,
        status => status.is_client_error(),
    }
}

/// How many bytes an answer says the registry has: `0-99` are a hundred. Compat: many say `0-0` when they have none.
fn received(answer: &Response) -> Option<u64> {
    let range = answer.headers().get(RANGE)?.to_str().ok()?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0" && last > 0).then_some(last + 1)
}

/// Where the upload goes on.
fn next(answer: &Response) -> Option<Url> {
    let text = answer.headers().get(LOCATION)?.to_str().ok()?;
    location(answer.url(), text)
}
