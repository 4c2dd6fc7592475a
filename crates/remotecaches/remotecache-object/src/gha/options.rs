//! What a cache of a workflow is configured with.

use std::time::Duration;

use oci::Digest;
use remotecache::Error;
use url::Url;

use super::token::Token;
use crate::attrs::{Attrs, duration};

/// Which protocol the service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// REST, retired by GitHub and still spoken by others.
    One,
    /// Twirp, and blobs in Azure's store.
    Two,
}

/// A service, and which of its entries are a cache.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) url: Url,
    pub(crate) version: Version,
    pub(crate) token: Token,
    scope: String,
    /// How long to go on when told to come later.
    pub(crate) timeout: Duration,
    /// A repository, and a token that may list its caches.
    pub(crate) listing: Option<(String, String)>,
    pub(crate) rest: String,
}

impl Options {
    pub(crate) fn parse(attrs: &Attrs<'_>) -> Result<Self, Error> {
        let missing =
            |what: &str| Error::option(format!("{what} not set for github actions cache"));
        let token = attrs.get("token").ok_or_else(|| missing("token"))?;
        let (url, version) = place(attrs)?.ok_or_else(|| missing("url"))?;
        let timeout = match attrs.get("timeout") {
            None => Duration::from_secs(600),
            Some(text) => duration(text).ok_or_else(|| {
                Error::option(format!(
                    "failed to parse timeout for github actions cache: time: invalid duration {text:?}"
                ))
            })?,
        };
        let url = url.parse().map_err(|err| {
            Error::option(format!(
                "invalid url {url:?} of github actions cache: {err}"
            ))
        })?;
        let given = |key: &str| {
            let value = attrs.get(key).filter(|value| !value.is_empty());
            value.map(str::to_owned)
        };
        let rest = (attrs.environment)("GITHUB_API_URL").filter(|url| !url.is_empty());
        Ok(Self {
            url,
            version,
            token: Token::parse(token)?,
            scope: attrs.text("scope", "buildkit"),
            timeout,
            listing: given("repository").zip(given("ghtoken")),
            rest: rest.unwrap_or_else(|| "https://api.github.com".to_owned()),
        })
    }

    /// What names of indexes begin with.
    pub(crate) fn index_key(&self, scope: &str) -> String {
        let digest = Digest::of(scope);
        let short = digest.hex().get(..8).unwrap_or_default();
        format!("index-{}-1-{short}", self.scope)
    }
}

/// Where the service is and what it speaks.
fn place<'a>(attrs: &'a Attrs<'_>) -> Result<Option<(&'a str, Version)>, Error> {
    let said = match attrs.get("version") {
        None => 0,
        Some(text) => text.parse::<i64>().map_err(|_| {
            Error::option(format!(
                "failed to parse api version {text:?}, expected positive integer"
            ))
        })?,
    };
    let url = |key: &str| attrs.get(key).filter(|url| !url.is_empty());
    if said != 1
        && let Some(url) = url("url_v2")
    {
        return Ok(Some((url, Version::Two)));
    }
    Ok(url("url").map(|url| {
        // Compat: old clients do not say.
        let known = url.contains("results-receiver.actions.githubusercontent.com");
        let two = said > 1 || (said == 0 && known);
        (url, if two { Version::Two } else { Version::One })
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Environment;
    use crate::gha::token::tests::token;

    fn parse(given: &[(&str, &str)]) -> Result<Options, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let environment: Environment = Arc::new(|_| None);
        let parsed = Options::parse(&Attrs {
            given: &given.iter().map(owned).collect(),
            signing: &crate::Signing::default(),
            environment: &environment,
        });
        parsed.map_err(|err| err.to_string())
    }

    fn version(given: &[(&str, &str)]) -> (String, Version) {
        let token = token(r#"[{"Scope":"refs/heads/main","Permission":3}]"#);
        let mut all = vec![("token", token.as_str())];
        all.extend(given);
        let options = parse(&all).expect("options");
        (options.url.to_string(), options.version)
    }

    #[test]
    fn the_second_protocol_is_spoken_where_it_is_named_or_known() {
        let (one, two) = (("url", "http://one/"), ("url_v2", "http://two/"));
        assert_eq!(version(&[one]), ("http://one/".to_owned(), Version::One));
        assert_eq!(
            version(&[one, two]),
            ("http://two/".to_owned(), Version::Two)
        );
        let forced = [one, two, ("version", "1")];
        assert_eq!(version(&forced), ("http://one/".to_owned(), Version::One));
        assert_eq!(version(&[one, ("version", "2")]).1, Version::Two);
        let known = "https://results-receiver.actions.githubusercontent.com/";
        assert_eq!(version(&[("url", known)]).1, Version::Two);
    }

    #[test]
    fn indexes_are_named_after_cache_and_branch() {
        let token = token("[]");
        let given = [
            ("token", token.as_str()),
            ("url", "http://h"),
            ("scope", "app"),
        ];
        let options = parse(&given).expect("options");
        assert_eq!(options.index_key("refs/heads/main"), "index-app-1-f921bd05");
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let token = token("[]");
        let token = ("token", token.as_str());
        let refused = |given: &[(&str, &str)]| parse(given).expect_err("refused");
        assert_eq!(refused(&[]), "token not set for github actions cache");
        assert_eq!(refused(&[token]), "url not set for github actions cache");
        let url = ("url", "http://h");
        assert_eq!(
            refused(&[token, url, ("version", "x")]),
            "failed to parse api version \"x\", expected positive integer"
        );
        assert_eq!(
            refused(&[token, url, ("timeout", "soon")]),
            "failed to parse timeout for github actions cache: time: invalid duration \"soon\""
        );
    }
}
