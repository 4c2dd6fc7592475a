//! Where a registry's requests go: mirrors first, then the registry itself, each with its own way to connect.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use url::Url;

use crate::{Config, Error, HostConfig, tls};

/// What may be on the way in one stream of HTTP/2 before we took it.
const STREAM_WINDOW: u32 = 2 << 20;

/// Names of protocols, as TLS has them.
const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// One server that speaks the registry protocol.
pub(crate) struct Endpoint {
    /// Connections to it.
    http: reqwest::Client,
    /// Connections for uploads. One of HTTP/2 is slower than several of HTTP/1.1: its flow control throttles them.
    uploads: reqwest::Client,
    /// Host and port.
    pub(crate) host: String,
    /// `/v2`, or `/v2/path` for a mirror.
    path: String,
    encrypted: Encrypted,
    /// The registry it stands for, when it is not that registry itself.
    namespace: Option<String>,
}

/// The servers of one registry, in the order in which they are asked.
pub(crate) type Endpoints = Arc<[Arc<Endpoint>]>;

/// How to talk to a server.
enum Encrypted {
    No,
    Yes,
    /// With TLS unless the server turned out not to know it.
    Try {
        plain: AtomicBool,
    },
}

impl Endpoint {
    fn scheme(&self) -> &'static str {
        match &self.encrypted {
            Encrypted::No => "http",
            Encrypted::Try { plain } if plain.load(Ordering::Relaxed) => "http",
            Encrypted::Yes | Encrypted::Try { .. } => "https",
        }
    }

    /// The URL of `rest` in the repository `repository`. `query` is in its final form.
    pub(crate) fn url(&self, repository: &str, rest: &str, query: &str) -> Result<Url, Error> {
        let base = format!(
            "{}://{}{}/{repository}/{rest}",
            self.scheme(),
            self.host,
            self.path
        );
        let mut url = Url::parse(&base).map_err(|err| Error::Setup {
            host: self.host.clone(),
            reason: err.to_string(),
        })?;
        let mut whole = query.to_owned();
        if let Some(namespace) = &self.namespace {
            let separator = if query.is_empty() { "" } else { "&" };
            whole.push_str(&format!("{separator}ns={namespace}"));
        }
        if !whole.is_empty() {
            url.set_query(Some(&whole));
        }
        Ok(url)
    }

    /// Whether a request sent now goes over TLS.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.scheme() == "https"
    }

    /// Goes over to plain HTTP after a request over TLS failed, where that is allowed. Whether it makes sense to try
    /// again: also for those that were under way when another request found out.
    pub(crate) fn give_up_tls(&self) -> bool {
        match &self.encrypted {
            Encrypted::Try { plain } => {
                plain.store(true, Ordering::Relaxed);
                true
            }
            _ => false,
        }
    }

    /// Whether a port stands in the configuration or the name.
    pub(crate) fn has_port(&self) -> bool {
        split_port(&self.host).1.is_some()
    }

    /// Whether `url` is of this server.
    pub(crate) fn serves(&self, url: &Url) -> bool {
        // Compared as URLs: a name may have a default port or capitals.
        let own = Url::parse(&format!("{}://{}", self.scheme(), self.host));
        own.is_ok_and(|own| own.origin() == url.origin())
    }
}

/// Host, and port unless it is the default one.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// What goes over a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Questions,
    /// Blobs, which take a connection for themselves.
    Uploads,
}

/// All servers, made when first asked for.
pub(crate) struct Hosts {
    config: Config,
    /// By registry, and whether certificates are to be ignored.
    made: Mutex<HashMap<(String, bool), Endpoints>>,
    /// For token servers and storage behind redirects.
    elsewhere: Mutex<Option<reqwest::Client>>,
}

impl Hosts {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            made: Mutex::default(),
            elsewhere: Mutex::default(),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Servers to pull from, the registry itself last.
    pub(crate) async fn pull_from(&self, domain: &str, insecure: bool) -> Result<Endpoints, Error> {
        self.of(domain, insecure).await
    }

    /// The server to push to.
    pub(crate) async fn push(&self, domain: &str, insecure: bool) -> Result<Arc<Endpoint>, Error> {
        let all = self.of(domain, insecure).await?;
        all.last().cloned().ok_or_else(|| Error::NotFound {
            name: "no push hosts".to_owned(),
        })
    }

