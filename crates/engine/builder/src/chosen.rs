//! Exporters that the client of a build chooses when it knows the results.

use std::collections::BTreeMap;

use diagnostics::Failure;
use frontend::Outcome;
use session::{Group, exporters};
use tasks::Cx;

use crate::{ExporterRequest, SolveRequest};

/// What the client wants to have exported, besides what it wanted from the beginning. Nothing unless the request says
/// that it wants to be asked.
pub(crate) async fn find(
    cx: &Cx,
    request: &SolveRequest,
    sessions: &Group,
    outcome: &Outcome,
) -> Result<Vec<ExporterRequest>, Failure> {
    if !request.session_exporter {
        return Ok(Vec::new());
    }
    let references = outcome.references();
    let references: Vec<String> = references.map(|it| it.id().to_owned()).collect();
    let found = exporters::find(cx, sessions, &outcome.metadata, &references).await;
    let found = found.map_err(|err| Failure::from_error(&err))?;
    let wanted = found.into_iter().map(|wanted| ExporterRequest {
        kind: wanted.r#type,
        attrs: wanted.attrs,
    });
    Ok(wanted.collect())
}

/// Tells such a client what came of it.
pub(crate) async fn finalize(
    cx: &Cx,
    request: &SolveRequest,
    sessions: &Group,
    response: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    if !request.session_exporter {
        return Ok(());
    }
    let told = exporters::finalize(cx, sessions, response).await;
    told.map_err(|err| Failure::from_error(&err))
}
