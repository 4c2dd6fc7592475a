//! `image`: into the store, and from there to registries.

use std::collections::BTreeMap;

use async_trait::async_trait;
use content::Store;
use export::{Error, Exported, Finalize, Input, Instance, Work};
use fault::Classify;
use oci::{Descriptor, Digest, Reference};
use registry::{Client, Origin, Push, Sessions};

use crate::commit::{Committed, Committer};
use crate::options::{CommitOptions, ImageOptions};

pub(crate) struct Image {
    pub content: Store,
    pub registry: Client,
    pub options: ImageOptions,
    pub commit: CommitOptions,
}

#[async_trait]
impl Instance for Image {
    fn name(&self) -> String {
        "exporting to image".to_owned()
    }

    fn layers(&self, input: &Input) -> Option<layer::Options> {
        self.commit.shared_layers(self.commit.uses_oci_types(input))
    }

    async fn export(&self, work: &Work, input: &Input) -> Result<Exported, Error> {
        let (input, options) = with_metadata(input, &self.commit, &self.options.metadata)?;
        let committed = Committer {
            work,
            store: &self.content,
            options: &options,
        }
        .commit(&input)
        .await?;
        let given = name(&options, &input);
        let names = self.options.names(&given, &committed.root.digest);
        let mut response = committed.response()?;
        let mut finalize = None;
        if !names.is_empty() {
            response.insert("image.name".to_owned(), names.clone());
            if self.options.push {
                finalize = Some(self.push(names, &committed));
            }
        }
        Ok(Exported {
            response,
            descriptor: Some(committed.root),
            finalize,
        })
    }
}

impl Image {
    fn push(&self, names: String, committed: &Committed) -> Finalize {
        let origins = committed
            .providers()
            .into_iter()
            .map(|(digest, provider)| {
                let origin = Origin {
                    provider,
                    ..Origin::default()
                };
                (digest, origin)
            })
            .collect();
        let pushes = Pushes {
            registry: self.registry.clone(),
            content: self.content.clone(),
            by_digest: self.options.push_by_digest,
            insecure: self.options.insecure,
            root: committed.root.clone(),
            origins,
            _results: committed.results.clone(),
        };
        Box::new(move |work| {
            Box::pin(async move {
                for name in names.split(',') {
                    pushes.push(&work, name).await?;
                }
                Ok(())
            })
        })
    }
}

/// What is left to do after all exporters are done.
struct Pushes {
    registry: Client,
    content: Store,
    by_digest: bool,
    insecure: bool,
    root: Descriptor,
    origins: BTreeMap<Digest, Origin>,
    /// Their blobs must not go away before they are pushed.
    _results: Vec<cache::Ref>,
}

impl Pushes {
    async fn push(&self, work: &Work, name: &str) -> Result<(), Error> {
        let fail = |text: String, class| Error {
            message: format!("failed to push {name}: {text}"),
            class,
        };
        let reference =
            Reference::parse(name).map_err(|err| fail(fault::chain(&err), err.class()))?;
        let push = Push {
            reference: &reference,
            by_digest: self.by_digest,
            insecure: self.insecure,
            root: &self.root,
            origins: &self.origins,
        };
        let who = Sessions::credentials(&work.sessions);
        let pushed = self
            .registry
            .push(&work.cx, &who, &push, &self.content, &work.progress)
            .await;
        pushed.map_err(|err| fail(fault::chain(&err), err.class()))
    }
}

/// The result with the options nobody knew as metadata, and the options with the annotations of the metadata.
pub(crate) fn with_metadata(
    input: &Input,
    options: &CommitOptions,
    metadata: &BTreeMap<String, String>,
) -> Result<(Input, CommitOptions), Error> {
    let mut input = input.clone();
    for (key, value) in metadata {
        let value = bytes::Bytes::copy_from_slice(value.as_bytes());
        input.metadata.insert(key.clone(), value);
    }
    let mut options = options.clone();
    for (key, value) in &input.metadata {
        if key.starts_with("annotation") {
            let value = String::from_utf8_lossy(value);
            options.annotations.take(key, &value)?;
        }
    }
    Ok((input, options))
}

/// The names as given, or as the frontend says.
pub(crate) fn name(options: &CommitOptions, input: &Input) -> String {
    match input.metadata.get("image.name") {
        Some(name) if options.name == "*" => String::from_utf8_lossy(name).into_owned(),
        _ => options.name.clone(),
    }
}
