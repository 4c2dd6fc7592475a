//! Bringing a blob into the store.
//!
//! 1. Bytes go to a writer as they come; it hashes and writes them beside the transfer ([`Pour`]).
//! 2. A connection that breaks is replaced, and the new one goes on where the old one stopped.
//! 3. A large blob that comes slowly is fetched in ranges beside each other, as long as the registry's limit has room.
//! 4. The blob gets its name only when the digest is right. When it is not, and the bytes came from more than one
//!    answer, the last server is asked for all of them once more: an earlier one may have lied.

mod pour;
mod ranges;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use content::Store;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::{Method, StatusCode};
use oci::{Descriptor, media_type};
use progress::{Progress, StatusGuard};
use reqwest::Response;
use url::Url;

use crate::error::Error;
use crate::hosts::Endpoint;
use crate::limit::Gate;
use crate::resolve::{denied, keep, others};
use crate::retry::retrying_from;
use crate::wire::{self, Access, Others, Place, Request};

use pour::Pour;

/// What a transfer works with.
pub(crate) struct Fetch<'a> {
    pub(crate) access: &'a Access<'a>,
    pub(crate) hosts: &'a [Arc<Endpoint>],
    pub(crate) gate: &'a Gate,
    pub(crate) blob: &'a Descriptor,
    pub(crate) store: &'a Store,
    pub(crate) progress: &'a Progress,
    pub(crate) backoff: Duration,
}

/// Where a transfer stands; survives broken connections.
struct Transfer {
    pour: Pour,
    status: Option<StatusGuard>,
    expected: Option<u64>,
    /// Ranges may be asked for.
    ranges: bool,
    /// What came is of more than one answer.
    mixed: bool,
}

/// One way to the blob.
struct Way<'a> {
    host: &'a Arc<Endpoint>,
    others: Others,
    /// Tried one after another.
    places: Vec<Place>,
}

