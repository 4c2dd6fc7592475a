//! Exporters the client chooses when the result is known, and source decisions it takes during the build.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::exporter::exporter_client::ExporterClient;
use proto::exporter::{ExporterRequest, FinalizeExportRequest, FindExportersRequest};
use proto::policysession::policy_verifier_client::PolicyVerifierClient;
use proto::policysession::{CheckPolicyRequest, CheckPolicyResponse};
use tasks::Cx;
use tonic::Code;

use crate::{Error, Group, MAX_MESSAGE, Session};

/// What the client wants to export besides what the request says. A client without an opinion wants nothing.
pub async fn find(
    cx: &Cx,
    group: &Group,
    facts: &BTreeMap<String, Bytes>,
    refs: &[String],
) -> Result<Vec<ExporterRequest>, Error> {
    let answer = group
        .any(cx, async |session| {
            let request = FindExportersRequest {
                metadata: facts.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
                refs: refs.to_vec(),
            };
            let mut client =
                ExporterClient::new(session.channel()).max_decoding_message_size(MAX_MESSAGE);
            session.call(cx, client.find_exporters(request)).await
        })
        .await;
    match answer {
        Ok(response) => Ok(response.into_inner().exporters),
        Err(err) if is_absent(&err) => Ok(Vec::new()),
        Err(err) => Err(err),
    }
}

/// Tells the client that everything is exported.
pub async fn finalize(
    cx: &Cx,
    group: &Group,
    response: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let answer = group
        .any(cx, async |session| {
            let request = FinalizeExportRequest {
                exporter_response: response.clone(),
            };
            let mut client = ExporterClient::new(session.channel());
            session.call(cx, client.finalize_export(request)).await
        })
        .await;
    match answer {
        Ok(_) => Ok(()),
        Err(err) if is_absent(&err) => Ok(()),
        Err(err) => Err(err),
    }
}

/// Asks the client what it thinks of a source.
pub async fn check_policy(
    cx: &Cx,
    session: &Session,
    request: CheckPolicyRequest,
) -> Result<CheckPolicyResponse, Error> {
    let mut client =
        PolicyVerifierClient::new(session.channel()).max_decoding_message_size(MAX_MESSAGE);
    let response = session.call(cx, client.check_policy(request)).await?;
    Ok(response.into_inner())
}

fn is_absent(err: &Error) -> bool {
    matches!(err.code(), Some(Code::Unimplemented | Code::Unavailable))
}
