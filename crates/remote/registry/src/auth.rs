//! Logging in: which answer to a demand is known, and getting one.
//!
//! A *key* is what opens a host for one party: name and password, or tokens from a token server. Keys are kept in
//! *rings*, one per repository and purpose, so that a token of one build is never shown for what another may do.
//! Two sessions share a key when they prove to hold the same credentials.

pub(crate) mod challenge;
pub(crate) mod scope;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use parking_lot::Mutex;
use session::auth::{Authority, TokenRequest};
use tasks::Cx;

use crate::hosts::{Endpoint, Hosts};
use crate::{Credentials, Error, Login};
use challenge::{Challenge, Scheme};
use scope::Scopes;
use token::{Good, Server};

/// Rings and keys that were not used for this long are dropped.
const IDLE: Duration = Duration::from_secs(600);

/// What keys are kept apart by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Purpose {
    /// Registry and repository.
    pub(crate) name: String,
    pub(crate) push: bool,
    pub(crate) insecure: bool,
    /// For pushes: who pushes. Push tokens never cross sessions.
    pub(crate) holders: Vec<String>,
}

/// All keys of a daemon.
pub(crate) struct Keys {
    /// Makes authorities differ between daemons.
    salt: [u8; 32],
    rings: Mutex<HashMap<Purpose, Arc<Ring>>>,
}

/// The keys for one purpose. The lock is held while a holder is asked, so that many requests that are refused at the
/// same time ask once.
struct Ring {
    keys: tokio::sync::Mutex<Vec<Entry>>,
    used: Mutex<Instant>,
}

struct Entry {
    host: String,
    /// Empty: nobody in particular.
    holder: String,
    key: Arc<Key>,
    used: Instant,
}

/// What opens a host.
struct Key {
    host: String,
    kind: Kind,
}

enum Kind {
    Basic(Login),
    Bearer(Box<Bearer>),
}

/// A way to tokens, and those that were obtained.
struct Bearer {
    server: Server,
    /// What was demanded.
    scopes: Scopes,
    from: From,
    /// By scopes. Locked while a token is fetched, so that it is fetched once.
    tokens: tokio::sync::Mutex<HashMap<Vec<String>, Good>>,
}

/// Who talks to the token server.
enum From {
    /// The holder with this authority.
    Holder(Authority),
    /// We, with this login.
    Us(Login),
}

