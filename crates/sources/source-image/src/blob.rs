//! Single blobs of a registry or of a client's store, as files.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use cache::{MutableRef, RecordOptions, RecordType};
use content::{Provider, Store};
use fault::{Class, Classify as _};
use oci::{Descriptor, Digest, Locator, Reference};
use progress::Progress;
use registry::Sessions;
use session::Group;
use source::file::{self, Draft, Options};
use source::{Identifier, Instance, Key, Memo, Source};
use tasks::Cx;

use crate::{Error, Images, attrs, place};

/// Blobs as sources of builds.
pub struct Blobs(Images);

impl Blobs {
    /// Blobs from where `images` come from.
    pub fn new(images: Images) -> Self {
        Self(images)
    }
}

impl Source for Blobs {
    fn schemes(&self) -> &'static [&'static str] {
        &["docker-image+blob", "oci-layout+blob"]
    }

    fn instance(&self, id: Identifier, _: &Arc<Memo>) -> Result<Arc<dyn Instance>, source::Error> {
        Ok(Arc::new(Blob::parse(self.0.clone(), &id)?))
    }
}

/// One blob.
struct Blob {
    images: Images,
    name: String,
    digest: Digest,
    place: Where,
    file: Options,
    record_type: RecordType,
}

enum Where {
    Registry(Reference),
    Layout { session: String, store: String },
}

impl Blob {
    fn parse(images: Images, id: &Identifier) -> Result<Self, source::Error> {
        let error = |err: Error| source::Error::new(&err);
        let locator = Locator::parse(&id.name).map_err(|err| error(err.into()))?;
        if locator.object.is_empty() {
            return Err(error(Error::Object));
        }
        let digest = attrs::object_digest(&locator.object);
        let digest = digest.map_err(|err| error(Error::BlobDigest(err)))?;
        let layout = id.scheme == "oci-layout+blob";
        let mut file = Options::default();
        let (mut session, mut store) = (String::new(), String::new());
        let mut record_type = RecordType::Regular;
        for (name, value) in &id.attrs {
            match name.as_str() {
                "image.recordtype" => record_type = attrs::record_type(value).map_err(error)?,
                "oci.session" if layout => session.clone_from(value),
                "oci.store" if layout => store.clone_from(value),
                _ => {
                    file.take(name, value)?;
                }
            }
        }
        if id.attrs.contains_key("http.filename") {
            file.filename = file::safe_name(&file.filename);
        }
        if layout && store.is_empty() {
            let text = "oci-layout blob source requires store id";
            return Err(source::Error::user(text));
        }
        let place = if layout {
            Where::Layout { session, store }
        } else {
            Where::Registry(Reference::parse(&id.name).map_err(|err| error(err.into()))?)
        };
        Ok(Self {
            images,
            name: id.name.clone(),
            digest,
            place,
            file,
            record_type,
        })
    }

    /// Makes the blob present in the store, as big as it is.
    async fn fetch(&self, cx: &Cx, sessions: &Group, progress: &Progress) -> Result<(), Error> {
        let content = self.images.0.cache.content();
        let blob = |size| Descriptor::new("application/octet-stream", self.digest.clone(), size);
        match &self.place {
            Where::Registry(reference) => {
                let client = &self.images.0.client;
                if content.contains(&self.digest) && client.has_seen(reference, &self.digest) {
                    return Ok(());
                }
                let who = Sessions::credentials(sessions);
                let blob = blob(0);
                let fetched = client.fetch(cx, &who, reference, &blob, content, progress);
                Ok(fetched.await.map_err(as_of_head)?)
            }
            Where::Layout { session, store } => {
                let store = place::store(sessions, session, store);
                let found = store.info(cx, &self.digest).await;
                let size = found.map_err(|err| match err {
                    session::Error::Answer(why) if why.class() == Class::NotFound => {
                        Error::MissingBlob {
                            why: why.text().to_owned(),
                        }
                    }
                    other => other.into(),
                })?;
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                Ok(store.fetch(cx, &blob(size), content, progress).await?)
            }
        }
    }
}

