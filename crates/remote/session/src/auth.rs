//! Registry credentials of the client.
//!
//! Tokens are fetched by the client where it can, so that passwords do not reach the daemon. To use one token for two
//! sessions the daemon must know that both hold the same credentials: the *authority* is a public key that the client
//! derives from them and from a salt of this daemon, and proves to own.

use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};
use proto::auth::auth_client::AuthClient;
use proto::auth::{
    CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest, VerifyTokenAuthorityRequest,
};
use tasks::Cx;
use tonic::Code;

use crate::{Error, Group, Secret, Session};

/// How long a client may take for one answer; it may have to ask its user.
const LIMIT: Duration = Duration::from_secs(60);
/// How clients of token servers name themselves.
pub(crate) const CLIENT_ID: &str = "buildkit-client";

/// What identifies the client to a registry. No user name: the secret is a refresh token.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// User name; empty for anonymous use and with a refresh token.
    pub username: String,
    /// Password or refresh token; empty for anonymous use.
    pub secret: Secret,
}

/// What a token is wanted for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// Registry host.
    pub host: String,
    /// URL of the token server.
    pub realm: String,
    /// Name the token server knows the registry by.
    pub service: String,
    /// `repository:NAME:pull` and the like.
    pub scopes: Vec<String>,
}

/// A bearer token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token.
    pub token: Secret,
    /// Seconds it is good for; 0 when unknown.
    pub expires_in: i64,
    /// Seconds since 1970; 0 when unknown.
    pub issued_at: i64,
}

/// The key behind a client's credentials for a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority(VerifyingKey);

/// Runs one question with its limit.
async fn within<T>(
    operation: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::TimedOut { operation }),
    }
}

/// The credentials for a host and the session they are of. A client that offers none is anonymous.
pub async fn credentials(
    cx: &Cx,
    group: &Group,
    host: &str,
) -> Result<(Session, Credentials), Error> {
    let ask = group.any(cx, async |session| {
        let request = CredentialsRequest {
            host: host.to_owned(),
        };
        let mut client = AuthClient::new(session.channel());
        match session.call(cx, client.credentials(request)).await {
            Ok(response) => {
                let response = response.into_inner();
                let credentials = Credentials {
                    username: response.username,
                    secret: Secret::new(response.secret),
                };
                Ok((session, credentials))
            }
            Err(err) if err.code() == Some(Code::Unimplemented) => {
                Ok((session, Credentials::default()))
            }
            Err(err) => Err(err),
        }
    });
    within("resolving credentials from session", ask).await
}

/// A token that the client fetches.
pub async fn fetch_token(cx: &Cx, group: &Group, wanted: &TokenRequest) -> Result<Token, Error> {
    let ask = group.any(cx, async |session| {
        let request = FetchTokenRequest {
            client_id: CLIENT_ID.to_owned(),
            host: wanted.host.clone(),
            realm: wanted.realm.clone(),
            service: wanted.service.clone(),
            scopes: wanted.scopes.clone(),
        };
        let mut client = AuthClient::new(session.channel());
        let response = session.call(cx, client.fetch_token(request)).await?;
        let response = response.into_inner();
        Ok(Token {
            token: Secret::new(response.token),
            expires_in: response.expires_in,
            issued_at: response.issued_at,
        })
    });
    within("fetching auth token from session", ask).await
}

/// The authority of the first session that has one. `None`: tokens are not fetched by the client.
pub async fn token_authority(
    cx: &Cx,
    group: &Group,
    host: &str,
    salt: &[u8; 32],
) -> Result<Option<(Session, Authority)>, Error> {
    let ask = group.any(cx, async |session| {
        let request = GetTokenAuthorityRequest {
            host: host.to_owned(),
            salt: salt.to_vec().into(),
        };
        let mut client = AuthClient::new(session.channel());
        let answer = session.call(cx, client.get_token_authority(request)).await;
        let key = match answer {
            Ok(response) => response.into_inner().public_key,
            Err(err) if matches!(err.code(), Some(Code::Unimplemented | Code::Unavailable)) => {
                return Ok(None);
            }
            Err(err) => return Err(err),
        };
        let length = key.len();
        let key = <[u8; 32]>::try_from(&key[..]).map_err(|_| Error::KeyLength { length })?;
        let key = VerifyingKey::from_bytes(&key).map_err(|_| Error::KeyLength { length })?;
        Ok(Some((session, Authority(key))))
    });
    within("getting token authority from session", ask).await
}

/// The session that proves to hold the same credentials. `None`: none of them does.
pub async fn verify_authority(
    cx: &Cx,
    group: &Group,
    host: &str,
    authority: &Authority,
    salt: &[u8; 32],
) -> Result<Option<Session>, Error> {
    let payload: [u8; 32] = rand::random();
    let ask = group.any(cx, async |session| {
        let request = VerifyTokenAuthorityRequest {
            host: host.to_owned(),
            payload: payload.to_vec().into(),
            salt: salt.to_vec().into(),
        };
        let mut client = AuthClient::new(session.channel());
        let answer = session
            .call(cx, client.verify_token_authority(request))
            .await;
        match answer {
            Ok(response) => {
                let signed = response.into_inner().signed;
                Ok(authority.has_signed(&payload, &signed).then_some(session))
            }
            Err(err) if err.code() == Some(Code::Unimplemented) => Ok(None),
            Err(err) => Err(err),
        }
    });
    within("verifying token authority from session", ask).await
}

impl Authority {
    /// The public key.
    pub fn key(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether `signed` is a signature of this key followed by `payload`.
    fn has_signed(&self, payload: &[u8], signed: &[u8]) -> bool {
        let Some((signature, message)) = signed.split_first_chunk::<64>() else {
            return false;
        };
        message == payload
            && self
                .0
                .verify_strict(message, &Signature::from_bytes(signature))
                .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    #[test]
    fn a_signature_proves_the_authority_for_its_payload_only() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let authority = Authority(key.verifying_key());
        let mut signed = key.sign(b"payload").to_bytes().to_vec();
        signed.extend_from_slice(b"payload");
        assert!(authority.has_signed(b"payload", &signed));
        assert!(!authority.has_signed(b"other", &signed));
        signed[0] ^= 1;
        assert!(!authority.has_signed(b"payload", &signed));
        assert!(!authority.has_signed(b"payload", b"short"));
    }
}
