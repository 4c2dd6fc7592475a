//! How layers are compressed, and what that is called.

use oci::media_type;

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Compression {
    /// Not at all.
    Uncompressed,
    /// Independent gzip members.
    #[default]
    Gzip,
    /// Independent zstd frames.
    Zstd,
}

/// What new layers should be like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Options {
    /// The compression.
    pub compression: Compression,
    /// How hard to try; absent: as fast as is still smaller than upstream.
    pub level: Option<i32>,
    /// Layers that exist with another compression are converted as well.
    pub force: bool,
    /// Media types of OCI rather than of docker.
    pub oci_types: bool,
    /// Layers that must not be distributed keep the media type that says so.
    pub prefer_nondistributable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            level: None,
            force: false,
            oci_types: true,
            prefer_nondistributable: false,
        }
    }
}

impl Compression {
    /// The compression of this option value: `gzip`, `zstd`, `uncompressed`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            "uncompressed" => Some(Self::Uncompressed),
            _ => None,
        }
    }

    /// As an option value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Uncompressed => "uncompressed",
        }
    }

    /// The compression of a blob that begins like this.
    pub fn detect(start: &[u8]) -> Self {
        if start.starts_with(&[0x1f, 0x8b, 0x08]) {
            Self::Gzip
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::Uncompressed
        }
    }

    /// The compression that a media type promises; `None` when it is no layer's.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            media_type::OCI_LAYER
            | media_type::OCI_LAYER_FOREIGN
            | media_type::DOCKER_LAYER
            | media_type::DOCKER_LAYER_FOREIGN => Some(Self::Uncompressed),
            media_type::OCI_LAYER_GZIP
            | media_type::OCI_LAYER_FOREIGN_GZIP
            | media_type::DOCKER_LAYER_GZIP
            | media_type::DOCKER_LAYER_FOREIGN_GZIP => Some(Self::Gzip),
            media_type::OCI_LAYER_ZSTD
            | media_type::OCI_LAYER_FOREIGN_ZSTD
            | media_type::DOCKER_LAYER_ZSTD => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The media type of a layer.
    pub fn media_type(self, oci: bool) -> &'static str {
        match (self, oci) {
            (Self::Uncompressed, true) => media_type::OCI_LAYER,
            (Self::Gzip, true) => media_type::OCI_LAYER_GZIP,
            (Self::Zstd, true) => media_type::OCI_LAYER_ZSTD,
            (Self::Uncompressed, false) => media_type::DOCKER_LAYER,
            (Self::Gzip, false) => media_type::DOCKER_LAYER_GZIP,
            (Self::Zstd, false) => media_type::DOCKER_LAYER_ZSTD,
        }
    }
}

/// The media type of the same layer in the other family. Types that are no layer's stay as they are; layers that must
/// not be distributed become ordinary ones unless `keep_nondistributable`.
pub fn convert_media_type(given: &str, oci: bool, keep_nondistributable: bool) -> String {
    let foreign = matches!(
        given,
        media_type::OCI_LAYER_FOREIGN
            | media_type::OCI_LAYER_FOREIGN_GZIP
            | media_type::OCI_LAYER_FOREIGN_ZSTD
            | media_type::DOCKER_LAYER_FOREIGN
            | media_type::DOCKER_LAYER_FOREIGN_GZIP
    );
    let Some(compression) = Compression::of_media_type(given) else {
        return given.to_owned();
    };
    if !(foreign && keep_nondistributable) {
        return compression.media_type(oci).to_owned();
    }
    let kept = match (compression, oci) {
        (Compression::Uncompressed, true) => media_type::OCI_LAYER_FOREIGN,
        (Compression::Gzip, true) => media_type::OCI_LAYER_FOREIGN_GZIP,
        (Compression::Zstd, true) => media_type::OCI_LAYER_FOREIGN_ZSTD,
        (Compression::Uncompressed, false) => media_type::DOCKER_LAYER_FOREIGN,
        (Compression::Gzip, false) => media_type::DOCKER_LAYER_FOREIGN_GZIP,
        // There is no such docker type.
        (Compression::Zstd, false) => given,
    };
    kept.to_owned()
}

/// Whether a layer of this type must not be distributed.
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.contains("nondistributable") || media_type.contains(".foreign.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_change_family_and_foreign_ones_become_ordinary() {
        for (given, oci, keep, wanted) in [
            (
                media_type::DOCKER_LAYER_GZIP,
                true,
                false,
                media_type::OCI_LAYER_GZIP,
            ),
            (
                media_type::OCI_LAYER_ZSTD,
                false,
                false,
                media_type::DOCKER_LAYER_ZSTD,
            ),
            (
                media_type::DOCKER_LAYER_FOREIGN_GZIP,
                true,
                false,
                media_type::OCI_LAYER_GZIP,
            ),
            (
                media_type::DOCKER_LAYER_FOREIGN_GZIP,
                true,
                true,
                media_type::OCI_LAYER_FOREIGN_GZIP,
            ),
            (media_type::INTOTO, true, false, media_type::INTOTO),
        ] {
            assert_eq!(convert_media_type(given, oci, keep), wanted, "{given}");
        }
    }

    #[test]
    fn a_blob_is_known_by_its_first_bytes() {
        assert_eq!(
            Compression::detect(&[0x1f, 0x8b, 0x08, 0]),
            Compression::Gzip
        );
        assert_eq!(
            Compression::detect(&[0x28, 0xb5, 0x2f, 0xfd]),
            Compression::Zstd
        );
        assert_eq!(Compression::detect(b"file"), Compression::Uncompressed);
        assert_eq!(Compression::detect(b""), Compression::Uncompressed);
    }
}
