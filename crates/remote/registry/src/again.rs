//! Pushing to a name that stands for something already.

use bytes::Bytes;
use content::Store;
use http::{Method, StatusCode};
use oci::media_type::{DOCKER_MANIFEST, OCI_MANIFEST};
use oci::{Descriptor, Digest};
use progress::Progress;
use tasks::Cx;

use crate::resolve::{LARGEST_MANIFEST, denied};
use crate::retry::retrying;
use crate::wire::{self, Access, Body, Others, Request};
use crate::{Error, Repository};

impl Repository {
    fn pushing<'a>(&'a self, cx: &'a Cx) -> Access<'a> {
        let (domain, path) = (self.reference.domain(), self.reference.path());
        Access::push(&self.client.0, cx, &*self.who, domain, path, self.insecure)
    }

    /// What the tag of the reference stands for where pushes go, whatever mirrors have. `None`: nothing, or nothing
    /// that could be read; whoever pushes hears why.
    pub async fn before_push(&self, cx: &Cx) -> Result<Option<Bytes>, Error> {
        let inner = &self.client.0;
        let domain = self.reference.domain();
        let Some(tag) = self.reference.tag() else {
            return Ok(None);
        };
        let host = inner.hosts.push(domain, self.insecure).await?;
        let _permit = inner.limits.of(domain).enter(cx, OCI_MANIFEST).await?;
        let access = self.pushing(cx);
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

    /// Pushes a manifest that is in the store under the tag of the reference, even if it stands there already: the
    /// registry is to look whether it has what the manifest lists.
    pub async fn put_manifest(
        &self,
        cx: &Cx,
        manifest: &Descriptor,
        store: &Store,
        progress: &Progress,
    ) -> Result<(), Error> {
        let inner = &self.client.0;
        let domain = self.reference.domain();
        let host = inner.hosts.push(domain, self.insecure).await?;
        let gate = inner.limits.of(domain);
        let _permit = gate.enter(cx, &manifest.media_type).await?;
        let access = self.pushing(cx);
        let bytes = {
            let (store, digest) = (store.clone(), manifest.digest.clone());
            tasks::blocking(move || store.read(&digest)).await?
        };
        let tag = self.reference.tag();
        let place = format!("manifests/{}", tag.unwrap_or(manifest.digest.as_str()));
        let work = || async {
            let mut request = Request::new(Method::PUT, place.as_str());
            request = request.content_type(&manifest.media_type);
            request.body = Body::Bytes(bytes.clone());
            let sent = access.send(&host, &request, Others::None).await;
            let answer = sent.map_err(denied("push"))?;
            match answer.status() {
                StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
                _ => {
                    let url = answer.url().clone();
                    Err(wire::unexpected(&Method::PUT, &url, answer).await)
                }
            }
        };
        let backoff = inner.hosts.config().backoff;
        retrying(cx, backoff, progress, work).await?;
        self.note(&manifest.digest);
        inner.names.forget(&self.reference);
        Ok(())
    }

    /// Notes that the repository has a blob.
    pub fn note(&self, blob: &Digest) {
        let (domain, path) = (self.reference.domain(), self.reference.path());
        self.client.0.known.add(domain, path, blob);
    }
}
