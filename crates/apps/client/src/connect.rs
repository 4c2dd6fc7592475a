//! Connections to a daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::control::control_client::ControlClient;
use proto::control::{InfoRequest, ListWorkersRequest};
use proto::types::{BuildkitVersion, WorkerRecord};
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::Error;
use crate::error::cause;

/// TLS material as files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// Name the server's certificate must have; the host of the address when absent.
    pub server_name: Option<String>,
    /// Who signed the server's certificate.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl TlsOptions {
    fn is_set(&self) -> bool {
        self.ca.is_some() || self.cert.is_some() || self.key.is_some()
    }
}

/// How to connect.
#[derive(Debug, Clone, Default)]
pub struct ConnectOptions {
    /// TLS for TCP.
    pub tls: TlsOptions,
    /// Gives up after this time. `None`: never.
    pub timeout: Option<Duration>,
}

/// A connection to a daemon. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    address: String,
    channel: Channel,
}

impl Client {
    /// Connects.
    pub async fn connect(address: &str, options: &ConnectOptions) -> Result<Self, Error> {
        let connecting = connect(address, options);
        let channel = match options.timeout {
            None => connecting.await?,
            Some(limit) => tokio::time::timeout(limit, connecting)
                .await
                .map_err(|_| Error::TimedOut {
                    address: address.to_owned(),
                })??,
        };
        Ok(Self {
            address: address.to_owned(),
            channel,
        })
    }

    /// Where it is connected to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The connection, for calls this library has no function for.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel())
            .max_decoding_message_size(session::MAX_MESSAGE)
            .max_encoding_message_size(session::MAX_MESSAGE)
    }

    /// The workers of the daemon.
    pub async fn workers(&self, filter: Vec<String>) -> Result<Vec<WorkerRecord>, Error> {
        let response = self
            .control()
            .list_workers(ListWorkersRequest { filter })
            .await?;
        Ok(response.into_inner().record)
    }

    /// The version of the daemon.
    pub async fn info(&self) -> Result<BuildkitVersion, Error> {
        let response = self.control().info(InfoRequest {}).await?;
        Ok(response.into_inner().buildkit_version.unwrap_or_default())
    }

    /// Asks once a second until the daemon answers.
    pub async fn wait(&self) -> Result<(), Error> {
        loop {
            match self.control().info(InfoRequest {}).await {
                Err(status) if status.code() == tonic::Code::Unavailable => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(status) if status.code() != tonic::Code::Unimplemented => {
                    return Err(status.into());
                }
                _ => return Ok(()),
            }
        }
    }
}

fn invalid(address: &str, reason: impl Into<String>) -> Error {
    Error::Address {
        address: address.to_owned(),
        reason: reason.into(),
    }
}

fn tune(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(session::STREAM_WINDOW)
        .initial_connection_window_size(session::CONNECTION_WINDOW)
        .max_frame_size(session::FRAME_SIZE)
        .http2_max_header_list_size(session::HEADER_LIST)
        .tcp_nodelay(true)
}

async fn connect(address: &str, options: &ConnectOptions) -> Result<Channel, Error> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return Err(invalid(address, "expected unix://PATH or tcp://HOST:PORT"));
    };
    let failed = |source: tonic::transport::Error| Error::Connect {
        address: address.to_owned(),
        source: cause(&source).into(),
    };
    match scheme {
        "unix" => {
            let path = PathBuf::from(rest);
            let connector = tower::service_fn(move |_: http::Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            let endpoint = tune(Endpoint::from_static("http://localhost"));
            endpoint
                .connect_with_connector(connector)
                .await
                .map_err(failed)
        }
        "tcp" => {
            let tls = tls(&options.tls)?;
            let uri = format!("{}://{rest}", if tls.is_some() { "https" } else { "http" });
            let mut endpoint = Endpoint::try_from(uri)
                .map(tune)
                .map_err(|err| invalid(address, err.to_string()))?;
            if let Some(tls) = tls {
                endpoint = endpoint
                    .tls_config(tls)
                    .map_err(|err| invalid(address, err.to_string()))?;
            }
            endpoint.connect().await.map_err(failed)
        }
        "docker-container" | "podman-container" | "nerdctl-container" | "kube-pod" | "ssh"
        | "npipe" => Err(invalid(
            address,
            format!("unimplemented: {scheme}:// addresses"),
        )),
        other => Err(invalid(
            address,
            format!("unknown scheme {other:?}: expected unix or tcp"),
        )),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Tls {
        path: path.to_owned(),
        source,
    })
}

fn tls(options: &TlsOptions) -> Result<Option<ClientTlsConfig>, Error> {
    if !options.is_set() {
        return Ok(None);
    }
    let mut config = ClientTlsConfig::new();
    config = match &options.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => config.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&options.cert, &options.key) {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(name) = &options.server_name {
        config = config.domain_name(name);
    }
    Ok(Some(config))
}
