//! Package URLs of images: `pkg:docker/busybox@latest?platform=linux%2Famd64`.

use oci::{Platform, Reference, ReferenceError};

/// The package URL of an image. `kind` is `docker`, or `oci` for images that come from no registry. `more` goes behind
/// the other qualifiers.
pub fn image(
    kind: &str,
    reference: &str,
    platform: Option<&Platform>,
    more: &[(&str, &str)],
) -> Result<String, ReferenceError> {
    let mut reference = Reference::parse(reference)?;
    let mut qualifiers = Vec::new();
    match reference.digest() {
        Some(digest) => qualifiers.push(("digest", digest.as_str().to_owned())),
        None => reference = reference.with_default_tag(),
    }
    if let Some(platform) = platform {
        qualifiers.push(("platform", platform.normalized().to_string()));
    }
    qualifiers.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    let name: Vec<String> = reference.familiar_name().split('/').map(query).collect();
    let mut url = format!("pkg:{kind}/{}", name.join("/"));
    if let Some(tag) = reference.tag() {
        url.push('@');
        url.push_str(&path(tag));
    }
    for (index, (key, value)) in qualifiers.iter().enumerate() {
        url.push(if index == 0 { '?' } else { '&' });
        url.push_str(&format!("{key}={}", path(value)));
    }
    Ok(url)
}

/// What may stand in a query as it is: letters, digits and four signs.
fn query(text: &str) -> String {
    escape(text, "-_.~")
}

/// Within one segment of a path a few more may.
fn path(text: &str) -> String {
    escape(text, "-_.~$&+=:@")
}

fn escape(text: &str, allowed: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let letter = char::from(byte);
        if letter.is_ascii_alphanumeric() || (byte.is_ascii() && allowed.contains(letter)) {
            out.push(letter);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_users_write_them() {
        let arm = Platform::parse("linux/arm/v7").expect("a platform");
        let digest = oci::Digest::of("test");
        let pinned = format!("busybox@{digest}");
        let both = format!("docker.io/library/alpine:latest@{digest}");
        for (reference, platform, wanted) in [
            ("alpine", None, "pkg:docker/alpine@latest".to_owned()),
            (
                "library/alpine:3.15",
                None,
                "pkg:docker/alpine@3.15".to_owned(),
            ),
            (
                &both,
                None,
                format!("pkg:docker/alpine@latest?digest={digest}"),
            ),
            (
                &pinned,
                Some(&arm),
                format!("pkg:docker/busybox?digest={digest}&platform=linux%2Farm%2Fv7"),
            ),
            (
                "localhost:5000/a/b:v2",
                None,
                "pkg:docker/localhost%3A5000/a/b@v2".to_owned(),
            ),
        ] {
            assert_eq!(image("docker", reference, platform, &[]), Ok(wanted));
        }
        assert!(image("docker", "inv:al:id", None, &[]).is_err());
    }

    #[test]
    fn qualifiers_may_say_more() {
        let url = image("oci", "a:1", None, &[("ref_type", "blob")]);
        assert_eq!(url, Ok("pkg:oci/a@1?ref_type=blob".to_owned()));
    }
}
