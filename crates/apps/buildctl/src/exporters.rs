//! What exporters are known to take, so that a misspelt option is not lost in silence.
//!
//! Whoever wrote a script with an option that means nothing counts on its being passed on; a person at a command line
//! is told.

use std::collections::BTreeMap;

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

/// What to say of options that no exporter of this kind has. What has a dot or an index is metadata, and free.
pub(crate) fn unknown(kind: &str, attrs: &BTreeMap<String, String>) -> Vec<String> {
    let known: &[&[&str]] = match kind {
        "image" => &[IMAGE],
        "oci" | "docker" => &[IMAGE, LAYOUT],
        "local" | "tar" => &[FILES],
        _ => return Vec::new(),
    };
    let known: Vec<&str> = known.concat();
    let free =
        |key: &&String| *key == "dest" || key.contains(['.', '[']) || known.contains(&key.as_str());
    let unknown = attrs.keys().filter(|key| !free(key));
    unknown
        .map(|key| {
            let meant = hint(key, known.iter().copied(), Case::Sensitive);
            format!("unknown option {key:?} of the {kind} exporter{meant}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: &str, keys: &[&str]) -> Vec<String> {
        let attrs = keys.iter().map(|key| ((*key).to_owned(), String::new()));
        unknown(kind, &attrs.collect())
    }

    #[test]
    fn a_misspelt_option_is_named_with_what_was_meant() {
        assert_eq!(
            said("image", &["name", "nmae"]),
            ["unknown option \"nmae\" of the image exporter (did you mean name?)"]
        );
        assert_eq!(
            said("local", &["platfrom-split"]),
            [
                "unknown option \"platfrom-split\" of the local exporter (did you mean platform-split?)"
            ]
        );
        assert_eq!(
            said("tar", &["quite-something-else"]),
            ["unknown option \"quite-something-else\" of the tar exporter"]
        );
    }

    #[test]
    fn metadata_and_unknown_kinds_are_free() {
        let metadata = [
            "containerimage.config",
            "annotation.a",
            "annotation[linux/amd64].b",
        ];
        let nothing = [""; 0];
        assert_eq!(said("image", &metadata), nothing);
        assert_eq!(
            said("image", &["registry.insecure", "push", "dest"]),
            nothing
        );
        assert_eq!(said("oci", &["tar", "compression"]), nothing);
        assert_eq!(said("earthly", &["whatever"]), nothing);
    }
}
