//! What is attested about an image: the statements that an index lists beside it.

use oci::media_type::OCI_INDEX;
use oci::{Descriptor, Platform};
use source::Attested;

use crate::Error;
use crate::image::Reader;

const KIND: &str = "vnd.docker.reference.type";
const ABOUT: &str = "vnd.docker.reference.digest";
const PREDICATE: &str = "in-toto.io/predicate-type";

impl Reader<'_> {
    /// The documents about the image for `platform`, with the statements of the wanted predicate types. `None`: there
    /// is no index that could list any.
    ///
    /// Signatures lie beside an image under names of their own, which are not looked for.
    pub(crate) async fn attested(
        &self,
        root: &Descriptor,
        platform: &Platform,
        wanted: &[String],
    ) -> Result<Option<Attested>, Error> {
        if root.media_type != OCI_INDEX {
            return Ok(None);
        }
        let entries = self.entries(root).await?;
        let matcher = oci::Matcher::only(platform);
        let image = matcher.best(&entries, |entry| entry.platform.as_ref());
        let image = image.ok_or(Error::Platform)?.digest.clone();
        let mut attested = Attested {
            root: root.digest.clone(),
            image,
            manifest: None,
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
            return Ok(Some(attested));
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
        Ok(Some(attested))
    }
}
