//! References and platforms against the recorded behaviour of the stock tools.

use oci::{Locator, Matcher, Platform, Reference};
use serde_json::Value;

fn vector(name: &str) -> Value {
    let path = format!(
        "{}/../../../testing/vectors/refs/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).expect("a vector file");
    serde_json::from_str(&text).expect("a JSON document")
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_default()
}

#[test]
fn every_recorded_reference_reads_as_recorded() {
    for case in vector("references.json").as_array().expect("a list") {
        let input = text(case, "input");
        match Reference::parse(input) {
            Err(err) => assert_eq!(err.to_string(), text(case, "error"), "{input}"),
            Ok(reference) => {
                assert_eq!("", text(case, "error"), "{input}");
                assert_eq!(reference.to_string(), text(case, "normalized"), "{input}");
                assert_eq!(reference.familiar(), text(case, "familiar"), "{input}");
                assert_eq!(reference.domain(), text(case, "domain"), "{input}");
                assert_eq!(reference.path(), text(case, "path"), "{input}");
                assert_eq!(
                    reference.tag().unwrap_or_default(),
                    text(case, "tag"),
                    "{input}"
                );
                let digest = reference.digest().map(oci::Digest::as_str);
                assert_eq!(digest.unwrap_or_default(), text(case, "digest"), "{input}");
                let full = reference.with_default_tag().to_string();
                assert_eq!(full, text(case, "with_default_tag"), "{input}");
                assert_eq!(
                    format!("docker-image://{full}"),
                    text(case, "llb_image_identifier")
                );
            }
        }
    }
}

#[test]
fn every_recorded_reference_splits_as_recorded() {
    for case in vector("references.json").as_array().expect("a list") {
        let input = text(case, "input");
        match Locator::parse(input) {
            Err(err) => assert_eq!(err.to_string(), text(case, "split_error"), "{input}"),
            Ok(split) => {
                assert_eq!("", text(case, "split_error"), "{input}");
                assert_eq!(split.locator, text(case, "split_locator"), "{input}");
                assert_eq!(split.object, text(case, "split_object"), "{input}");
                assert_eq!(split.host, text(case, "split_host"), "{input}");
            }
        }
    }
}

fn platform(value: &Value) -> Platform {
    serde_json::from_value(value.clone()).expect("a platform")
}

#[test]
fn every_recorded_platform_reads_as_recorded() {
    let vector = vector("platforms.json");
    let here = Platform::parse(text(&vector, "default_here")).expect("a platform");
    for case in vector["cases"].as_array().expect("a list") {
        let input = text(case, "input");
        let one_word = !input.contains('/');
        if one_word && Platform::host() != here {
            continue; // the missing half is this machine's
        }
        match Platform::parse(input) {
            Err(err) => assert_eq!(err.to_string(), text(case, "error"), "{input}"),
            Ok(parsed) => {
                assert_eq!("", text(case, "error"), "{input}");
                assert_eq!(parsed, platform(&case["parsed"]), "{input}");
                assert_eq!(
                    parsed.normalized(),
                    platform(&case["normalized"]),
                    "{input}"
                );
                assert_eq!(parsed.normalized().short(), text(case, "format"), "{input}");
                assert_eq!(
                    parsed.normalized().to_string(),
                    text(case, "format_all"),
                    "{input}"
                );
            }
        }
    }
}

#[test]
fn every_recorded_platform_accepts_what_is_recorded() {
    let vector = vector("platforms.json");
    let list = |value: &Value| -> Vec<String> {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .map(|item| item.as_str().expect("a text").to_owned())
            .collect()
    };
    let candidates = list(&vector["candidates"]);
    for case in vector["cases"].as_array().expect("a list") {
        let Ok(parsed) = Platform::parse(text(case, "input")) else {
            continue;
        };
        let accepted = |matcher: Matcher| -> Vec<String> {
            let mut found: Vec<(usize, String)> = candidates
                .iter()
                .filter_map(|text| {
                    let candidate = Platform::parse(text).expect("a platform");
                    Some((matcher.rank(&candidate)?, text.clone()))
                })
                .collect();
            found.sort_by_key(|(rank, _)| *rank);
            found.into_iter().map(|(_, text)| text).collect()
        };
        let input = text(case, "input");
        assert_eq!(
            accepted(Matcher::only(&parsed)),
            list(&case["only_matches"]),
            "{input}"
        );
        assert_eq!(
            accepted(Matcher::strict(&parsed)),
            list(&case["only_strict_matches"]),
            "{input}"
        );
    }
}
