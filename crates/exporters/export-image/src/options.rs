//! Options of the exporters. What nobody knows is kept: it counts as metadata of the result.

use std::collections::BTreeMap;

use export::{Epoch, Error, Input, parse_bool, parse_flag};
use layer::Compression;

use crate::Kind;
use crate::annotations::Annotations;

type Attrs = BTreeMap<String, String>;

/// The release whose behaviour a client gets that does not ask for another one.
const CURRENT: u32 = 30;

/// A release that knew no zstd.
const WITHOUT_ZSTD: u32 = 10;

/// Options that decide about the documents and layers.
#[derive(Debug, Clone)]
pub(crate) struct CommitOptions {
    /// Comma list of names as given; `*`: what the frontend says.
    pub name: String,
    pub compression: Compression,
    pub level: Option<i64>,
    pub force_compression: bool,
    pub prefer_nondistributable: bool,
    pub oci_types: Option<bool>,
    pub oci_artifact: Option<bool>,
    /// What is meant for images only makes an index of a single one.
    pub inline_attestations: bool,
    pub epoch: Epoch,
    pub rewrite_timestamp: bool,
    pub squash: Option<Squash>,
    pub annotations: Annotations,
    pub kind: Kind,
}

impl CommitOptions {
    /// Takes what it knows; the rest is returned.
    pub(crate) fn parse(kind: Kind, attrs: &Attrs) -> Result<(Self, Attrs), Error> {
        let mut options = Self {
            name: String::new(),
            compression: Compression::default(),
            level: None,
            force_compression: false,
            prefer_nondistributable: false,
            oci_types: None,
            oci_artifact: None,
            inline_attestations: kind == Kind::Image,
            epoch: Epoch::parse(attrs)?,
            rewrite_timestamp: false,
            squash: None,
            annotations: Annotations::default(),
            kind,
        };
        let mut rest = Attrs::new();
        for (key, value) in attrs {
            match key.as_str() {
                "source-date-epoch" => {}
                "name" => options.name.clone_from(value),
                "oci-mediatypes" => options.oci_types = Some(parse_bool(key, value)?),
                "oci-artifact" => options.oci_artifact = Some(parse_bool(key, value)?),
                "attestation-inline" => {
                    options.inline_attestations = parse_bool(key, value)?;
                }
                "prefer-nondist-layers" => {
                    options.prefer_nondistributable = parse_bool(key, value)?;
                }
                "rewrite-timestamp" => options.rewrite_timestamp = parse_bool(key, value)?,
                "squash" => options.squash = Some(parse_squash(value)?),
                "compression" => options.compression = parse_compression(value)?,
                "force-compression" => {
                    options.force_compression = parse_flag(key, value).map_err(|_| {
                        Error::user(format!(
                            "non-bool value {value} specified for force-compression: strconv.ParseBool: parsing \
                             {value:?}: invalid syntax"
                        ))
                    })?;
                }
                "compression-level" => options.level = Some(parse_level(value)?),
                _ if options.annotations.take(key, value)? => {}
                _ => {
                    rest.insert(key.clone(), value.clone());
                }
            }
        }
        options.check()?;
        Ok((options, rest))
    }

    fn check(&self) -> Result<(), Error> {
        if self.oci_types == Some(false) {
            self.check_types(false)?;
        }
        if self.oci_types == Some(false) && self.oci_artifact == Some(true) {
            return Err(Error::user(
                "exporter option \"oci-artifact=true\" conflicts with \"oci-mediatypes=false\"",
            ));
        }
        Ok(())
    }

    /// Documents of docker's types cannot say everything.
    pub(crate) fn check_types(&self, oci_types: bool) -> Result<(), Error> {
        if !oci_types && self.compression.needs_annotations() {
            return Err(Error::user(format!(
                "exporter option \"compression={}\" conflicts with \"oci-mediatypes=false\"",
                self.compression.as_str()
            )));
        }
        Ok(())
    }

