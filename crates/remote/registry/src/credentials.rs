//! Who asks: where user names, passwords and tokens come from.

use std::sync::Arc;

use async_trait::async_trait;
use session::auth::{Authority, Token, TokenRequest};
use session::{Group, Secret};
use tasks::Cx;

/// A user name and a secret. Both empty: anonymous. No user name: the secret is a refresh token.
#[derive(Debug, Clone, Default)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password or refresh token.
    pub secret: Secret,
}

/// Answers a registry's demand for credentials.
///
/// 1. A *holder* is a party with its own credentials (a client's session), named by a text. What was obtained for a
///    holder is used for it again without asking.
/// 2. With an authority, tokens are obtained through [`Credentials::token`] only, and the login is never asked for.
/// 3. Nobody to ask is no failure: `login` answers `None`, and the request goes on anonymously.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Those who can be asked, in order.
    fn holders(&self) -> &[String];

    /// The authority of the first holder that obtains tokens by itself.
    async fn authority(
        &self,
        _cx: &Cx,
        _host: &str,
        _salt: &[u8; 32],
    ) -> Result<Option<(String, Authority)>, session::Error> {
        Ok(None)
    }

    /// The holder that proves to have the same credentials as `authority`.
    async fn verify(
        &self,
        _cx: &Cx,
        _host: &str,
        _authority: &Authority,
        _salt: &[u8; 32],
    ) -> Result<Option<String>, session::Error> {
        Ok(None)
    }

    /// A token from the holder with an authority.
    async fn token(&self, _cx: &Cx, _wanted: &TokenRequest) -> Result<Token, session::Error> {
        Err(session::Error::NoSessions)
    }

    /// User name and secret, and whose they are.
    async fn login(&self, cx: &Cx, host: &str) -> Result<Option<(String, Login)>, session::Error>;
}

/// Nobody in particular.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

#[async_trait]
impl Credentials for Anonymous {
    fn holders(&self) -> &[String] {
        &[]
    }

    async fn login(&self, _: &Cx, _: &str) -> Result<Option<(String, Login)>, session::Error> {
        Ok(None)
    }
}

/// The sessions of a build: the client is asked.
#[derive(Debug, Clone, Default)]
pub struct Sessions(Group);

impl Sessions {
    /// Asks these sessions.
    pub fn credentials(group: &Group) -> Arc<dyn Credentials> {
        Arc::new(Self(group.clone()))
    }
}

#[async_trait]
impl Credentials for Sessions {
    fn holders(&self) -> &[String] {
        self.0.ids()
    }

    async fn authority(
        &self,
        cx: &Cx,
        host: &str,
        salt: &[u8; 32],
    ) -> Result<Option<(String, Authority)>, session::Error> {
        match session::auth::token_authority(cx, &self.0, host, salt).await {
            Ok(found) => Ok(found.map(|(session, key)| (session.id().to_owned(), key))),
            Err(session::Error::NoSessions) => Ok(None),
            Err(err) => Err(err),
        }
    }

    async fn verify(
        &self,
        cx: &Cx,
        host: &str,
        authority: &Authority,
        salt: &[u8; 32],
    ) -> Result<Option<String>, session::Error> {
        let found = session::auth::verify_authority(cx, &self.0, host, authority, salt).await?;
        Ok(found.map(|session| session.id().to_owned()))
    }

    async fn token(&self, cx: &Cx, wanted: &TokenRequest) -> Result<Token, session::Error> {
        session::auth::fetch_token(cx, &self.0, wanted).await
    }

    async fn login(&self, cx: &Cx, host: &str) -> Result<Option<(String, Login)>, session::Error> {
        match session::auth::credentials(cx, &self.0, host).await {
            Ok((session, found)) => {
                let login = Login {
                    username: found.username,
                    secret: found.secret,
                };
                Ok(Some((session.id().to_owned(), login)))
            }
            Err(session::Error::NoSessions) => Ok(None),
            Err(err) => Err(err),
        }
    }
}
