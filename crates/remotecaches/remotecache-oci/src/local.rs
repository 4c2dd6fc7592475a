//! `local`: a cache in a folder of the client, laid out as OCI says.
//!
//! The client writes the index of the folder itself, and finds the digest in it before it asks for an import.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use content::Provider;
use fault::Class;
use oci::{Descriptor, Digest};
use remotecache::{Blob, Documents, Error, Exporter, Graph, Importer, Kind, Origin, Work};
use session::Group;
use session::stores::Store;
use tasks::Cx;

use crate::options::Options;
use crate::send::{self, Target};

/// Caches in folders of clients.
pub struct Local;

impl Kind for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn importer(
        &self,
        attrs: &BTreeMap<String, String>,
    ) -> Result<Option<Arc<dyn Importer>>, Error> {
        let digest = given(
            attrs,
            "digest",
            "local cache importer requires explicit digest",
        )?;
        let folder = given(attrs, "src", "local cache importer requires src")?;
        Ok(Some(Arc::new(Import {
            digest: digest
                .parse()
                .map_err(|err| Error::place::<oci::DigestError>(&err))?,
            folder: Folder::new(folder),
        })))
    }

    fn exporter(&self, attrs: &BTreeMap<String, String>) -> Result<Arc<dyn Exporter>, Error> {
        let folder = given(attrs, "dest", "local cache exporter requires dest")?;
        Ok(Arc::new(Export {
            options: Options::parse(attrs)?,
            folder: Folder::new(folder),
        }))
    }
}

fn given<'a>(
    attrs: &'a BTreeMap<String, String>,
    key: &str,
    missing: &str,
) -> Result<&'a str, Error> {
    let value = attrs.get(key).filter(|value| !value.is_empty());
    value
        .map(String::as_str)
        .ok_or_else(|| Error::option(missing))
}

/// A folder of the client.
#[derive(Clone)]
struct Folder {
    id: String,
}

impl Folder {
    fn new(path: &str) -> Self {
        Self {
            id: format!("local:{path}"),
        }
    }

    fn store(&self, sessions: &Group) -> Store {
        Store::new(sessions, self.id.clone())
    }
}

#[async_trait]
impl Origin for Folder {
    fn provider(&self, sessions: &Group) -> Arc<dyn Provider> {
        Arc::new(self.store(sessions))
    }

    fn ends_with_client(&self) -> bool {
        true
    }

    async fn has(&self, cx: &Cx, sessions: &Group, blob: &Digest) -> bool {
        let size = self.store(sessions).size(cx, blob).await;
        matches!(size, Ok(Some(_)))
    }
}

struct Import {
    digest: Digest,
    folder: Folder,
}

#[async_trait]
impl Importer for Import {
    async fn import(&self, work: &Work) -> Result<Graph, Error> {
        let store = self.folder.store(&work.sessions);
        let size = store.size(&work.cx, &self.digest).await;
        let Some(size) = size.map_err(|err| Error::absent("local", &err))? else {
            return Err(Error::Place {
                text: format!(
                    "failed to configure local cache importer: content {}: not found",
                    self.digest
                ),
                class: Class::NotFound,
            });
        };
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        let root = Descriptor::new("", self.digest.clone(), size);
        let origin: Arc<dyn Origin> = Arc::new(self.folder.clone());
        let from = Reader(store);
        remotecache::read(&work.cx, &from, &root, &origin, &work.progress).await
    }
}

struct Reader(Store);

#[async_trait]
impl Documents for Reader {
    async fn read(&self, cx: &Cx, document: &Descriptor) -> Result<Bytes, Error> {
        let read = self.0.read(cx, &document.digest).await;
        read.map_err(|err| Error::place(&err))
    }
}

struct Export {
    folder: Folder,
    options: Options,
}

#[async_trait]
impl Exporter for Export {
    fn name(&self) -> &'static str {
        "exporting cache to client directory"
    }

    fn layers(&self) -> layer::Options {
        self.options.layers.clone()
    }

    async fn export(&self, work: &Work, graph: &Graph) -> Result<BTreeMap<String, String>, Error> {
        if work.sessions.ids().is_empty() {
            let text = "local cache exporter/importer requires session";
            return Err(Error::option(text));
        }
        let target = Push(self.folder.store(&work.sessions));
        send::send(&target, work, graph, self.options.form).await
    }
}

#[derive(Clone)]
struct Push(Store);

#[async_trait]
impl Target for Push {
    async fn layer(&self, cx: &Cx, work: &Work, blob: &Blob) -> Result<(), Error> {
        let descriptor = &blob.descriptor;
        let there = self.0.size(cx, &descriptor.digest).await;
        if there.map_err(|err| Error::place(&err))?.is_some() {
            return Ok(());
        }
        if !work.store.contains(&descriptor.digest)
            && let Some(provider) = blob.provider(&work.sessions)
        {
            provider
                .fetch(cx, descriptor, &work.store, &work.progress)
                .await?;
        }
        let pushed = self.0.push(cx, descriptor, &work.store).await;
        pushed.map_err(|err| Error::place(&err))
    }

    async fn config(
        &self,
        cx: &Cx,
        _: &Work,
        what: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let put = self.0.put(cx, what, bytes).await;
        put.map_err(|err| Error::place(&err))
    }

    async fn manifest(
        &self,
        cx: &Cx,
        work: &Work,
        what: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Error> {
        self.config(cx, work, what, bytes).await
    }
}
