//! Who signs: keys that were given, or those of the daemon's environment, files, container, or machine.

use std::fmt;
use std::time::{Duration, SystemTime};

use fault::Class;
use remotecache::Error;
use reqwest::{Method, Response};
use serde::Deserialize;
use tasks::Cx;
use tokio::sync::Mutex;

use super::profiles::{First, Profiles, Role};
use super::roles::{self, Lender, Lent, moment, place};
use crate::Environment;
use crate::attrs::Attrs;
use crate::http::{self, Body};

/// Where a container of that cloud asks.
const CONTAINER: &str = "http://169.254.170.2";
/// Where a machine of that cloud asks.
const MACHINE: &str = "http://169.254.169.254";
/// Keys are got anew so long before they end.
const AHEAD: Duration = Duration::from_secs(300);
/// There is no such service on most machines, and nothing that would say so.
const NEARBY: Duration = Duration::from_secs(2);

/// Who signs.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.id).finish()
    }
}

impl Keys {
    /// Those among the options.
    pub(crate) fn given(attrs: &Attrs<'_>) -> Option<Self> {
        let given = |key: &str| attrs.get(key).filter(|text| !text.is_empty());
        Some(Self {
            id: given("access_key_id")?.to_owned(),
            secret: given("secret_access_key")?.to_owned(),
            token: given("session_token").map(str::to_owned),
        })
    }

    fn of_environment(environment: &Environment) -> Option<Self> {
        let variable = |name: &str| environment(name).filter(|text| !text.is_empty());
        Some(Self {
            id: variable("AWS_ACCESS_KEY_ID")?,
            secret: variable("AWS_SECRET_ACCESS_KEY")?,
            token: variable("AWS_SESSION_TOKEN"),
        })
    }
}

/// Finds keys when they are needed, and again when they have ended.
pub(crate) struct Credentials {
    given: Option<Keys>,
    environment: Environment,
    region: String,
    http: reqwest::Client,
    found: Mutex<Option<(Keys, Option<SystemTime>)>>,
}

/// Keys as services give them.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answered {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

impl Credentials {
    pub(crate) fn new(
        given: Option<Keys>,
        environment: &Environment,
        region: &str,
        http: &reqwest::Client,
    ) -> Self {
        Self {
            given,
            environment: environment.clone(),
            region: region.to_owned(),
            http: http.clone(),
            found: Mutex::default(),
        }
    }

    /// The keys of now; none for a bucket that is open to everybody.
    pub(crate) async fn keys(&self, cx: &Cx) -> Result<Keys, Error> {
        if let Some(keys) = &self.given {
            return Ok(keys.clone());
        }
        let mut found = cx.run(self.found.lock()).await?;
        let fresh = |until: &SystemTime| *until > SystemTime::now() + AHEAD;
        if let Some((keys, until)) = &*found
            && until.as_ref().is_none_or(fresh)
        {
            return Ok(keys.clone());
        }
        let (keys, until) = self.find(cx).await?;
        *found = Some((keys.clone(), until));
        Ok(keys)
    }

    fn variable(&self, name: &str) -> Option<String> {
        (self.environment)(name).filter(|text| !text.is_empty())
    }

    async fn find(&self, cx: &Cx) -> Result<Lent, Error> {
        if let Some(keys) = Keys::of_environment(&self.environment) {
            return Ok((keys, None));
        }
        if let Some(lent) = self.of_web_identity(cx).await? {
            return Ok(lent);
        }
        if let Some(lent) = self.of_files(cx).await? {
            return Ok(lent);
        }
        if let Some(lent) = self.of_container(cx).await? {
            return Ok(lent);
        }
        Ok(self.of_machine(cx).await.unwrap_or_default())
    }

    /// A role, for a token that a cluster wrote into a file.
    async fn of_web_identity(&self, cx: &Cx) -> Result<Option<Lent>, Error> {
        let file = self.variable("AWS_WEB_IDENTITY_TOKEN_FILE");
        let (Some(file), Some(role)) = (file, self.variable("AWS_ROLE_ARN")) else {
            return Ok(None);
        };
        let role = Role {
            arn: role,
            session: self.variable("AWS_ROLE_SESSION_NAME"),
            ..Role::default()
        };
        self.for_token(cx, file, &role).await.map(Some)
    }

    async fn for_token(&self, cx: &Cx, file: String, role: &Role) -> Result<Lent, Error> {
        let what = format!("failed to read web identity token {file}");
        let token = tasks::blocking(move || std::fs::read_to_string(file)).await;
        let token = token.map_err(|err| place(format!("{what}: {err}")))?;
        self.lender().exchange(cx, &token, role).await
    }

