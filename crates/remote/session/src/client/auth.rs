//! Answers the daemon's questions about registry credentials.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use progress::{Event, Sink, Vertex};
use proto::auth::auth_server::{Auth, AuthServer};
use proto::auth::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse,
    GetTokenAuthorityRequest, GetTokenAuthorityResponse, VerifyTokenAuthorityRequest,
    VerifyTokenAuthorityResponse,
};
use reqwest::StatusCode;
use sha2::Sha256;
use tonic::{Request, Response, Status};

use super::config::{DockerConfig, Found};
use super::seeds::Seeds;
use super::token::{self, TokenError};
use crate::auth::TokenRequest;

/// The methods of the service.
pub const METHODS: &[&str] = &[
    "Credentials",
    "FetchToken",
    "GetTokenAuthority",
    "VerifyTokenAuthority",
];

/// How long an answer of a credential helper is believed.
const FRESH: Duration = Duration::from_secs(290);
/// A configured token says nothing about its end.
const CONFIGURED_SECONDS: i64 = 60;

/// What the provider needs.
#[derive(Clone)]
pub struct Options {
    /// Where credentials come from.
    pub config: DockerConfig,
    /// Fetch tokens here, so that passwords stay here.
    pub fetch_tokens: bool,
    /// Is told which tokens are fetched and whose credentials are used.
    pub sink: Arc<dyn Sink>,
}

/// The service over a user's credentials. Nothing is read or connected before the daemon asks.
pub fn service(options: Options) -> AuthServer<impl Auth> {
    AuthServer::new(Provider {
        seeds: Seeds::new(options.config.dir()),
        options,
        http: tokio::sync::OnceCell::new(),
        cached: tokio::sync::Mutex::default(),
        told: Mutex::default(),
    })
}

struct Provider {
    options: Options,
    /// Made when the first token is fetched: reading the machine's certificates takes longer than a cached build.
    http: tokio::sync::OnceCell<reqwest::Client>,
    seeds: Seeds,
    /// Held while a helper runs, so that it is not run twice for one host.
    cached: tokio::sync::Mutex<HashMap<String, (Instant, Found)>>,
    told: Mutex<Vec<String>>,
}

impl Provider {
    async fn lookup(&self, host: &str) -> Result<Found, Status> {
        let mut cached = self.cached.lock().await;
        if let Some((when, found)) = cached.get(host)
            && when.elapsed() < FRESH
        {
            return Ok(found.clone());
        }
        let found = self.options.config.lookup(host).await;
        let found = found.map_err(|err| Status::unknown(fault::chain(&err)))?;
        cached.insert(host.to_owned(), (Instant::now(), found.clone()));
        Ok(found)
    }

    /// The key that stands for the credentials of a host towards the daemon that has this salt.
    async fn key(&self, host: &str, salt: &[u8]) -> Result<SigningKey, Status> {
        if !self.options.fetch_tokens {
            return Err(Status::unavailable("client side tokens disabled"));
        }
        let found = self.lookup(host).await?;
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(salt)
            .map_err(|_| Status::invalid_argument("invalid salt"))?;
        // Without a secret all clients are the same.
        if !found.credentials.secret.is_empty() {
            mac.update(&self.seeds.of(host));
        }
        Ok(SigningKey::from_bytes(&mac.finalize().into_bytes().into()))
    }

    /// Shows a line in the progress of the build.
    fn tell(&self, name: String, work_began: SystemTime, error: String) {
        let id = identity::new_id();
        self.options.sink.emit(Event::from(Vertex {
            digest: oci::Digest::of(id.as_bytes()).to_string(),
            name,
            started: Some(work_began),
            completed: Some(SystemTime::now()),
            error,
            ..Vertex::default()
        }));
    }
}

#[tonic::async_trait]
impl Auth for Provider {
    async fn credentials(
        &self,
        request: Request<CredentialsRequest>,
    ) -> Result<Response<CredentialsResponse>, Status> {
        let host = request.into_inner().host;
        let found = self.lookup(&host).await?;
        let first = {
            let mut told = self.told.lock();
            let first = !told.contains(&host);
            if first {
                told.push(host.clone());
            }
            first
        };
        if first && !found.credentials.secret.is_empty() {
            let name = format!("[auth] sharing credentials for {host}");
            self.tell(name, SystemTime::now(), String::new());
        }
        Ok(Response::new(CredentialsResponse {
            username: found.credentials.username.clone(),
            secret: found.credentials.secret.reveal_text(),
        }))
    }

    async fn fetch_token(
        &self,
        request: Request<FetchTokenRequest>,
    ) -> Result<Response<FetchTokenResponse>, Status> {
        let request = request.into_inner();
        let found = self.lookup(&request.host).await?;
        if let Some(token) = found.token {
            return Ok(Response::new(FetchTokenResponse {
                token: token.reveal_text(),
                expires_in: CONFIGURED_SECONDS,
                issued_at: 0,
            }));
        }
        let wanted = TokenRequest {
            host: request.host,
            realm: request.realm,
            service: request.service,
            scopes: request.scopes,
        };
        let began = SystemTime::now();
        let http = self
            .http
            .get_or_try_init(|| async { token::http_client() })
            .await
            .map_err(|err| Status::unknown(fault::chain(&err)))?;
        let fetched = token::fetch(http, &wanted, &found.credentials).await;
        let scopes: Vec<&str> = wanted
            .scopes
            .iter()
            .map(|scope| scope.strip_prefix("repository:").unwrap_or(scope))
            .collect();
        let name = format!("[auth] {} token for {}", scopes.join(" "), wanted.host);
        let error = fetched.as_ref().err().map(|err| fault::chain(err));
        self.tell(name, began, error.unwrap_or_default());
        match fetched {
            Ok(token) => Ok(Response::new(FetchTokenResponse {
                token: token.token.reveal_text(),
                expires_in: token.expires_in,
                issued_at: token.issued_at,
            })),
            Err(err) => Err(refusal(&err, found.credentials.secret.is_empty())),
        }
    }

    async fn get_token_authority(
        &self,
        request: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let key = self.key(&request.host, &request.salt).await?;
        Ok(Response::new(GetTokenAuthorityResponse {
            public_key: key.verifying_key().as_bytes().to_vec().into(),
        }))
    }

    async fn verify_token_authority(
        &self,
        request: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        let request = request.into_inner();
        let key = self.key(&request.host, &request.salt).await?;
        let mut signed = key.sign(&request.payload).to_bytes().to_vec();
        signed.extend_from_slice(&request.payload);
        Ok(Response::new(VerifyTokenAuthorityResponse {
            signed: signed.into(),
        }))
    }
}

fn refusal(err: &TokenError, anonymous: bool) -> Status {
    let kind = if anonymous { "anonymous" } else { "oauth" };
    let text = format!("failed to fetch {kind} token: {}", fault::chain(err));
    match err {
        TokenError::Status { status, .. } if *status == StatusCode::UNAUTHORIZED => {
            Status::unauthenticated(text)
        }
        _ => Status::unknown(text),
    }
}
