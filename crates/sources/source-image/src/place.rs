//! Where images are: repositories of registries, and stores that clients offer.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use content::{Provider, Store};
use fault::{Class, Classify as _};
use oci::{Descriptor, Digest, Reference};
use progress::Progress;
use registry::{Client, Credentials, Origin, Sessions};
use session::Group;
use session::stores;
use tasks::Cx;

use crate::attrs::{Layout, Name};
use crate::{Error, image};

/// A place to read an image from, as the sessions of now can reach it.
#[derive(Clone)]
pub(crate) enum Place {
    Registry {
        client: Client,
        who: Arc<dyn Credentials>,
        reference: Reference,
    },
    Layout {
        layout: Layout,
        store: stores::Store,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { reference, .. } => reference.fmt(f),
            Self::Layout { layout, .. } => layout.text.fmt(f),
        }
    }
}

impl Place {
    pub(crate) fn new(name: &Name, client: &Client, sessions: &Group) -> Self {
        match name {
            Name::Registry(reference) => Self::Registry {
                client: client.clone(),
                who: Sessions::credentials(sessions),
                reference: reference.clone(),
            },
            Name::Layout(layout) => Self::Layout {
                store: store(sessions, &layout.session, &layout.store),
                layout: layout.clone(),
            },
        }
    }

    /// A small document, which is in `content` afterwards.
    pub(crate) async fn read(
        &self,
        cx: &Cx,
        blob: &Descriptor,
        content: &Store,
    ) -> Result<Bytes, Error> {
        match self {
            Self::Registry {
                client,
                who,
                reference,
            } => Ok(client.read(cx, who, reference, blob, content).await?),
            Self::Layout { store, .. } => {
                store.fetch(cx, blob, content, &Progress::none()).await?;
                let (content, digest) = (content.clone(), blob.digest.clone());
                Ok(tasks::blocking(move || content.read(&digest)).await?)
            }
        }
    }

    /// What refers to a manifest. Stores of clients do not know.
    pub(crate) async fn referrers(
        &self,
        cx: &Cx,
        manifest: &Digest,
    ) -> Result<Vec<Descriptor>, registry::Error> {
        match self {
            Self::Registry {
                client,
                who,
                reference,
            } => client.referrers(cx, who, reference, manifest).await,
            Self::Layout { .. } => Ok(Vec::new()),
        }
    }

    /// What brings the layers.
    pub(crate) fn provider(&self) -> Arc<dyn Provider> {
        match self {
            Self::Registry {
                client,
                who,
                reference,
            } => client.provider(who.clone(), reference),
            Self::Layout { store, .. } => Arc::new(store.clone()),
        }
    }

    /// Notes at a blob where else it is.
    pub(crate) fn note(&self, blob: &mut Descriptor) {
        if let Self::Registry { reference, .. } = self {
            Origin::note(blob, reference);
        }
    }
}

/// A store of this name in the session that is named, or in whichever has it.
pub(crate) fn store(sessions: &Group, session: &str, id: &str) -> stores::Store {
    let group = match session {
        "" => sessions.clone(),
        session => sessions.manager().group([session]),
    };
    stores::Store::new(&group, format!("oci:{id}"))
}

/// What a client's store has under the digest that is wanted, or the daemon's if the client has nothing.
pub(crate) async fn root(
    cx: &Cx,
    layout: &Layout,
    store: &stores::Store,
    content: &Store,
) -> Result<Descriptor, Error> {
    let digest = layout.digest.clone().ok_or_else(|| Error::NoDigest {
        name: layout.text.clone(),
    })?;
    let missing = match store.size(cx, &digest).await {
        Ok(Some(size)) => return found(cx, layout, store, content, digest, size).await,
        Ok(None) => Error::Missing {
            digest: digest.clone(),
        },
        Err(err @ session::Error::Answer(_)) if err.class() == Class::Unsupported => {
            Error::NoStores(err)
        }
        Err(err) => Error::Root(err),
    };
    // Whoever names bytes by their digest gets them from wherever they are.
    match content.info(&digest) {
        Ok(info) => found(cx, layout, store, content, digest, info.size).await,
        Err(_) => Err(missing),
    }
}

async fn found(
    cx: &Cx,
    layout: &Layout,
    store: &stores::Store,
    content: &Store,
    digest: Digest,
    size: u64,
) -> Result<Descriptor, Error> {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let blob = Descriptor::new("", digest, size);
    store.fetch(cx, &blob, content, &Progress::none()).await?;
    let kind = media_type(content, &blob.digest).await;
    let kind = kind.ok_or_else(|| Error::NoImage {
        name: layout.text.clone(),
    })?;
    Ok(Descriptor::new(&kind, blob.digest, size))
}

async fn media_type(content: &Store, digest: &Digest) -> Option<String> {
    let (content, digest) = (content.clone(), digest.clone());
    let document = tasks::blocking(move || content.read(&digest)).await.ok()?;
    image::media_type(&document)
}
