//! What a frontend says it can, and what is asked of it.

use std::collections::BTreeSet;

use diagnostics::{Detail, Failure};
use fault::Class;
use frontend::Request;

use crate::image::Image;

const LABEL: &str = "moby.buildkit.frontend.caps";
const INPUTS: &str = "moby.buildkit.frontend.inputs";

/// Compat: these images can take inputs, but were made before there was a label to say so.
const KNOWN: [&str; 4] = [
    "sha256:9ac1c43a60e31dca741a6fe8314130a9cd4c4db0311fbbc636ff992ef60ae76d",
    "sha256:080bd74d8778f83e7b670de193362d8c593c8b14f5c8fb919d28ee8feda0d069",
    "sha256:60543a9d92b92af5088fb2938fb09b2072684af8384399e153e137fe081f8ab4",
    "sha256:de85b2f3a3e8a2f7fe48e8e84a65f6fdd5cd5183afa6412fff9caa6871649c44",
];

/// Whether a frontend can what the request needs.
pub(crate) fn check(image: &Image, request: &Request) -> Result<(), Failure> {
    let label = image.config.labels.get(LABEL);
    let mut offered = list(label.map_or("", String::as_str));
    let digest = image.digest.as_ref().map(oci::Digest::as_str);
    if digest.is_some_and(|digest| KNOWN.contains(&digest)) {
        offered.insert(INPUTS);
    }
    let wanted = request.options.get("frontend.caps");
    let mut wanted = list(wanted.map_or("", String::as_str));
    if !request.inputs.is_empty() {
        wanted.insert(INPUTS);
    }
    match wanted.difference(&offered).next() {
        None => Ok(()),
        Some(missing) => {
            let text = format!("unsupported frontend capability {missing}");
            let detail = Detail::FrontendCap {
                name: (*missing).to_owned(),
            };
            Err(Failure::new(Class::Unsupported, text).with(detail))
        }
    }
}

/// A comma-separated list; what follows a plus is for people.
fn list(text: &str) -> BTreeSet<&str> {
    text.split(',')
        .map(|name| name.split('+').next().unwrap_or_default())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn checked(label: &str, wanted: &str, inputs: bool) -> Result<(), Failure> {
        let mut image = Image::default();
        image
            .config
            .labels
            .insert(LABEL.to_owned(), label.to_owned());
        let mut request = Request {
            options: BTreeMap::from([("frontend.caps".to_owned(), wanted.to_owned())]),
            ..Request::default()
        };
        if inputs {
            request
                .inputs
                .insert("a".to_owned(), proto::pb::Definition::default());
        }
        check(&image, &request)
    }

    #[test]
    fn what_is_asked_for_must_be_in_the_label() {
        assert!(checked("a+x,b", "b+forward,a", false).is_ok());
        let refused = checked("a", "c", false).expect_err("not there");
        assert_eq!(refused.code() as i32, 12);
        assert!(matches!(refused.details(), [Detail::FrontendCap { name }] if name == "c"));
    }

    #[test]
    fn inputs_need_a_capability() {
        assert!(checked("", "", true).is_err());
        assert!(checked(INPUTS, "", true).is_ok());
    }
}
