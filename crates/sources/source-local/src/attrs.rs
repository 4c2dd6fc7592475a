//! The attributes of a local source and the key they make.

use filesync::{Differ, Exceptions};
use fstree::Patterns;
use oci::Digest;
use source::Error;

use crate::RawAttrs;

/// Attributes, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attrs {
    /// The session that has the directory, without its prefix.
    pub(crate) session: Option<String>,
    /// Separates equal names of different builds in one session.
    pub(crate) session_prefix: Option<String>,
    pub(crate) include: Option<Vec<String>>,
    pub(crate) exclude: Option<Vec<String>>,
    pub(crate) follow: Option<Vec<String>>,
    pub(crate) shared_key_hint: String,
    pub(crate) differ: Differ,
    pub(crate) metadata_only: Option<Exceptions>,
    metadata_exceptions: Vec<String>,
}

fn list(attrs: &RawAttrs, key: &str) -> Result<Option<Vec<String>>, Error> {
    attrs
        .get(key)
        .map(|json| {
            serde_json::from_str(json)
                .map_err(|err| Error::user(format!("invalid value for {key} {json:?}: {err}")))
        })
        .transpose()
}

impl Attrs {
    pub(crate) fn parse(attrs: &RawAttrs) -> Result<Self, Error> {
        let session = attrs
            .get("local.session")
            .filter(|session| !session.is_empty());
        let (prefix, session) = match session.map(|session| session.split_once(':')) {
            None => (None, None),
            Some(Some((prefix, id))) if !id.is_empty() => {
                (Some(prefix.to_owned()), Some(id.to_owned()))
            }
            Some(_) => (None, session.cloned()),
        };
        let metadata = match attrs.get("local.metadatatransfer") {
            None => false,
            Some(text) => fault::truth(text).ok_or_else(|| {
                Error::user(format!("invalid value for local.metadatatransfer {text:?}"))
            })?,
        };
        let exceptions = list(attrs, "local.metadatatransferexclude")?.unwrap_or_default();
        let patterns = Patterns::new(&exceptions).map_err(|err| Error::user(err.to_string()))?;
        Ok(Self {
            session,
            session_prefix: prefix,
            include: list(attrs, "local.includepattern")?,
            exclude: list(attrs, "local.excludepatterns")?,
            follow: list(attrs, "local.followpaths")?,
            shared_key_hint: attrs
                .get("local.sharedkeyhint")
                .cloned()
                .unwrap_or_default(),
            differ: match attrs.get("local.differ").map(String::as_str) {
                Some("none") => Differ::None,
                _ => Differ::Metadata,
            },
            metadata_only: metadata.then_some(Exceptions(patterns)),
            metadata_exceptions: exceptions,
        })
    }

    /// The digest in the source's key: of JSON in which an absent list is `null`.
    pub(crate) fn digest(&self, session: &str) -> Digest {
        let mut json = String::from("{\"SessionID\":");
        proto::gojson::write_str(&mut json, session);
        for (key, value) in [
            ("IncludePatterns", &self.include),
            ("ExcludePatterns", &self.exclude),
            ("FollowPaths", &self.follow),
        ] {
            json.push_str(&format!(",\"{key}\":"));
            match value {
                None => json.push_str("null"),
                Some(list) => write_list(&mut json, list),
            }
        }
        if self.metadata_only.is_some() {
            json.push_str(",\"MetadataTransfer\":true");
        }
        if !self.metadata_exceptions.is_empty() {
            json.push_str(",\"MetadataExceptions\":");
            write_list(&mut json, &self.metadata_exceptions);
        }
        json.push('}');
        Digest::of(json)
    }
}

fn write_list(json: &mut String, list: &[String]) {
    json.push('[');
    for (index, text) in list.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        proto::gojson::write_str(json, text);
    }
    json.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> Result<Attrs, Error> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Attrs::parse(&pairs.collect())
    }

    #[test]
    fn a_session_may_have_a_prefix() {
        let parsed = attrs(&[("local.session", "build:abc")]).expect("valid");
        assert_eq!(parsed.session.as_deref(), Some("abc"));
        assert_eq!(parsed.session_prefix.as_deref(), Some("build"));
    }

    #[test]
    fn absent_lists_are_null_in_the_key() {
        let parsed = attrs(&[("local.followpaths", "[\"a\"]")]).expect("valid");
        let json = r#"{"SessionID":"s","IncludePatterns":null,"ExcludePatterns":null,"FollowPaths":["a"]}"#;
        assert_eq!(parsed.digest("s"), Digest::of(json));
    }

    #[test]
    fn wrong_values_are_named() {
        let err = attrs(&[("local.metadatatransfer", "maybe")]).expect_err("wrong");
        assert_eq!(
            err.message,
            "invalid value for local.metadatatransfer \"maybe\""
        );
        assert!(attrs(&[("local.includepattern", "{")]).is_err());
    }
}
