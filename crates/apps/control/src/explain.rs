//! `kiln.explain.v1.Explain`: why steps of builds on record ran.

use std::collections::BTreeSet;
use std::time::SystemTime;

use diagnostics::Failure;
use fault::Class;
use proto::explain as wire;
use proto::explain::explain_server::Explain;
use tonic::{Request, Response, Status};

use crate::Services;

#[async_trait::async_trait]
impl Explain for Services {
    async fn explain(
        &self,
        request: Request<wire::ExplainRequest>,
    ) -> Result<Response<wire::ExplainResponse>, Status> {
        let wire::ExplainRequest { r#ref: name, step } = request.into_inner();
        let machinery = self.builder.machinery();
        let failed = |err: history::Error| Failure::from_error(&err).to_status();
        let record = machinery.history.record(&name).await.map_err(failed)?;
        let log = machinery.history.log(&name).await.map_err(failed)?;
        let explain = machinery.worker.explain.clone();
        let time = |stamp: Option<prost_types::Timestamp>| {
            stamp.and_then(|stamp| SystemTime::try_from(stamp).ok())
        };
        let (from, to) = (time(record.created_at), time(record.completed_at));
        let explained = tasks::blocking(move || {
            let vertices = log.map(vertices).transpose().map_err(failed)?;
            let from = from.unwrap_or(SystemTime::UNIX_EPOCH);
            let to = to.unwrap_or_else(SystemTime::now);
            Ok::<_, Status>(explain.past(from, to, &vertices.unwrap_or_default()))
        })
        .await?;
        let steps: Vec<_> = explained
            .into_iter()
            .filter(|it| it.vertex.contains(&step) || it.name.contains(&step))
            .map(|it| wire::ExplainedStep {
                vertex: it.vertex,
                name: it.name,
                reasons: it.reasons,
            })
            .collect();
        if steps.is_empty() && !step.is_empty() {
            let text = format!("no step {step:?} ran in build {name}");
            return Err(Failure::new(Class::NotFound, text).to_status());
        }
        Ok(Response::new(wire::ExplainResponse { steps }))
    }
}

/// The digests of all vertices in a log.
fn vertices(mut log: history::LogReader) -> Result<BTreeSet<String>, history::Error> {
    let mut vertices = BTreeSet::new();
    while let Some(message) = log.read()? {
        vertices.extend(message.vertexes.into_iter().map(|vertex| vertex.digest));
    }
    Ok(vertices)
}
