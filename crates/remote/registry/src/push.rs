//! Pushing: blobs beside each other, then manifests, children before parents, the root last.

mod plan;
mod upload;

use std::sync::Arc;

use bytes::Bytes;
use content::Store;
use http::header::LOCATION;
use http::{Method, StatusCode};
use oci::{Descriptor, Reference};
use progress::Progress;
use reqwest::Response;
use tasks::{Cx, Scope};
use url::Url;

use crate::auth::scope::Scopes;
use crate::error::Error;
use crate::hosts::{Endpoint, authority};
use crate::resolve::denied;
use crate::retry::retrying;
use crate::wire::{self, Access, Body, Others, Place, Request};
use crate::{Client, Credentials, Origin, Push};

use upload::Upload;

/// Pushes all of it.
pub(crate) async fn push(
    client: &Client,
    cx: &Cx,
    who: &Arc<dyn Credentials>,
    push: &Push<'_>,
    store: &Store,
    progress: &Progress,
) -> Result<(), Error> {
    let reference = push.reference;
    if push.by_digest && (reference.tag().is_some() || reference.digest().is_some()) {
        return Err(Error::Tagged {
            name: reference.to_string(),
        });
    }
    let plan = {
        let (root, store) = (push.root.clone(), store.clone());
        tasks::blocking(move || plan::plan(&root, &store)).await?
    };
    let target = Target {
        client: client.clone(),
        who: who.clone(),
        reference: reference.clone(),
        insecure: push.insecure,
        store: store.clone(),
        progress: progress.clone(),
    };
    let status = progress.status("pushing layers", "");
    let mut scope: Scope<Error> = Scope::new(cx, "push blobs");
    for blob in plan.blobs {
        let origin = push.origins.get(&blob.digest).cloned().unwrap_or_default();
        let (target, cx) = (target.clone(), scope.cx().clone());
        scope.spawn("push blob", async move {
            target.blob(&cx, &blob, &origin).await
        });
    }
    scope.join().await?;
    drop(status);
    // Compat: whatever digest a name has, it is pushed what was built; and a name with a digest alone gets no tag.
    let named = reference.with_default_tag();
    let name = if push.by_digest {
        reference.without_object().to_string()
    } else {
        named.with_digest(push.root.digest.clone()).to_string()
    };
    let _status = progress.status(&format!("pushing manifest for {name}"), "");
    for manifest in &plan.manifests {
        target
            .manifest(cx, manifest, manifest.digest.as_str(), Standing::Kept)
            .await?;
    }
    let root = match named.tag() {
        Some(tag) if !push.by_digest => tag,
        _ => push.root.digest.as_str(),
    };
    target.manifest(cx, push.root, root, Standing::Kept).await
}

/// What becomes of a manifest that stands there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It stays as it is.
    Kept,
    /// It is put once more: the registry is to look whether it has what the manifest lists.
    PutAgain,
}

/// Where to, and what with.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) client: Client,
    pub(crate) who: Arc<dyn Credentials>,
    pub(crate) reference: Reference,
    pub(crate) insecure: bool,
    pub(crate) store: Store,
    pub(crate) progress: Progress,
}

/// What came of asking for an upload.
enum Opened {
    /// The blob is there already.
    Done,
    /// It goes there.
    To(Url),
}

impl Target {
    fn access<'a>(&'a self, cx: &'a Cx) -> Access<'a> {
        let (domain, path) = (self.reference.domain(), self.reference.path());
        Access::push(&self.client.0, cx, &*self.who, domain, path, self.insecure)
    }

    async fn endpoint(&self) -> Result<Arc<Endpoint>, Error> {
        let hosts = &self.client.0.hosts;
        hosts.push(self.reference.domain(), self.insecure).await
    }

    /// Pushes a blob unless it is there. Of several pushes that bring it to one repository at once the others wait and
    /// look: sending it twice is a waste, and a registry may lose sight of a blob that arrives while it is there.
    pub(crate) async fn blob(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        origin: &Origin,
    ) -> Result<(), Error> {
        let (domain, path) = (self.reference.domain(), self.reference.path());
        let key = (domain.to_owned(), path.to_owned(), blob.digest.clone());
        let uploads = &self.client.0.uploads;
        let mut ours = false;
        let work = || {
            ours = true;
            self.blob_alone(cx, blob, origin)
        };
        let brought = cx.run(uploads.get_or_try(&key, work)).await;
        if ours {
            uploads.forget(&key);
            return brought?;
        }
        brought??;
        // It came with the rights of another: ours are checked all the same.
        self.blob_alone(cx, blob, origin).await
    }