    /// Whether the documents and layers get OCI media types.
    pub(crate) fn uses_oci_types(&self, input: &Input) -> bool {
        let current = is_current(input) || !input.attestations.is_empty();
        self.oci_types.unwrap_or(self.kind == Kind::Oci || current)
    }

    /// Whether what is said about images is an artifact.
    pub(crate) fn uses_artifacts(&self, input: &Input) -> bool {
        let default = || is_current(input) && self.uses_oci_types(input);
        self.oci_artifact.unwrap_or_else(default)
    }

    /// Releases that a client wants may not have known everything.
    pub(crate) fn check_compatibility(&self, compatibility: Option<u32>) -> Result<(), Error> {
        let is_zstd = matches!(
            self.compression,
            Compression::Zstd | Compression::ZstdChunked
        );
        if compatibility != Some(WITHOUT_ZSTD) || !is_zstd {
            return Ok(());
        }
        let kind = match self.kind {
            Kind::Image => "image",
            Kind::Oci => "oci",
            Kind::Docker => "docker",
        };
        Err(Error {
            message: format!(
                "unsupported compatibility-version {WITHOUT_ZSTD} feature {kind} exporter compression=zstd"
            ),
            class: fault::Class::User,
        })
    }

    /// What layers are like for those who speak of them. Who squashes them makes others than anybody else knows.
    pub(crate) fn shared_layers(&self, oci_types: bool) -> Option<layer::Options> {
        self.squash.is_none().then(|| self.layers(oci_types))
    }

    /// How new layers are made.
    pub(crate) fn layers(&self, oci_types: bool) -> layer::Options {
        layer::Options {
            compression: self.compression,
            level: self.level,
            force: self.force_compression,
            oci_types,
            prefer_nondistributable: self.prefer_nondistributable,
        }
    }
}

/// Which layers become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Squash {
    /// Those above the base image.
    Base,
    /// All.
    All,
}

fn parse_squash(text: &str) -> Result<Squash, Error> {
    match text {
        "base" => Ok(Squash::Base),
        "all" => Ok(Squash::All),
        _ => Err(Error::user(format!(
            "invalid value {text:?} specified for squash, it should be base or all"
        ))),
    }
}

fn is_current(input: &Input) -> bool {
    input.compatibility.unwrap_or(CURRENT) >= CURRENT
}

fn parse_compression(text: &str) -> Result<Compression, Error> {
    Compression::parse(text)
        .ok_or_else(|| Error::user(format!("unsupported compression type {text}")))
}

fn parse_level(text: &str) -> Result<i64, Error> {
    layer::parse_level(text).map_err(Error::user)
}

/// Options of `image` alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImageOptions {
    pub push: bool,
    pub push_by_digest: bool,
    pub insecure: bool,
    pub dangling_prefix: String,
    pub dangling_empty_only: bool,
    /// What nobody knows.
    pub metadata: Attrs,
}

impl ImageOptions {
    pub(crate) fn parse(attrs: &Attrs) -> Result<Self, Error> {
        let mut options = Self::default();
        for (key, value) in attrs {
            match key.as_str() {
                "push" => options.push = parse_flag(key, value)?,
                "push-by-digest" => options.push_by_digest = parse_flag(key, value)?,
                "registry.insecure" => options.insecure = parse_flag(key, value)?,
                // There is no image store to name, keep or unpack things in.
                "unpack"
                | "store"
                | "name-canonical"
                | "unsafe-internal-store-allow-incomplete" => {
                    parse_flag(key, value)?;
                }
                "dangling-name-prefix" => options.dangling_prefix.clone_from(value),
                // Compat: the spelling is upstream's.
                "danging-name-empty-only" => {
                    options.dangling_empty_only = parse_flag(key, value)?;
                }
                _ => {
                    options.metadata.insert(key.clone(), value.clone());
                }
            }
        }
        Ok(options)
    }

    /// The names an image gets.
    pub(crate) fn names(&self, given: &str, digest: &oci::Digest) -> String {
        if self.dangling_prefix.is_empty() || (self.dangling_empty_only && !given.is_empty()) {
            return given.to_owned();
        }
        let dangling = format!("{}@{digest}", self.dangling_prefix);
        if given.is_empty() {
            dangling
        } else {
            format!("{given},{dangling}")
        }
    }
}

