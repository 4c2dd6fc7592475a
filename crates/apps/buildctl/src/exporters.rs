//! What exporters are known to take, so that a misspelt option is not lost in silence.
//!
//! The daemon has to pass on what it does not know (other clients count on that); a person at a command line is told.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use dockerfile_syntax::suggest::{Case, hint};

const IMAGE: &[&str] = &[
    "attestation-inline",
    "compression",
    "compression-level",
    "danging-name-empty-only",
    "dangling-name-prefix",
    "force-compression",
    "name",
    "name-canonical",
    "oci-artifact",
    "oci-mediatypes",
    "prefer-nondist-layers",
    "push",
    "push-by-digest",
    "rewrite-timestamp",
    "source-date-epoch",
    "squash",
    "store",
    "unpack",
    "unsafe-internal-store-allow-incomplete",
    // Older releases had these; whoever still gives them is not to be stopped.
    "buildinfo",
    "buildinfo-attrs",
];
const LAYOUT: &[&str] = &["tar"];
const FILES: &[&str] = &[
    "attestation-prefix",
    "mode",
    "platform-split",
    "source-date-epoch",
];

/// Fails on an option that no exporter of this kind has. What has a dot or an index is metadata, and free.
pub(crate) fn check(kind: &str, attrs: &BTreeMap<String, String>) -> Result<()> {
    let known: &[&[&str]] = match kind {
        "image" => &[IMAGE],
        "oci" | "docker" => &[IMAGE, LAYOUT],
        "local" | "tar" => &[FILES],
        _ => return Ok(()),
    };
    let known: Vec<&str> = known.concat();
    for key in attrs.keys() {
        if key == "dest" || key.contains(['.', '[']) || known.contains(&key.as_str()) {
            continue;
        }
        let meant = hint(key, known.iter().copied(), Case::Sensitive);
        bail!("unknown option {key:?} of the {kind} exporter{meant}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: &str, keys: &[&str]) -> Option<String> {
        let attrs = keys.iter().map(|key| ((*key).to_owned(), String::new()));
        let refused = check(kind, &attrs.collect()).err();
        refused.map(|err| err.to_string())
    }

    #[test]
    fn a_misspelt_option_is_named_with_what_was_meant() {
        assert_eq!(
            said("image", &["name", "nmae"]).as_deref(),
            Some("unknown option \"nmae\" of the image exporter (did you mean name?)")
        );
        assert_eq!(
            said("local", &["platfrom-split"]).as_deref(),
            Some(
                "unknown option \"platfrom-split\" of the local exporter (did you mean platform-split?)"
            )
        );
        assert_eq!(
            said("tar", &["quite-something-else"]).as_deref(),
            Some("unknown option \"quite-something-else\" of the tar exporter")
        );
    }

    #[test]
    fn metadata_and_unknown_kinds_are_free() {
        let metadata = [
            "containerimage.config",
            "annotation.a",
            "annotation[linux/amd64].b",
        ];
        assert_eq!(said("image", &metadata), None);
        assert_eq!(said("image", &["registry.insecure", "push", "dest"]), None);
        assert_eq!(said("oci", &["tar", "compression"]), None);
        assert_eq!(said("earthly", &["whatever"]), None);
    }
}
