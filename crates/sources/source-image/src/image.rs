//! Manifest and config of an image, found by its name.

use bytes::Bytes;
use cache::ImageLayer;
use content::Store;
use oci::media_type::{
    DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, INTOTO, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST,
};
use oci::{Descriptor, Digest, Matcher, Platform};
use serde::{Deserialize, Deserializer};
use std::time::SystemTime;
use tasks::Cx;

use crate::Error;
use crate::place::Place;

/// Of configs of the oldest images.
const OLD_CONFIG: &str = "application/octet-stream";
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// No more documents than these are read for one image: what a registry says may have no end.
const LIMIT: usize = 128;

/// An image for one platform.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// What the name stands for: the index if it is one.
    pub(crate) root: Descriptor,
    /// The layers of the manifest, the lowest first.
    layers: Vec<Descriptor>,
    config_type: String,
    /// The config as it is.
    pub(crate) config: Bytes,
}

/// What is read of an index.
#[derive(Deserialize)]
struct Index {
    #[serde(default, deserialize_with = "nullable")]
    manifests: Vec<Descriptor>,
}

/// What is read of a manifest.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "nullable")]
    layers: Vec<Descriptor>,
}

/// What is read of a config.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) rootfs: RootFs,
}

/// The layers as the config has them.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(crate) diff_ids: Vec<Digest>,
}

/// Compat: documents written by Go have null for an empty list.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Reads documents of one place.
pub(crate) struct Reader<'a> {
    pub(crate) cx: &'a Cx,
    pub(crate) place: &'a Place,
    pub(crate) store: &'a Store,
}

impl Reader<'_> {
    /// The image of `root` for `platform`.
    pub(crate) async fn image(
        &self,
        root: Descriptor,
        platform: &Platform,
    ) -> Result<Image, Error> {
        let (digest, manifest) = self.manifest(&root, platform).await?;
        let Manifest { config, layers } = manifest;
        let config = config.ok_or(Error::NoConfig { digest })?;
        Ok(Image {
            config_type: config.media_type.clone(),
            config: self.read(&config).await?,
            root,
            layers,
        })
    }

    /// The best manifest. Those that do not say what they are for are asked by their config.
    pub(crate) async fn manifest(
        &self,
        root: &Descriptor,
        platform: &Platform,
    ) -> Result<(Digest, Manifest), Error> {
        let matcher = Matcher::only(platform);
        let mut pending = vec![(root.clone(), Fits::Yes)];
        for _ in 0..LIMIT {
            let Some((entry, fits)) = pending.pop() else {
                return Err(Error::Platform);
            };
            match (kind(&entry), fits) {
                (Ok(Kind::Index), _) => {
                    let entries = self.entries(&entry).await?;
                    let best = matcher.best(&entries, |entry| entry.platform.as_ref());
                    if let Some(best) = best {
                        pending.push((best.clone(), Fits::Yes));
                        continue;
                    }
                    let silent = entries.into_iter().filter(|it| it.platform.is_none());
                    let silent: Vec<_> = silent.map(|it| (it, Fits::Unknown)).collect();
                    pending.extend(silent.into_iter().rev());
                }
                (Ok(Kind::Manifest), fits) => {
                    let manifest = self.parse(&entry).await?;
                    if fits == Fits::Yes || self.is_for(&manifest, &matcher).await? {
                        return Ok((entry.digest, manifest));
                    }
                }
                (Err(err), Fits::Yes) => return Err(err),
                (Err(_), Fits::Unknown) => {}
            }
        }
        Err(Error::Endless {
            index: root.digest.clone(),
            limit: LIMIT,
        })
    }

    /// Whether the config says so.
    async fn is_for(&self, manifest: &Manifest, matcher: &Matcher) -> Result<bool, Error> {
        let Some(config) = &manifest.config else {
            return Ok(false);
        };
        let config = serde_json::from_slice(&self.read(config).await?);
        Ok(config.is_ok_and(|config: Config| matcher.matches(&config.platform)))
    }

    /// The entries of an index.
    pub(crate) async fn entries(&self, index: &Descriptor) -> Result<Vec<Descriptor>, Error> {
        Ok(self.parse::<Index>(index).await?.manifests)
    }

    /// The layers of a manifest.
    pub(crate) async fn layers_of(&self, manifest: &Descriptor) -> Result<Vec<Descriptor>, Error> {
        Ok(self.parse::<Manifest>(manifest).await?.layers)
    }

    pub(crate) async fn read(&self, blob: &Descriptor) -> Result<Bytes, Error> {
        self.place.read(self.cx, blob, self.store).await
    }

    async fn parse<T: for<'de> Deserialize<'de>>(&self, blob: &Descriptor) -> Result<T, Error> {
        let bytes = self.read(blob).await?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Manifest {
            digest: blob.digest.clone(),
            source,
        })
    }
}

