//! Whether a result is for the platforms that were asked for. If not, users get a warning, no more.

use std::collections::{BTreeMap, BTreeSet};

use diagnostics::Failure;
use export::Input;
use oci::Platform;

/// What is wrong with the platforms of a result, in words.
pub(crate) fn platforms(
    attrs: &BTreeMap<String, String>,
    input: &Input,
) -> Result<Vec<String>, Failure> {
    let empty = input.single.as_ref().is_none_or(Option::is_none) && input.platforms.is_empty();
    if empty && !input.metadata.contains_key("refs.platforms") {
        return Ok(Vec::new());
    }
    let parts = input.parts().map_err(|err| Failure::from_error(&err))?;
    let made = parts
        .iter()
        .map(|part| part.platform.normalized())
        .collect();
    let asked: Vec<String> = match attrs.get("platform") {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => vec![Platform::host().to_string()],
    };
    Ok(compare(&asked, made, !input.platforms.is_empty()))
}

fn compare(asked: &[String], mut made: Vec<Platform>, many: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut wanted = BTreeSet::new();
    for text in asked {
        match Platform::parse(text) {
            Ok(platform) => {
                if !wanted.insert(platform.normalized().to_string()) {
                    warnings.push(format!("Duplicate platform result requested {text:?}"));
                }
            }
            Err(err) => warnings.push(format!("Invalid platform result requested {text:?}: {err}")),
        }
    }
    if !warnings.is_empty() {
        return warnings;
    }
    if let ([text], [only]) = (asked, made.as_mut_slice()) {
        // A request seldom says a version of the system, a result may.
        if !wanted.contains(&only.to_string())
            && Platform::parse(text).is_ok_and(|platform| platform.os_version.is_empty())
        {
            only.os_version.clear();
        }
        if wanted.contains(&only.to_string()) {
            return Vec::new();
        }
        return vec![format!(
            "Requested platform {text:?} does not match result platform \"{only}\""
        )];
    }
    if !many && wanted.len() > 1 {
        let text = "Multiple platforms requested but result is not multi-platform";
        return vec![text.to_owned()];
    }
    let mut made: Vec<String> = made.iter().map(Platform::to_string).collect();
    made.sort();
    if wanted.len() == made.len() && made.iter().all(|platform| wanted.contains(platform)) {
        return Vec::new();
    }
    let wanted: Vec<String> = wanted.into_iter().collect();
    vec![format!(
        "Requested platforms {} do not match result platforms {}",
        wanted.join(","),
        made.join(",")
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: &str, made: &[&str], many: bool) -> Vec<String> {
        let asked: Vec<String> = asked.split(',').map(str::to_owned).collect();
        let made = made
            .iter()
            .map(|text| Platform::parse(text).unwrap())
            .collect();
        compare(&asked, made, many)
    }

    #[test]
    fn what_was_asked_for_needs_no_word() {
        assert!(check("linux/amd64", &["linux/amd64"], false).is_empty());
        assert!(
            check(
                "linux/arm64,linux/amd64",
                &["linux/amd64", "linux/arm64"],
                true
            )
            .is_empty()
        );
    }

    #[test]
    fn another_platform_is_named() {
        assert_eq!(
            check("linux/amd64", &["linux/arm64"], false),
            ["Requested platform \"linux/amd64\" does not match result platform \"linux/arm64\""]
        );
        assert_eq!(
            check("linux/amd64", &["linux/amd64", "linux/arm64"], true),
            [
                "Requested platforms linux/amd64 do not match result platforms linux/amd64,linux/arm64"
            ]
        );
    }

    #[test]
    fn one_result_for_many_platforms_is_noticed() {
        assert_eq!(
            check("linux/amd64,linux/arm64", &["linux/amd64"], false),
            ["Multiple platforms requested but result is not multi-platform"]
        );
    }

    #[test]
    fn asking_twice_is_noticed() {
        assert_eq!(
            check("linux/amd64,linux/amd64", &["linux/amd64"], false),
            ["Duplicate platform result requested \"linux/amd64\""]
        );
    }
}
