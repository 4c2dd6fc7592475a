//! Token servers: a login goes in, a token comes out.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde::Deserialize;
use session::Secret;
use url::Url;

use crate::auth::Asker;
use crate::auth::challenge::Challenge;
use crate::auth::scope::Scopes;
use crate::error::{Error, UnexpectedStatus};
use crate::hosts::Traffic;
use crate::{Login, wire};

/// How we name ourselves to token servers.
const CLIENT_ID: &str = "buildkit-client";
/// What a token is good for when its server does not say.
const LIFETIME: Duration = Duration::from_secs(60);

/// A token server, from a challenge.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// As the registry wrote it.
    pub(crate) realm: String,
    url: Url,
    pub(crate) service: String,
}

impl Server {
    pub(crate) fn of(challenge: &Challenge) -> Result<Self, Error> {
        let realm = challenge.parameter("realm");
        let url = realm.parse().map_err(|_| Error::TokenAnswer {
            problem: "no realm specified for token auth challenge",
        })?;
        Ok(Self {
            realm: realm.to_owned(),
            url,
            service: challenge.parameter("service").to_owned(),
        })
    }
}

/// A token and how long to use it.
#[derive(Debug, Clone)]
pub(crate) struct Good {
    pub(crate) token: Secret,
    /// `None`: for ever.
    until: Option<SystemTime>,
}

impl Good {
    /// Used until nine tenths of its life are over. One whose end lies in the past already is used without end: the
    /// clock of its server is wrong.
    pub(crate) fn new(token: Secret, issued: Option<SystemTime>, life: Duration) -> Self {
        let now = SystemTime::now();
        let life = if life.is_zero() { LIFETIME } else { life };
        let until = issued.unwrap_or(now).checked_add(life.mul_f64(0.9));
        Self {
            token,
            until: until.filter(|&until| until > now),
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.until.is_none_or(|until| until > SystemTime::now())
    }
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
    issued_at: Option<String>,
}

/// Asks for a token. With a secret first by GET, which the Hub wants, then by POST where GET is not known.
pub(crate) async fn obtain(
    asker: &Asker<'_>,
    server: &Server,
    login: &Login,
    scopes: &Scopes,
) -> Result<Good, Error> {
    if login.secret.is_empty() {
        let answer = get(asker, server, login, scopes).await;
        return answer.map_err(|err| Error::Token {
            kind: "anonymous",
            source: Box::new(err),
        });
    }
    let answer = match get(asker, server, login, scopes).await {
        Err(Error::Status(refused)) if is_unknown(&refused, login) => {
            post(asker, server, login, scopes).await
        }
        other => other,
    };
    answer.map_err(|err| Error::Token {
        kind: "oauth",
        source: Box::new(err.into_refusal()),
    })
}

/// Whether the other way of asking may be the right one. Compat: some servers answer 404 or 401 to it.
fn is_unknown(refused: &UnexpectedStatus, login: &Login) -> bool {
    match refused.status {
        StatusCode::METHOD_NOT_ALLOWED => !login.username.is_empty(),
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => true,
        _ => false,
    }
}

async fn get(
    asker: &Asker<'_>,
    server: &Server,
    login: &Login,
    scopes: &Scopes,
) -> Result<Good, Error> {
    let mut url = server.url.clone();
    let mut pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    for scope in scopes.texts() {
        pairs.push(("scope".to_owned(), scope));
    }
    if !server.service.is_empty() {
        pairs.push(("service".to_owned(), server.service.clone()));
    }
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    url.query_pairs_mut().clear().extend_pairs(pairs).finish();
    let hosts = asker.hosts;
    let http = hosts
        .towards(asker.endpoint, &url, Traffic::Questions)
        .await?;
    let mut request = http.get(url.clone());
    if !login.secret.is_empty() {
        request = request.header(http::header::AUTHORIZATION, basic(login));
    }
    answer(Method::GET, &url, request, asker.hosts.config().patience).await
}

async fn post(
    asker: &Asker<'_>,
    server: &Server,
    login: &Login,
    scopes: &Scopes,
) -> Result<Good, Error> {
    let form = form(server, login, scopes);
    let request = asker
        .hosts
        .towards(asker.endpoint, &server.url, Traffic::Questions)
        .await?
        .post(server.url.clone())
        .header(
            http::header::CONTENT_TYPE,
            "application/x-www-form-urlencoded; charset=utf-8",
        )
        .body(form);
    let patience = asker.hosts.config().patience;
    answer(Method::POST, &server.url, request, patience).await
}

/// The body of an OAuth2 request; its fields are sorted.
fn form(server: &Server, login: &Login, scopes: &Scopes) -> String {
    let secret = login.secret.reveal_text();
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("client_id", CLIENT_ID);
    if login.username.is_empty() {
        form.append_pair("grant_type", "refresh_token");
        form.append_pair("refresh_token", &secret);
    } else {
        form.append_pair("grant_type", "password");
        form.append_pair("password", &secret);
    }
    form.append_pair("scope", &scopes.texts().join(" "));
    if !server.service.is_empty() {
        form.append_pair("service", &server.service);
    }
    if !login.username.is_empty() {
        form.append_pair("username", &login.username);
    }
    form.finish()
}

async fn answer(
    method: Method,
    url: &Url,
    request: reqwest::RequestBuilder,
    patience: Duration,
) -> Result<Good, Error> {
    let failed = |err: reqwest::Error| wire::broken(&method, url, &err);
    let request = request.timeout(patience);
    let response = request.send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(wire::unexpected(&method, url, response).await);
    }
    let body = response.bytes().await.map_err(failed)?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|_| Error::TokenAnswer {
        problem: "unable to decode token response",
    })?;
    let token = if answer.access_token.is_empty() {
        answer.token
    } else {
        answer.access_token
    };
    if token.is_empty() {
        return Err(Error::TokenAnswer {
            problem: "authorization server did not include a token in the response",
        });
    }
    let life = Duration::from_secs(u64::try_from(answer.expires_in).unwrap_or(0));
    let issued = answer.issued_at.as_deref().and_then(moment);
    Ok(Good::new(Secret::new(token), issued, life))
}