    /// Connections for `url`, which `endpoint` or its token server sent us to.
    pub(crate) async fn towards(
        &self,
        endpoint: &Endpoint,
        url: &Url,
        traffic: Traffic,
    ) -> Result<reqwest::Client, Error> {
        let encrypted = !matches!(endpoint.encrypted, Encrypted::No);
        if encrypted || endpoint.serves(url) {
            return Ok(match traffic {
                Traffic::Questions => endpoint.http.clone(),
                Traffic::Uploads => endpoint.uploads.clone(),
            });
        }
        self.elsewhere().await
    }

    async fn elsewhere(&self) -> Result<reqwest::Client, Error> {
        if let Some(client) = self.elsewhere.lock().clone() {
            return Ok(client);
        }
        let agent = self.config.user_agent.clone();
        let client = tasks::blocking(move || connections("", &HostConfig::default(), true, &agent))
            .await?
            .0;
        Ok(self.elsewhere.lock().get_or_insert(client).clone())
    }

    async fn of(&self, domain: &str, insecure: bool) -> Result<Endpoints, Error> {
        let key = (domain.to_owned(), insecure);
        if let Some(found) = self.made.lock().get(&key) {
            return Ok(found.clone());
        }
        let config = self.config.clone();
        let domain = domain.to_owned();
        let made = tasks::blocking(move || make(&config, &domain, insecure)).await?;
        // Somebody else may have been faster: then their connections are used.
        Ok(self.made.lock().entry(key).or_insert(made).clone())
    }
}

fn make(config: &Config, domain: &str, insecure: bool) -> Result<Endpoints, Error> {
    let mut own = config.hosts.get(domain).cloned().unwrap_or_default();
    let mut all = Vec::new();
    if insecure {
        own.insecure = Some(true);
        own.http = Some(true);
    } else {
        for mirror in &own.mirrors {
            let (host, path) = split_mirror(mirror);
            if host.trim().is_empty() {
                // What follows it would be taken for a host.
                tracing::warn!(
                    registry = domain,
                    mirror,
                    "a mirror without a host is passed over"
                );
                continue;
            }
            let settings = config.hosts.get(host).cloned().unwrap_or_default();
            all.push(endpoint(config, domain, host, path, &settings)?);
        }
    }
    let host = if domain == HUB { HUB_HOST } else { domain };
    all.push(endpoint(config, domain, host, "", &own)?);
    Ok(all.into())
}

fn endpoint(
    config: &Config,
    domain: &str,
    host: &str,
    path: &str,
    settings: &HostConfig,
) -> Result<Arc<Endpoint>, Error> {
    let plain = settings.http.unwrap_or_else(|| is_loopback(host));
    let encrypted = match (settings.insecure == Some(true), plain) {
        (true, true) => Encrypted::Try {
            plain: AtomicBool::new(false),
        },
        (false, true) => Encrypted::No,
        (_, false) => Encrypted::Yes,
    };
    let needs_tls = !matches!(encrypted, Encrypted::No);
    let own = host == domain || (domain == HUB && host == HUB_HOST);
    let path = path.trim_matches('/');
    let (http, uploads) = connections(host, settings, needs_tls, &config.user_agent)?;
    Ok(Arc::new(Endpoint {
        http,
        uploads,
        host: host.to_owned(),
        path: match path {
            "" => "/v2".to_owned(),
            path => format!("/v2/{path}"),
        },
        encrypted,
        namespace: (!own).then(|| domain.to_owned()),
    }))
}

/// The connections of one server, and those for uploads.
fn connections(
    host: &str,
    settings: &HostConfig,
    encrypted: bool,
    agent: &str,
) -> Result<(reqwest::Client, reqwest::Client), Error> {
    if !encrypted {
        let client = client(host, tls::plain(), agent)?;
        return Ok((client.clone(), client));
    }
    let mut tls = tls::settings(settings)?;
    tls.alpn_protocols = vec![HTTP1.to_vec()];
    let uploads = client(host, tls.clone(), agent)?;
    tls.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    Ok((client(host, tls, agent)?, uploads))
}

fn client(host: &str, tls: rustls::ClientConfig, agent: &str) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder();
    if !tls.alpn_protocols.iter().any(|name| name == HTTP2) {
        builder = builder.http1_only();
    }
    let mut builder = builder
        .tls_backend_preconfigured(tls)
        .user_agent(agent)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(4 * STREAM_WINDOW)
        // Followed by hand: each host gets the authorization that is its own.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(Duration::from_secs(30))
        .tcp_keepalive(Duration::from_secs(60))
        .tcp_nodelay(true)
        .pool_max_idle_per_host(8)
        .pool_idle_timeout(Duration::from_secs(120));
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|err| Error::Setup {
        host: host.to_owned(),
        reason: fault::chain(&err),
    })
}

