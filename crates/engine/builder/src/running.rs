//! Builds that go on, whoever waits for them: a build whose client went away still ends properly and goes on record.

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::Failure;
use fault::Class;
use frontend::Outcome;
use history::{Ended, LogReader, Recording, Started};
use tasks::Cx;
use tokio::sync::oneshot;

use crate::attest::Drafts;
use crate::hub::{Hub, Reader};
use crate::{Builder, Response, SolveRequest};

/// The progress of a build.
pub enum Progress {
    /// As it comes.
    Live(Reader),
    /// As it was.
    Past(LogReader),
}

impl Builder {
    /// Runs a build. It ends when it is done or `cx` stops, also when nobody waits for this any more. Its progress ends
    /// before this returns, and its record is written.
    pub async fn solve(&self, cx: &Cx, request: SolveRequest) -> Result<Response, Failure> {
        let (sender, answer) = oneshot::channel();
        let (builder, cx) = (self.clone(), cx.clone());
        let task = tasks::spawn("build", async move {
            let ended = builder.run(&cx, request).await;
            // Whoever asked may have gone.
            let _ = sender.send(ended);
        });
        {
            let mut running = self.running.lock();
            running.retain(|task| !task.is_finished());
            running.push(task);
        }
        answer.await.unwrap_or_else(|_| {
            let text = "the build broke down; the log has more";
            Err(Failure::new(Class::Internal, text))
        })
    }

    /// Follows the progress of a build from its beginning; waits a little for one that is about to come.
    pub async fn status(&self, id: &str) -> Result<Progress, Failure> {
        if !self.jobs.is_running(id) {
            match self.machinery.history.log(id).await {
                Ok(Some(log)) => return Ok(Progress::Past(log)),
                Ok(None) | Err(history::Error::NotFound { .. }) => {}
                Err(err) => return Err(Failure::from_error(&err)),
            }
        }
        Ok(Progress::Live(self.jobs.hub(id).await?.reader()))
    }
}

/// Has steps say why they run, if the build wants to know.
pub(crate) fn ask(builder: &Builder, attrs: &BTreeMap<String, String>) -> Option<ops::Asking> {
    is_curious(attrs).then(|| builder.machinery.worker.explain.ask())
}

/// Whether somebody wants to know why steps run. Clients that cannot set options of frontends can set build arguments.
fn is_curious(attrs: &BTreeMap<String, String>) -> bool {
    ["explain", "build-arg:BUILDKIT_EXPLAIN"]
        .iter()
        .filter_map(|key| attrs.get(*key))
        .any(|value| matches!(value.as_str(), "" | "1" | "true"))
}

/// Begins the record of a build, unless it is to leave none.
pub(crate) fn begin(builder: &Builder, request: &SolveRequest, hub: &Hub) -> Option<Recording> {
    if request.internal {
        return None;
    }
    let exporters = request.exporters.iter();
    let recording = builder.machinery.history.begin(Started {
        name: request.id.clone(),
        frontend: request.frontend.clone(),
        attrs: request.frontend_attrs.clone(),
        exporters: exporters
            .map(|exporter| (exporter.kind.clone(), exporter.attrs.clone()))
            .collect(),
    });
    hub.overflow(recording.overflow());
    Some(recording)
}

/// What of a build goes on record.
#[derive(Default)]
pub(crate) struct Kept {
    /// What came out.
    pub(crate) outcome: history::Outcome,
    /// What is to be written about it.
    pub(crate) drafts: Drafts,
}

/// What of a build's outcome goes on record before it is exported.
pub(crate) fn note(kept: &mut Kept, outcome: &Outcome) {
    kept.outcome.metadata.clone_from(&outcome.metadata);
}

/// Writes the record of a build whose progress is closed; what takes time is written when the client has its answer.
pub(crate) async fn end(
    recording: Option<Recording>,
    hub: &Arc<Hub>,
    kept: Kept,
    ended: Result<Response, Failure>,
) -> Result<Response, Failure> {
    let ended = ended.map_err(Failure::in_build);
    let Some(recording) = recording else {
        return ended;
    };
    let about = Ended {
        events: hub.events(),
        failure: ended.as_ref().err().cloned(),
        outcome: kept.outcome,
    };
    match recording.end(about, kept.drafts.write()).await {
        Ok(()) => ended,
        // Compat: a build that leaves no record has failed, but its own failure is the better news.
        Err(err) => ended.and(Err(Failure::from_error(&err).reclassified(Class::Internal))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curiosity_is_an_option_or_an_argument() {
        let attrs = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
        assert!(is_curious(&attrs("explain", "1")));
        assert!(is_curious(&attrs("explain", "")));
        assert!(is_curious(&attrs("build-arg:BUILDKIT_EXPLAIN", "true")));
        assert!(!is_curious(&attrs("explain", "0")));
        assert!(!is_curious(&attrs("build-arg:explain", "1")));
    }
}
