//! What a registry demands: the `WWW-Authenticate` header.

use std::collections::BTreeMap;

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A way to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scheme {
    /// A token from a token server. The best.
    Bearer,
    /// Name and password.
    Basic,
}

/// One demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub(crate) scheme: Scheme,
    /// Names in lower case.
    pub(crate) parameters: BTreeMap<String, String>,
}

impl Challenge {
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map_or("", String::as_str)
    }
}

/// The demands of an answer, the best first.
pub(crate) fn read(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| parse(&String::from_utf8_lossy(value.as_bytes())))
        .collect();
    found.sort_by_key(|challenge| challenge.scheme);
    found
}

fn parse(text: &str) -> Option<Challenge> {
    let text = text.trim();
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => Scheme::Bearer,
        "basic" => Scheme::Basic,
        _ => return None,
    };
    Some(Challenge {
        scheme,
        parameters: parameters(rest),
    })
}

/// `name=value, name="quoted, \"value\""`; whatever follows a mistake is ignored.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut rest = text.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim();
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(valid) {
            break;
        }
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => match unquote(quoted) {
                Some(pair) => pair,
                None => break,
            },
            None => {
                let end = after.find([',', ' ']).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
        };
        found.insert(name.to_ascii_lowercase(), value);
        rest = after.trim_start_matches([' ', '\t', ',']);
    }
    found
}

/// The text up to the closing quote, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_server_is_found_in_the_header() {
        let found = parse(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push",error="insufficient_scope""#,
        )
        .expect("a challenge");
        assert_eq!(found.scheme, Scheme::Bearer);
        assert_eq!(found.parameter("realm"), "https://auth.docker.io/token");
        assert_eq!(found.parameter("service"), "registry.docker.io");
        assert_eq!(found.parameter("scope"), "repository:a/b:pull,push");
        assert_eq!(found.parameter("error"), "insufficient_scope");
        assert_eq!(found.parameter("missing"), "");
    }

    #[test]
    fn bearer_is_preferred_to_basic_and_others_do_not_count() {
        let mut headers = HeaderMap::new();
        for value in ["Negotiate", "Basic realm=x", "bearer Realm = \"y\""] {
            headers.append(WWW_AUTHENTICATE, value.parse().expect("a header"));
        }
        let found = read(&headers);
        let schemes: Vec<_> = found.iter().map(|challenge| challenge.scheme).collect();
        assert_eq!(schemes, [Scheme::Bearer, Scheme::Basic]);
        assert_eq!(found[0].parameter("realm"), "y");
        assert_eq!(found[1].parameter("realm"), "x");
    }

    #[test]
    fn quotes_can_be_escaped() {
        let found = parse(r#"Bearer realm="a\"b", x=1"#).expect("a challenge");
        assert_eq!(found.parameter("realm"), "a\"b");
        assert_eq!(found.parameter("x"), "1");
    }

    proptest! {
        #[test]
        fn nothing_a_server_sends_makes_it_panic(text in "\\PC{0,80}") {
            let _ = parse(&format!("Bearer {text}"));
        }
    }
}