/// `host/path`
fn split_mirror(mirror: &str) -> (&str, &str) {
    let rest = mirror
        .strip_prefix("https://")
        .or_else(|| mirror.strip_prefix("http://"))
        .unwrap_or(mirror);
    rest.split_once('/').unwrap_or((rest, ""))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Whether a registry of this name is on this machine, and so plain unless configured.
pub(crate) fn is_loopback(host: &str) -> bool {
    let (name, _) = split_port(host);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(config: &Config, domain: &str, insecure: bool) -> Vec<String> {
        make(config, domain, insecure)
            .expect("endpoints")
            .iter()
            .map(|host| {
                host.url("library/busybox", "manifests/latest", "")
                    .expect("a URL")
                    .to_string()
            })
            .collect()
    }

    #[test]
    fn a_mirror_without_a_host_is_none() {
        let mut config = Config::default();
        let mirrors = ["", " ", "https://", "/path", "m.test/path"].map(str::to_owned);
        let settings = HostConfig {
            mirrors: mirrors.to_vec(),
            ..HostConfig::default()
        };
        config.hosts.insert("r.test".to_owned(), settings);
        let urls = urls(&config, "r.test", false);
        assert_eq!(urls.len(), 2, "{urls:?}");
        assert!(urls[0].starts_with("https://m.test/v2/path/"), "{urls:?}");
        assert!(urls[1].starts_with("https://r.test/v2/"), "{urls:?}");
    }

    #[test]
    fn the_hub_has_another_host_than_name() {
        assert_eq!(
            urls(&Config::default(), "docker.io", false),
            ["https://registry-1.docker.io/v2/library/busybox/manifests/latest"]
        );
    }

    #[test]
    fn loopback_is_plain_unless_configured() {
        let mut config = Config::default();
        for host in [
            "localhost:5000",
            "127.0.0.1:5000",
            "127.1.2.3",
            "[::1]:5000",
        ] {
            let urls = urls(&config, host, false);
            assert!(urls[0].starts_with("http://"), "{urls:?}");
        }
        let settings = HostConfig {
            http: Some(false),
            ..HostConfig::default()
        };
        config.hosts.insert("localhost:5000".to_owned(), settings);
        let urls = urls(&config, "localhost:5000", false);
        assert!(urls[0].starts_with("https://"), "{urls:?}");
    }

    #[test]
    fn mirrors_come_first_with_their_path_and_the_name_they_stand_for() {
        let mut config = Config::default();
        let hub = HostConfig {
            mirrors: vec!["mirror.example:5000/proxy/hub".to_owned()],
            ..HostConfig::default()
        };
        let mirror = HostConfig {
            http: Some(true),
            ..HostConfig::default()
        };
        config.hosts.insert("docker.io".to_owned(), hub);
        config
            .hosts
            .insert("mirror.example:5000".to_owned(), mirror);
        assert_eq!(
            urls(&config, "docker.io", false),
            [
                "http://mirror.example:5000/v2/proxy/hub/library/busybox/manifests/latest?ns=docker.io",
                "https://registry-1.docker.io/v2/library/busybox/manifests/latest",
            ]
        );
    }

    #[test]
    fn a_server_knows_its_urls_by_any_spelling() {
        let serves = |host: &str, url: &str| {
            let hosts = make(&Config::default(), host, false).expect("endpoints");
            hosts[0].serves(&url.parse().expect("a URL"))
        };
        assert!(serves(
            "Registry.example:443",
            "https://registry.example/v2/"
        ));
        assert!(serves("[::1]:5000", "http://[::1]:5000/v2/"));
        assert!(!serves("registry.example", "http://registry.example/v2/"));
        assert!(!serves("registry.example", "https://storage.example/v2/"));
    }

    #[test]
    fn an_insecure_push_tries_tls_and_then_plain() {
        let endpoint = make(&Config::default(), "registry.example", true).expect("endpoints");
        let host = &endpoint[0];
        assert_eq!(host.scheme(), "https");
        assert!(host.give_up_tls());
        assert!(!host.is_encrypted());
        assert!(host.give_up_tls(), "another request was under way");
        assert_eq!(host.scheme(), "http");
    }
}