/// Who asks, and for what.
pub(crate) struct Asker<'a> {
    pub(crate) cx: &'a Cx,
    pub(crate) who: &'a dyn Credentials,
    pub(crate) hosts: &'a Hosts,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) purpose: &'a Purpose,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            salt: rand::random(),
            rings: Mutex::default(),
        }
    }

    fn ring(&self, purpose: &Purpose) -> Arc<Ring> {
        let mut rings = self.rings.lock();
        let now = Instant::now();
        rings.retain(|_, ring| now.duration_since(*ring.used.lock()) < IDLE);
        let ring = rings.entry(purpose.clone()).or_insert_with(|| {
            Arc::new(Ring {
                keys: tokio::sync::Mutex::default(),
                used: Mutex::new(now),
            })
        });
        *ring.used.lock() = now;
        ring.clone()
    }

    /// The authorization to send to `host`, if one is known already.
    pub(crate) async fn authorization(
        &self,
        asker: &Asker<'_>,
        host: &str,
        wanted: &Scopes,
    ) -> Result<Option<String>, Error> {
        let ring = self.ring(asker.purpose);
        let key = {
            let mut keys = asker.cx.run(ring.keys.lock()).await?;
            self.find(asker, &mut keys, host).await?
        };
        match key {
            Some(key) => key.authorization(asker, wanted).await.map(Some),
            None => Ok(None),
        }
    }

    /// Takes note of a refusal. Whether it makes sense to ask again.
    pub(crate) async fn refused(
        &self,
        asker: &Asker<'_>,
        host: &str,
        headers: &HeaderMap,
        again: bool,
    ) -> Result<bool, Error> {
        let ring = self.ring(asker.purpose);
        let mut keys = asker.cx.run(ring.keys.lock()).await?;
        for challenge in challenge::read(headers) {
            let settled = match challenge.scheme {
                Scheme::Bearer => {
                    self.bearer(asker, &mut keys, host, &challenge, again)
                        .await?
                }
                // The same name and password would be refused again.
                Scheme::Basic if again => false,
                Scheme::Basic => self.basic(asker, &mut keys, host).await?,
            };
            if settled {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn bearer(
        &self,
        asker: &Asker<'_>,
        keys: &mut Vec<Entry>,
        host: &str,
        challenge: &Challenge,
        again: bool,
    ) -> Result<bool, Error> {
        let known = self.find(asker, keys, host).await?;
        let demanded = Scopes::parse([challenge.parameter("scope")]);
        let mut scopes = demanded.clone();
        let message = challenge.parameter("error");
        match known {
            Some(known) if again && !message.is_empty() => {
                keys.retain(|entry| !Arc::ptr_eq(&entry.key, &known));
                let old = known.scopes();
                if message == "insufficient_scope" && old.covers(&demanded) {
                    return Err(Error::Unauthorized {
                        message: message.to_owned(),
                    });
                }
                scopes = scopes.union(&old);
            }
            Some(known) => {
                if again {
                    // Its end may have come earlier than its server said.
                    known.forget_tokens(asker).await?;
                }
                return Ok(true);
            }
            None => {}
        }
        let server = Server::of(challenge)?;
        let (holder, from) = match asker.who.authority(asker.cx, host, &self.salt).await? {
            Some((holder, authority)) => (holder, From::Holder(authority)),
            None => {
                let login = asker.who.login(asker.cx, host).await?;
                let (holder, login) = login.unwrap_or_default();
                (holder, From::Us(login))
            }
        };
        let kind = Kind::Bearer(Box::new(Bearer {
            server,
            scopes,
            from,
            tokens: tokio::sync::Mutex::default(),
        }));
        add(keys, host, holder, kind);
        Ok(true)
    }

    async fn basic(
        &self,
        asker: &Asker<'_>,
        keys: &mut Vec<Entry>,
        host: &str,
    ) -> Result<bool, Error> {
        let Some((holder, login)) = asker.who.login(asker.cx, host).await? else {
            return Ok(false);
        };
        if login.username.is_empty() || login.secret.is_empty() {
            return Ok(false);
        }
        add(keys, host, holder, Kind::Basic(login));
        Ok(true)
    }

    /// The key of one of the holders, or one that a holder proves to have as well.
    async fn find(
        &self,
        asker: &Asker<'_>,
        keys: &mut Vec<Entry>,
        host: &str,
    ) -> Result<Option<Arc<Key>>, Error> {
        let holders = asker.who.holders();
        // Most sessions are over sooner or later.
        keys.retain(|entry| entry.used.elapsed() < IDLE);
        let mut known = |holder: &str| {
            keys.iter_mut()
                .find(|entry| entry.host == host && entry.holder == holder)
                .map(|entry| {
                    entry.used = Instant::now();
                    entry.key.clone()
                })
        };
        if holders.is_empty() {
            return Ok(known(""));
        }
        if let Some(key) = holders.iter().find_map(|holder| known(holder)) {
            return Ok(Some(key));
        }
        let mut candidates: Vec<Arc<Key>> = Vec::new();
        for entry in keys.iter().filter(|entry| entry.host == host) {
            if !candidates.iter().any(|key| Arc::ptr_eq(key, &entry.key)) {
                candidates.push(entry.key.clone());
            }
        }
        for key in candidates {
            if let Some(holder) = self.shares(asker, &key, host).await {
                let entry = Entry {
                    host: host.to_owned(),
                    holder,
                    key: key.clone(),
                    used: Instant::now(),
                };
                keys.push(entry);
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The holder that has the same credentials. One that cannot be asked has not.
    async fn shares(&self, asker: &Asker<'_>, key: &Key, host: &str) -> Option<String> {
        let (who, cx) = (asker.who, asker.cx);
        let ours = match &key.kind {
            Kind::Basic(login) => login,
            Kind::Bearer(bearer) => match &bearer.from {
                From::Holder(authority) => {
                    return who.verify(cx, host, authority, &self.salt).await.ok()?;
                }
                From::Us(login) => login,
            },
        };
        let (holder, theirs) = who.login(cx, host).await.ok()??;
        (ours.username == theirs.username && ours.secret.same(&theirs.secret)).then_some(holder)
    }
}

fn add(keys: &mut Vec<Entry>, host: &str, holder: String, kind: Kind) {
    keys.retain(|entry| entry.host != host || entry.holder != holder);
    let host = host.to_owned();
    let key = Arc::new(Key {
        host: host.clone(),
        kind,
    });
    keys.push(Entry {
        host,
        holder,
        key,
        used: Instant::now(),
    });
}

impl Key {
    fn scopes(&self) -> Scopes {
        match &self.kind {
            Kind::Basic(_) => Scopes::default(),
            Kind::Bearer(bearer) => bearer.scopes.clone(),
        }
    }

    async fn forget_tokens(&self, asker: &Asker<'_>) -> Result<(), Error> {
        if let Kind::Bearer(bearer) = &self.kind {
            asker.cx.run(bearer.tokens.lock()).await?.clear();
        }
        Ok(())
    }

    async fn authorization(&self, asker: &Asker<'_>, wanted: &Scopes) -> Result<String, Error> {
        let bearer = match &self.kind {
            Kind::Basic(login) => return Ok(token::basic(login)),
            Kind::Bearer(bearer) => bearer,
        };
        let scopes = bearer.scopes.union(wanted);
        let texts = scopes.texts();
        let mut tokens = asker.cx.run(bearer.tokens.lock()).await?;
        if let Some(known) = tokens.get(&texts).filter(|known| known.is_good()) {
            return Ok(format!("Bearer {}", known.token.reveal_text()));
        }
        let good = match &bearer.from {
            From::Us(login) => {
                let work = token::obtain(asker, &bearer.server, login, &scopes);
                asker.cx.run(work).await??
            }
            From::Holder(_) => self.ask_holder(asker, &bearer.server, &texts).await?,
        };
        let header = format!("Bearer {}", good.token.reveal_text());
        tokens.insert(texts, good);
        Ok(header)
    }

    async fn ask_holder(
        &self,
        asker: &Asker<'_>,
        server: &Server,
        scopes: &[String],
    ) -> Result<Good, Error> {
        let wanted = TokenRequest {
            host: self.host.clone(),
            realm: server.realm.clone(),
            service: server.service.clone(),
            scopes: scopes.to_vec(),
        };
        let token = asker.who.token(asker.cx, &wanted).await?;
        let seconds = |value: i64| Duration::from_secs(u64::try_from(value).unwrap_or(0));
        let issued = match token.issued_at {
            0 => None,
            at => Some(SystemTime::UNIX_EPOCH + seconds(at)),
        };
        Ok(Good::new(token.token, issued, seconds(token.expires_in)))
    }
}
