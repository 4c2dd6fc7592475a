//! The token of a workflow: what it allows, and until when. Whether it is genuine is the service's matter.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fault::Class;
use oci::Timestamp;
use remotecache::Error;
use serde::Deserialize;

const WRITE: u64 = 2;

/// A branch whose entries may be read or written.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Scope {
    #[serde(alias = "Scope")]
    pub(crate) scope: String,
    #[serde(alias = "Permission", default)]
    permission: u64,
}

/// A token that was read.
#[derive(Clone)]
pub(crate) struct Token {
    /// As it is sent.
    text: String,
    pub(crate) scopes: Vec<Scope>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Claims {
    ac: Option<serde_json::Value>,
    exp: Option<serde_json::Value>,
    nbf: Option<serde_json::Value>,
}

impl Token {
    /// Refuses tokens that are none, or not of now.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let claims = claims(text).ok_or_else(|| Error::option("token is malformed"))?;
        let access = claims
            .ac
            .ok_or_else(|| Error::option("invalid token without access controls"))?;
        let moment = |value: Option<serde_json::Value>| {
            let value = value.ok_or_else(|| {
                // Compat: upstream says so of both.
                Error::option("invalid token without expiration time")
            })?;
            #[allow(clippy::cast_possible_truncation)]
            let seconds = value.as_f64().map(|seconds| seconds as i64);
            seconds.ok_or_else(|| Error::option("invalid token with expiration time of wrong type"))
        };
        let now = Timestamp::from(SystemTime::now()).seconds();
        let (expires, begins) = (moment(claims.exp)?, moment(claims.nbf)?);
        if now > expires {
            return Err(Error::Place {
                text: format!("cache token expired at {}", show(expires)),
                class: Class::Denied,
            });
        }
        if now < begins {
            return Err(Error::Place {
                text: format!("invalid token with future issue time time {}", show(begins)),
                class: Class::Denied,
            });
        }
        let access = access
            .as_str()
            .ok_or_else(|| Error::option("invalid token with access controls of wrong type"))?;
        let scopes = serde_json::from_str(access).map_err(|err| {
            Error::option(format!("failed to parse token access controls: {err}"))
        })?;
        Ok(Self {
            text: text.to_owned(),
            scopes,
        })
    }

    /// The value of the header that shows it.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.text)
    }

    /// The branch whose entries may be written.
    pub(crate) fn writable(&self) -> &str {
        // Compat: the last of several.
        let mut scopes = self.scopes.iter().rev();
        let found = scopes.find(|scope| scope.permission & WRITE != 0);
        found.map_or("", |scope| scope.scope.as_str())
    }
}

fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// As Go writes a time.
fn show(seconds: i64) -> String {
    let text = Timestamp::from_seconds(seconds).to_string();
    format!("{} +0000 UTC", text.replace('T', " ").trim_end_matches('Z'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn with(claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!(
            "{}.{}.{}",
            part(r#"{"alg":"none"}"#),
            part(claims),
            part("signature")
        )
    }

    /// A token for these scopes.
    pub(crate) fn token(scopes: &str) -> String {
        let claims = serde_json::json!({"ac": scopes, "nbf": 1, "exp": 99_999_999_999_u64});
        with(&claims.to_string())
    }

    #[test]
    fn a_token_says_what_it_allows() {
        let token = token(
            r#"[{"Scope":"refs/heads/main","Permission":1},{"Scope":"refs/pull/1/merge","Permission":3}]"#,
        );
        let token = Token::parse(&token).expect("a token");
        assert_eq!(token.scopes.len(), 2);
        assert_eq!(token.writable(), "refs/pull/1/merge");
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said() {
        let refused = |text: &str| Token::parse(text).expect_err("refused").to_string();
        assert_eq!(refused("nonsense"), "token is malformed");
        assert_eq!(
            refused(&with("{}")),
            "invalid token without access controls"
        );
        assert_eq!(
            refused(&with(r#"{"ac":"[]"}"#)),
            "invalid token without expiration time"
        );
        assert_eq!(
            refused(&with(r#"{"ac":"[]","nbf":0,"exp":1700000000}"#)),
            "cache token expired at 2023-11-14 22:13:20 +0000 UTC"
        );
        assert!(
            refused(&with(r#"{"ac":"{","nbf":0,"exp":99999999999}"#))
                .starts_with("failed to parse token access controls: ")
        );
        assert!(
            refused(&with(r#"{"ac":"[]","nbf":99999999998,"exp":99999999999}"#))
                .starts_with("invalid token with future issue time time 5138-")
        );
    }
}
