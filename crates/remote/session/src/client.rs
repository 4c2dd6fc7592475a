//! The client's end of a session: opens it and serves what the daemon calls.

pub mod auth;
mod config;
pub mod secrets;
mod seeds;
pub mod ssh;
pub mod stores;
mod token;
mod unknown;
pub mod upload;

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use proto::control::BytesMessage;
use proto::control::control_client::ControlClient;
use tasks::Cx;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};

use crate::{Error, Tunnel, metadata};

pub use config::DockerConfig;

/// How long calls that are running may go on when the session is to end.
const GRACE: Duration = Duration::from_secs(2);

/// What the daemon may call in a session.
#[derive(Debug, Clone)]
pub struct Client {
    id: String,
    shared_key: String,
    services: RoutesBuilder,
    methods: Vec<String>,
}

impl Client {
    /// A session with a new id that serves nothing but health checks.
    pub async fn new(shared_key: &str) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter
            .set_service_status("", tonic_health::ServingStatus::Serving)
            .await;
        let mut client = Self {
            id: identity::new_id(),
            shared_key: shared_key.to_owned(),
            services: Routes::builder(),
            methods: Vec::new(),
        };
        client.add(health, &["Check", "List", "Watch"]);
        client
    }

    /// The id that requests name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Offers the `methods` of a service.
    pub fn add<S>(&mut self, service: S, methods: &[&str]) -> &mut Self
    where
        S: tower::Service<
                http::Request<Body>,
                Response = http::Response<Body>,
                Error = std::convert::Infallible,
            > + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.add_service(service);
        let paths = methods
            .iter()
            .map(|method| format!("/{}/{method}", S::NAME));
        self.methods.extend(paths);
        self
    }

    /// Opens the session and serves it until `cx` ends or the daemon ends it.
    pub async fn run(self, cx: &Cx, control: Channel) -> Result<(), Error> {
        let (incoming_sender, incoming) =
            tokio::sync::oneshot::channel::<tonic::Streaming<BytesMessage>>();
        let received = stream::once(incoming).filter_map(|incoming| async { incoming.ok() });
        let received = received
            .flatten()
            .map(|message| message.map(|message| message.data));
        let ended = Cx::root();
        let (tunnel, written) = Tunnel::new(received, ended.clone());

        let open = self.request(written);
        let mut client = ControlClient::new(control)
            .max_decoding_message_size(crate::MAX_MESSAGE)
            .max_encoding_message_size(crate::MAX_MESSAGE);
        let methods = unknown::Methods::new(self.methods);
        let serve = serve(self.services.routes(), methods, tunnel, ended, cx.clone());
        let overdue = async {
            cx.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        let session = async {
            let response = client.session(open).await?;
            // The server may be gone already, then nobody reads on.
            let _ = incoming_sender.send(response.into_inner());
            std::future::pending::<Result<(), Error>>().await
        };
        tokio::select! {
            served = serve => served,
            failed = session => failed,
            () = overdue => Ok(()),
        }
    }

    fn request(
        &self,
        written: tokio::sync::mpsc::Receiver<Bytes>,
    ) -> Request<impl futures::Stream<Item = BytesMessage> + Send + 'static + use<>> {
        let messages = ReceiverStream::new(written).map(|data| BytesMessage { data });
        let mut request = Request::new(messages);
        let headers = request.metadata_mut();
        metadata::append(headers, metadata::SESSION_ID, &self.id);
        metadata::append(headers, metadata::SHARED_KEY, &self.shared_key);
        for method in &self.methods {
            metadata::append(headers, metadata::METHOD, method);
        }
        request
    }
}

/// Serves the one connection there is.
async fn serve(
    routes: Routes,
    methods: unknown::Methods,
    tunnel: Tunnel,
    ended: Cx,
    cx: Cx,
) -> Result<(), Error> {
    let stop = async move {
        tokio::select! {
            _ = cx.cancelled() => {}
            _ = ended.cancelled() => {}
        }
    };
    // Without the part that never comes the server would begin to shut down at once.
    let connections =
        stream::once(async { Ok::<_, std::io::Error>(tunnel) }).chain(stream::pending());
    Server::builder()
        .initial_stream_window_size(crate::STREAM_WINDOW)
        .initial_connection_window_size(crate::CONNECTION_WINDOW)
        .max_frame_size(crate::FRAME_SIZE)
        .http2_max_header_list_size(crate::HEADER_LIST)
        .layer(methods)
        .add_routes(routes)
        .serve_with_incoming_shutdown(connections, stop)
        .await
        .map_err(|err| Error::Answer(Status::from_error(err.into()).into()))
}
