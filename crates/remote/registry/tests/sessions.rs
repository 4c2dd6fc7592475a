//! Credentials of a real client, asked for over its session.

#[path = "../../session/tests/support/daemon.rs"]
mod daemon;
#[path = "support/server.rs"]
mod server;
#[path = "support/world.rs"]
mod world;

use std::sync::Arc;

use daemon::Daemon;
use oci::{Digest, media_type};
use registry::Sessions;
use server::{Answer, Request, Server};
use session::client::{Client, DockerConfig, auth};
use tasks::{Cx, Task};
use tempfile::TempDir;
use world::World;

const MANIFEST: &str = "{\"layers\":[]}";

/// A registry that wants a token, and its token server.
struct Registry {
    server: Server,
    tokens: Server,
}

impl Registry {
    fn start() -> Self {
        let tokens = Server::start(|request: &Request| {
            let told = request.header("authorization") == "Basic dXNlcjpwYXNz"
                || String::from_utf8_lossy(&request.body).contains("password=pass");
            if told {
                return Answer::new(200, r#"{"access_token":"abc","expires_in":300}"#);
            }
            Answer::new(200, r#"{"access_token":"anonymous","expires_in":300}"#)
        });
        let challenge = format!(
            "Bearer realm=\"http://{}/token\",service=\"registry\",scope=\"repository:a/b:pull\"",
            tokens.host()
        );
        let server = Server::start(move |request| {
            if request.header("authorization") != "Bearer abc" {
                return Answer::new(401, "").with("WWW-Authenticate", &challenge);
            }
            Answer::new(200, MANIFEST)
                .with("Content-Type", media_type::OCI_MANIFEST)
                .with("Docker-Content-Digest", Digest::of(MANIFEST))
        });
        Self { server, tokens }
    }

    fn name(&self) -> String {
        format!("{}/a/b:c", self.server.host())
    }
}

/// A user's machine.
struct User {
    home: TempDir,
}

impl User {
    fn new(registry: &Registry) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let host = registry.server.host();
        let config = format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#);
        std::fs::write(home.path().join("config.json"), config).expect("written");
        Self { home }
    }

    /// One build of this user.
    async fn attach(&self, daemon: &Daemon, fetch_tokens: bool) -> (session::Group, Task<()>) {
        let options = auth::Options {
            config: DockerConfig::load(self.home.path()).expect("a config"),
            fetch_tokens,
            sink: Arc::new(|_: progress::Event| {}),
        };
        let mut client = Client::new("").await;
        client.add(auth::service(options), auth::METHODS);
        let (session, task) = daemon.attach(&Cx::root(), client).await;
        (daemon.manager.group([session.id()]), task)
    }
}

#[tokio::test]
async fn the_client_fetches_the_token_and_its_password_stays_there() {
    let (registry, daemon, world) = (Registry::start(), Daemon::start().await, World::new());
    let user = User::new(&registry);
    let (group, _client) = user.attach(&daemon, true).await;
    let who = Sessions::credentials(&group);
    world.resolve(&who, &registry.name()).await.expect("let in");
    // Clients ask by POST first.
    assert_eq!(registry.tokens.lines(), ["POST /token"]);
    let agent = registry.tokens.requests()[0]
        .header("user-agent")
        .to_owned();
    assert!(!agent.starts_with("buildkit/"), "{agent}");
}

#[tokio::test]
async fn builds_of_one_user_share_a_token_and_those_of_others_do_not() {
    let (registry, daemon, world) = (Registry::start(), Daemon::start().await, World::new());
    let (one, two) = (User::new(&registry), User::new(&registry));
    let mut clients = Vec::new();
    for (user, fetched) in [(&one, 1), (&one, 1), (&two, 2), (&one, 2)] {
        let (group, client) = user.attach(&daemon, true).await;
        let who = Sessions::credentials(&group);
        world.resolve(&who, &registry.name()).await.expect("let in");
        assert_eq!(registry.tokens.lines().len(), fetched);
        clients.push(client);
    }
}

#[tokio::test]
async fn a_client_that_fetches_no_tokens_is_asked_for_its_password() {
    let (registry, daemon, world) = (Registry::start(), Daemon::start().await, World::new());
    let user = User::new(&registry);
    let (group, _client) = user.attach(&daemon, false).await;
    let who = Sessions::credentials(&group);
    world.resolve(&who, &registry.name()).await.expect("let in");
    assert_eq!(
        registry.tokens.lines(),
        ["GET /token?scope=repository%3Aa%2Fb%3Apull&service=registry"]
    );
}

#[tokio::test]
async fn a_client_without_credentials_is_anonymous() {
    let (registry, daemon, world) = (Registry::start(), Daemon::start().await, World::new());
    let (session, _client) = daemon.attach(&Cx::root(), Client::new("").await).await;
    let group = daemon.manager.group([session.id()]);
    let who = Sessions::credentials(&group);
    let err = world.resolve(&who, &registry.name()).await;
    assert!(err.expect_err("refused").ends_with("401 Unauthorized"));
    assert!(!registry.tokens.lines().is_empty());
}