impl Fetch<'_> {
    /// Fetches the blob; documents show no progress.
    pub(crate) async fn run(&self) -> Result<(), Error> {
        let cx = self.access.cx;
        let _permit = self.gate.enter(cx, &self.blob.media_type).await?;
        if self.store.contains(&self.blob.digest) {
            return Ok(());
        }
        let layer = !self.blob.media_type.ends_with("+json");
        let digest = &self.blob.digest;
        let status = layer.then(|| self.progress.status(digest.as_str(), "downloading"));
        let transfer = tokio::sync::Mutex::new(Transfer {
            pour: Pour::start(self.store, digest)?,
            status,
            expected: self.told_size(),
            ranges: true,
            mixed: false,
        });
        let taken = AtomicU64::new(0);
        let work = || async {
            let mut transfer = transfer.lock().await;
            let tried = self.try_all(&mut transfer).await;
            taken.store(transfer.pour.taken(), Ordering::Relaxed);
            tried
        };
        let far = || taken.load(Ordering::Relaxed);
        retrying_from(cx, self.backoff, self.progress, far, work).await
    }

    /// What the descriptor says.
    fn told_size(&self) -> Option<u64> {
        u64::try_from(self.blob.size).ok().filter(|size| *size > 0)
    }

    /// Tries all ways once.
    async fn try_all(&self, transfer: &mut Transfer) -> Result<(), Error> {
        let mut failure = None;
        for way in self.ways() {
            let mut result = self.try_one(transfer, &way).await;
            if matches!(result, Err(Error::Mismatch { .. })) && transfer.mixed {
                self.forget(transfer)?;
                result = self.try_one(transfer, &way).await;
            }
            match result {
                Ok(()) => return Ok(()),
                Err(err @ (Error::Cancelled(_) | Error::Content(_))) => return Err(err),
                Err(err) => {
                    tracing::debug!(
                        host = way.host.host,
                        digest = %self.blob.digest,
                        error = %fault::chain(&err),
                        "blob not fetched"
                    );
                    if matches!(err, Error::Mismatch { .. } | Error::Size { .. }) {
                        self.forget(transfer)?;
                    }
                    keep(&mut failure, err);
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.not_found(None)))
    }

    async fn try_one(&self, transfer: &mut Transfer, way: &Way<'_>) -> Result<(), Error> {
        let work = self.try_way(transfer, way);
        self.access.cx.run(work).await??;
        self.finish(transfer, way.host).await
    }

    /// Nothing of what came can be trusted.
    fn forget(&self, transfer: &mut Transfer) -> Result<(), Error> {
        transfer.pour = Pour::start(self.store, &self.blob.digest)?;
        transfer.expected = self.told_size();
        transfer.mixed = false;
        Ok(())
    }

    /// Other addresses that the descriptor names, then the hosts in their order.
    fn ways(&self) -> Vec<Way<'_>> {
        let digest = &self.blob.digest;
        let path = |rest: String| Place::Path {
            rest,
            query: String::new(),
        };
        let mut places = vec![path(format!("blobs/{digest}"))];
        if is_manifest(&self.blob.media_type) {
            // Very old registries know manifests as blobs only.
            places.insert(0, path(format!("manifests/{digest}")));
        }
        let urls = self.blob.urls.iter().filter_map(|url| url.parse().ok());
        let urls = urls.filter(|url: &Url| matches!(url.scheme(), "http" | "https"));
        let elsewhere = urls.zip(self.hosts.iter().cycle()).map(|(url, host)| Way {
            host,
            others: Others::Left,
            places: vec![Place::Url(url)],
        });
        let hosts = self.hosts.iter().enumerate().map(|(index, host)| Way {
            host,
            others: others(index, self.hosts.len()),
            places: places.clone(),
        });
        elsewhere.chain(hosts).collect()
    }

    fn not_found(&self, url: Option<&Url>) -> Error {
        Error::BlobNotFound {
            url: url.map(wire::redacted),
            digest: self.blob.digest.clone(),
            media_type: self.blob.media_type.clone(),
        }
    }

    /// Verifies what was written and gives it its name.
    async fn finish(&self, transfer: &mut Transfer, host: &Endpoint) -> Result<(), Error> {
        match transfer.pour.finish().await {
            Ok(()) => Ok(()),
            Err(content::Error::Mismatch { actual, expected }) => Err(Error::Mismatch {
                host: host.host.clone(),
                actual,
                expected,
            }),
            Err(err) => Err(err.into()),
        }
    }

    async fn try_way(&self, transfer: &mut Transfer, way: &Way<'_>) -> Result<(), Error> {
        let host = way.host;
        if transfer.expected == Some(transfer.pour.taken()) {
            return Ok(());
        }
        let start = transfer.pour.taken();
        transfer.mixed |= start > 0;
        let (mut answer, skip) = self.open(way, start).await?;
        self.check_announced(transfer, host, &answer, start - skip)?;
        let mut skip = skip;
        let mut speed = Speed::new(start);
        loop {
            let piece = self.next(&mut answer, host, transfer.pour.taken()).await?;
            let Some(mut piece) = piece else { break };
            if skip > 0 {
                let cut = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
                skip -= cut as u64;
                piece = piece.slice(cut..);
            }
            self.take(transfer, host, piece).await?;
            if transfer.ranges
                && let Some(size) = transfer.expected
                && speed.is_slow(transfer.pour.taken(), size)
                && let Some(permit) = self.gate.spare()
            {
                drop(answer);
                return self.in_ranges(transfer, way, permit, size).await;
            }
        }
        self.check_complete(transfer, host)
    }

    /// Starts reading at `start`. The second value is how many bytes must be skipped because the server does not know
    /// ranges.
    async fn open(&self, way: &Way<'_>, start: u64) -> Result<(Response, u64), Error> {
        let mut last = None;
        for place in &way.places {
            let mut request = Request::at(Method::GET, place.clone()).range(start, None);
            if !self.blob.media_type.is_empty() {
                request = request.accept(&format!("{}, */*", self.blob.media_type));
            }
            let sent = self.access.send(way.host, &request, way.others).await;
            let answer = sent.map_err(denied("pull"))?;
            match answer.status() {
                StatusCode::PARTIAL_CONTENT if starts_at(&answer, start) => {
                    return Ok((answer, 0));
                }
                status if status.is_success() && status != StatusCode::PARTIAL_CONTENT => {
                    return Ok((answer, start));
                }
                StatusCode::NOT_FOUND => {
                    last = Some(self.not_found(Some(answer.url())));
                }
                _ => {
                    let url = answer.url().clone();
                    return Err(wire::unexpected(&Method::GET, &url, answer).await);
                }
            }
        }
        Err(last.unwrap_or_else(|| self.not_found(None)))
    }

    /// A server that announces another size lies, or has another blob.
    fn check_announced(
        &self,
        transfer: &mut Transfer,
        host: &Endpoint,
        answer: &Response,
        offset: u64,
    ) -> Result<(), Error> {
        let announced = answer
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
            .map(|length| length + offset);
        match (announced, transfer.expected) {
            (Some(actual), Some(expected)) if actual != expected => {
                Err(self.wrong_size(host, actual, expected))
            }
            (Some(actual), None) => {
                transfer.expected = Some(actual);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn wrong_size(&self, host: &Endpoint, actual: u64, expected: u64) -> Error {
        Error::Size {
            digest: self.blob.digest.clone(),
            host: host.host.clone(),
            actual,
            expected,
        }
    }

    /// The next bytes; `None` at the end.
    async fn next(
        &self,
        answer: &mut Response,
        host: &Endpoint,
        offset: u64,
    ) -> Result<Option<Bytes>, Error> {
        let patience = self.access.hosts.config().patience;
        let reason = match tokio::time::timeout(patience, answer.chunk()).await {
            Ok(Ok(piece)) => return Ok(piece),
            Ok(Err(err)) => wire::reason(&err).1,
            Err(_) => "i/o timeout".to_owned(),
        };
        Err(Error::Read {
            digest: self.blob.digest.clone(),
            host: host.host.clone(),
            offset,
            reason,
        })
    }

    async fn take(
        &self,
        transfer: &mut Transfer,
        host: &Endpoint,
        piece: Bytes,
    ) -> Result<(), Error> {
        let total = transfer.pour.taken() + piece.len() as u64;
        if let Some(expected) = transfer.expected
            && total > expected
        {
            return Err(self.wrong_size(host, total, expected));
        }
        transfer.pour.take(piece).await?;
        if let Some(status) = &mut transfer.status {
            let whole = transfer.expected.unwrap_or(0);
            status.set(signed(total), signed(whole));
        }
        Ok(())
    }

    fn check_complete(&self, transfer: &Transfer, host: &Endpoint) -> Result<(), Error> {
        match transfer.expected {
            // The connection ended in order, and there is nothing more to come.
            Some(expected) if transfer.pour.taken() < expected => {
                Err(self.wrong_size(host, transfer.pour.taken(), expected))
            }
            _ => Ok(()),
        }
    }
}

fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        media_type::OCI_INDEX
            | media_type::OCI_MANIFEST
            | media_type::DOCKER_LIST
            | media_type::DOCKER_MANIFEST
    )
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn starts_at(answer: &Response, start: u64) -> bool {
    let range = answer.headers().get(CONTENT_RANGE);
    let range = range.and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// Decides whether one connection is too slow for what is left.
struct Speed {
    began: Instant,
    from: u64,
    next: u64,
}

impl Speed {
    /// How often to look.
    const STEP: u64 = 8 << 20;
    /// Bytes a second that several connections would hardly improve.
    const FAST: f64 = 96.0 * 1024.0 * 1024.0;

    fn new(at: u64) -> Self {
        Self {
            began: Instant::now(),
            from: at,
            next: at + Self::STEP,
        }
    }

    fn is_slow(&mut self, at: u64, size: u64) -> bool {
        if at < self.next || size - at < 2 * ranges::CHUNK {
            return false;
        }
        self.next = at + Self::STEP;
        let seconds = self.began.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let speed = (at - self.from) as f64 / seconds.max(1e-6);
        speed < Self::FAST
    }
}