    async fn blob_alone(&self, cx: &Cx, blob: &Descriptor, origin: &Origin) -> Result<(), Error> {
        let inner = &self.client.0;
        let domain = self.reference.domain();
        let gate = inner.limits.of(domain);
        let backoff = inner.hosts.config().backoff;
        let (access, host) = (self.access(cx), self.endpoint().await?);
        let upload = |first| Upload::new(self, &access, &host, blob, origin, first);
        let uploaded = {
            let _permit = gate.enter(cx, &blob.media_type).await?;
            let work = || self.start(&access, &host, blob, origin);
            match retrying(cx, backoff, &self.progress, work)
                .await
                .map_err(Error::into_refusal)?
            {
                Opened::Done => true,
                Opened::To(_) if !self.store.contains(&blob.digest) => false,
                Opened::To(location) => {
                    upload(location).run().await?;
                    true
                }
            }
        };
        if !uploaded {
            // Fetched without holding the right to a transfer: it may be the same registry's.
            self.bring(cx, blob, origin).await?;
            let _permit = gate.enter(cx, &blob.media_type).await?;
            let work = || self.start(&access, &host, blob, origin);
            if let Opened::To(location) = retrying(cx, backoff, &self.progress, work).await? {
                upload(location).run().await?;
            }
        }
        inner.known.add(domain, self.reference.path(), &blob.digest);
        Ok(())
    }

    async fn bring(&self, cx: &Cx, blob: &Descriptor, origin: &Origin) -> Result<(), Error> {
        let Some(provider) = &origin.provider else {
            return Err(Error::NoContent {
                digest: blob.digest.clone(),
            });
        };
        provider
            .fetch(cx, blob, &self.store, &self.progress)
            .await?;
        Ok(())
    }

    /// Finds out whether the blob is there or can be mounted, else asks for a place to put it.
    async fn start(
        &self,
        access: &Access<'_>,
        host: &Endpoint,
        blob: &Descriptor,
        origin: &Origin,
    ) -> Result<Opened, Error> {
        let place = format!("blobs/{}", blob.digest);
        if self.exists(access, host, &place, blob, None).await? {
            return Ok(Opened::Done);
        }
        if let Some(from) = self.mountable(blob, origin)
            && let Some(upload) = self.mount(access, host, blob, &from).await?
        {
            return Ok(upload);
        }
        let request = Request::new(Method::POST, "blobs/uploads/");
        let sent = access.send(host, &request, Others::None).await;
        let answer = sent.map_err(denied("push"))?;
        self.place(host, answer).await
    }

    /// The repository of this registry that has the blob and is nearest to ours.
    fn mountable(&self, blob: &Descriptor, origin: &Origin) -> Option<String> {
        let (domain, ours) = (self.reference.domain(), self.reference.path());
        let known = self.client.0.known.repositories(domain, &blob.digest);
        let told = origin
            .repositories
            .iter()
            .filter(|(host, _)| host == domain)
            .map(|(_, repository)| repository.clone());
        plan::nearest(ours, told.chain(known))
    }

    /// `None`: mounting is not possible.
    async fn mount(
        &self,
        access: &Access<'_>,
        host: &Endpoint,
        blob: &Descriptor,
        from: &str,
    ) -> Result<Option<Opened>, Error> {
        let mut request = Request::new(Method::POST, "blobs/uploads/");
        request.scopes = Scopes::parse([format!("repository:{from}:pull").as_str()]);
        if let Place::Path { query, .. } = &mut request.place {
            *query = format!("mount={}&from={from}", blob.digest);
        }
        match access.send(host, &request, Others::None).await {
            // It may not be allowed, or not known at all. Uploading may be.
            Ok(answer)
                if answer.status().is_client_error()
                    && answer.status() != StatusCode::TOO_MANY_REQUESTS =>
            {
                Ok(None)
            }
            Ok(answer) => self.place(host, answer).await.map(Some),
            Err(Error::Unauthorized { .. }) => Ok(None),
            Err(err) => Err(err),
        }
    }