/// `Basic …`
pub(crate) fn basic(login: &Login) -> String {
    let pair = format!("{}:{}", login.username, login.secret.reveal_text());
    format!("Basic {}", STANDARD.encode(pair))
}

/// Reads RFC 3339, `2026-11-20T23:54:05.123Z` or with an offset. Nonsense counts as not said.
fn moment(text: &str) -> Option<SystemTime> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let zone = text
        .get(19..)?
        .trim_start_matches(|letter: char| letter == '.' || letter.is_ascii_digit());
    let offset = match zone.as_bytes().first()? {
        b'Z' | b'z' => 0,
        sign @ (b'+' | b'-') => {
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let seconds = hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let days = days_since_epoch(year, month, day);
    let seconds = days * 86400 + hour * 3600 + minute * 60 + second - offset;
    let since = Duration::from_secs(u64::try_from(seconds).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// Days from 1970 in the Gregorian calendar, counted in years that begin in March so that leap days come last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let since = moment(text)?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Some(since.as_secs())
    }

    #[test]
    fn moments_are_read_with_fractions_and_offsets() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2024-02-29T12:00:00.5Z"), Some(1_709_208_000));
        assert_eq!(seconds("2024-02-29T13:30:00+01:30"), Some(1_709_208_000));
        assert_eq!(seconds("yesterday"), None);
        assert_eq!(seconds("2024-02-29"), None);
    }

    #[test]
    fn a_token_is_used_for_nine_tenths_of_its_life() {
        let ago = |seconds| Some(SystemTime::now() - Duration::from_secs(seconds));
        let good = |issued, life| Good::new(Secret::new("x"), issued, Duration::from_secs(life));
        assert!(good(None, 300).is_good());
        assert!(good(ago(200), 300).until.is_some());
        // Its end has passed at once: kept without end.
        assert!(good(ago(280), 300).until.is_none());
        assert!(good(ago(280), 300).is_good());
        // Nor does it end when its server is from another age.
        let last = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(i64::MAX as u64));
        assert!(good(last, 300).is_good());
    }

    #[test]
    fn basic_is_the_encoded_pair() {
        let login = Login {
            username: "user".to_owned(),
            secret: Secret::new("pass"),
        };
        assert_eq!(basic(&login), "Basic dXNlcjpwYXNz");
    }
}
