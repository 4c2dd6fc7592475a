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
    let user = match user.split_once(':') {
        Some(("", _)) => format!(":{MASK}"),
        Some(_) => format!("{MASK}:{MASK}"),
        None if user.is_empty() => String::new(),
        None => MASK.to_owned(),
    };
    format!("{scheme}://{user}@{host}{path}")
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
        ] {
            assert_eq!(redacted(text), shown);
        }
    }
}
