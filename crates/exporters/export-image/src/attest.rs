//! What is said about an image, as a manifest beside the image's own.
//!
//! Each statement is a layer. The manifest is an artifact that names the image as its subject or, for older releases, an
//! image that runs nowhere.

use std::collections::BTreeMap;

use bytes::Bytes;
use export::attestation::{self, Attestation, Named, Statement};
use export::{Error, Input, Part, Work};
use oci::{Descriptor, Digest, Manifest, Platform, media_type};
use serde::Serialize;

use crate::commit::Committer;
use crate::compose::Document;

const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
const UNKNOWN: &str = "unknown";

/// The config of a manifest that is an image in form only.
#[derive(Serialize)]
struct Config<'a> {
    architecture: &'a str,
    os: &'a str,
    config: BTreeMap<(), ()>,
    rootfs: Rootfs<'a>,
}

#[derive(Serialize)]
struct Rootfs<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    diff_ids: Vec<Digest>,
}

/// Whether anything is said that makes an index of a single image.
pub(crate) fn makes_index(input: &Input, parts: &[Part], inline: bool) -> bool {
    let mut all = parts
        .iter()
        .filter_map(|part| input.attestations.get(&part.id))
        .flatten();
    all.any(|attestation| inline || !attestation.is_inline_only())
}

/// All documents of an attestation manifest, the manifest last.
#[derive(Debug)]
struct Attested {
    blobs: Vec<Document>,
    manifest: Document,
}

fn compose(
    image: &Descriptor,
    statements: &[Statement],
    artifact: bool,
) -> Result<Attested, Error> {
    let mut blobs = Vec::with_capacity(statements.len() + 1);
    let mut layers = Vec::with_capacity(statements.len());
    for statement in statements {
        let mut blob = Document::new(media_type::INTOTO, statement.compact()?);
        let key = "in-toto.io/predicate-type".to_owned();
        let annotations = &mut blob.descriptor.annotations;
        annotations.insert(key, statement.predicate_type.clone());
        layers.push(blob.descriptor.clone());
        blobs.push(blob);
    }
    let config = if artifact {
        let mut config = Document::new(media_type::OCI_EMPTY, b"{}".to_vec());
        config.descriptor.data = Some("e30=".to_owned());
        config
    } else {
        let config = Config {
            architecture: UNKNOWN,
            os: UNKNOWN,
            config: BTreeMap::new(),
            rootfs: Rootfs {
                kind: "layers",
                diff_ids: layers.iter().map(|it| it.digest.clone()).collect(),
            },
        };
        Document::new(media_type::OCI_CONFIG, json(oci::json::compact(&config))?)
    };
    let mut manifest = Manifest::new(media_type::OCI_MANIFEST, config.descriptor.clone(), layers);
    if artifact {
        manifest.artifact_type = Some(ARTIFACT.to_owned());
        let media_type = &image.media_type;
        manifest.subject = Some(Descriptor::new(
            media_type,
            image.digest.clone(),
            image.size,
        ));
    }
    blobs.push(config);
    let mut manifest = Document::new(media_type::OCI_MANIFEST, json(manifest.to_bytes())?);
    manifest.descriptor.platform = Some(Platform {
        architecture: UNKNOWN.to_owned(),
        os: UNKNOWN.to_owned(),
        ..Platform::default()
    });
    manifest.descriptor.annotations = BTreeMap::from([
        (
            "vnd.docker.reference.digest".to_owned(),
            image.digest.to_string(),
        ),
        (
            "vnd.docker.reference.type".to_owned(),
            "attestation-manifest".to_owned(),
        ),
    ]);
    Ok(Attested { blobs, manifest })
}

fn json<T>(made: Result<T, serde_json::Error>) -> Result<T, Error> {
    made.map_err(|err| Error {
        message: format!("failed to marshal attestation: {err}"),
        class: fault::Class::Internal,
    })
}

/// What an image is called in statements about it.
fn subjects(names: &str, platform: &Platform, image: &Digest) -> Result<Vec<Named>, Error> {
    let names = names.split(',').filter(|name| !name.is_empty());
    names
        .map(|name| {
            let url = export::purl::image("docker", name, Some(platform), &[]);
            let url = url.map_err(|err| {
                let text = fault::chain(&err);
                Error::user(format!("failed to parse ref {name:?}: {text}"))
            })?;
            Ok(Named::new(url, image))
        })
        .collect()
}

/// What is said about an image, and where it will be found.
pub(crate) struct About<'a> {
    pub part: &'a Part,
    pub image: &'a Descriptor,
    pub layers: &'a [cache::LayerBlob],
    /// What the image will be called, a comma list.
    pub names: &'a str,
    /// As an artifact.
    pub artifact: bool,
}

impl Committer<'_> {
    /// Writes the attestation manifest of one image. Answers how an index lists it.
    pub(crate) async fn attest(
        &self,
        said: &[Attestation],
        about: &About<'_>,
    ) -> Result<Descriptor, Error> {
        let work: &Work = self.work;
        let mut said = attestation::unbundle(work, said).await?;
        for one in &mut said {
            crate::supplement::supplement(work, self.store, about, one).await?;
        }
        let own = subjects(about.names, &about.part.platform, &about.image.digest)?;
        let statements = attestation::statements(work, &said, &own).await?;
        let attested = compose(about.image, &statements, about.artifact)?;
        let digest = &attested.manifest.descriptor.digest;
        let id = format!("exporting attestation manifest {digest}");
        let _status = work.progress.status(&id, "");
        let blobs: Vec<Bytes> = (attested.blobs.iter())
            .chain([&attested.manifest])
            .map(|document| document.bytes.clone())
            .collect();
        let store = self.store.clone();
        let stored =
            tasks::blocking(move || blobs.into_iter().try_for_each(|it| store.put(it).map(drop)));
        stored.await.map_err(|err| Error::new(&err))?;
        Ok(attested.manifest.descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Descriptor {
        Descriptor::new(media_type::OCI_MANIFEST, Digest::of("image"), 5)
    }

    #[test]
    fn an_artifact_names_its_subject() {
        let attested = compose(&image(), &[], true).expect("documents");
        let text = String::from_utf8(attested.manifest.bytes.to_vec()).expect("text");
        let manifest = Manifest::parse(text.as_bytes()).expect("a manifest");
        assert_eq!(manifest.subject, Some(image()));
        assert_eq!(manifest.artifact_type.as_deref(), Some(ARTIFACT));
        assert_eq!(manifest.config.data.as_deref(), Some("e30="));
        let annotations = &attested.manifest.descriptor.annotations;
        let subject = image().digest.to_string();
        assert_eq!(annotations["vnd.docker.reference.digest"], subject);
    }

    #[test]
    fn older_releases_write_an_image_for_an_unknown_platform() {
        let attested = compose(&image(), &[], false).expect("documents");
        let config = &attested.blobs.last().expect("a config").bytes;
        assert_eq!(
            config.as_ref(),
            br#"{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#
        );
    }

    #[test]
    fn images_are_called_by_package_urls() {
        let platform = Platform::parse("linux/arm64").expect("a platform");
        let named = subjects("a,,b:1", &platform, &Digest::of("")).expect("names");
        let names: Vec<&str> = named.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "pkg:docker/a@latest?platform=linux%2Farm64",
                "pkg:docker/b@1?platform=linux%2Farm64"
            ]
        );
        assert!(subjects("A", &platform, &Digest::of("")).is_err());
    }
}
