//! Annotations that users give: `annotation[-<place>][[<platform>]].<key>`.

use std::collections::BTreeMap;

use export::Error;
use oci::Platform;

type Map = BTreeMap<String, String>;

/// Annotations by the place they go to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Places {
    /// In the manifest.
    pub manifest: Map,
    /// On the descriptor of the manifest.
    pub manifest_descriptor: Map,
    /// In the index.
    pub index: Map,
    /// On the descriptor of the index.
    pub index_descriptor: Map,
}

/// Annotations by platform; the empty id: for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Annotations(BTreeMap<String, Places>);

impl Annotations {
    /// Takes a key that names an annotation; whether it did.
    pub(crate) fn take(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        let Some((place, platform, name)) = split(key) else {
            return Ok(false);
        };
        let platform = match platform {
            // Compat: as it was given, though results are known by the shortest name of their platform.
            Some(text) => Platform::parse(text)
                .map_err(|err| Error::new(&err))?
                .to_string(),
            None => String::new(),
        };
        let places = self.0.entry(platform).or_default();
        let map = match place {
            None | Some("manifest") => &mut places.manifest,
            Some("manifest-descriptor") => &mut places.manifest_descriptor,
            Some("index") => &mut places.index,
            Some("index-descriptor") => &mut places.index_descriptor,
            Some(other) => {
                return Err(Error::user(format!("unrecognized annotation type {other}")));
            }
        };
        map.insert(name.to_owned(), value.to_owned());
        Ok(true)
    }

    /// What holds for a platform; `None`: what holds for all. There is one index, whatever platform its annotations name.
    pub(crate) fn places(&self, platform: Option<&str>) -> Places {
        let mut merged = Places::default();
        for places in self.0.values() {
            merged.index.extend(places.index.clone());
            let index = &mut merged.index_descriptor;
            index.extend(places.index_descriptor.clone());
        }
        for id in [Some(""), platform].into_iter().flatten() {
            let Some(own) = self.0.get(id) else { continue };
            merged.manifest.extend(own.manifest.clone());
            let manifest = &mut merged.manifest_descriptor;
            manifest.extend(own.manifest_descriptor.clone());
        }
        merged
    }

    /// Whether everything can go where it is meant to. `platforms`: those that exist, if they are told apart.
    pub(crate) fn check(&self, platforms: Option<&[&str]>, oci_types: bool) -> Result<(), Error> {
        for (id, places) in &self.0 {
            let known = |platforms: &[&str]| id.is_empty() || platforms.contains(&id.as_str());
            if !platforms.is_none_or(known) {
                return Err(Error::user(format!(
                    "invalid annotation: no platform {id} found in source"
                )));
            }
            let only_oci = [
                &places.index,
                &places.index_descriptor,
                &places.manifest_descriptor,
            ];
            if !oci_types && only_oci.iter().any(|map| !map.is_empty()) {
                return Err(Error::user(
                    "cannot export annotations with \"oci-mediatypes=false\"",
                ));
            }
        }
        Ok(())
    }
}

/// Place, platform and name, if the key is an annotation's.
fn split(key: &str) -> Option<(Option<&str>, Option<&str>, &str)> {
    let rest = key.strip_prefix("annotation")?;
    let (place, rest) = match rest.strip_prefix('-') {
        Some(rest) => {
            let end = rest.find(['[', '.'])?;
            let (place, rest) = rest.split_at(end);
            let valid = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            if place.is_empty() || !place.bytes().all(valid) {
                return None;
            }
            (Some(place), rest)
        }
        None => (None, rest),
    };
    let (platform, rest) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (platform, rest) = rest.split_once(']')?;
            let valid =
                |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'-');
            if platform.is_empty() || !platform.bytes().all(valid) {
                return None;
            }
            (Some(platform), rest)
        }
        None => (None, rest),
    };
    let name = rest.strip_prefix('.')?;
    let valid = !name.is_empty() && !name.contains(char::is_whitespace);
    valid.then_some((place, platform, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_place_platform_and_name() {
        for (key, wanted) in [
            ("annotation.a.b", Some((None, None, "a.b"))),
            ("annotation-index.x", Some((Some("index"), None, "x"))),
            (
                "annotation-manifest-descriptor[linux/arm/v7].x",
                Some((Some("manifest-descriptor"), Some("linux/arm/v7"), "x")),
            ),
            (
                "annotation[linux/arm64].x",
                Some((None, Some("linux/arm64"), "x")),
            ),
            ("annotation", None),
            ("annotation.", None),
            ("annotation.a b", None),
            ("annotations.a", None),
            ("annotation[].a", None),
        ] {
            assert_eq!(split(key), wanted, "{key}");
        }
    }

    #[test]
    fn platforms_are_those_that_were_given() {
        for (given, built) in [
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
        ] {
            let mut all = Annotations::default();
            let key = format!("annotation[{given}].k");
            assert!(all.take(&key, "v").expect("an annotation"));
            let err = all.check(Some(&[built]), true).expect_err("refused");
            let said = format!("invalid annotation: no platform {given} found in source");
            assert_eq!(err.message, said);
            assert_eq!(all.places(Some(built)), Places::default());
        }
    }

    #[test]
    fn a_platform_of_its_own_overrides_and_must_exist() {
        let mut all = Annotations::default();
        for (key, value) in [
            ("annotation.k", "1"),
            ("annotation[linux/arm64].k", "2"),
            ("annotation-index.i", "3"),
            ("annotation-index[linux/arm64].j", "4"),
        ] {
            assert!(all.take(key, value).expect("an annotation"));
        }
        assert_eq!(all.places(Some("linux/arm64")).manifest["k"], "2");
        assert_eq!(all.places(Some("linux/amd64")).manifest["k"], "1");
        for platform in [None, Some("linux/amd64")] {
            assert_eq!(all.places(platform).index["j"], "4", "there is one index");
        }
        let check = |platforms: &[&str], oci| all.check(Some(platforms), oci);
        let error = |platforms: &[&str], oci| check(platforms, oci).expect_err("refused").message;
        assert!(all.check(None, true).is_ok());
        assert_eq!(
            error(&["linux/amd64"], true),
            "invalid annotation: no platform linux/arm64 found in source"
        );
        assert_eq!(
            error(&["linux/arm64"], false),
            "cannot export annotations with \"oci-mediatypes=false\""
        );
        let refused = all.take("annotation-layer.x", "").expect_err("refused");
        assert_eq!(refused.message, "unrecognized annotation type layer");
    }
}
