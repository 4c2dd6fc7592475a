//! Serving on all listeners until told to stop.

use std::future::Future;
use std::os::unix::net::UnixDatagram;

use anyhow::Context as _;
use control::Services;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::listen::Listener;

fn server() -> Server {
    Server::builder()
        .http2_max_header_list_size(session::HEADER_LIST)
        .initial_stream_window_size(session::STREAM_WINDOW)
        .initial_connection_window_size(session::CONNECTION_WINDOW)
        .max_frame_size(session::FRAME_SIZE)
        .tcp_nodelay(true)
}

async fn router(mut server: Server, services: &Services) -> anyhow::Result<Router> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1()
        .context("failed to set up reflection")?;
    let reflection_alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .build_v1alpha()
        .context("failed to set up reflection")?;
    Ok(server
        .add_service(services.control())
        .add_service(services.bridge())
        .add_service(services.content())
        .add_service(services.explain())
        .add_service(services.verify())
        .add_service(health)
        .add_service(reflection)
        .add_service(reflection_alpha))
}

/// Serves until a signal comes; returns when all calls have ended.
pub(crate) async fn serve(listeners: Vec<Listener>, services: Services) -> anyhow::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let mut servers = Vec::new();
    let mut sockets = Vec::new();
    for listener in listeners {
        let mut stopped = stopped.clone();
        let until = async move {
            // A closed channel means the daemon is going away, which is the same.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        match listener {
            Listener::Unix(listener, path) => {
                sockets.extend(path);
                let router = router(server(), &services).await?;
                let incoming = UnixListenerStream::new(listener);
                servers.push(tasks::spawn("unix listener", async move {
                    router.serve_with_incoming_shutdown(incoming, until).await
                }));
            }
            Listener::Tcp(listener, tls) => {
                let server = match tls {
                    Some(tls) => server()
                        .tls_config(*tls)
                        .context("invalid TLS configuration")?,
                    None => server(),
                };
                let router = router(server, &services).await?;
                let incoming = TcpListenerStream::new(listener);
                servers.push(tasks::spawn("tcp listener", async move {
                    router.serve_with_incoming_shutdown(incoming, until).await
                }));
            }
        }
    }
    notify("READY=1");
    wait_for_signal().await?;
    notify("STOPPING=1");
    tracing::info!("stopping server");
    stop.send_replace(true);
    for socket in sockets {
        // Somebody else may have removed it already.
        let _ = std::fs::remove_file(socket);
    }
    let finished = async {
        for server in servers {
            server.await.context("a listener failed")?;
        }
        anyhow::Ok(())
    };
    // A second signal, or a client that never ends its calls, must not keep the daemon for ever.
    tokio::select! {
        result = finished => result,
        result = wait_for_signal() => {
            tracing::warn!("got a second signal, forcing shutdown");
            result
        }
        () = tokio::time::sleep(GRACE) => {
            tracing::warn!("calls did not end in time, forcing shutdown");
            Ok(())
        }
    }
}

/// How long calls may take to end after the first signal.
const GRACE: std::time::Duration = std::time::Duration::from_secs(10);

fn wait_for_signal() -> impl Future<Output = anyhow::Result<()>> {
    let signals = (|| {
        anyhow::Ok((
            signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?,
            signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?,
        ))
    })();
    async move {
        let (mut terminate, mut interrupt) = signals?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
}

/// Tells systemd, if it is there.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(state.as_bytes(), &path));
    if let Err(err) = sent {
        tracing::warn!(error = %err, "failed to notify the service manager");
    }
}