/// Whether an entry is for the wanted platform.
#[derive(PartialEq, Clone, Copy)]
enum Fits {
    Yes,
    Unknown,
}

enum Kind {
    Manifest,
    Index,
}

fn kind(descriptor: &Descriptor) -> Result<Kind, Error> {
    match descriptor.media_type.as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => Ok(Kind::Manifest),
        OCI_INDEX | DOCKER_LIST => Ok(Kind::Index),
        DOCKER_SCHEMA1 | DOCKER_SCHEMA1_SIGNED => Err(Error::Schema1),
        other => Err(Error::MediaType {
            media_type: other.to_owned(),
        }),
    }
}

/// The media type of a document that nobody told it of.
pub(crate) fn media_type(document: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        media_type: String,
        #[serde(default)]
        config: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(document).ok()?;
    let image = shape.config.is_some() || shape.layers.is_some();
    let kind = match (image, shape.manifests.is_some()) {
        (true, false) => OCI_MANIFEST,
        (false, true) => OCI_INDEX,
        _ => return None,
    };
    if shape.media_type.is_empty() {
        return Some(kind.to_owned());
    }
    let fits = match shape.media_type.as_str() {
        OCI_MANIFEST | DOCKER_MANIFEST => image,
        OCI_INDEX | DOCKER_LIST => !image,
        _ => false,
    };
    fits.then_some(shape.media_type)
}

impl Image {
    /// The config, for those who ask what the image is. What an artifact has in its place is none.
    pub(crate) fn into_config(self) -> Result<Bytes, Error> {
        match self.config_type.as_str() {
            OCI_CONFIG | DOCKER_CONFIG | INTOTO | OLD_CONFIG => Ok(self.config),
            _ => Err(Error::MediaType {
                media_type: self.config_type,
            }),
        }
    }

    /// The layers as the cache takes them, cut to the limit.
    pub(crate) fn layers(
        &self,
        place: &Place,
        limit: Option<usize>,
    ) -> Result<Vec<ImageLayer>, Error> {
        let config: Config = serde_json::from_slice(&self.config).map_err(Error::Config)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != self.layers.len() {
            return Err(Error::Mismatched {
                diff_ids: diff_ids.len(),
                layers: self.layers.len(),
            });
        }
        let count = limit.unwrap_or(diff_ids.len());
        if count > diff_ids.len() {
            return Err(Error::TooFew {
                limit: count,
                layers: diff_ids.len(),
            });
        }
        let description = format!("pulled from {place}");
        let provider = place.provider();
        let layers = self.layers.iter().zip(diff_ids).take(count);
        let layer = |(descriptor, diff_id): (&Descriptor, Digest)| {
            let mut descriptor = descriptor.clone();
            place.note(&mut descriptor);
            ImageLayer {
                descriptor,
                diff_id,
                provider: provider.clone(),
                created: None::<SystemTime>,
                description: description.clone(),
            }
        };
        Ok(layers.map(layer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_shows_what_it_is() {
        let of = |text: &str| media_type(text.as_bytes());
        assert_eq!(
            of(r#"{"config":{},"layers":[]}"#).as_deref(),
            Some(OCI_MANIFEST)
        );
        assert_eq!(of(r#"{"manifests":[]}"#).as_deref(), Some(OCI_INDEX));
        let docker = format!(r#"{{"mediaType":"{DOCKER_LIST}","manifests":[]}}"#);
        assert_eq!(of(&docker).as_deref(), Some(DOCKER_LIST));
    }

    #[test]
    fn an_empty_list_may_be_null() {
        let config = r#"{"os":"linux","rootfs":{"type":"layers","diff_ids":null}}"#;
        let config: Config = serde_json::from_str(config).expect("a config");
        assert_eq!(config.rootfs.diff_ids, []);
        let manifest: Manifest =
            serde_json::from_str(r#"{"config":null,"layers":null}"#).expect("a manifest");
        assert_eq!(manifest.layers, []);
    }

    #[test]
    fn a_document_that_contradicts_itself_is_nothing() {
        let both = r#"{"layers":[],"manifests":[]}"#;
        let other = format!(r#"{{"mediaType":"{DOCKER_LIST}","layers":[]}}"#);
        for text in [both, &other, "{}", "[]", "x"] {
            assert_eq!(media_type(text.as_bytes()), None, "{text}");
        }
    }
}
