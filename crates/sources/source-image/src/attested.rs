//! What is attested about an image: the statements that an index lists beside it.

use oci::media_type::OCI_INDEX;
use oci::{Descriptor, Platform};
use source::Attested;

use crate::Error;
use crate::image::Reader;

const KIND: &str = "vnd.docker.reference.type";
const ABOUT: &str = "vnd.docker.reference.digest";
const PREDICATE: &str = "in-toto.io/predicate-type";

/// What signatures are, the kind that is preferred first.
const SIGNATURES: [&str; 2] = [
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    "application/vnd.dev.cosign.artifact.sig.v1+json",
];

impl Reader<'_> {
    /// The documents about the image for `platform`, with the statements of the wanted predicate types. Where no index
    /// could list any there are none: a policy that asks must hear so, or it asks again.
    ///
    /// Compat: of several signatures one is told, vendor/github.com/moby/policy-helpers/image.
    pub(crate) async fn attested(
        &self,
        root: &Descriptor,
        platform: &Platform,
        wanted: &[String],
    ) -> Result<Attested, Error> {
        if root.media_type != OCI_INDEX {
            return Ok(Attested {
                image: self.manifest(root, platform).await?.0,
                root: root.digest.clone(),
                manifest: None,
                signature: None,
                blobs: Vec::new(),
            });
        }
        let entries = self.entries(root).await?;
        let matcher = oci::Matcher::only(platform);
        let image = matcher.best(&entries, |entry| entry.platform.as_ref());
        let image = image.ok_or(Error::Platform)?.digest.clone();
        let mut attested = Attested {
            root: root.digest.clone(),
            image,
            manifest: None,
            signature: None,
            blobs: vec![(root.clone(), self.read(root).await?)],
        };
        let has = |entry: &Descriptor, key: &str, value: &str| {
            entry.annotations.get(key).is_some_and(|it| it == value)
        };
        let about = attested.image.as_str();
        let list = entries
            .iter()
            .find(|entry| has(entry, KIND, "attestation-manifest") && has(entry, ABOUT, about));
        let Some(list) = list else {
            return Ok(attested);
        };
        attested.manifest = Some(list.digest.clone());
        attested.blobs.push((list.clone(), self.read(list).await?));
        for statement in self.layers_of(list).await? {
            let predicate = statement.annotations.get(PREDICATE);
            if predicate.is_some_and(|it| wanted.contains(it)) {
                let bytes = self.read(&statement).await?;
                attested.blobs.push((statement, bytes));
            }
        }
        if let Some(signature) = self.signature(list).await? {
            attested.signature = Some(signature.digest.clone());
            let parts = self.layers_of(&signature).await?;
            for part in [signature].into_iter().chain(parts) {
                let bytes = self.read(&part).await?;
                attested.blobs.push((part, bytes));
            }
        }
        Ok(attested)
    }

    /// The signature of a list of statements.
    async fn signature(&self, list: &Descriptor) -> Result<Option<Descriptor>, Error> {
        let found = self.place.referrers(self.cx, &list.digest).await;
        let found = found.map_err(|source| Error::Referrers {
            digest: list.digest.clone(),
            source: Box::new(source),
        })?;
        let is = |kind: &str| {
            let of_kind = |it: &&Descriptor| it.artifact_type.as_deref() == Some(kind);
            found.iter().find(of_kind).cloned()
        };
        Ok(SIGNATURES.into_iter().find_map(is))
    }
}
