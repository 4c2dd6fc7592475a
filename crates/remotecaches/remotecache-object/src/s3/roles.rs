//! Keys that services lend: for a role, for a token, or printed by a command.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fault::Class;
use oci::Timestamp;
use remotecache::Error;
use serde::Deserialize;
use tasks::Cx;
use url::Url;

use super::credentials::{Keys, nonsense};
use super::profiles::Role;
use super::sign::Request;
use crate::http::{self, Body, Patience, encode, patiently, tagged};

/// Keys and when they end.
pub(super) type Lent = (Keys, Option<SystemTime>);

/// The service that lends keys for roles.
pub(super) struct Lender<'a> {
    pub(super) http: &'a reqwest::Client,
    pub(super) url: String,
    pub(super) region: &'a str,
}

impl Lender<'_> {
    /// Keys for a role, for those who have keys.
    pub(super) async fn assume(&self, cx: &Cx, who: &Keys, role: &Role) -> Result<Lent, Error> {
        let mut parts = role_parts("AssumeRole", role);
        let further = [
            ("DurationSeconds", &role.duration),
            ("ExternalId", &role.external),
        ];
        parts.extend(
            further
                .into_iter()
                .filter_map(|(key, value)| Some((key, value.clone()?))),
        );
        self.ask(cx, &parts, Some(who), "failed to assume role")
            .await
    }

    /// Keys for a role, for a token.
    pub(super) async fn exchange(&self, cx: &Cx, token: &str, role: &Role) -> Result<Lent, Error> {
        let mut parts = role_parts("AssumeRoleWithWebIdentity", role);
        parts.push(("WebIdentityToken", token.trim().to_owned()));
        self.ask(cx, &parts, None, "failed to assume role with web identity")
            .await
    }

    async fn ask(
        &self,
        cx: &Cx,
        parts: &[(&str, String)],
        who: Option<&Keys>,
        what: &str,
    ) -> Result<Lent, Error> {
        let form = parts
            .iter()
            .map(|(key, value)| format!("{key}={}", encode(value, "%2F")));
        let form = form.collect::<Vec<_>>().join("&");
        let kind = "application/x-www-form-urlencoded";
        let headers = match who {
            Some(who) => self.signed(&form, kind, who, what)?,
            None => vec![("content-type".to_owned(), kind.to_owned())],
        };
        let body = Body::Bytes(form.into());
        let once = || async {
            let mut request = self.http.post(&self.url).body(body.open().await?);
            for (name, value) in headers.iter().filter(|(name, _)| name != "host") {
                request = request.header(name, value);
            }
            http::send(request, &body, what).await
        };
        let answer = patiently(cx, Patience::default(), once).await?;
        let text = http::read(what, http::accepted(what, answer).await?).await?;
        let text = String::from_utf8_lossy(&text);
        let field = |name: &str| tagged(&text, name);
        let (Some(id), Some(secret)) = (field("AccessKeyId"), field("SecretAccessKey")) else {
            return Err(nonsense(what));
        };
        let keys = Keys {
            id,
            secret,
            token: field("SessionToken"),
        };
        let until = field("Expiration").and_then(|text| moment(&text));
        Ok((keys, until))
    }

    fn signed(
        &self,
        form: &str,
        kind: &str,
        who: &Keys,
        what: &str,
    ) -> Result<Vec<(String, String)>, Error> {
        let url: Url = self
            .url
            .parse()
            .map_err(|_| place(format!("{what}: invalid url {:?}", self.url)))?;
        let mut host = url.host_str().unwrap_or_default().to_owned();
        if let Some(port) = url.port() {
            host = format!("{host}:{port}");
        }
        let digest = oci::Digest::of(form);
        let request = Request {
            method: "POST",
            service: "sts",
            host: &host,
            path: url.path(),
            query: "",
            headers: &[("content-type", kind.to_owned())],
            payload: digest.hex(),
            time: SystemTime::now(),
        };
        Ok(request.sign(self.region, who))
    }
}

