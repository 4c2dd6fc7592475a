//! Encrypted connections, with certificates that `openssl` makes.

#[path = "support/server.rs"]
mod server;
#[path = "support/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use oci::{Digest, media_type};
use registry::{Config, HostConfig, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use server::{Answer, Server};
use tempfile::TempDir;
use world::{World, nobody};

/// Tells of every request with which protocol it came, and takes uploads.
#[derive(Clone)]
struct Modern(Arc<Mutex<Vec<String>>>);

impl<S> tower::Layer<S> for Modern {
    type Service = Self;

    fn layer(&self, _: S) -> Self {
        self.clone()
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Modern {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let line = format!("{} {:?}", request.method(), request.version());
        self.0.lock().expect("no panic").push(line);
        let answer = http::Response::builder();
        let answer = match request.method().as_str() {
            "HEAD" if request.uri().path().contains("/blobs/") => answer.status(404),
            "HEAD" => answer
                .header("Content-Type", media_type::OCI_MANIFEST)
                .header("Content-Length", MANIFEST.len())
                .header("Docker-Content-Digest", Digest::of(MANIFEST).as_str()),
            "POST" => answer.status(202).header("Location", "/upload"),
            _ => answer.status(201),
        };
        let answer = answer.body(tonic::body::Body::empty());
        std::future::ready(Ok(answer.expect("an answer")))
    }
}

#[tokio::test]
async fn a_server_with_http_2_is_spoken_to_with_it() {
    if !ready() {
        return;
    }
    let authority = Authority::new();
    let text = |name: &str| std::fs::read(authority.path(name)).expect("a file");
    let identity = tonic::transport::Identity::from_pem(text("leaf.cert"), text("leaf.key"));
    let tls = tonic::transport::ServerTlsConfig::new().identity(identity);
    let modern = Modern(Arc::default());
    let address = tonic::transport::server::TcpIncoming::bind(([127, 0, 0, 1], 0).into());
    let address = address.expect("a port");
    let host = address.local_addr().expect("an address").to_string();
    // It knows nothing else.
    let server = tonic::transport::Server::builder()
        .tls_config(tls)
        .expect("settings")
        .layer(modern.clone())
        .add_routes(tonic::service::Routes::default())
        .serve_with_incoming(address);
    let client = async {
        let mut config = Config::default();
        let settings = HostConfig {
            ca: vec![authority.path("ca.crt")],
            ..encrypted()
        };
        config.hosts.insert(host.clone(), settings);
        let (world, name) = (World::with(config), format!("{host}/a/b:c"));
        world.resolve(&nobody(), &name).await.expect("resolved");
        let bytes = "a blob";
        world.store.put(bytes).expect("stored");
        let repository = world
            .client
            .repository(nobody(), &world::reference(&name), false);
        repository
            .push(
                &world.cx,
                &world::layer(bytes.as_bytes()),
                &registry::Origin::default(),
                &world.store,
                &progress::Progress::none(),
            )
            .await
            .expect("pushed");
    };
    tokio::select! {
        () = client => {}
        ended = server => panic!("the server ended: {ended:?}"),
    }
    let seen = modern.0.lock().expect("no panic").clone();
    let wanted = ["HEAD", "HEAD", "POST", "PUT"].map(|method| format!("{method} HTTP/2.0"));
    assert_eq!(seen, wanted);
}

const MANIFEST: &str = "{\"layers\":[]}";

fn manifest() -> Answer {
    Answer::new(200, MANIFEST)
        .with("Content-Type", media_type::OCI_MANIFEST)
        .with("Docker-Content-Digest", Digest::of(MANIFEST))
}

/// Whether `openssl` is here; where everything must be, its absence is a failure.
fn ready() -> bool {
    let found = testkit::on_path("openssl").is_some();
    assert!(found || std::env::var_os("CI").is_none(), "openssl missing");
    if !found {
        eprintln!("SKIPPED, prerequisites missing: openssl");
    }
    found
}

/// A certificate authority with one certificate for 127.0.0.1, which servers and clients use.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let extensions = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
        std::fs::write(dir.path().join("ext"), extensions).expect("written");
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        for line in [
            format!("req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.crt"),
            format!("req {key} -subj /CN=leaf -keyout leaf.key -out leaf.csr"),
            "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -extfile ext -out leaf.cert"
                .to_owned(),
        ] {
            let done = Command::new("openssl")
                .args(line.split(' '))
                .current_dir(dir.path())
                .output()
                .expect("openssl runs");
            assert!(done.status.success(), "{done:?}");
        }
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The settings of a server; with `clients` it wants a certificate from everybody.
    fn server(&self, clients: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            for root in read(&self.path("ca.crt")) {
                roots.add(root).expect("a root");
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::from_pem_file(self.path("leaf.key")).expect("a key");
        let config = builder.with_single_cert(read(&self.path("leaf.cert")), key);
        Arc::new(config.expect("a config"))
    }
}

fn read(path: &Path) -> Vec<CertificateDer<'static>> {
    let all = CertificateDer::pem_file_iter(path).expect("a file");
    all.collect::<Result<_, _>>().expect("certificates")
}

fn world(server: &Server, settings: HostConfig) -> World {
    let mut config = Config::default();
    config.hosts.insert(server.host(), settings);
    World::with(config)
}

async fn resolve(server: &Server, settings: HostConfig) -> Result<(), String> {
    let name = format!("{}/a/b:c", server.host());
    world(server, settings)
        .resolve(&nobody(), &name)
        .await
        .map(drop)
}

fn encrypted() -> HostConfig {
    HostConfig {
        http: Some(false),
        ..HostConfig::default()
    }
}

#[tokio::test]
async fn a_certificate_of_a_configured_authority_is_trusted() {
    if !ready() {
        return;
    }
    let authority = Authority::new();
    let server = Server::start_tls(authority.server(false), |_| manifest());
    let settings = HostConfig {
        ca: vec![authority.path("ca.crt")],
        ..encrypted()
    };
    resolve(&server, settings).await.expect("trusted");
    let url = format!("https://{}/v2/a/b/manifests/c", server.host());
    assert_eq!(
        resolve(&server, encrypted()).await,
        Err(format!(
            "failed to do request: Head \"{url}\": tls: failed to verify certificate: x509: \
             certificate signed by unknown authority"
        ))
    );
}

#[tokio::test]
async fn a_server_that_encrypts_otherwise_is_reachable() {
    if !ready() {
        return;
    }
    let authority = Authority::new();
    let unreachable = async |server: &Server, settings: HostConfig| {
        let name = format!("{}/a/b:c", server.host());
        world(server, settings).unreachable(&name).await
    };
    let trusting = HostConfig {
        ca: vec![authority.path("ca.crt")],
        ..encrypted()
    };
    let (encrypting, asking) = (authority.server(false), authority.server(true));
    let plain = Server::start(|_| manifest());
    for (server, settings) in [
        (
            Server::start_tls(encrypting.clone(), |_| manifest()),
            encrypted(),
        ),
        (Server::start_tls(asking, |_| manifest()), trusting),
        (
            Server::start_tls(encrypting, |_| manifest()),
            HostConfig::default(),
        ),
        (plain, encrypted()),
    ] {
        let (is, why) = unreachable(&server, settings).await;
        assert!(!is, "{why}");
    }
}

#[tokio::test]
async fn an_insecure_registry_may_show_any_certificate() {
    if !ready() {
        return;
    }
    let authority = Authority::new();
    let server = Server::start_tls(authority.server(false), |_| manifest());
    let settings = HostConfig {
        insecure: Some(true),
        ..encrypted()
    };
    resolve(&server, settings).await.expect("accepted");
}

#[tokio::test]
async fn a_client_certificate_is_shown_when_configured() {
    if !ready() {
        return;
    }
    let authority = Authority::new();
    let server = Server::start_tls(authority.server(true), |_| manifest());
    let trusting = HostConfig {
        ca: vec![authority.path("ca.crt")],
        ..encrypted()
    };
    let pair = KeyPair {
        key: authority.path("leaf.key"),
        cert: authority.path("leaf.cert"),
    };
    let showing = HostConfig {
        keypairs: vec![pair],
        ..trusting.clone()
    };
    resolve(&server, showing).await.expect("let in");
    assert!(resolve(&server, trusting).await.is_err());
}

#[tokio::test]
async fn a_directory_of_certificates_is_enough() {
    if !ready() {
        return;
    }
    let authority = Authority::new();
    let server = Server::start_tls(authority.server(true), |_| manifest());
    let settings = HostConfig {
        tls_config_dirs: vec![authority.path("")],
        ..encrypted()
    };
    resolve(&server, settings).await.expect("let in");
}

#[tokio::test]
async fn plain_http_is_fallen_back_to_only_where_allowed() {
    let server = Server::start(|_| manifest());
    let insecure = HostConfig {
        insecure: Some(true),
        http: Some(true),
        ..HostConfig::default()
    };
    resolve(&server, insecure).await.expect("plain");
    let url = format!("https://{}/v2/a/b/manifests/c", server.host());
    assert_eq!(
        resolve(&server, encrypted()).await,
        Err(format!(
            "failed to do request: Head \"{url}\": http: server gave HTTP response to HTTPS client"
        ))
    );
}