    /// What an answer to a request for an upload says.
    async fn place(&self, host: &Endpoint, answer: Response) -> Result<Opened, Error> {
        match answer.status() {
            StatusCode::CREATED => Ok(Opened::Done),
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                let value = answer.headers().get(LOCATION);
                let text = value.and_then(|value| value.to_str().ok());
                let text = text.unwrap_or_default().to_owned();
                let url =
                    location(answer.url(), &text).ok_or(Error::Location { location: text })?;
                tracing::trace!(host = host.host, to = authority(&url), "upload accepted");
                Ok(Opened::To(url))
            }
            _ => {
                let url = answer.url().clone();
                Err(wire::unexpected(&Method::POST, &url, answer).await)
            }
        }
    }

    /// Sends what must be accepted.
    async fn done(
        &self,
        access: &Access<'_>,
        host: &Endpoint,
        request: &Request,
    ) -> Result<(), Error> {
        let sent = access.send(host, request, Others::None).await;
        let answer = sent.map_err(denied("push"))?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            _ => {
                let url = answer.url().clone();
                Err(wire::unexpected(&request.method, &url, answer).await)
            }
        }
    }

    /// Whether a blob or manifest is there. `name`: the tag it must stand under.
    async fn exists(
        &self,
        access: &Access<'_>,
        host: &Endpoint,
        place: &str,
        blob: &Descriptor,
        tag: Option<&str>,
    ) -> Result<bool, Error> {
        let request =
            Request::new(Method::HEAD, place).accept(&format!("{}, */*", blob.media_type));
        let answer = match access.send(host, &request, Others::None).await {
            Ok(answer) => answer,
            // Pushing may be allowed where looking is not.
            Err(Error::Unauthorized { .. }) => return Ok(false),
            Err(err) => return Err(err),
        };
        match answer.status() {
            StatusCode::OK if tag.is_some() => {
                let value = answer.headers().get("docker-content-digest");
                Ok(value.is_some_and(|value| value.as_bytes() == blob.digest.as_str().as_bytes()))
            }
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            StatusCode::FORBIDDEN => {
                // An answer to HEAD has no body: ask again for the reason.
                let mut request = request.clone();
                request.method = Method::GET;
                let reason = access.send(host, &request, Others::None).await?;
                let url = reason.url().clone();
                Err(wire::unexpected(&Method::HEAD, &url, reason).await)
            }
            _ => {
                let url = answer.url().clone();
                Err(wire::unexpected(&Method::HEAD, &url, answer).await)
            }
        }
    }

    /// Pushes a manifest under `name`: a tag or its digest.
    pub(crate) async fn manifest(
        &self,
        cx: &Cx,
        manifest: &Descriptor,
        name: &str,
        standing: Standing,
    ) -> Result<(), Error> {
        let inner = &self.client.0;
        let (access, host) = (self.access(cx), self.endpoint().await?);
        let gate = inner.limits.of(self.reference.domain());
        let _permit = gate.enter(cx, &manifest.media_type).await?;
        let bytes: Bytes = {
            let (store, digest) = (self.store.clone(), manifest.digest.clone());
            tasks::blocking(move || store.read(&digest)).await?
        };
        let place = format!("manifests/{name}");
        let tag = (name != manifest.digest.as_str()).then_some(name);
        let work = || async {
            if standing == Standing::Kept
                && self.exists(&access, &host, &place, manifest, tag).await?
            {
                return Ok(());
            }
            let mut request =
                Request::new(Method::PUT, place.as_str()).content_type(&manifest.media_type);
            request.body = Body::Bytes(bytes.clone());
            let done = self.done(&access, &host, &request).await;
            done.map_err(|err| hint(err, &manifest.media_type))
        };
        let backoff = inner.hosts.config().backoff;
        let done = retrying(cx, backoff, &self.progress, work).await;
        done.map_err(Error::into_refusal)?;
        inner.known.add(
            self.reference.domain(),
            self.reference.path(),
            &manifest.digest,
        );
        inner.names.forget(&self.reference);
        Ok(())
    }
}

/// Tells what helps where a registry is older than the types of OCI.
fn hint(err: Error, media_type: &str) -> Error {
    let oci = media_type.starts_with("application/vnd.oci.");
    match err {
        Error::Status(refused) if oci && refused.refuses_types() => Error::Types {
            media_type: media_type.to_owned(),
            source: Box::new(Error::Status(refused).into_refusal()),
        },
        other => other,
    }
}

/// Where an upload goes. Compat: a location need not have a scheme.
fn location(asked: &Url, text: &str) -> Option<Url> {
    if text.is_empty() {
        return None;
    }
    if text.starts_with('/') || text.contains("://") {
        return asked.join(text).ok();
    }
    format!("{}://{text}", asked.scheme()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_may_be_relative_absolute_or_without_a_scheme() {
        let asked = "http://host:5000/v2/x/blobs/uploads/"
            .parse()
            .expect("a URL");
        let to = |text| location(&asked, text).map(|url| url.to_string());
        assert_eq!(to("/up?a=b").as_deref(), Some("http://host:5000/up?a=b"));
        assert_eq!(to("https://other/up").as_deref(), Some("https://other/up"));
        assert_eq!(to("other:1/up").as_deref(), Some("http://other:1/up"));
        assert_eq!(to(""), None);
    }
}
