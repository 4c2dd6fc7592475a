//! Builds on record, as `moby.buildkit.v1.Control` shows them.

use diagnostics::Failure;
use futures::{Stream, StreamExt as _};
use history::{Error, Request};
use proto::control::{BuildHistoryEvent, BuildHistoryRequest, UpdateBuildHistoryRequest};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{Services, WithTask};

fn failed(err: &Error) -> Status {
    Failure::from_error(err).to_status()
}

/// Lists builds, and follows them unless only the list is wanted.
pub(crate) async fn listen(
    services: &Services,
    request: BuildHistoryRequest,
) -> Result<impl Stream<Item = Result<BuildHistoryEvent, Status>> + Send + use<>, Status> {
    let request = Request {
        active_only: request.active_only,
        name: request.r#ref,
        early_exit: request.early_exit,
        filters: request.filter,
        limit: request.limit,
    };
    let history = &services.builder.machinery().history;
    let listener = history.listen(request).await.map_err(|err| failed(&err))?;
    Ok(futures::stream::unfold(listener, |mut listener| async {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    }))
}

/// Compat: deleting goes before finalizing, and finalizing before pinning.
pub(crate) async fn update(
    services: &Services,
    request: UpdateBuildHistoryRequest,
) -> Result<(), Status> {
    let history = &services.builder.machinery().history;
    let name = &request.r#ref;
    if request.delete {
        history.delete(name).await.map_err(|err| failed(&err))
    } else if request.finalize {
        history.finalize(name).await;
        Ok(())
    } else {
        let pinned = history.pin(name, request.pinned).await;
        pinned.map_err(|err| failed(&err))
    }
}

/// The messages of a log.
pub(crate) fn log(
    mut log: history::LogReader,
) -> impl Stream<Item = Result<proto::control::StatusResponse, Status>> + Send {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let task = tasks::spawn("log of a build", async move {
        loop {
            let (back, message) = tasks::blocking(move || {
                let message = log.read();
                (log, message)
            })
            .await;
            log = back;
            let reply = match message {
                Ok(None) => return,
                Ok(Some(message)) => Ok(message),
                Err(err) => Err(failed(&err)),
            };
            let ends = reply.is_err();
            if sender.send(reply).await.is_err() || ends {
                return;
            }
        }
    });
    WithTask::new(ReceiverStream::new(receiver), task).fuse()
}
