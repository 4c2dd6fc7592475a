//! The sessions of a daemon.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::control::BytesMessage;
use tasks::{Cx, Task};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use crate::health::{self, Schedule};
use crate::turns::Turns;
use crate::{Error, Tunnel, metadata};

/// How long a callback waits for a session that is not there yet.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the daemon sends on the stream that carries a session.
pub type Outgoing = Pin<Box<dyn Stream<Item = Result<BytesMessage, Status>> + Send>>;

/// A client that can be called back. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: String,
    shared_key: String,
    /// In lower case.
    methods: HashSet<String>,
    channel: Channel,
    cx: Cx,
}

impl Session {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The part of the identity of local sources that the client chose; may be empty.
    pub fn shared_key(&self) -> &str {
        &self.0.shared_key
    }

    /// Whether the client announced this method (`/package.Service/Method`, case does not matter).
    pub fn supports(&self, method: &str) -> bool {
        self.0.methods.contains(&method.to_lowercase())
    }

    /// The connection to the client.
    pub fn channel(&self) -> Channel {
        self.0.channel.clone()
    }

    /// Cancelled when the session ends.
    pub fn cx(&self) -> &Cx {
        &self.0.cx
    }

    /// Ends the session; calls in it fail with `cause`.
    pub fn close(&self, cause: &str) {
        self.0.cx.cancel(cause);
    }

    /// Runs a call until it ends, `cx` ends, or the session ends.
    pub async fn call<T>(
        &self,
        cx: &Cx,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Error> {
        match cx.run(self.0.cx.run(work)).await?? {
            Ok(value) => Ok(value),
            // A broken connection is a session that ended, and that has a better reason to tell.
            Err(_) if self.0.cx.is_cancelled() => Err(self.0.cx.cancelled().await.into()),
            Err(status) => Err(status.into()),
        }
    }
}

/// The table of sessions. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Manager(Arc<Table>);

#[derive(Debug)]
struct Table {
    sessions: Mutex<HashMap<String, Session>>,
    /// Changes with every session that comes.
    arrivals: watch::Sender<()>,
    turns: Turns,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            sessions: Mutex::default(),
            arrivals: watch::Sender::new(()),
            turns: Turns::default(),
        }
    }
}

/// A session is in the table while its stream is served.
#[derive(Debug)]
struct Registration {
    table: Arc<Table>,
    session: Session,
    _health: Task<()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.session.close("context canceled");
        let mut sessions = self.table.sessions.lock();
        let id = self.session.id();
        // A newer stream may have taken the place.
        if sessions
            .get(id)
            .is_some_and(|other| Arc::ptr_eq(&other.0, &self.session.0))
        {
            sessions.remove(id);
        }
    }
}

impl Manager {
    /// No sessions yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Who writes what into which folder of clients.
    pub(crate) fn turns(&self) -> &Turns {
        &self.0.turns
    }

    /// Takes a stream that a client opened to be called back, and returns what to send on it.
    ///
    /// The session lasts until the client ends the stream, or the returned stream is dropped.
    pub async fn serve<S>(&self, headers: &MetadataMap, incoming: S) -> Result<Outgoing, Error>
    where
        S: Stream<Item = Result<BytesMessage, Status>> + Send + 'static,
    {
        let missing = Error::MissingMetadata {
            key: metadata::SESSION_ID,
        };
        let id = metadata::text(headers, metadata::SESSION_ID).filter(|id| !id.is_empty());
        let id = id.ok_or(missing)?.to_owned();
        let cx = Cx::root();
        let bytes = incoming.map(|message| message.map(|message| message.data));
        let (tunnel, written) = Tunnel::new(bytes, cx.clone());
        let channel = connect(tunnel).await.map_err(|err| Error::Connect {
            id: id.clone(),
            reason: fault::chain(&err),
        })?;
        let methods = headers.get_all(metadata::METHOD).iter();
        let session = Session(Arc::new(Inner {
            shared_key: metadata::text(headers, metadata::SHARED_KEY)
                .unwrap_or_default()
                .to_owned(),
            methods: methods
                .filter_map(|method| method.to_str().ok())
                .map(str::to_lowercase)
                .collect(),
            channel: channel.clone(),
            cx: cx.clone(),
            id: id.clone(),
        }));
        let millis = metadata::text(headers, metadata::HEALTH_TIMEOUT);
        let schedule = Schedule::new(millis.and_then(|millis| millis.parse().ok()));
        let registration = Registration {
            table: self.0.clone(),
            session: session.clone(),
            _health: tasks::spawn(
                "session health",
                health::watch(channel, schedule, cx.clone()),
            ),
        };
        tracing::debug!(id, "session started");
        self.0.sessions.lock().insert(id, session);
        self.0.arrivals.send_replace(());
        Ok(outgoing(written, registration))
    }

