//! The rest of a large blob over several connections.
//!
//! Ranges are asked for in order and handed on in order; at most one per connection is held in memory.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use http::{Method, StatusCode};

use super::{Fetch, Transfer, Way};
use crate::error::Error;
use crate::limit::Permit;
use crate::resolve::denied;
use crate::wire::{self, Others, Request};

/// Bytes of one range.
pub(super) const CHUNK: u64 = 4 << 20;

impl Fetch<'_> {
    /// Fetches what is missing up to `size`. `first` is the right to a second connection; more are used when free.
    pub(super) async fn in_ranges(
        &self,
        transfer: &mut Transfer,
        way: &Way<'_>,
        first: Permit,
        size: u64,
    ) -> Result<(), Error> {
        let host = way.host;
        tracing::debug!(digest = %self.blob.digest, host = host.host, "fetching in ranges");
        let mut permits = vec![first];
        let mut next = transfer.pour.taken();
        let mut running = FuturesOrdered::new();
        loop {
            while let Some(more) = self.gate.spare() {
                permits.push(more);
            }
            // One connection more than permits: the transfer came with one of its own.
            while next < size && running.len() <= permits.len() {
                let end = (next + CHUNK).min(size);
                running.push_back(self.range(way, next, end));
                next = end;
            }
            let Some(chunk) = running.next().await else {
                break;
            };
            let Some(chunk) = chunk? else {
                // Gone on with from here in the ordinary way.
                transfer.ranges = false;
                return Box::pin(self.try_way(transfer, way)).await;
            };
            for piece in chunk {
                self.take(transfer, host, piece).await?;
            }
        }
        self.check_complete(transfer, host)
    }

    /// One range, whole. `None`: the server does not know ranges.
    async fn range(
        &self,
        way: &Way<'_>,
        start: u64,
        end: u64,
    ) -> Result<Option<Vec<Bytes>>, Error> {
        let (host, place) = (way.host, way.places.last());
        let place = place.cloned().ok_or_else(|| self.not_found(None))?;
        let request = Request::at(Method::GET, place).range(start, Some(end));
        let sent = self.access.send(host, &request, Others::None).await;
        let mut answer = sent.map_err(denied("pull"))?;
        if answer.status() == StatusCode::OK {
            return Ok(None);
        }
        if answer.status() != StatusCode::PARTIAL_CONTENT || !super::starts_at(&answer, start) {
            let url = answer.url().clone();
            return Err(wire::unexpected(&Method::GET, &url, answer).await);
        }
        let mut pieces = Vec::new();
        let mut at = start;
        while at < end {
            let piece = self.next(&mut answer, host, at).await?;
            let Some(piece) = piece else {
                return Err(self.wrong_size(host, at, end));
            };
            at += piece.len() as u64;
            pieces.push(piece);
        }
        if at > end {
            return Err(self.wrong_size(host, at, end));
        }
        Ok(Some(pieces))
    }
}
