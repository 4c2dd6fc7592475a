//! Logging in: asked for only when demanded, and never more often than needed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::server::{Answer, Request, Server};
use crate::world::{Somebody, World, nobody};
use oci::{Digest, media_type};
use registry::Credentials;

const MANIFEST: &str = "{\"layers\":[]}";

fn manifest() -> Answer {
    Answer::new(200, MANIFEST)
        .with("Content-Type", media_type::OCI_MANIFEST)
        .with("Docker-Content-Digest", Digest::of(MANIFEST))
}

/// A registry that wants this authorization, else challenges.
fn guarded(wanted: &'static str, challenge: String) -> Server {
    Server::start(move |request| {
        if request.header("authorization") == wanted {
            return manifest();
        }
        Answer::new(401, "").with("WWW-Authenticate", &challenge)
    })
}

fn bearer(tokens: &Server) -> String {
    format!(
        "Bearer realm=\"http://{}/token\",service=\"registry\",scope=\"repository:some/image:pull\"",
        tokens.host()
    )
}

async fn resolve(world: &World, who: &Arc<dyn Credentials>, server: &Server) -> Result<(), String> {
    let name = format!("{}/some/image:tag", server.host());
    world.resolve(who, &name).await.map(drop)
}

#[tokio::test]
async fn a_basic_challenge_is_answered_with_the_login() {
    let server = guarded("Basic dXNlcjpwYXNz", "Basic realm=\"x\"".to_owned());
    let who = Somebody::with("one", "user", "pass");
    let world = World::new();
    resolve(&world, &who, &server).await.expect("let in");
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    let server = guarded("Basic dXNlcjpwYXNz", "Basic realm=\"x\"".to_owned());
    let who = Somebody::with("one", "user", "wrong");
    let err = resolve(&World::new(), &who, &server).await;
    let err = err.expect_err("refused");
    assert!(err.ends_with("401 Unauthorized"), "{err}");
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_basic_challenge_without_credentials_is_the_answer() {
    let server = guarded("Basic dXNlcjpwYXNz", "Basic realm=\"x\"".to_owned());
    let err = resolve(&World::new(), &nobody(), &server).await;
    let err = err.expect_err("refused");
    let url = format!("http://{}/v2/some/image/manifests/tag", server.host());
    assert_eq!(
        err,
        format!("unexpected status from HEAD request to {url}: 401 Unauthorized")
    );
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_once_and_used_again() {
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"abc","expires_in":300}"#));
    let server = guarded("Bearer abc", bearer(&tokens));
    let world = World::new();
    for _ in 0..2 {
        resolve(&world, &nobody(), &server).await.expect("let in");
    }
    assert_eq!(
        tokens.lines(),
        ["GET /token?scope=repository%3Asome%2Fimage%3Apull&service=registry"]
    );
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn a_login_goes_to_the_token_server_and_not_to_the_registry() {
    let tokens = Server::start(|request| {
        assert_eq!(request.header("authorization"), "Basic dXNlcjpwYXNz");
        Answer::new(200, r#"{"access_token":"abc"}"#)
    });
    let server = guarded("Bearer abc", bearer(&tokens));
    let who = Somebody::with("one", "user", "pass");
    resolve(&World::new(), &who, &server).await.expect("let in");
    let shown = server.requests();
    let shown: Vec<&str> = shown
        .iter()
        .map(|one| one.header("authorization"))
        .collect();
    assert_eq!(shown, ["", "Bearer abc"]);
}

#[tokio::test]
async fn a_token_server_without_get_is_asked_with_post() {
    let tokens = Server::start(|request: &Request| match request.method.as_str() {
        "GET" => Answer::new(404, ""),
        _ => Answer::new(200, r#"{"access_token":"abc","expires_in":60}"#),
    });
    let server = guarded("Bearer abc", bearer(&tokens));
    let who = Somebody::with("one", "user", "pass");
    resolve(&World::new(), &who, &server).await.expect("let in");
    let post = &tokens.requests()[1];
    assert_eq!(
        String::from_utf8_lossy(&post.body),
        "client_id=buildkit-client&grant_type=password&password=pass&\
         scope=repository%3Asome%2Fimage%3Apull&service=registry&username=user"
    );
    assert!(
        post.header("content-type")
            .starts_with("application/x-www-form-urlencoded")
    );
}

#[tokio::test]
async fn a_refresh_token_is_sent_without_a_user_name() {
    let tokens = Server::start(|request: &Request| match request.method.as_str() {
        "GET" => Answer::new(401, ""),
        _ => Answer::new(200, r#"{"access_token":"abc"}"#),
    });
    let server = guarded("Bearer abc", bearer(&tokens));
    let who = Somebody::with("one", "", "refresh");
    resolve(&World::new(), &who, &server).await.expect("let in");
    let body = String::from_utf8_lossy(&tokens.requests()[1].body).into_owned();
    assert!(
        body.contains("grant_type=refresh_token&refresh_token=refresh"),
        "{body}"
    );
}

#[tokio::test]
async fn a_token_server_that_refuses_is_told() {
    let tokens = Server::start(|_| Answer::new(403, ""));
    let server = guarded("Bearer abc", bearer(&tokens));
    let err = resolve(&World::new(), &nobody(), &server).await;
    let err = err.expect_err("refused");
    assert!(
        err.starts_with(
            "failed to authorize: failed to fetch anonymous token: unexpected status from GET \
             request to http://"
        ),
        "{err}"
    );
    assert!(err.ends_with("403 Forbidden"), "{err}");
}

#[tokio::test]
async fn a_repository_that_no_token_opens_is_denied() {
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"abc"}"#));
    let challenge = format!("{},error=\"insufficient_scope\"", bearer(&tokens));
    let server = guarded("Bearer other", challenge);
    assert_eq!(
        resolve(&World::new(), &nobody(), &server).await,
        Err(
            "pull access denied, repository does not exist or may require authorization: server \
             message: insufficient_scope: authorization failed"
                .to_owned()
        )
    );
    assert_eq!(server.lines().len(), 2);
}

#[tokio::test]
async fn a_registry_that_always_wants_another_token_is_given_up() {
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"abc"}"#));
    for error in ["", ",error=\"invalid_token\""] {
        let server = guarded("Bearer other", format!("{}{error}", bearer(&tokens)));
        let err = resolve(&World::new(), &nobody(), &server).await;
        let err = err.expect_err("refused");
        assert!(err.ends_with("401 Unauthorized"), "{err}");
        assert!(server.lines().len() <= 5);
    }
}

#[tokio::test]
async fn an_expired_token_is_replaced() {
    let count = Arc::new(AtomicUsize::new(0));
    let issued = count.clone();
    let tokens = Server::start(move |_| {
        let number = issued.fetch_add(1, Ordering::Relaxed);
        Answer::new(200, format!(r#"{{"token":"{number}","expires_in":300}}"#))
    });
    let challenge = format!("{},error=\"invalid_token\"", bearer(&tokens));
    let server = guarded("Bearer 1", challenge);
    let world = World::new();
    resolve(&world, &nobody(), &server).await.expect("let in");
    assert_eq!(count.load(Ordering::Relaxed), 2);
    // Without, with token 0, with token 1.
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn sessions_with_equal_logins_share_a_token_and_others_do_not() {
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"abc","expires_in":300}"#));
    let server = guarded("Bearer abc", bearer(&tokens));
    let world = World::new();
    for (session, secret) in [("one", "pass"), ("two", "pass"), ("three", "other")] {
        let who = Somebody::with(session, "user", secret);
        resolve(&world, &who, &server).await.expect("let in");
    }
    assert_eq!(tokens.lines().len(), 2);
}

#[tokio::test]
async fn many_requests_that_are_refused_at_once_fetch_one_token() {
    let tokens = Server::start(|_| Answer::new(200, r#"{"token":"abc","expires_in":300}"#));
    let server = guarded("Bearer abc", bearer(&tokens));
    let world = World::new();
    let (host, who) = (server.host(), nobody());
    let one = || async {
        let name = format!("{host}/some/image:tag");
        world.resolve(&who, &name).await.map(drop)
    };
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
    assert_eq!(tokens.lines().len(), 1);
}

#[tokio::test]
async fn a_redirect_elsewhere_takes_no_authorization_along() {
    let storage = Server::start(|_| manifest());
    let place = format!("http://{}/storage", storage.host());
    let server = Server::start(move |request| {
        if request.header("authorization").is_empty() {
            return Answer::new(401, "").with("WWW-Authenticate", "Basic realm=\"x\"");
        }
        Answer::new(307, "").with("Location", &place)
    });
    let who = Somebody::with("one", "user", "pass");
    resolve(&World::new(), &who, &server).await.expect("let in");
    assert_eq!(storage.requests()[0].header("authorization"), "");
}

#[tokio::test]
async fn an_unknown_scheme_is_the_answer() {
    let server = guarded("x", "Negotiate".to_owned());
    let err = resolve(&World::new(), &nobody(), &server).await;
    assert!(err.expect_err("refused").ends_with("401 Unauthorized"));
}