    /// The session of this id; waits a few seconds for one that is not there yet.
    ///
    /// What stands before the first colon of an id only tells builds apart and is not part of the name.
    pub async fn get(&self, cx: &Cx, id: &str) -> Result<Session, Error> {
        let key = match id.split_once(':') {
            Some((_, rest)) if !rest.is_empty() => rest,
            _ => id,
        };
        let mut arrivals = self.0.arrivals.subscribe();
        let wait = async {
            loop {
                if let Some(session) = self.0.sessions.lock().get(key) {
                    return session.clone();
                }
                // The sender lives in the table we hold.
                if arrivals.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match cx.run(tokio::time::timeout(PATIENCE, wait)).await? {
            Ok(session) => Ok(session),
            Err(_) => Err(Error::NotActive { id: id.to_owned() }),
        }
    }

    /// The session of this id, if it is there now.
    pub fn now(&self, id: &str) -> Option<Session> {
        self.0.sessions.lock().get(id).cloned()
    }

    /// The sessions a build may call, in the order they are tried.
    pub fn group<I: Into<String>>(&self, ids: impl IntoIterator<Item = I>) -> Group {
        Group {
            ids: ids.into_iter().map(Into::into).collect(),
            manager: self.clone(),
        }
    }
}

/// The sessions a build may call. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Group {
    ids: Arc<[String]>,
    manager: Manager,
}

impl Group {
    /// No sessions.
    pub fn none() -> Self {
        Self::default()
    }

    /// Their ids.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Where they are looked up.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// The same sessions and those of `other`, each once.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let new = other.ids.iter().filter(|id| !self.ids.contains(id));
        Self {
            ids: self.ids.iter().chain(new).cloned().collect(),
            manager: if self.is_empty() {
                other.manager.clone()
            } else {
                self.manager.clone()
            },
        }
    }

    /// What the first session answers with which `work` succeeds; else the last failure.
    pub async fn any<T, F>(&self, cx: &Cx, mut work: impl FnMut(Session) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut last = Error::NoSessions;
        for id in self.ids.iter() {
            let answer = match self.manager.get(cx, id).await {
                Ok(session) => work(session).await,
                Err(err) => Err(err),
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(err @ Error::Cancelled(_)) if cx.is_cancelled() => return Err(err),
                Err(err) => last = err,
            }
        }
        Err(last)
    }
}

/// The connection inside the tunnel, in which we are the client. It is made once and never again.
async fn connect(tunnel: Tunnel) -> Result<Channel, tonic::transport::Error> {
    let mut once = Some(tunnel);
    let connector = tower::service_fn(move |_: http::Uri| {
        let connection = once
            .take()
            .map(TokioIo::new)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(connection)
    });
    Endpoint::from_static("http://localhost")
        .initial_stream_window_size(crate::STREAM_WINDOW)
        .initial_connection_window_size(crate::CONNECTION_WINDOW)
        .max_frame_size(crate::FRAME_SIZE)
        .http2_max_header_list_size(crate::HEADER_LIST)
        .connect_with_connector(connector)
        .await
}

/// What the connection writes, until the session ends.
fn outgoing(written: tokio::sync::mpsc::Receiver<Bytes>, registration: Registration) -> Outgoing {
    let cx = registration.session.cx().clone();
    let ended = async move {
        cx.cancelled().await;
    };
    let messages = ReceiverStream::new(written)
        .take_until(Box::pin(ended))
        .map(move |data| {
            // Dropped with this stream, which ends the session.
            let _: &Registration = &registration;
            Ok(BytesMessage { data })
        });
    Box::pin(messages)
}
