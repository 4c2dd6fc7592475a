//! Fetches bearer tokens from token servers, as the registry specification and OAuth2 say.

use std::time::Duration;

use reqwest::{Client, Response, StatusCode};
use serde::Deserialize;

use crate::Secret;
use crate::auth::{Credentials, Token, TokenRequest};

/// How long a token is good for when its server does not say.
const DEFAULT_SECONDS: i64 = 60;
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Nothing came back.
    #[error("failed to reach {url}")]
    Request {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    /// The server said no.
    #[error("unexpected status from {method} request to {url}: {status}")]
    Status {
        method: &'static str,
        url: String,
        status: StatusCode,
    },
    /// The server said yes and gave nothing.
    #[error("authorization server did not include a token in the response")]
    Empty,
    /// The realm of the challenge is no URL.
    #[error("invalid token server {realm:?}")]
    Realm { realm: String },
    /// No client could be made.
    #[error("failed to set up TLS")]
    Tls(#[source] reqwest::Error),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: i64,
    #[serde(default)]
    issued_at: String,
}

/// The HTTP client for token servers.
pub(crate) fn http_client() -> Result<Client, TokenError> {
    // Fails when the program has chosen one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("kiln/", env!("CARGO_PKG_VERSION")))
        .timeout(TIMEOUT)
        .build()
        .map_err(TokenError::Tls)
}

/// A token for these credentials; anonymous when they have no secret.
pub(crate) async fn fetch(
    http: &Client,
    wanted: &TokenRequest,
    credentials: &Credentials,
) -> Result<Token, TokenError> {
    if credentials.secret.is_empty() {
        return by_get(http, wanted, None).await;
    }
    match by_post(http, wanted, credentials).await {
        // Some servers do not know the newer way; those that need a refresh token know nothing else.
        Err(TokenError::Status { status, .. })
            if matches!(status, StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED)
                || status == StatusCode::METHOD_NOT_ALLOWED && !credentials.username.is_empty() =>
        {
            by_get(http, wanted, Some(credentials)).await
        }
        result => result,
    }
}

async fn by_get(
    http: &Client,
    wanted: &TokenRequest,
    credentials: Option<&Credentials>,
) -> Result<Token, TokenError> {
    let mut url = reqwest::Url::parse(&wanted.realm).map_err(|_| TokenError::Realm {
        realm: wanted.realm.clone(),
    })?;
    {
        let mut query = url.query_pairs_mut();
        for scope in &wanted.scopes {
            query.append_pair("scope", scope);
        }
        if !wanted.service.is_empty() {
            query.append_pair("service", &wanted.service);
        }
    }
    let mut request = http.get(url);
    if let Some(credentials) = credentials {
        let password = credentials.secret.reveal_text();
        request = request.basic_auth(&credentials.username, Some(password));
    }
    read(request.send().await, "GET", &wanted.realm).await
}

async fn by_post(
    http: &Client,
    wanted: &TokenRequest,
    credentials: &Credentials,
) -> Result<Token, TokenError> {
    let secret = credentials.secret.reveal_text();
    let scope = wanted.scopes.join(" ");
    let mut form = vec![
        ("client_id", crate::auth::CLIENT_ID),
        ("scope", &scope),
        ("service", &wanted.service),
    ];
    if credentials.username.is_empty() {
        form.push(("grant_type", "refresh_token"));
        form.push(("refresh_token", &secret));
    } else {
        form.push(("grant_type", "password"));
        form.push(("username", &credentials.username));
        form.push(("password", &secret));
    }
    form.sort_unstable();
    form.retain(|(_, value)| !value.is_empty());
    let url = reqwest::Url::parse(&wanted.realm).map_err(|_| TokenError::Realm {
        realm: wanted.realm.clone(),
    })?;
    // A query string is a form.
    let mut body = url.clone();
    body.query_pairs_mut().clear().extend_pairs(form);
    let request = http
        .post(url)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body.query().unwrap_or_default().to_owned());
    read(request.send().await, "POST", &wanted.realm).await
}

async fn read(
    response: reqwest::Result<Response>,
    method: &'static str,
    url: &str,
) -> Result<Token, TokenError> {
    let failed = |source: reqwest::Error| TokenError::Request {
        url: url.to_owned(),
        source: source.without_url(),
    };
    let response = response.map_err(failed)?;
    if !response.status().is_success() {
        return Err(TokenError::Status {
            method,
            url: url.to_owned(),
            status: response.status(),
        });
    }
    let answer: Answer = response.json().await.map_err(failed)?;
    let token = if answer.access_token.is_empty() {
        answer.token
    } else {
        answer.access_token
    };
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    Ok(Token {
        token: Secret::new(token),
        expires_in: if answer.expires_in == 0 {
            DEFAULT_SECONDS
        } else {
            answer.expires_in
        },
        issued_at: seconds(&answer.issued_at).unwrap_or(0),
    })
}

/// Seconds since 1970 of an RFC 3339 time; fractions are cut.
fn seconds(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', 't'])?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone);
    let mut time = time
        .split('.')
        .next()?
        .splitn(3, ':')
        .map(str::parse::<i64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    let offset = match zone.split_at_checked(1)? {
        (sign @ ("+" | "-"), offset) => {
            let (hours, minutes) = offset.split_once(':')?;
            let minutes = hours.parse::<i64>().ok()? * 60 + minutes.parse::<i64>().ok()?;
            if sign == "+" { minutes } else { -minutes }
        }
        _ => 0,
    };
    // Days of the civil calendar, counted in years that begin in March.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(((days * 24 + hour) * 60 + minute - offset) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_fraction_and_zone() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2023-11-14T22:13:20.123Z"), Some(1_700_000_000));
        assert_eq!(seconds("2023-11-15T00:13:20+02:00"), Some(1_700_000_000));
        assert_eq!(seconds("2024-02-29T00:00:00Z"), Some(1_709_164_800));
        assert_eq!(seconds("yesterday"), None);
    }
}