fn role_parts<'a>(action: &str, role: &Role) -> Vec<(&'a str, String)> {
    let session = role
        .session
        .clone()
        .unwrap_or_else(|| "buildkit".to_owned());
    vec![
        ("Action", action.to_owned()),
        ("Version", "2011-06-15".to_owned()),
        ("RoleArn", role.arn.clone()),
        ("RoleSessionName", session),
    ]
}

/// A token that somebody's browser got, as it lies in a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    start_url: Option<String>,
    access_token: Option<String>,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfPortal {
    role_credentials: PortalKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PortalKeys {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    /// Milliseconds since 1970.
    expiration: Option<u64>,
}

/// The token for a start page among those in a folder, if there is one that still counts. Blocking.
pub(super) fn cached_token(folder: &Path, start: &str) -> Option<String> {
    let files = std::fs::read_dir(folder).ok()?.flatten();
    let texts = files.filter_map(|file| std::fs::read(file.path()).ok());
    let mut tokens = texts.filter_map(|text| serde_json::from_slice::<Cached>(&text).ok());
    tokens.find_map(|cached| {
        let until = cached
            .expires_at
            .as_deref()
            .map(|text| text.replace("UTC", "Z"));
        let until = until.and_then(|text| moment(&text));
        let good = until.is_some_and(|until| until > SystemTime::now());
        let same = cached.start_url.as_deref() == Some(start);
        cached.access_token.filter(|_| good && same)
    })
}

/// Keys for a role of an account, for a token of its user.
pub(super) async fn of_portal(
    cx: &Cx,
    http: &reqwest::Client,
    portal: &str,
    token: &str,
    (account, role): (&str, &str),
) -> Result<Lent, Error> {
    let what = "failed to get the credentials of single sign-on";
    let query = format!(
        "role_name={}&account_id={}",
        encode(role, "%2F"),
        encode(account, "%2F")
    );
    let url = format!(
        "{}/federation/credentials?{query}",
        portal.trim_end_matches('/')
    );
    let once = || async {
        let request = http.get(&url).header("x-amz-sso_bearer_token", token);
        http::send(request, &Body::Nothing, what).await
    };
    let answer = patiently(cx, Patience::default(), once).await?;
    let text = http::read(what, http::accepted(what, answer).await?).await?;
    let keys: OfPortal = serde_json::from_slice(&text).map_err(|_| nonsense(what))?;
    let keys = keys.role_credentials;
    let until = keys
        .expiration
        .map(|until| SystemTime::UNIX_EPOCH + Duration::from_millis(until));
    let lent = Keys {
        id: keys.access_key_id,
        secret: keys.secret_access_key,
        token: keys.session_token,
    };
    Ok((lent, until))
}

/// What a command prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

/// Keys that a command prints.
pub(super) async fn of_process(cx: &Cx, command: &str) -> Result<Lent, Error> {
    let what = "failed to run credential_process";
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", command]);
    let output = tasks::child::run(cx, shell, |_, _| {}).await;
    let output = output.map_err(|err| place(format!("{what}: {err}")))?;
    if let Some(reason) = output.cancelled {
        return Err(reason.into());
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(place(format!("{what}: {}", said.trim_end())));
    }
    let printed: Printed = serde_json::from_slice(&output.stdout).map_err(|_| nonsense(what))?;
    if printed.version != 1 {
        return Err(place(format!(
            "{what}: unknown version {}",
            printed.version
        )));
    }
    let keys = Keys {
        id: printed.access_key_id,
        secret: printed.secret_access_key,
        token: printed.session_token,
    };
    Ok((keys, printed.expiration.as_deref().and_then(moment)))
}

pub(super) fn moment(text: &str) -> Option<SystemTime> {
    text.parse::<Timestamp>().ok().map(SystemTime::from)
}

/// What the daemon's owner has to mend.
pub(super) fn place(text: String) -> Error {
    Error::Place {
        text,
        class: Class::User,
    }
}
