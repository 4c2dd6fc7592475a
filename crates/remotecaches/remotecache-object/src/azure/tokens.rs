//! Logging in to Azure: as an application, as a workload of a cluster, or as the machine.

use std::time::{Duration, SystemTime};

use fault::Class;
use remotecache::Error;
use serde::Deserialize;
use tasks::Cx;
use tokio::sync::Mutex;

use crate::Environment;
use crate::http::{self, Body, Patience, encode, patiently};

const STORAGE: &str = "https://storage.azure.com/";
const MACHINE: &str = "http://169.254.169.254";
/// A token is got anew so long before it ends.
const AHEAD: Duration = Duration::from_secs(300);

/// Whoever the daemon's environment says it is.
pub(crate) struct Tokens {
    environment: Environment,
    found: Mutex<Option<(String, SystemTime)>>,
}

/// What a login answers.
#[derive(Deserialize)]
struct Lent {
    access_token: String,
    /// A number, or a number as text.
    expires_in: serde_json::Value,
}

/// How to log in.
enum Way {
    Form { url: String, form: String },
    Machine { url: String },
}

impl Tokens {
    pub(crate) fn new(environment: &Environment) -> Self {
        Self {
            environment: environment.clone(),
            found: Mutex::default(),
        }
    }

    /// The token of now.
    pub(crate) async fn token(&self, cx: &Cx, client: &reqwest::Client) -> Result<String, Error> {
        let mut found = cx.run(self.found.lock()).await?;
        if let Some((token, until)) = &*found
            && *until > SystemTime::now() + AHEAD
        {
            return Ok(token.clone());
        }
        let what = "failed to create default azure credentials";
        let answer = match self.way(what).await? {
            Way::Form { url, form } => {
                let body = Body::Bytes(form.into());
                let once = || async {
                    let kind = "application/x-www-form-urlencoded";
                    let request = client.post(&url).header("content-type", kind);
                    http::send(request.body(body.open().await?), &body, what).await
                };
                patiently(cx, Patience::default(), once).await?
            }
            Way::Machine { url } => {
                let request = client.get(url).header("metadata", "true");
                let request = request.timeout(Duration::from_secs(5));
                cx.run(http::send(request, &Body::Nothing, what)).await??
            }
        };
        let bytes = http::read(what, http::accepted(what, answer).await?).await?;
        let lent: Lent = serde_json::from_slice(&bytes).map_err(|_| Error::Place {
            text: format!("{what}: there is no token in the answer"),
            class: Class::Internal,
        })?;
        let text = lent.expires_in.to_string();
        let seconds = text.trim_matches('"').parse().unwrap_or(600);
        let until = SystemTime::now() + Duration::from_secs(seconds);
        *found = Some((lent.access_token.clone(), until));
        Ok(lent.access_token)
    }

    async fn way(&self, what: &str) -> Result<Way, Error> {
        let variable = |name: &str| (self.environment)(name).filter(|text| !text.is_empty());
        let client = variable("AZURE_CLIENT_ID");
        if let (Some(tenant), Some(client)) = (variable("AZURE_TENANT_ID"), &client) {
            let host = variable("AZURE_AUTHORITY_HOST");
            let host = host.unwrap_or_else(|| "https://login.microsoftonline.com".to_owned());
            let url = format!("{}/{tenant}/oauth2/v2.0/token", host.trim_end_matches('/'));
            let proof = match variable("AZURE_CLIENT_SECRET") {
                Some(secret) => Some(format!("client_secret={}", encode(&secret, "%2F"))),
                None => match variable("AZURE_FEDERATED_TOKEN_FILE") {
                    Some(file) => Some(assertion(file, what).await?),
                    None => None,
                },
            };
            if let Some(proof) = proof {
                let scope = encode(&format!("{STORAGE}.default"), "%2F");
                let client = encode(client, "%2F");
                let form = format!(
                    "client_id={client}&scope={scope}&grant_type=client_credentials&{proof}"
                );
                return Ok(Way::Form { url, form });
            }
        }
        let place = variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
        let place = place.unwrap_or_else(|| MACHINE.to_owned());
        let place = place.trim_end_matches('/');
        let resource = encode(STORAGE, "%2F");
        let whose = client.map(|id| format!("&client_id={}", encode(&id, "%2F")));
        Ok(Way::Machine {
            url: format!(
                "{place}/metadata/identity/oauth2/token?api-version=2018-02-01&resource={resource}{}",
                whose.unwrap_or_default()
            ),
        })
    }
}

/// What a cluster says about its workload.
async fn assertion(file: String, what: &str) -> Result<String, Error> {
    let name = file.clone();
    let token = tasks::blocking(move || std::fs::read_to_string(name)).await;
    let token = token.map_err(|err| Error::Place {
        text: format!("{what}: {file}: {err}"),
        class: Class::User,
    })?;
    let kind = encode(
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "%2F",
    );
    Ok(format!(
        "client_assertion_type={kind}&client_assertion={}",
        encode(token.trim(), "%2F")
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use testkit::web::{Request, Response, Web};

    use super::*;

    #[tokio::test]
    async fn an_application_logs_in_once() {
        let service = Web::start(|request: &Request| {
            assert_eq!(request.path, "/t/oauth2/v2.0/token");
            let form = String::from_utf8_lossy(&request.body);
            assert!(form.contains("client_id=c&"), "{form}");
            assert!(form.ends_with("client_secret=s%2Bs"), "{form}");
            Response::file(r#"{"access_token":"abc","expires_in":3600}"#)
        });
        let url = service.url();
        let tokens = Tokens::new(
            &(Arc::new(move |name: &str| match name {
                "AZURE_TENANT_ID" => Some("t".to_owned()),
                "AZURE_CLIENT_ID" => Some("c".to_owned()),
                "AZURE_CLIENT_SECRET" => Some("s+s".to_owned()),
                "AZURE_AUTHORITY_HOST" => Some(url.clone()),
                _ => None,
            }) as _),
        );
        let client = http::client().expect("a client");
        for _ in 0..2 {
            let token = tokens.token(&Cx::root(), &client).await;
            assert_eq!(token.ok().as_deref(), Some("abc"));
        }
        assert_eq!(service.requests().len(), 1);
    }

    #[tokio::test]
    async fn a_machine_says_who_it_is() {
        let service = Web::start(|request: &Request| {
            assert_eq!(request.header("metadata"), "true");
            Response::file(r#"{"access_token":"abc","expires_in":"86000"}"#)
        });
        let url = service.url();
        let tokens = Tokens::new(
            &(Arc::new(move |name: &str| {
                (name == "AZURE_POD_IDENTITY_AUTHORITY_HOST").then(|| url.clone())
            }) as _),
        );
        let client = http::client().expect("a client");
        let token = tokens.token(&Cx::root(), &client).await;
        assert_eq!(token.ok().as_deref(), Some("abc"));
    }
}