    fn lender(&self) -> Lender<'_> {
        let usual = format!("https://sts.{}.amazonaws.com", self.region);
        Lender {
            http: &self.http,
            url: self.variable("AWS_ENDPOINT_URL_STS").unwrap_or(usual),
            region: &self.region,
        }
    }

    /// The chosen profile of the usual files.
    async fn of_files(&self, cx: &Cx) -> Result<Option<Lent>, Error> {
        let profile = self.variable("AWS_PROFILE");
        let profile = profile.unwrap_or_else(|| "default".to_owned());
        let home = self.variable("HOME").unwrap_or_default();
        let path = |variable: &str, name: &str| {
            let usual = format!("{home}/.aws/{name}");
            self.variable(variable).unwrap_or(usual)
        };
        let files = [
            path("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            path("AWS_CONFIG_FILE", "config"),
        ];
        let way = tasks::blocking(move || {
            let mut profiles = Profiles::default();
            let texts = files
                .iter()
                .filter_map(|file| std::fs::read_to_string(file).ok());
            texts.for_each(|text| profiles.read(&text));
            profiles.way(&profile)
        });
        let Some(way) = way.await.map_err(place)? else {
            return Ok(None);
        };
        let (mut keys, mut until) = self.first(cx, way.first).await?;
        for role in &way.roles {
            (keys, until) = self.lender().assume(cx, &keys, role).await?;
        }
        Ok(Some((keys, until)))
    }

    /// The keys a profile begins with.
    async fn first(&self, cx: &Cx, first: First) -> Result<Lent, Error> {
        let missing = |what: &str| place(format!("there are no credentials of the {what}"));
        match first {
            First::Keys(keys) => Ok((keys, None)),
            First::Environment => {
                let keys = Keys::of_environment(&self.environment);
                Ok((keys.ok_or_else(|| missing("environment"))?, None))
            }
            First::Container => {
                let lent = self.of_container(cx).await?;
                lent.ok_or_else(|| missing("container"))
            }
            First::Machine => {
                let lent = self.of_machine(cx).await;
                lent.ok_or_else(|| missing("machine"))
            }
            First::WebIdentity { file, role } => self.for_token(cx, file, &role).await,
            First::Process(command) => roles::of_process(cx, &command).await,
            First::SingleSignOn {
                start,
                region,
                account,
                role,
            } => {
                let home = self.variable("HOME").unwrap_or_default();
                let folder = std::path::PathBuf::from(format!("{home}/.aws/sso/cache"));
                let page = start.clone();
                let token = tasks::blocking(move || roles::cached_token(&folder, &page)).await;
                let token = token.ok_or_else(|| {
                    place(format!(
                        "the sign-on at {start} has expired or was never made"
                    ))
                })?;
                let usual = format!("https://portal.sso.{region}.amazonaws.com");
                let portal = self.variable("AWS_ENDPOINT_URL_SSO").unwrap_or(usual);
                roles::of_portal(cx, &self.http, &portal, &token, (&account, &role)).await
            }
        }
    }

    /// What a container is told where to ask for.
    async fn of_container(&self, cx: &Cx) -> Result<Option<Lent>, Error> {
        let relative = self.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
        let relative = relative.map(|path| format!("{CONTAINER}{path}"));
        let full = || self.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI");
        let Some(url) = relative.or_else(full) else {
            return Ok(None);
        };
        let mut request = self.http.get(&url);
        let file = self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
        let token = match file {
            Some(file) => tasks::blocking(move || std::fs::read_to_string(file).ok()).await,
            None => self.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        };
        if let Some(token) = token {
            request = request.header("authorization", token.trim());
        }
        let what = "failed to get the credentials of the container";
        let answer = cx.run(http::send(request, &Body::Nothing, what)).await??;
        lent(what, http::accepted(what, answer).await?)
            .await
            .map(Some)
    }

    /// What the machine may do. Most are not of that cloud.
    async fn of_machine(&self, cx: &Cx) -> Option<Lent> {
        let off = self.variable("AWS_EC2_METADATA_DISABLED");
        if off.is_some_and(|off| off.eq_ignore_ascii_case("true")) {
            return None;
        }
        let place = self.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT");
        let place = place.unwrap_or_else(|| MACHINE.to_owned());
        let place = place.trim_end_matches('/');
        let ask = |method: Method, path: String, (name, value): (&'static str, String)| {
            let url = format!("{place}/latest/{path}");
            let request = self.http.request(method, url).header(name, value);
            let request = request.timeout(NEARBY);
            async move {
                let answer = cx.run(request.send()).await.ok()?.ok()?;
                answer.status().is_success().then_some(answer)
            }
        };
        let ttl = ("x-aws-ec2-metadata-token-ttl-seconds", "21600".to_owned());
        let token = ask(Method::PUT, "api/token".to_owned(), ttl).await?;
        let token = token.text().await.ok()?;
        let token = || ("x-aws-ec2-metadata-token", token.clone());
        let roles = "meta-data/iam/security-credentials/";
        let role = ask(Method::GET, roles.to_owned(), token()).await?;
        let role = role.text().await.ok()?;
        let path = format!("{roles}{}", role.lines().next()?.trim());
        let answer = ask(Method::GET, path, token()).await?;
        let found = lent("failed to get the credentials of the machine", answer).await;
        found
            .inspect_err(|err| tracing::warn!(error = %fault::chain(err), "no credentials"))
            .ok()
    }
}