/// Options of `oci` and `docker` alone.
#[derive(Debug, Clone)]
pub(crate) struct ArchiveOptions {
    /// One archive; else the client's directory.
    pub tar: bool,
    /// What nobody knows.
    pub metadata: Attrs,
}

impl ArchiveOptions {
    pub(crate) fn parse(attrs: &Attrs) -> Result<Self, Error> {
        let mut metadata = attrs.clone();
        let tar = match metadata.remove("tar") {
            Some(value) => parse_flag("tar", &value)?,
            None => true,
        };
        Ok(Self { tar, metadata })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> Attrs {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    fn error(pairs: &[(&str, &str)]) -> String {
        CommitOptions::parse(Kind::Image, &attrs(pairs))
            .map(drop)
            .expect_err("refused")
            .message
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        assert_eq!(
            error(&[("compression", "lz4")]),
            "unsupported compression type lz4"
        );
        assert_eq!(
            error(&[("squash", "true")]),
            "invalid value \"true\" specified for squash, it should be base or all"
        );
        assert!(
            error(&[("compression-level", "max")])
                .starts_with("non-integer value max specified for compression-level")
        );
        assert_eq!(
            error(&[("compression-level", "9223372036854775808")]),
            "non-integer value 9223372036854775808 specified for compression-level: strconv.ParseInt: parsing \
             \"9223372036854775808\": value out of range"
        );
        assert_eq!(parse_level("4294967296").ok(), Some(1 << 32));
        assert_eq!(
            error(&[("oci-mediatypes", "false"), ("compression", "estargz")]),
            "exporter option \"compression=estargz\" conflicts with \"oci-mediatypes=false\""
        );
        assert_eq!(
            error(&[("oci-mediatypes", "false"), ("oci-artifact", "true")]),
            "exporter option \"oci-artifact=true\" conflicts with \"oci-mediatypes=false\""
        );
    }

    #[test]
    fn media_types_follow_kind_and_release() {
        let parse = |kind| {
            CommitOptions::parse(kind, &Attrs::new())
                .expect("options")
                .0
        };
        let input = |compatibility| Input {
            compatibility,
            ..Input::default()
        };
        assert!(parse(Kind::Oci).uses_oci_types(&input(Some(10))));
        assert!(parse(Kind::Docker).uses_oci_types(&input(None)));
        assert!(!parse(Kind::Docker).uses_oci_types(&input(Some(20))));
        assert!(parse(Kind::Image).uses_artifacts(&input(None)));
        assert!(!parse(Kind::Oci).uses_artifacts(&input(Some(20))));
        let mut said = input(Some(20));
        said.attestations.insert(String::new(), Vec::new());
        assert!(parse(Kind::Docker).uses_oci_types(&said));
        assert!(!parse(Kind::Docker).uses_artifacts(&said));
    }

    #[test]
    fn unknown_options_are_kept() {
        let given = attrs(&[
            ("push", ""),
            ("name", "x"),
            ("image.name", "y"),
            ("annotation.k", "v"),
        ]);
        let (commit, rest) = CommitOptions::parse(Kind::Image, &given).expect("options");
        let image = ImageOptions::parse(&rest).expect("options");
        assert_eq!(commit.annotations.places(None).manifest["k"], "v");
        assert!(image.push);
        assert_eq!(image.metadata, attrs(&[("image.name", "y")]));
    }

    #[test]
    fn images_without_a_name_get_a_dangling_one() {
        let given = attrs(&[
            ("dangling-name-prefix", "p"),
            ("danging-name-empty-only", "true"),
        ]);
        let options = ImageOptions::parse(&given).expect("options");
        let digest = oci::Digest::of("");
        assert_eq!(options.names("", &digest), format!("p@{digest}"));
        assert_eq!(options.names("a", &digest), "a");
    }
}
