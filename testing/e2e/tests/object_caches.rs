//! Remote caches in object stores: against small servers of the tests' own, which check signatures, and against others
//! that the environment names: `E2E_AZURITE` (address of its account, as it comes out of the box), `E2E_S3` (address of
//! a server whose bucket `cache` may be written by `test-id` with `test-secret`).
//!
//! With `E2E_STOCK` (a folder with the stock daemon) caches cross in both directions.

use std::path::Path;
use std::process::{Command, Stdio};

use e2e::{Build, Daemon, context, on_base, stock};
use tempfile::TempDir;
use testkit::require;
use testkit::stores::{Actions, Azure, S3, Troubles};
use testkit::web::Response;

/// The last tree has `/z`.
const STEPS: &str = r#"FROM base AS a
COPY x /x
RUN cat /x > /y
FROM base AS b
RUN echo b > /b && head -c 300000 /bin/busybox > /large
FROM base
COPY --from=a --chown=1:2 /y /y
COPY --link --from=b /b /large /bb/
RUN --mount=type=cache,target=/c cat /y /bb/b > /z
"#;

/// A store, kept running, and the options of a cache in it.
struct Place {
    name: &'static str,
    options: String,
    /// What goes wrong, and where blobs are in the addresses of requests.
    troubles: Option<(Troubles, &'static str)>,
    server: Box<dyn std::any::Any>,
}

fn s3() -> Place {
    let server = S3::start();
    Place {
        name: "s3",
        options: s3_options(&server.url(), S3::REGION),
        troubles: Some((server.troubles.clone(), "/blobs/")),
        server: Box::new(server),
    }
}

fn s3_options(url: &str, region: &str) -> String {
    format!(
        "type=s3,bucket=cache,region={region},endpoint_url={url},use_path_style=true,\
         access_key_id={},secret_access_key={},prefix=p/,name=one;two",
        S3::ID,
        S3::SECRET
    )
}

fn azblob() -> Place {
    let server = Azure::start();
    let (url, account, key) = (server.url(), Azure::ACCOUNT, Azure::KEY);
    Place {
        name: "azblob",
        options: azblob_options(&url, account, key),
        troubles: Some((server.troubles.clone(), "/blobs")),
        server: Box::new(server),
    }
}

fn azblob_options(url: &str, account: &str, key: &str) -> String {
    format!(
        "type=azblob,account_url={url},account_name={account},secret_access_key={key},\
         prefix=p/q,name=one;two"
    )
}

fn gha(url: &str, version: &'static str) -> Place {
    let server = Actions::start();
    let (address, token) = (server.url(), Actions::token());
    Place {
        name: version,
        options: format!("type=gha,{url}={address}/,token={token},scope=app"),
        troubles: Some((
            server.troubles.clone(),
            if url == "url" {
                "/archives/"
            } else {
                "/blobs/"
            },
        )),
        server: Box::new(server),
    }
}

/// One of each.
fn places() -> Vec<Place> {
    let mut places = vec![s3(), azblob(), gha("url", "gha 1"), gha("url_v2", "gha 2")];
    if let Ok(url) = std::env::var("E2E_S3") {
        places.push(Place {
            name: "an S3 server",
            options: s3_options(&url, "us-east-1"),
            troubles: None,
            server: Box::new(()),
        });
    }
    if let Ok(url) = std::env::var("E2E_AZURITE") {
        // What everybody's copy of that server is set up with.
        let key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
        places.push(Place {
            name: "Azurite",
            options: azblob_options(&url, "devstoreaccount1", key),
            troubles: None,
            server: Box::new(()),
        });
    }
    places
}

fn sources(seed: &str) -> TempDir {
    on_base(STEPS, &format!("//- x\n{seed}"))
}

fn export(from: &Daemon, context: &Path, place: &Place) {
    let option = format!("--export-cache={},mode=max", place.options);
    from.build(context, &[&option]).ok();
}

/// Builds with the cache, and checks what comes of it.
fn build_with(to: &Daemon, context: &Path, place: &Place, seed: &str) -> (Build, TempDir) {
    let out = tempfile::tempdir().expect("a temporary directory");
    let option = format!("--import-cache={}", place.options);
    let output = format!("--output=type=local,dest={}", out.path().display());
    let build = to.build(context, &[&option, &output]).ok();
    let z = std::fs::read_to_string(out.path().join("z")).expect("the result");
    assert_eq!(z, format!("{seed}\nb\n"), "{}", place.name);
    (build, out)
}

/// All steps come from the cache, and so does the tree.
fn import(to: &Daemon, context: &Path, place: &Place, seed: &str) {
    let (build, out) = build_with(to, context, place, seed);
    e2e::check_all_cached(place.name, &build.text);
    let large = std::fs::metadata(out.path().join("bb/large")).expect("a file");
    assert_eq!(large.len(), 300_000, "{}", place.name);
}

#[test]
fn a_cache_hits_on_every_step_of_an_empty_daemon() {
    require!(root, busybox);
    let context = sources("1");
    let from = Daemon::start();
    for place in places() {
        export(&from, context.path(), &place);
        import(&Daemon::start(), context.path(), &place, "1");
    }
}

#[test]
fn a_cache_that_is_written_again_is_the_newer_one() {
    require!(root, busybox);
    let from = Daemon::start();
    for place in places() {
        for seed in ["1", "2"] {
            let context = sources(seed);
            export(&from, context.path(), &place);
            import(&Daemon::start(), context.path(), &place, seed);
        }
    }
}

#[test]
fn caches_cross_between_ours_and_the_stock_daemon() {
    require!(root, busybox);
    let Some(stock) = stock() else {
        eprintln!("SKIPPED: E2E_STOCK names no folder with the stock daemon");
        return;
    };
    // Places of their own, so that nothing of the one is found by the other.
    let (there, here) = (sources("there"), sources("here"));
    for place in places() {
        eprintln!("{}", place.name);
        export(&Daemon::other(&stock), there.path(), &place);
        import(&Daemon::start(), there.path(), &place, "there");
    }
    for place in places() {
        eprintln!("{}", place.name);
        export(&Daemon::start(), here.path(), &place);
        import(&Daemon::other(&stock), here.path(), &place, "here");
    }
}

#[test]
fn trouble_of_a_store_passes() {
    require!(root, busybox);
    let context = sources("1");
    let from = Daemon::start();
    for place in places() {
        let Some((troubles, blobs)) = &place.troubles else {
            continue;
        };
        let busy = || Response::status(429).with("Retry-After", "0");
        for method in ["PUT", "POST", "PATCH"] {
            troubles.refuse(method, "", 1, busy());
            troubles.refuse(method, "", 1, Response::status(503));
        }
        export(&from, context.path(), &place);
        troubles.refuse("GET", "", 1, busy());
        for method in ["GET", "POST"] {
            troubles.refuse(method, "", 1, Response::status(503));
        }
        troubles.spoil("GET", blobs, 3, |answer| answer.cut(20_000));
        import(&Daemon::start(), context.path(), &place, "1");
    }
}

#[test]
fn a_cache_whose_blobs_went_away_is_missed() {
    require!(root, busybox);
    let context = sources("1");
    let from = Daemon::start();
    for place in places() {
        let Some((troubles, blobs)) = &place.troubles else {
            continue;
        };
        export(&from, context.path(), &place);
        if let Some(server) = place.server.downcast_ref::<Actions>() {
            server.evict("buildkit-blob-");
        }
        for method in ["HEAD", "GET"] {
            if !place.name.starts_with("gha") {
                troubles.refuse(method, blobs, usize::MAX, Response::status(404));
            }
        }
        let (build, _) = build_with(&Daemon::start(), context.path(), &place, "1");
        if e2e::is_ours() {
            let told = "is not used for this step: blob sha256:";
            assert!(build.text.contains(told), "{}: {}", place.name, build.text);
        }
    }
}

#[test]
fn an_export_that_fails_fails_the_build_unless_it_may() {
    require!(root, busybox);
    let daemon = Daemon::start();
    let context = sources("1");
    let denied = |options: &str, text: &str| {
        let option = format!("--export-cache={options}");
        let build = daemon.build(context.path(), &[&option]);
        build.fails_with(text);
        let option = format!("{option},ignore-error=true");
        daemon.build(context.path(), &[&option]).ok();
    };
    let (s3, azblob) = (s3(), azblob());
    denied(
        &s3.options.replace(S3::SECRET, "wrong"),
        "403 Forbidden: SignatureDoesNotMatch",
    );
    denied(
        &azblob.options.replace(Azure::KEY, "d3Jvbmc="),
        "failed to get properties of cache container buildkit-cache: 403 Forbidden",
    );
    let server = Actions::start();
    let options = |token: String| format!("type=gha,url_v2={},token={token}", server.url());
    let refused = Actions::token_until(88_888_888_888);
    denied(&options(refused), "401 Unauthorized");
    let ended = Actions::token_until(1_700_000_000);
    let ended = format!("--import-cache={}", options(ended));
    let build = daemon.build(context.path(), &[&ended]).ok();
    let text = "cache token expired at 2023-11-14 22:13:20 +0000 UTC";
    assert!(build.text.contains(text), "{}", build.text);
}

#[test]
fn what_a_cache_is_made_of_is_not_removed_while_it_is_written() {
    require!(root, busybox);
    let context = sources("1");
    let place = s3();
    let place = Place {
        options: format!("{},upload_parallelism=1", place.options),
        ..place
    };
    let from = Daemon::start();
    // The build that exports needs no result of any step, so it does not keep them.
    from.build(context.path(), &[]).ok();
    let address = from.address();
    let (troubles, blobs) = place.troubles.as_ref().expect("it is ours");
    // All else is still to be sent when the first blob has come.
    troubles.spoil("PUT", blobs, 1, move |answer| {
        let pruned = Command::new(e2e::buildctl())
            .args(["--addr", &address, "prune", "--all"])
            .stdin(Stdio::null())
            .output();
        match pruned {
            Ok(pruned) if pruned.status.success() => answer,
            other => panic!("prune: {other:?}"),
        }
    });
    export(&from, context.path(), &place);
    import(&Daemon::start(), context.path(), &place, "1");
}

#[test]
fn a_workflow_says_where_its_cache_is() {
    require!(root, busybox);
    let server = Actions::start();
    let daemon = Daemon::start();
    let context = context("//- Dockerfile\nFROM scratch\nCOPY x /x\n//- x\n1\n");
    let mut client = daemon.client(&["build", "--progress=plain", "--frontend=dockerfile.v0"]);
    for name in ["context", "dockerfile"] {
        client.arg(format!("--local={name}={}", context.path().display()));
    }
    client
        .arg("--export-cache=type=gha,mode=max")
        .env("ACTIONS_CACHE_SERVICE_V2", "true")
        .env("ACTIONS_RESULTS_URL", server.url())
        .env("ACTIONS_RUNTIME_TOKEN", Actions::token());
    Build::of(client.output().expect("the client runs")).ok();
    let index = |key: &String| key.starts_with("index-buildkit-1-") && key.ends_with("#1");
    assert!(server.keys().iter().any(index), "{:?}", server.keys());
}
