//! What refers to a manifest: artifacts that name it as their subject.
//!
//! Registries keep a list; those that do not know of it have one under a tag that is made of the digest, if whoever
//! pushed an artifact put it there.

use std::sync::Arc;

use http::{Method, StatusCode};
use oci::media_type::OCI_INDEX;
use oci::{Descriptor, Digest};
use reqwest::Response;
use serde::Deserialize;

use crate::error::Error;
use crate::hosts::Endpoint;
use crate::resolve::{LARGEST_MANIFEST, denied, others};
use crate::wire::{self, Access, Request};

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// Asks for the list, then for the tag, each host in its order. A registry that has neither has no referrers, whatever
/// a mirror before it said.
pub(crate) async fn referrers(
    access: &Access<'_>,
    hosts: &[Arc<Endpoint>],
    manifest: &Digest,
) -> Result<Vec<Descriptor>, Error> {
    let tag = manifest.as_str().replacen(':', "-", 1);
    let mut failure = None;
    for place in [format!("referrers/{manifest}"), format!("manifests/{tag}")] {
        for (index, host) in hosts.iter().enumerate() {
            let request = Request::new(Method::GET, place.as_str()).accept(OCI_INDEX);
            let sent = access
                .send(host, &request, others(index, hosts.len()))
                .await;
            let answer = match sent {
                Ok(answer) => answer,
                Err(err @ Error::Cancelled(_)) => return Err(err),
                Err(err) => {
                    failure.get_or_insert(err);
                    continue;
                }
            };
            match answer.status() {
                status if status.is_success() => return read(access, answer).await,
                StatusCode::NOT_FOUND if place.starts_with("manifests/") => failure = None,
                StatusCode::NOT_FOUND => {}
                _ => {
                    let url = answer.url().clone();
                    let err = wire::unexpected(&Method::GET, &url, answer).await;
                    failure.get_or_insert(err);
                }
            }
        }
    }
    failure.map_or_else(|| Ok(Vec::new()), |err| Err(denied("pull")(err)))
}

async fn read(access: &Access<'_>, mut answer: Response) -> Result<Vec<Descriptor>, Error> {
    let mut text = Vec::new();
    while let Some(piece) = access.next_piece(&mut answer).await? {
        text.extend_from_slice(&piece);
        let size = text.len() as u64;
        if size > LARGEST_MANIFEST {
            let name = answer.url().path().to_owned();
            return Err(Error::TooLarge { size, name });
        }
    }
    let index: Index = serde_json::from_slice(&text).map_err(Error::Referrers)?;
    Ok(index.manifests.unwrap_or_default())
}
