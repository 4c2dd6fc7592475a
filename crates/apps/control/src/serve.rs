//! The bridge of a build, offered to a frontend that is a program of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use builder::Gateway;
use diagnostics::Failure;
use frontend::{Bridge, Outcome, Request, Serve};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::gateway::llb_bridge_server::LlbBridgeServer;
use tasks::Cx;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tonic::service::Routes;

use crate::bridge::{Bridges, Callers};
use crate::{MAX_MESSAGE, WorkerRecord};

/// How much may be in flight: as much as the largest message.
const WINDOW: u32 = 16 << 20;

/// Where frontends come in.
pub struct Door {
    worker: Arc<WorkerRecord>,
}

impl Door {
    /// On a daemon with this worker.
    pub fn new(worker: WorkerRecord) -> Self {
        Self {
            worker: Arc::new(worker),
        }
    }
}

#[async_trait]
impl Serve for Door {
    async fn serve(
        &self,
        cx: &Cx,
        bridge: Arc<dyn Bridge>,
        request: &Request,
        (from, to): (OwnedFd, OwnedFd),
    ) -> Option<Result<Outcome, Failure>> {
        let cx = cx.child();
        let (gateway, mut answer) = Gateway::new(cx.clone(), bridge, request.inputs.clone());
        let gateway = Arc::new(gateway);
        let bridges = Bridges {
            callers: Callers::One(gateway.clone()),
            worker: self.worker.clone(),
        };
        let service = LlbBridgeServer::new(bridges)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
            .accept_compressed(tonic::codec::CompressionEncoding::Gzip);
        let ends = pipe::Receiver::from_owned_fd(from)
            .and_then(|from| Ok((from, pipe::Sender::from_owned_fd(to)?)));
        let (from, to) = match ends {
            Ok(ends) => ends,
            Err(err) => {
                let text = format!("failed to serve a frontend: {err}");
                return Some(Err(Failure::new(fault::Class::Internal, text)));
            }
        };
        let service = TowerToHyperService::new(Routes::new(service).prepare());
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .serve_connection(TokioIo::new(Duplex { from, to }), service);
        match cx.run(served).await {
            Ok(Ok(())) | Err(_) => {}
            // Frontends just go away.
            Ok(Err(err)) => tracing::debug!(error = %err, "connection of a frontend ended"),
        }
        cx.cancel("context canceled");
        gateway.release_containers().await;
        answer.try_recv().ok()
    }

    fn workers(&self) -> String {
        let worker = self.worker.short();
        let platforms: Vec<serde_json::Value> = self
            .worker
            .platforms
            .iter()
            .map(|platform| serde_json::to_value(platform).unwrap_or_default())
            .collect();
        let worker = serde_json::json!({
            "id": worker.id,
            "labels": worker.labels,
            "platforms": platforms,
        });
        serde_json::json!([worker]).to_string()
    }
}

/// Two pipes as one connection.
struct Duplex {
    from: pipe::Receiver,
    to: pipe::Sender,
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.from).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.to).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(cx)
    }
}
