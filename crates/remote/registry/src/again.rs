//! Pushing to a name that stands for something already.

use bytes::Bytes;
use http::{Method, StatusCode};
use oci::Digest;
use oci::media_type::{DOCKER_MANIFEST, OCI_MANIFEST};
use tasks::Cx;

use crate::resolve::LARGEST_MANIFEST;
use crate::wire::{Access, Others, Request};
use crate::{Error, Repository};

impl Repository {
    /// What the tag of the reference stands for where pushes go, whatever mirrors have. `None`: nothing, or nothing
    /// that could be read; whoever pushes hears why.
    pub async fn before_push(&self, cx: &Cx) -> Result<Option<Bytes>, Error> {
        let inner = &self.client.0;
        let (domain, path) = (self.reference.domain(), self.reference.path());
        let Some(tag) = self.reference.tag() else {
            return Ok(None);
        };
        if self.reference.digest().is_some() {
            return Ok(None);
        }
        let host = inner.hosts.push(domain, self.insecure).await?;
        let _permit = inner.limits.of(domain).enter(cx, OCI_MANIFEST).await?;
        let access = Access::push(inner, cx, &*self.who, domain, path, self.insecure);
        let accepted = format!("{OCI_MANIFEST}, {DOCKER_MANIFEST}");
        let request = Request::new(Method::GET, format!("manifests/{tag}")).accept(&accepted);
        let mut answer = match access.send(&host, &request, Others::None).await {
            Ok(answer) if answer.status() == StatusCode::OK => answer,
            Err(err @ Error::Cancelled(_)) => return Err(err),
            _ => return Ok(None),
        };
        let mut bytes = Vec::new();
        loop {
            match access.next_piece(&mut answer).await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => return Ok(Some(bytes.into())),
                Err(err @ Error::Cancelled(_)) => return Err(err),
                Err(_) => return Ok(None),
            }
            if bytes.len() as u64 > LARGEST_MANIFEST {
                return Ok(None);
            }
        }
    }

    /// Notes that the repository has a blob.
    pub fn note(&self, blob: &Digest) {
        let (domain, path) = (self.reference.domain(), self.reference.path());
        self.client.0.known.add(domain, path, blob);
    }
}
