//! A frontend that is a program, as the daemon sees it: calls through two pipes.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use control::{Door, WorkerRecord};
use diagnostics::{Detail, Failure};
use fault::Class;
use frontend::{
    Bridge, Outcome, Request, ResolveOptions, ResolvedImage, Serve, SolveRequest, Warning,
};
use hyper_util::rt::TokioIo;
use oci::Platform;
use proto::gateway as wire;
use proto::gateway::llb_bridge_client::LlbBridgeClient;
use tasks::Cx;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tonic::transport::{Channel, Endpoint};

/// A build in which nothing works.
struct Broken;

#[async_trait]
impl Bridge for Broken {
    async fn solve(&self, _: &Cx, _: SolveRequest) -> Result<Outcome, Failure> {
        Err(Failure::new(Class::User, "nothing works"))
    }

    async fn resolve_image(
        &self,
        _: &Cx,
        name: &str,
        _: ResolveOptions,
    ) -> Result<ResolvedImage, Failure> {
        Err(Failure::new(Class::NotFound, format!("{name}: not found")))
    }

    async fn warn(&self, _: Warning) -> Result<(), Failure> {
        Ok(())
    }

    fn platforms(&self) -> Vec<Platform> {
        vec![Platform::host()]
    }

    fn exposed(&self, failure: Failure) -> Failure {
        failure.with(Detail::Solve(Box::default()))
    }
}

/// The frontend's end.
struct Ends(pipe::Receiver, pipe::Sender);

impl AsyncRead for Ends {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Ends {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.1).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.1).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.1).poll_shutdown(cx)
    }
}

type Returned = Option<Result<Outcome, Failure>>;

/// Serves a frontend, and runs `program` as that.
async fn served<F: Future<Output = ()>>(
    program: impl FnOnce(LlbBridgeClient<Channel>) -> F,
) -> Returned {
    let (stdin, to) = std::io::pipe().expect("pipes are to be had");
    let (from, stdout) = std::io::pipe().expect("pipes are to be had");
    let door = Door::new(WorkerRecord::default());
    let request = Request {
        inputs: [("base".to_owned(), proto::pb::Definition::default())].into(),
        ..Request::default()
    };
    let cx = Cx::root();
    let connection = (OwnedFd::from(from), OwnedFd::from(to));
    let serving = door.serve(&cx, Arc::new(Broken), &request, connection);
    let program = async {
        let ends = Ends(
            pipe::Receiver::from_owned_fd(stdin.into()).expect("a pipe"),
            pipe::Sender::from_owned_fd(stdout.into()).expect("a pipe"),
        );
        let mut ends = Some(ends);
        let connector = tower::service_fn(move |_| {
            let ends = ends.take().map(TokioIo::new);
            async { ends.ok_or_else(|| std::io::Error::other("only once")) }
        });
        let endpoint = Endpoint::from_static("http://frontend");
        let channel = endpoint.connect_with_connector(connector).await;
        program(LlbBridgeClient::new(channel.expect("it connects"))).await;
    };
    tokio::join!(serving, program).0
}

#[tokio::test]
async fn what_a_frontend_returns_is_its_answer() {
    let returned = served(|mut calls| async move {
        let pong = calls.ping(wire::PingRequest {}).await.expect("served");
        assert_eq!(pong.into_inner().workers.len(), 1);
        let inputs = calls.inputs(wire::InputsRequest {}).await.expect("served");
        let inputs = inputs.into_inner().definitions;
        let names: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["base"]);
        let answer = wire::ReturnRequest {
            result: Some(wire::Result {
                metadata: [("a".to_owned(), "b".into())].into(),
                ..wire::Result::default()
            }),
            ..wire::ReturnRequest::default()
        };
        calls.r#return(answer).await.expect("served");
    });
    let outcome = returned.await.expect("it returned").expect("a result");
    assert_eq!(outcome.metadata["a"], "b");
}

#[tokio::test]
async fn a_failure_goes_to_the_frontend_and_comes_back_with_all_it_says() {
    let returned = served(|mut calls| async move {
        let refused = calls
            .solve(wire::SolveRequest::default())
            .await
            .expect_err("nothing works");
        let failure = Failure::from_status(&refused);
        assert_eq!(failure.to_string(), "nothing works");
        assert!(matches!(failure.details(), [Detail::Solve(_)]));
        let answer = wire::ReturnRequest {
            error: Some(failure.to_rpc()),
            ..wire::ReturnRequest::default()
        };
        calls.r#return(answer).await.expect("served");
    });
    let failure = returned
        .await
        .expect("it returned")
        .err()
        .expect("a failure");
    assert_eq!(failure.to_string(), "nothing works");
    assert!(matches!(failure.details(), [Detail::Solve(_)]));
}

#[tokio::test]
async fn a_frontend_may_end_without_an_answer() {
    let returned = served(|mut calls| async move {
        calls.ping(wire::PingRequest {}).await.expect("served");
    });
    assert!(returned.await.is_none());
}

#[tokio::test]
async fn containers_nobody_made_are_not_found() {
    let returned = served(|mut calls| async move {
        let request = wire::ReadFileRequest {
            r#ref: "nope".to_owned(),
            mount_index: 1,
            ..wire::ReadFileRequest::default()
        };
        let refused = calls.read_file_container(request).await.expect_err("none");
        assert_eq!(refused.message(), "container details for nope@1 not found");
        let request = wire::ReleaseContainerRequest {
            container_id: "nope".to_owned(),
        };
        let refused = calls.release_container(request).await.expect_err("none");
        assert_eq!(refused.message(), "container details for nope not found");
        let refused = calls
            .new_container(wire::NewContainerRequest::default())
            .await
            .expect_err("this build makes none");
        assert_eq!(refused.code(), tonic::Code::Unimplemented);
    });
    assert!(returned.await.is_none());
}
