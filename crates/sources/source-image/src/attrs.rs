//! What a source op says about an image.

use std::num::IntErrorKind;

use cache::RecordType;
use oci::{Digest, DigestError, Locator, Reference};
use source::Identifier;

use crate::Error;

/// An identifier, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub(crate) name: Name,
    pub(crate) mode: Mode,
    pub(crate) record_type: RecordType,
    /// Only so many of the lowest layers.
    pub(crate) limit: Option<usize>,
    /// What the name must stand for.
    pub(crate) checksum: Option<Digest>,
}

/// Where an image is, and what it is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Registry(Reference),
    Layout(Layout),
}

/// An image in a store of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// As the user wrote it.
    pub(crate) text: String,
    /// What is wanted; there are no names in such stores.
    pub(crate) digest: Option<Digest>,
    /// The session that has the store; empty: whichever does.
    pub(crate) session: String,
    /// What the session calls it.
    pub(crate) store: String,
}

/// Whether the registry is asked what a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// It is; where it is unreachable, what it said last time may count.
    #[default]
    Default,
    /// It is, in any case.
    Pull,
    /// Not if the name was resolved before, and that may count.
    Local,
}

impl Attrs {
    pub(crate) fn parse(id: &Identifier) -> Result<Self, Error> {
        let locator = Locator::parse(&id.name)?;
        if locator.object.is_empty() {
            return Err(Error::Object);
        }
        let layout = id.scheme == "oci-layout";
        let text = |name: &str| id.attrs.get(name).cloned().unwrap_or_default();
        let name = if layout {
            Name::Layout(Layout {
                text: id.name.clone(),
                digest: object_digest(&locator.object).ok(),
                session: text("oci.session"),
                store: text("oci.store"),
            })
        } else {
            if let Some((_, digest)) = locator.object.split_once('@') {
                digest.parse::<Digest>()?;
            }
            Name::Registry(Reference::parse(&id.name)?)
        };
        let mut attrs = Self {
            name,
            mode: Mode::Default,
            record_type: RecordType::Regular,
            limit: None,
            checksum: None,
        };
        for (name, value) in &id.attrs {
            match name.as_str() {
                "image.resolvemode" if !layout => attrs.mode = mode(value)?,
                "image.recordtype" if !layout => attrs.record_type = record_type(value)?,
                "image.layerlimit" if !layout => attrs.limit = Some(limit(value)?),
                "oci.layerlimit" if layout => attrs.limit = Some(limit(value)?),
                "image.checksum" if !layout => attrs.checksum = Some(checksum(value)?),
                // Compat: attributes nobody knows are ignored.
                _ => {}
            }
        }
        Ok(attrs)
    }
}

/// The digest in `tag@digest`.
pub(crate) fn object_digest(object: &str) -> Result<Digest, DigestError> {
    let (_, digest) = object.split_once('@').ok_or(DigestError::Format)?;
    let digest: Digest = digest.parse()?;
    // Nobody outside has such.
    match digest.is_random() {
        true => Err(DigestError::Algorithm),
        false => Ok(digest),
    }
}

fn mode(mode: &str) -> Result<Mode, Error> {
    match mode {
        "" | "default" => Ok(Mode::Default),
        "pull" => Ok(Mode::Pull),
        "local" => Ok(Mode::Local),
        other => Err(Error::Mode {
            mode: other.to_owned(),
        }),
    }
}

pub(crate) fn record_type(text: &str) -> Result<RecordType, Error> {
    match text {
        "" | "regular" => Ok(RecordType::Regular),
        "internal" => Ok(RecordType::Internal),
        "frontend" => Ok(RecordType::Frontend),
        other => Err(Error::RecordType {
            text: other.to_owned(),
        }),
    }
}

