//! `azblob`: a container of Azure's store of blobs.

mod options;

use async_trait::async_trait;
use bytes::Bytes;
use content::Store;
use futures::future::try_join_all;
use oci::{Descriptor, Digest};
use remotecache::Error;
use reqwest::{Method, Response, StatusCode};
use tasks::Cx;
use url::Url;

use crate::attrs::Attrs;
use crate::azure::{Access, Ask, Azure, SharedKey, Tokens, with_query};
use crate::http::{self, Body, Patience, accepted};
use crate::objects::Objects;

use options::Options;

/// A container and how to speak to it.
pub(crate) struct Container {
    azure: Azure,
    options: Options,
}

impl Container {
    /// The address of a blob, or of the container itself.
    fn url(&self, key: &str) -> Url {
        let mut url = self.options.account_url.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        let container = http::encode(&self.options.container, "%2F");
        let path = match key {
            "" => format!("{base}/{container}"),
            key => format!("{base}/{container}/{}", http::encode(key, "/")),
        };
        url.set_path(&path);
        url
    }

    /// The document of this name, if there is one.
    async fn document(&self, cx: &Cx, name: &str) -> Result<Option<Bytes>, Error> {
        let url = self.url(&self.options.manifest_key(name));
        let answer = self.azure.ask(cx, &Ask::new(Method::GET, &url)).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let what = format!("failed to load cache manifest {name}");
        let answer = accepted(&what, answer).await?;
        Ok(Some(cx.run(http::read(&what, answer)).await??))
    }
}

#[async_trait]
impl Objects for Container {
    const KIND: &'static str = "azblob";
    const EXPORT: &'static str = "exporting cache to Azure Blob Storage";

    fn configured(attrs: &Attrs<'_>) -> Result<Self, Error> {
        let options = Options::parse(attrs)?;
        let mut query = options.account_url.query_pairs();
        let access = if !options.key.is_empty() {
            Access::SharedKey(SharedKey::new(&options.account, &options.key)?)
        } else if query.any(|(key, _)| key == "sig") {
            Access::Address
        } else {
            Access::Tokens(Tokens::new(attrs.environment))
        };
        Ok(Self {
            azure: Azure::new(http::client()?, access, Patience::default()),
            options,
        })
    }

    async fn documents(&self, cx: &Cx) -> Result<Vec<Bytes>, Error> {
        let names = self.options.names.iter();
        let documents = try_join_all(names.map(|name| self.document(cx, name))).await?;
        Ok(documents.into_iter().flatten().collect())
    }

    /// Makes the container unless it is there.
    async fn prepare(&self, cx: &Cx) -> Result<(), Error> {
        let name = &self.options.container;
        let url = with_query(&self.url(""), &[("restype", "container")]);
        let answer = self.azure.ask(cx, &Ask::new(Method::HEAD, &url)).await?;
        if answer.status() != StatusCode::NOT_FOUND {
            let what = format!("failed to get properties of cache container {name}");
            return accepted(&what, answer).await.map(drop);
        }
        let made = self.azure.ask(cx, &Ask::new(Method::PUT, &url)).await?;
        if made.status() == StatusCode::CONFLICT {
            // Somebody was faster.
            return Ok(());
        }
        let what = format!("failed to create cache container {name}");
        accepted(&what, made).await.map(drop)
    }

    async fn publish(&self, cx: &Cx, document: Bytes) -> Result<(), Error> {
        let body = Body::Bytes(document);
        for name in &self.options.names {
            let url = self.url(&self.options.manifest_key(name));
            let what = format!("error writing manifest {name}");
            self.azure.upload(cx, &url, &body, false, &what).await?;
        }
        Ok(())
    }

    async fn has(&self, cx: &Cx, blob: &Digest) -> Result<bool, Error> {
        let key = self.options.blob_key(blob);
        let url = self.url(&key);
        let answer = self.azure.ask(cx, &Ask::new(Method::HEAD, &url)).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        let what = format!("failed to check blob {key} existence");
        accepted(&what, answer).await.map(|_| true)
    }

    async fn send(&self, cx: &Cx, blob: &Descriptor, store: &Store) -> Result<(), Error> {
        let key = self.options.blob_key(&blob.digest);
        let body = Body::blob(store, &blob.digest)?;
        let what = format!("failed to upload blob {key}");
        let url = self.url(&key);
        self.azure.upload(cx, &url, &body, true, &what).await
    }

    async fn open(&self, cx: &Cx, blob: &Digest, start: u64) -> Result<Response, Error> {
        let url = self.url(&self.options.blob_key(blob));
        let mut ask = Ask::new(Method::GET, &url);
        if start > 0 {
            ask.headers = vec![("range", format!("bytes={start}-"))];
        }
        let answer = self.azure.ask(cx, &ask).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Err(Error::Place {
                text: format!("blob {blob} not found"),
                class: fault::Class::NotFound,
            });
        }
        accepted("failed to read layer blob", answer).await
    }
}

#[cfg(test)]
mod tests;
