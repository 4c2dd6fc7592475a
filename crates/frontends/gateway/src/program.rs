//! Running a frontend: its environment, its wires, and which of its ends counts.

use std::io::{self, BufRead as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use diagnostics::Failure;
use fault::{Class, Classify as _};
use frontend::{
    Bridge, ContainerRequest, Ended, Outcome, PrivateFile, Request, Serve, Start, Wires,
};
use prost::Message as _;
use proto::pb;
use tasks::Cx;

use crate::image::{Config, Image};

/// What we call ourselves where frontends ask.
const PRODUCT: &str = "buildkit";
const NO_NETWORK: &str = "moby.buildkit.frontend.network.none";
const METADATA: &str = "/run/config/buildkit/metadata";

/// Runs the frontend and hands on what it returns.
pub(crate) async fn run(
    cx: &Cx,
    bridge: &Arc<dyn Bridge>,
    serve: &dyn Serve,
    request: &Request,
    image: Image,
) -> Result<Outcome, Failure> {
    let failed =
        |err: io::Error| Failure::new(err.class(), format!("failed to start the frontend: {err}"));
    let container = container_request(&image);
    let container = bridge.new_container(cx, container).await?;
    let (stdin, to) = io::pipe().map_err(failed)?;
    let (from, stdout) = io::pipe().map_err(failed)?;
    let (messages, stderr) = io::pipe().map_err(failed)?;
    let wires = Wires {
        stdin: Some(stdin.into()),
        stdout: Some(stdout.into()),
        stderr: Some(stderr.into()),
        ..Wires::default()
    };
    let log = tasks::blocking(move || log(messages));
    let start = Start {
        meta: meta(&image.config, request, &serve.workers()),
        ..Start::default()
    };
    let ended = container.start(start, wires);
    let serving = cx.child();
    let connection = (OwnedFd::from(from), OwnedFd::from(to));
    let served = serve.serve(&serving, bridge.clone(), request, connection);
    let program = async {
        let ended = ended.await;
        // Nobody is left to be served, whoever else has the pipes open.
        serving.cancel("frontend has ended");
        ended
    };
    let (served, ended) = tokio::join!(served, async { tokio::join!(program, log).0 });
    // Its failure is known already.
    let _ = container.release().await;
    verdict(served, ended)
}

/// What it says itself counts, but a failure to end well counts more than a result.
fn verdict(returned: Option<Result<Outcome, Failure>>, ended: Ended) -> Result<Outcome, Failure> {
    match (returned, ended) {
        (Some(Err(failure)), _) | (_, Err(failure)) => Err(failure),
        (Some(Ok(outcome)), Ok(())) => Ok(outcome),
        (None, Ok(())) => {
            let text = "no result for incomplete build";
            Err(Failure::new(Class::User, text))
        }
    }
}

fn container_request(image: &Image) -> ContainerRequest {
    let mut root = pb::Mount {
        dest: "/".to_owned(),
        ..pb::Mount::default()
    };
    let mut request = ContainerRequest {
        id: identity::new_id(),
        ..ContainerRequest::default()
    };
    if let Some(tree) = &image.tree {
        root.result_id = tree.id().to_owned();
        request
            .references
            .insert(tree.id().to_owned(), tree.clone());
        if let Some(definition) = tree.definition() {
            request.files.push(PrivateFile {
                directory: METADATA.to_owned(),
                name: "frontend.bin".to_owned(),
                content: Bytes::from(definition.encode_to_vec()),
            });
        }
    }
    request.mounts.push(root);
    let label = image.config.labels.get(NO_NETWORK);
    if label.is_some_and(|value| fault::truth(value) == Some(true)) {
        request.network = pb::NetMode::None;
    }
    request
}

fn meta(config: &Config, request: &Request, workers: &str) -> pb::Meta {
    let mut env = config.env.clone().unwrap_or_default();
    for (number, (key, value)) in request.options.iter().enumerate() {
        env.push(format!("BUILDKIT_FRONTEND_OPT_{number}={key}={value}"));
    }
    env.push(format!("BUILDKIT_SESSION_ID={}", request.session));
    env.push(format!("BUILDKIT_WORKERS={workers}"));
    env.push(format!("BUILDKIT_EXPORTEDPRODUCT={PRODUCT}"));
    pb::Meta {
        args: config
            .entrypoint
            .clone()
            .unwrap_or_else(|| vec!["/run".to_owned()]),
        env,
        cwd: match config.working_dir.as_str() {
            "" => "/".to_owned(),
            dir => dir.to_owned(),
        },
        remove_mount_stubs_recursive: true,
        ..pb::Meta::default()
    }
}

/// What a frontend says on its standard error is for the daemon's log.
fn log(messages: io::PipeReader) {
    for line in io::BufReader::new(messages).split(b'\n') {
        let Ok(line) = line else {
            return;
        };
        let line = String::from_utf8_lossy(&line);
        tracing::info!(line = %line.trim_end(), "frontend says");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn options_come_as_numbered_variables_after_those_of_the_image() {
        let config = Config {
            env: Some(vec!["A=b".to_owned()]),
            ..Config::default()
        };
        let request = Request {
            options: BTreeMap::from([
                ("source".to_owned(), "x".to_owned()),
                ("target".to_owned(), "y=z".to_owned()),
            ]),
            session: "s".to_owned(),
            ..Request::default()
        };
        let meta = meta(&config, &request, "[]");
        assert_eq!(
            meta.env,
            [
                "A=b",
                "BUILDKIT_FRONTEND_OPT_0=source=x",
                "BUILDKIT_FRONTEND_OPT_1=target=y=z",
                "BUILDKIT_SESSION_ID=s",
                "BUILDKIT_WORKERS=[]",
                "BUILDKIT_EXPORTEDPRODUCT=buildkit",
            ]
        );
        assert_eq!(
            (meta.args.join(" ").as_str(), meta.cwd.as_str()),
            ("/run", "/")
        );
    }

    #[test]
    fn a_bad_end_counts_more_than_a_result() {
        let bad = || Failure::new(Class::User, "exit code: 2");
        let said = || Failure::new(Class::User, "said so");
        let text = |verdict: Result<Outcome, Failure>| verdict.err().map(|err| err.to_string());
        let good = || Some(Ok(Outcome::default()));
        assert_eq!(text(verdict(good(), Ok(()))), None);
        assert_eq!(
            text(verdict(good(), Err(bad()))).as_deref(),
            Some("exit code: 2")
        );
        assert_eq!(
            text(verdict(Some(Err(said())), Err(bad()))).as_deref(),
            Some("said so")
        );
        assert_eq!(
            text(verdict(None, Ok(()))).as_deref(),
            Some("no result for incomplete build")
        );
    }
}
