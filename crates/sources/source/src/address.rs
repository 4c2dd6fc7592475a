//! Addresses as they may be shown.

const MASK: &str = "xxxxx";

/// The address with user and password masked. What is no address stays as it is.
pub fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((user, host)) = authority.rsplit_once('@') else {
        return text.to_owned();
    };
    // `docker-image://name@sha256:…`, `oci-layout://store:tag@sha256:…`
    if host.split_once(':').is_some_and(is_digest) {
        return text.to_owned();
    }
    let user = match user.split_once(':') {
        Some(("", _)) => format!(":{MASK}"),
        Some(_) => format!("{MASK}:{MASK}"),
        None if user.is_empty() => String::new(),
        None => MASK.to_owned(),
    };
    format!("{scheme}://{user}@{host}{path}")
}

fn is_digest((algorithm, hex): (&str, &str)) -> bool {
    matches!(algorithm, "sha256" | "sha384" | "sha512")
        && hex.len() >= 64
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_passwords_are_masked() {
        for (text, shown) in [
            ("https://u:p@h/x?y#z", "https://xxxxx:xxxxx@h/x?y#z"),
            ("https://u@h", "https://xxxxx@h"),
            ("https://:p@h", "https://:xxxxx@h"),
            ("https://@h", "https://@h"),
            ("https://h/x@y", "https://h/x@y"),
            ("git@h:x", "git@h:x"),
            ("https://u:p@sha256:80/x", "https://xxxxx:xxxxx@sha256:80/x"),
        ] {
            assert_eq!(redacted(text), shown);
        }
    }

    #[test]
    fn digests_of_images_are_no_hosts() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for name in ["docker-image://busybox", "oci-layout://store:v1"] {
            let text = format!("{name}@{digest}");
            assert_eq!(redacted(&text), text);
        }
    }
}
