//! What a source op says about an image.

use cache::RecordType;
use oci::{Digest, Locator, Reference};
use source::Identifier;

use crate::Error;

/// An identifier, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub(crate) reference: Reference,
    pub(crate) record_type: RecordType,
    /// Only so many of the lowest layers.
    pub(crate) limit: Option<usize>,
    /// What the name must stand for.
    pub(crate) checksum: Option<Digest>,
}

impl Attrs {
    pub(crate) fn parse(id: &Identifier) -> Result<Self, Error> {
        if Locator::parse(&id.name)?.object.is_empty() {
            return Err(Error::Object);
        }
        let mut attrs = Self {
            reference: Reference::parse(&id.name)?,
            record_type: RecordType::Regular,
            limit: None,
            checksum: None,
        };
        for (name, value) in &id.attrs {
            match name.as_str() {
                "image.resolvemode" => check_mode(value)?,
                "image.recordtype" => attrs.record_type = record_type(value)?,
                "image.layerlimit" => attrs.limit = Some(limit(value)?),
                "image.checksum" => attrs.checksum = Some(checksum(value)?),
                // Compat: attributes nobody knows are ignored.
                _ => {}
            }
        }
        Ok(attrs)
    }
}

/// All modes ask the registry as long as there is no other store of images.
pub(crate) fn check_mode(mode: &str) -> Result<(), Error> {
    match mode {
        "" | "default" | "pull" | "local" => Ok(()),
        other => Err(Error::Mode {
            mode: other.to_owned(),
        }),
    }
}

fn record_type(text: &str) -> Result<RecordType, Error> {
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
    match text.parse() {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(Error::Limit {
            text: text.to_owned(),
        }),
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
        Attrs::parse(&id).map_err(|err| err.to_string())
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
        assert_eq!(refused("image.layerlimit", "x"), "invalid layer limit x");
        assert!(refused("image.checksum", "x").starts_with("invalid image checksum x"));
    }

    #[test]
    fn a_name_must_say_where_and_what() {
        let error = |name| parse(name, &[]).expect_err("refused");
        assert_eq!(error("docker.io/library/busybox"), "object required");
        assert_eq!(error("https://x/y:z"), "invalid reference");
    }
}
