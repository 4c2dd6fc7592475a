//! How layers are compressed, and what that is called.

use std::num::IntErrorKind;

use oci::{Descriptor, media_type};

/// What the descriptors of layers with an index tell of it.
pub mod annotation {
    /// Digest of the index of an eStargz layer.
    pub const ESTARGZ_TOC: &str = "containerd.io/snapshot/stargz/toc.digest";
    /// Bytes of an eStargz layer when it is decompressed.
    pub const ESTARGZ_SIZE: &str = "io.containers.estargz.uncompressed-size";
    /// Digest of the compressed index of a zstd:chunked layer.
    pub const ZSTD_TOC: &str = "io.github.containers.zstd-chunked.manifest-checksum";
    /// Where that index is: offset, bytes, bytes when decompressed, form.
    pub const ZSTD_TOC_PLACE: &str = "io.github.containers.zstd-chunked.manifest-position";
    /// Where that is which makes the archive whole again: offset, bytes, bytes when decompressed.
    pub const ZSTD_TARSPLIT_PLACE: &str = "io.github.containers.zstd-chunked.tarsplit-position";
    /// All that belong to one compression, and to no other of the same layer.
    pub const ALL: [&str; 5] = [
        ESTARGZ_TOC,
        ESTARGZ_SIZE,
        ZSTD_TOC,
        ZSTD_TOC_PLACE,
        ZSTD_TARSPLIT_PLACE,
    ];
}

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
    /// Gzip with an index of its files, which can be read one by one.
    Estargz,
    /// Zstd with an index of its files, as podman and its family know it.
    ZstdChunked,
}

/// What new layers should be like.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Options {
    /// The compression.
    pub compression: Compression,
    /// How hard to try; absent: as fast as is still smaller than upstream.
    pub level: Option<i64>,
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

/// The value of the option `compression-level`, or all that is wrong with it.
pub fn parse_level(text: &str) -> Result<i64, String> {
    text.parse().map_err(|err: std::num::ParseIntError| {
        let why = match err.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!(
            "non-integer value {text} specified for compression-level: strconv.ParseInt: parsing {text:?}: {why}"
        )
    })
}

impl Compression {
    /// The compression of this option value: `gzip`, `zstd`, `uncompressed`, `estargz`, `zstd:chunked`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            "uncompressed" => Some(Self::Uncompressed),
            "estargz" => Some(Self::Estargz),
            "zstd:chunked" => Some(Self::ZstdChunked),
            _ => None,
        }
    }

    /// Whether a layer tells what is in it by annotations, which only OCI's documents have.
    pub fn needs_annotations(self) -> bool {
        matches!(self, Self::Estargz | Self::ZstdChunked)
    }

    /// The compression that a descriptor promises; `None` when it is no layer's.
    pub fn of(blob: &Descriptor) -> Option<Self> {
        let plain = Self::of_media_type(&blob.media_type)?;
        let told = |key| blob.annotations.contains_key(key);
        Some(match plain {
            Self::Gzip if told(annotation::ESTARGZ_TOC) => Self::Estargz,
            Self::Zstd if told(annotation::ZSTD_TOC) => Self::ZstdChunked,
            plain => plain,
        })
    }

    /// As an option value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Uncompressed => "uncompressed",
            Self::Estargz => "estargz",
            Self::ZstdChunked => "zstd:chunked",
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

    /// The compression that a media type promises, an index in it or not; `None` when it is no layer's.
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
            (Self::Gzip | Self::Estargz, true) => media_type::OCI_LAYER_GZIP,
            (Self::Zstd | Self::ZstdChunked, true) => media_type::OCI_LAYER_ZSTD,
            (Self::Uncompressed, false) => media_type::DOCKER_LAYER,
            (Self::Gzip | Self::Estargz, false) => media_type::DOCKER_LAYER_GZIP,
            (Self::Zstd | Self::ZstdChunked, false) => media_type::DOCKER_LAYER_ZSTD,
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
        (Compression::Gzip | Compression::Estargz, true) => media_type::OCI_LAYER_FOREIGN_GZIP,
        (Compression::Zstd | Compression::ZstdChunked, true) => media_type::OCI_LAYER_FOREIGN_ZSTD,
        (Compression::Uncompressed, false) => media_type::DOCKER_LAYER_FOREIGN,
        (Compression::Gzip | Compression::Estargz, false) => media_type::DOCKER_LAYER_FOREIGN_GZIP,
        // There is no such docker type.
        (Compression::Zstd | Compression::ZstdChunked, false) => given,
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
    fn levels_have_64_bits() {
        for level in [i64::MIN, -1, 0, 1 << 31, 1 << 32, i64::MAX] {
            assert_eq!(parse_level(&level.to_string()), Ok(level));
        }
        for (text, why) in [
            ("9223372036854775808", "value out of range"),
            ("-9223372036854775809", "value out of range"),
            ("max", "invalid syntax"),
            ("", "invalid syntax"),
        ] {
            let said = format!(
                "non-integer value {text} specified for compression-level: strconv.ParseInt: parsing {text:?}: {why}"
            );
            assert_eq!(parse_level(text), Err(said));
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
