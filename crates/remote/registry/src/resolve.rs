//! What a name stands for now.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, StatusCode};
use oci::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use oci::{Descriptor, Digest, Hasher, Reference};
use reqwest::Response;

use crate::error::Error;
use crate::hosts::Endpoint;
use crate::wire::{self, Access, Others, Request};

/// Larger manifests are refused.
pub(crate) const LARGEST_MANIFEST: u64 = 4 << 20;
/// Compat: in upstream's order.
const ACCEPTED: [&str; 5] = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX, "*/*"];

/// Asks the hosts in their order. Of several failures the one that got furthest is told.
pub(crate) async fn resolve(
    access: &Access<'_>,
    hosts: &[std::sync::Arc<Endpoint>],
    reference: &Reference,
) -> Result<Descriptor, Error> {
    let name = reference.to_string();
    let places = match reference.digest() {
        // Very old registries know manifests as blobs only.
        Some(digest) => vec![format!("manifests/{digest}"), format!("blobs/{digest}")],
        None => vec![format!("manifests/{}", reference.tag().unwrap_or("latest"))],
    };
    let mut failure: Option<Error> = None;
    for place in &places {
        if failure.as_ref().is_some_and(|err| err.rank() > 2) {
            break;
        }
        for (index, host) in hosts.iter().enumerate() {
            let others = others(index, hosts.len());
            let question = Question {
                access,
                host,
                others,
                place,
                name: &name,
            };
            match question.ask(reference.digest()).await {
                Ok(found) => return Ok(found),
                Err(err @ Error::Cancelled(_)) => return Err(err),
                Err(err) => {
                    tracing::debug!(host = host.host, error = %fault::chain(&err), "not resolved");
                    keep(&mut failure, err);
                }
            }
        }
    }
    Err(failure.unwrap_or(Error::NotFound { name }))
}

/// Whether a host is the last of its kind.
pub(crate) fn others(index: usize, hosts: usize) -> Others {
    if index + 1 < hosts {
        Others::Left
    } else {
        Others::None
    }
}

/// Keeps the failure that got furthest; the first of equals.
pub(crate) fn keep(failure: &mut Option<Error>, err: Error) {
    if failure.as_ref().is_none_or(|old| old.rank() < err.rank()) {
        *failure = Some(err);
    }
}

struct Question<'a> {
    access: &'a Access<'a>,
    host: &'a Endpoint,
    others: Others,
    place: &'a str,
    name: &'a str,
}

impl Question<'_> {
    async fn ask(&self, wanted: Option<&Digest>) -> Result<Descriptor, Error> {
        let head = self.send(Method::HEAD).await?;
        let status = head.status();
        if status == StatusCode::FORBIDDEN {
            // An answer to HEAD has no body: ask again for the reason.
            let get = self.send(Method::GET).await?;
            if get.status().is_success() {
                return self.read_body(get, wanted).await;
            }
            return Err(self.refused(get).await);
        }
        if !status.is_success() {
            return Err(self.refused(head).await);
        }
        let size = length(&head);
        let digest = match wanted {
            Some(digest) => Some(digest.clone()),
            None => digest_header(&head)?,
        };
        match (digest, size) {
            (Some(digest), Some(size)) => {
                self.check(size)?;
                let media_type = media_type(&head);
                Ok(descriptor(&media_type, digest, size))
            }
            _ => {
                let get = self.send(Method::GET).await?;
                if !get.status().is_success() {
                    return Err(self.refused(get).await);
                }
                self.read_body(get, wanted).await
            }
        }
    }

    async fn send(&self, method: Method) -> Result<Response, Error> {
        let request = Request::new(method, self.place).accept(&ACCEPTED.join(", "));
        let sent = self.access.send(self.host, &request, self.others).await;
        sent.map_err(denied("pull"))
    }

    async fn refused(&self, answer: Response) -> Error {
        if answer.status() == StatusCode::NOT_FOUND {
            return Error::NotFound {
                name: self.name.to_owned(),
            };
        }
        let url = answer.url().clone();
        wire::unexpected(&Method::HEAD, &url, answer).await
    }

    /// The registry does not say what it has: have a look.
    async fn read_body(
        &self,
        mut answer: Response,
        wanted: Option<&Digest>,
    ) -> Result<Descriptor, Error> {
        let media_type = media_type(&answer);
        let mut hasher = Hasher::new();
        let mut size = 0;
        while let Some(piece) = self.access.next_piece(&mut answer).await? {
            size += piece.len() as u64;
            self.check(size)?;
            hasher.update(&piece);
        }
        let digest = wanted.cloned().unwrap_or_else(|| hasher.finish());
        Ok(descriptor(&media_type, digest, size))
    }

    fn check(&self, size: u64) -> Result<(), Error> {
        if size > LARGEST_MANIFEST {
            return Err(Error::TooLarge {
                size,
                name: self.name.to_owned(),
            });
        }
        Ok(())
    }
}

/// A refusal after everything was shown means that access is denied.
pub(crate) fn denied(action: &'static str) -> impl Fn(Error) -> Error {
    move |err| match err {
        Error::Unauthorized { .. } => Error::Denied {
            action,
            source: Box::new(err),
        },
        other => other,
    }
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    let size = i64::try_from(size).expect("a manifest is not larger than LARGEST_MANIFEST");
    Descriptor::new(media_type, digest, size)
}

/// The length as the header says it: an answer to HEAD has no body to count.
fn length(answer: &Response) -> Option<u64> {
    let value = answer.headers().get(CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

fn media_type(answer: &Response) -> String {
    let value = answer.headers().get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    let value = value.unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn digest_header(answer: &Response) -> Result<Option<Digest>, Error> {
    let Some(value) = answer.headers().get("docker-content-digest") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(_) => Err(Error::DigestHeader { text }),
    }
}
