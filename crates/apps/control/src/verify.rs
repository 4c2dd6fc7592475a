//! `kiln.verify.v1.Verify`: whether what is stored fits together.

use std::pin::Pin;

use cache::{Cache, Problem, Report};
use diagnostics::Failure;
use fault::Class;
use futures::Stream;
use proto::verify as wire;
use proto::verify::verify_response::Found;
use proto::verify::verify_server::Verify;
use tasks::Cx;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::control::CancelOnDrop;
use crate::{Services, WithTask};

/// So many bytes are read between two messages.
const STEP: i64 = 1 << 30;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Sender = mpsc::Sender<Result<wire::VerifyResponse, Status>>;

#[async_trait::async_trait]
impl Verify for Services {
    type VerifyStream = Replies<wire::VerifyResponse>;

    async fn verify(
        &self,
        request: Request<wire::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let names_only = request.into_inner().names_only;
        let report = self.names().await?;
        let (sender, receiver) = mpsc::channel(16);
        let (cache, cx) = (self.cache.clone(), Cx::root());
        let stop = CancelOnDrop(cx.clone());
        let task = tasks::spawn("verify", async move {
            let _stop = stop;
            // Whoever asked may have gone.
            let _ = tasks::blocking(move || tell(&cx, &cache, report, names_only, &sender)).await;
        });
        let stream = WithTask::new(ReceiverStream::new(receiver), task);
        Ok(Response::new(Box::pin(stream) as Self::VerifyStream))
    }
}

impl Services {
    /// What does not fit twice in a row: what somebody was just removing fits the second time.
    async fn names(&self) -> Result<Report, Status> {
        let mut report = self.names_once().await?;
        if !report.problems.is_empty() {
            let again = self.names_once().await?;
            let first = std::mem::replace(&mut report, again).problems;
            report.problems.retain(|problem| first.contains(problem));
        }
        Ok(report)
    }

    async fn names_once(&self) -> Result<Report, Status> {
        self.cache.settle_removals().await;
        let (builder, cache) = (self.builder.clone(), self.cache.clone());
        let found = tasks::blocking(move || builder.while_idle(|| cache.verify_names())).await;
        let Some(found) = found else {
            let text = "builds are running: try again when none is";
            return Err(Failure::new(Class::Unavailable, text).to_status());
        };
        found.map_err(|err| Failure::from_error(&err).to_status())
    }
}

/// Sends what was found and goes on to the blobs. An error: nobody listens.
fn tell(
    cx: &Cx,
    cache: &Cache,
    report: Report,
    names_only: bool,
    sender: &Sender,
) -> Result<(), ()> {
    let send = |found: Result<Found, Status>| {
        let message = found.map(|found| wire::VerifyResponse { found: Some(found) });
        sender.blocking_send(message).map_err(drop)
    };
    let mut counts = wire::Counts {
        records: number(report.records),
        trees: number(report.trees),
        blobs: number(report.blobs),
        loose_blobs: number(report.loose),
        bytes: 0,
    };
    send(Ok(Found::Counts(counts)))?;
    for problem in &report.problems {
        send(Ok(problem_message(problem)))?;
    }
    if !names_only {
        let mut told = 0;
        let mut left = Ok(());
        let read = cache.verify_blobs(cx, |bytes, problem| {
            counts.bytes = counts
                .bytes
                .saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
            let mut messages: Vec<_> = problem.iter().map(problem_message).collect();
            if counts.bytes - told >= STEP {
                told = counts.bytes;
                messages.push(Found::Counts(counts));
            }
            for message in messages {
                if send(Ok(message)).is_err() {
                    left = Err(());
                    cx.cancel("nobody listens");
                }
            }
        });
        left?;
        if let Err(err) = read {
            return send(Err(Failure::from_error(&err).to_status()));
        }
    }
    send(Ok(Found::Counts(counts)))
}

fn problem_message(problem: &Problem) -> Found {
    Found::Problem(wire::Problem {
        what: problem.to_string(),
        advice: problem.advice().to_owned(),
    })
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