fn limit(text: &str) -> Result<usize, Error> {
    let refused = |why: String| Error::Limit {
        text: text.to_owned(),
        why,
    };
    match text.parse::<i64>() {
        Ok(limit) if limit > 0 => Ok(usize::try_from(limit).unwrap_or(usize::MAX)),
        Ok(_) => Err(refused(String::new())),
        Err(err) => {
            let why = match err.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Err(refused(format!(": strconv.Atoi: parsing {text:?}: {why}")))
        }
    }
}

fn checksum(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|source| Error::BadChecksum {
        text: text.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn parse(name: &str, attrs: &[(&str, &str)]) -> Result<Attrs, String> {
        let attrs = attrs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect::<BTreeMap<_, _>>();
        let id = Identifier {
            scheme: "docker-image".to_owned(),
            name: name.to_owned(),
            attrs,
            platform: oci::Platform::host(),
        };
        Attrs::parse(&id).map_err(|err| fault::chain(&err))
    }

    fn refused(attr: &str, value: &str) -> String {
        parse("docker.io/library/busybox:latest", &[(attr, value)]).expect_err("refused")
    }

    #[test]
    fn all_attributes_are_understood() {
        let digest = Digest::of("x");
        let attrs = parse(
            "docker.io/library/busybox:latest",
            &[
                ("image.resolvemode", "pull"),
                ("image.recordtype", "frontend"),
                ("image.layerlimit", "2"),
                ("image.checksum", digest.as_str()),
                ("something.else", "x"),
            ],
        )
        .expect("an identifier");
        assert_eq!(attrs.mode, Mode::Pull);
        assert_eq!(attrs.record_type, RecordType::Frontend);
        assert_eq!(attrs.limit, Some(2));
        assert_eq!(attrs.checksum, Some(digest));
    }

    #[test]
    fn nonsense_is_refused_in_upstreams_words() {
        assert_eq!(
            refused("image.resolvemode", "maybe"),
            "invalid resolvemode: maybe"
        );
        assert_eq!(
            refused("image.recordtype", "exec.cachemount"),
            "invalid record type exec.cachemount"
        );
        assert_eq!(refused("image.layerlimit", "0"), "invalid layer limit 0");
        assert_eq!(
            refused("image.layerlimit", "x"),
            "invalid layer limit x: strconv.Atoi: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            refused("image.layerlimit", "99999999999999999999"),
            "invalid layer limit 99999999999999999999: strconv.Atoi: parsing \"99999999999999999999\": \
             value out of range"
        );
        for (digest, why) in [
            ("x", "invalid checksum digest format"),
            ("sha256:00", "invalid checksum digest length"),
            ("md5:00", "unsupported digest algorithm"),
            ("SHA256:00", "invalid checksum digest format"),
        ] {
            let wanted = format!("invalid image checksum {digest}: {why}");
            assert_eq!(refused("image.checksum", digest), wanted);
        }
    }

    #[test]
    fn a_layout_has_attributes_of_its_own() {
        let digest = Digest::of("x");
        let attrs = [
            ("oci.session", "s"),
            ("oci.store", "st"),
            ("oci.layerlimit", "2"),
            ("image.layerlimit", "3"),
        ];
        let id = Identifier {
            scheme: "oci-layout".to_owned(),
            name: format!("some/thing@{digest}"),
            attrs: attrs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            platform: oci::Platform::host(),
        };
        let attrs = Attrs::parse(&id).expect("an identifier");
        assert_eq!(attrs.limit, Some(2));
        let Name::Layout(layout) = attrs.name else {
            panic!("no layout");
        };
        assert_eq!(layout.digest, Some(digest));
        assert_eq!((&*layout.session, &*layout.store), ("s", "st"));
    }

    #[test]
    fn a_name_must_say_where_and_what() {
        let error = |name| parse(name, &[]).expect_err("refused");
        assert_eq!(error("docker.io/library/busybox"), "object required");
        assert_eq!(error("https://x/y:z"), "invalid reference");
        assert_eq!(
            error("localhost/x@sha256:12"),
            "invalid checksum digest length"
        );
    }
}
