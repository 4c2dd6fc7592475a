//! A daemon that does nothing but sessions, in memory.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::{StreamExt, stream};
use hyper_util::rt::TokioIo;
use proto::control::BytesMessage;
use session::client::Client;
use session::{Manager, Outgoing, Session};
use tasks::{Cx, Task};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

/// Serves `Control/Session` and nothing else.
#[derive(Clone)]
pub struct Sessions(pub Manager);

impl NamedService for Sessions {
    const NAME: &'static str = "moby.buildkit.v1.Control";
}

impl tower::Service<http::Request<Body>> for Sessions {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::default();
            Ok(Grpc::new(codec).streaming(service, request).await)
        })
    }
}

impl StreamingService<BytesMessage> for Sessions {
    type Response = BytesMessage;
    type ResponseStream = Outgoing;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<BytesMessage>>) -> Self::Future {
        let manager = self.0.clone();
        Box::pin(async move {
            let (headers, _, incoming) = request.into_parts();
            let outgoing = manager.serve(&headers, incoming).await;
            let outgoing = outgoing.map_err(|err| Status::from(diagnostics::Failure::from(err)))?;
            Ok(Response::new(outgoing))
        })
    }
}

/// A daemon with its sessions, and a connection to it.
pub struct Daemon {
    pub manager: Manager,
    pub control: Channel,
    _server: Task<()>,
}

impl Daemon {
    pub async fn start() -> Self {
        let manager = Manager::new();
        let (ours, theirs) = tokio::io::duplex(4 << 20);
        let incoming =
            stream::once(async { Ok::<_, std::io::Error>(ours) }).chain(stream::pending());
        let serve = Server::builder()
            .initial_stream_window_size(session::STREAM_WINDOW)
            .initial_connection_window_size(session::CONNECTION_WINDOW)
            .max_frame_size(session::FRAME_SIZE)
            .add_service(Sessions(manager.clone()))
            .serve_with_incoming(incoming);
        let server = tasks::spawn("test daemon", async {
            serve.await.expect("serve");
        });
        let mut once = Some(theirs);
        let connector = tower::service_fn(move |_: http::Uri| {
            let io = once.take().map(TokioIo::new);
            std::future::ready(io.ok_or_else(|| std::io::Error::other("connected once already")))
        });
        let control = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(session::STREAM_WINDOW)
            .initial_connection_window_size(session::CONNECTION_WINDOW)
            .connect_with_connector(connector)
            .await
            .expect("connect");
        Self {
            manager,
            control,
            _server: server,
        }
    }

    /// Runs `client` and waits until the daemon knows it.
    #[allow(dead_code)]
    pub async fn attach(&self, cx: &Cx, client: Client) -> (Session, Task<()>) {
        let id = client.id().to_owned();
        let (cx, control) = (cx.clone(), self.control.clone());
        let running = cx.clone();
        let task = tasks::spawn("test client", async move {
            client.run(&running, control).await.expect("session");
        });
        let session = self.manager.get(&cx, &id).await.expect("the session");
        (session, task)
    }
}