async fn lent(what: &str, answer: Response) -> Result<Lent, Error> {
    let bytes = http::read(what, answer).await?;
    let lent: Answered = serde_json::from_slice(&bytes).map_err(|_| nonsense(what))?;
    let until = lent.expiration.as_deref().and_then(moment);
    let keys = Keys {
        id: lent.access_key_id,
        secret: lent.secret_access_key,
        token: lent.token,
    };
    Ok((keys, until))
}

pub(super) fn nonsense(what: &str) -> Error {
    Error::Place {
        text: format!("{what}: there are no keys in the answer"),
        class: Class::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use testkit::web::{Request, Response, Web};

    use super::*;

    async fn find(environment: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Keys {
        let http = http::client().expect("a client");
        let credentials = Credentials::new(None, &(Arc::new(environment) as _), "eu-1", &http);
        credentials.keys(&Cx::root()).await.expect("keys")
    }

    const LENT: &str = r#"{"Code":"Success","AccessKeyId":"i","SecretAccessKey":"s","Token":"t",
        "Expiration":"2999-01-01T00:00:00Z"}"#;

    #[tokio::test]
    async fn the_variables_come_first() {
        let keys = find(|name| match name {
            "AWS_ACCESS_KEY_ID" => Some("i".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("s".to_owned()),
            _ => None,
        });
        assert_eq!(keys.await.id, "i");
    }

    #[tokio::test]
    async fn a_machine_is_asked_with_a_token() {
        let service = Web::start(|request: &Request| {
            let token = request.header("x-aws-ec2-metadata-token");
            match (request.method.as_str(), request.path.as_str(), token) {
                ("PUT", "/latest/api/token", _) => Response::file("secret"),
                ("GET", "/latest/meta-data/iam/security-credentials/", "secret") => {
                    Response::file("role\n")
                }
                ("GET", "/latest/meta-data/iam/security-credentials/role", "secret") => {
                    Response::file(LENT)
                }
                _ => Response::status(401),
            }
        });
        let url = service.url();
        let keys = find(move |name| {
            let here = name == "AWS_EC2_METADATA_SERVICE_ENDPOINT";
            here.then(|| url.clone())
        });
        let keys = keys.await;
        assert_eq!((keys.id.as_str(), keys.token.as_deref()), ("i", Some("t")));
    }

    #[tokio::test]
    async fn a_container_is_told_where_to_ask() {
        let service = Web::start(|request: &Request| match request.header("authorization") {
            "bearer" => Response::file(LENT),
            _ => Response::status(401),
        });
        let url = service.url();
        let keys = find(move |name| match name {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI" => Some(url.clone()),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN" => Some("bearer".to_owned()),
            _ => None,
        });
        assert_eq!(keys.await.secret, "s");
    }

    #[tokio::test]
    async fn a_role_is_got_for_the_token_of_a_cluster() {
        let service = Web::start(|request: &Request| {
            let form = String::from_utf8_lossy(&request.body);
            assert!(
                form.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&"),
                "{form}"
            );
            assert!(form.ends_with("WebIdentityToken=jwt"), "{form}");
            Response::file(
                "<A><AccessKeyId>i</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                 <SessionToken>t</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></A>",
            )
        });
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("token");
        std::fs::write(&file, "jwt\n").expect("written");
        let (url, file) = (service.url(), file.display().to_string());
        let keys = find(move |name| match name {
            "AWS_ENDPOINT_URL_STS" => Some(url.clone()),
            "AWS_WEB_IDENTITY_TOKEN_FILE" => Some(file.clone()),
            "AWS_ROLE_ARN" => Some("arn:aws:iam::1:role/r".to_owned()),
            _ => None,
        });
        assert_eq!(keys.await.id, "i");
    }

    #[tokio::test]
    async fn a_profile_leads_to_its_role() {
        let service = Web::start(|request: &Request| {
            let form = String::from_utf8_lossy(&request.body);
            let signed = request.header("authorization");
            if form.contains("RoleArn=first&") {
                assert!(
                    signed.starts_with("AWS4-HMAC-SHA256 Credential=a/"),
                    "{signed}"
                );
                assert!(signed.contains("/eu-1/sts/aws4_request"), "{signed}");
            } else {
                assert!(signed.contains("Credential=i/"), "{signed}");
                assert_eq!(request.header("x-amz-security-token"), "t");
                assert!(
                    form.contains("RoleArn=second&") && form.ends_with("ExternalId=e"),
                    "{form}"
                );
            }
            Response::file(
                "<A><AccessKeyId>i</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                 <SessionToken>t</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></A>",
            )
        });
        let dir = tempfile::tempdir().expect("a folder");
        let aws = dir.path().join(".aws");
        std::fs::create_dir(&aws).expect("made");
        std::fs::write(
            aws.join("credentials"),
            "[base]\naws_access_key_id=a\naws_secret_access_key=b\n",
        )
        .expect("written");
        let config = "[profile mid]\nrole_arn=first\nsource_profile=base\n\
                      [profile top]\nrole_arn=second\nsource_profile=mid\nexternal_id=e\n";
        std::fs::write(aws.join("config"), config).expect("written");
        let (url, home) = (service.url(), dir.path().display().to_string());
        let keys = find(move |name| match name {
            "AWS_ENDPOINT_URL_STS" => Some(url.clone()),
            "AWS_PROFILE" => Some("top".to_owned()),
            "HOME" => Some(home.clone()),
            _ => None,
        });
        assert_eq!(keys.await.token.as_deref(), Some("t"));
    }

    #[tokio::test]
    async fn a_token_of_single_sign_on_is_taken_from_its_cache() {
        let service = Web::start(|request: &Request| {
            assert_eq!(request.header("x-amz-sso_bearer_token"), "good");
            assert_eq!(request.path, "/federation/credentials");
            assert_eq!(request.query, "role_name=dev&account_id=123");
            Response::file(
                r#"{"roleCredentials":{"accessKeyId":"i","secretAccessKey":"s","sessionToken":"t","expiration":32503680000000}}"#,
            )
        });
        let dir = tempfile::tempdir().expect("a folder");
        let cache = dir.path().join(".aws/sso/cache");
        std::fs::create_dir_all(&cache).expect("made");
        let token = |token: &str, page: &str, until: &str| {
            format!(r#"{{"startUrl":"{page}","accessToken":"{token}","expiresAt":"{until}"}}"#)
        };
        for (name, text) in [
            (
                "1.json",
                token("old", "https://start", "2020-01-01T00:00:00Z"),
            ),
            (
                "2.json",
                token("other", "https://other", "2999-01-01T00:00:00Z"),
            ),
            (
                "3.json",
                token("good", "https://start", "2999-01-01T00:00:00UTC"),
            ),
            ("4.json", "nonsense".to_owned()),
        ] {
            std::fs::write(cache.join(name), text).expect("written");
        }
        let config = "[default]\nsso_session=s\nsso_account_id=123\nsso_role_name=dev\n\
                      [sso-session s]\nsso_start_url=https://start\nsso_region=eu\n";
        std::fs::write(dir.path().join(".aws/config"), config).expect("written");
        let (url, home) = (service.url(), dir.path().display().to_string());
        let keys = find(move |name| match name {
            "AWS_ENDPOINT_URL_SSO" => Some(url.clone()),
            "HOME" => Some(home.clone()),
            _ => None,
        });
        assert_eq!(keys.await.id, "i");
    }

    #[tokio::test]
    async fn a_command_may_print_keys() {
        let dir = tempfile::tempdir().expect("a folder");
        let aws = dir.path().join(".aws");
        std::fs::create_dir(&aws).expect("made");
        let printed = r#"{"Version":1,"AccessKeyId":"i","SecretAccessKey":"s"}"#;
        let config = format!("[default]\ncredential_process = printf '{printed}'\n");
        std::fs::write(aws.join("config"), config).expect("written");
        let home = dir.path().display().to_string();
        let keys = find(move |name| (name == "HOME").then(|| home.clone()));
        assert_eq!(keys.await.id, "i");
    }
}