#[async_trait]
impl Instance for Blob {
    async fn key(&self, _: &Cx, _: &Group, _: &Progress, _: usize) -> Result<Key, source::Error> {
        Ok(Key {
            text: key_text(&self.digest, &self.file),
            done: true,
        })
    }

    async fn snapshot(
        &self,
        cx: &Cx,
        sessions: &Group,
        progress: &Progress,
    ) -> Result<Option<cache::Ref>, source::Error> {
        let made = async {
            self.fetch(cx, sessions, progress).await?;
            let cache = &self.images.0.cache;
            let description = format!("blob {}", self.name);
            let options = RecordOptions {
                description: description.clone(),
                record_type: self.record_type,
                created: None,
            };
            let tree = cache.new_mutable(cx, None, options).await?;
            let name = match self.file.filename.as_str() {
                "" => self.digest.hex().to_owned(),
                name => name.to_owned(),
            };
            let (content, digest, file) = (
                cache.content().clone(),
                self.digest.clone(),
                self.file.clone(),
            );
            let tree = tasks::blocking(move || {
                write(&tree, &name, &content, &digest, &file)?;
                Ok::<_, Error>(tree)
            })
            .await?;
            Ok::<_, Error>(tree.commit(cx, &description).await?)
        };
        made.await.map(Some).map_err(|err| source::Error::new(&err))
    }
}

/// Compat: upstream asks for the head of a blob first, and tells of that.
fn as_of_head(mut err: registry::Error) -> Error {
    if let registry::Error::Transport { method, .. } = &mut err {
        "Head".clone_into(method);
    }
    let class = err.class();
    match err.refused() {
        Some((url, status)) => Error::BlobStatus { url, status, class },
        None => err.into(),
    }
}

/// S of the cache-key rules. Compat: names and order of the fields as upstream hashes them.
fn key_text(digest: &Digest, file: &Options) -> String {
    let mut json = format!("{{\"Digest\":\"{digest}\",\"Filename\":");
    proto::gojson::write_str(&mut json, &file.filename);
    let Options { perm, uid, gid, .. } = file;
    json.push_str(&format!(",\"Perm\":{perm},\"UID\":{uid},\"GID\":{gid}}}"));
    Digest::of(json).to_string()
}

fn write(
    tree: &MutableRef,
    name: &str,
    content: &Store,
    digest: &Digest,
    options: &Options,
) -> Result<(), Error> {
    let dir = tree.layer_directory()?;
    let mut blob = content.open_blob(digest)?;
    let mut draft = Draft::new(&dir, name, options).map_err(Error::Open)?;
    let copied = io::copy(&mut blob, &mut draft);
    copied.and_then(|_| draft.finish(0)).map_err(Error::File)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn keys_equal_upstreams() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../testing/vectors/cachekeys/cachemap.json"
        );
        let all: Value =
            serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON");
        let mut seen = 0;
        for case in all["sources"].as_array().expect("a list") {
            let name = case["name"].as_str().unwrap_or_default();
            if !name.starts_with("blob-") {
                continue;
            }
            let params = &case["params"];
            let number = |key: &str| params[key].as_i64().unwrap_or_default();
            let file = Options {
                filename: params["filename"].as_str().unwrap_or_default().to_owned(),
                perm: number("perm"),
                uid: number("uid"),
                gid: number("gid"),
            };
            let (_, object) = params["ref"]
                .as_str()
                .and_then(|it| it.split_once('@'))
                .expect("a digest");
            let digest = object.parse().expect("a digest");
            assert_eq!(
                key_text(&digest, &file),
                case["source_key"].as_str().expect("a key"),
                "{name}"
            );
            seen += 1;
        }
        assert_eq!(seen, 3);
    }
}
