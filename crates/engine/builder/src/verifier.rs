//! Policies that a client decides on while the build runs: it is asked about each source, may ask back, and may change
//! it.

use diagnostics::{Detail, Failure};
use fault::Class;
use proto::gateway::ResolveSourceMetaResponse;
use proto::pb;
use proto::policysession::check_policy_response::Result as Answer;
use proto::policysession::{CheckPolicyRequest, DecisionResponse};
use proto::sourcepolicy::PolicyAction;
use tasks::Cx;

use crate::bridge::BuildBridge;
use crate::policy::Rules;

/// How often a client is asked about one source.
const ROUNDS: usize = 10;

/// Asks the client of the build about a source, after the static rules.
pub(crate) async fn check(
    build: &BuildBridge,
    cx: &Cx,
    source: &mut pb::SourceOp,
    platform: Option<pb::Platform>,
    rules: &Rules,
) -> Result<(), Failure> {
    let sessions = &build.machinery.worker.sessions;
    let session = sessions.get(cx, &build.sources.verifier).await?;
    let mut known = about(source);
    for _ in 0..ROUNDS {
        let request = CheckPolicyRequest {
            platform: platform.clone(),
            source: Some(known),
            ..CheckPolicyRequest::default()
        };
        let response = session::exporters::check_policy(cx, &session, request).await?;
        match response.result {
            Some(Answer::Request(mut asked)) => {
                let same = asked.source.as_ref() == Some(source);
                if !same {
                    return Err(other_source(source, asked.source.as_ref()));
                }
                let policies = build.sources.policy.clone();
                asked.source_policies = policies.into_iter().collect();
                let title = match asked.log_name.as_str() {
                    "" => format!("resolve image config for {}", source.identifier),
                    name => name.to_owned(),
                };
                let facts = Box::pin(build.facts(cx, source.clone(), &asked, &title)).await;
                known = facts.map_err(|err| {
                    err.context("error resolving source metadata from policy request")
                })?;
            }
            Some(Answer::Decision(decision)) => match decide(source, decision)? {
                None => return Ok(()),
                Some(changed) => {
                    *source = changed;
                    source.identifier = ops::canonical(&build.machinery.worker, source);
                    rules.apply(source)?;
                    known = about(source);
                }
            },
            None => return Err(user("no decision in policy response")),
        }
    }
    Err(user("too many policy requests"))
}

fn about(source: &pb::SourceOp) -> ResolveSourceMetaResponse {
    ResolveSourceMetaResponse {
        source: Some(source.clone()),
        ..ResolveSourceMetaResponse::default()
    }
}

fn other_source(source: &pb::SourceOp, asked: Option<&pb::SourceOp>) -> Failure {
    let asked = asked.map_or("", |asked| asked.identifier.as_str());
    if asked == source.identifier {
        return user("policy requested different source attrs");
    }
    user(format!(
        "policy requested different source identifier: {asked:?} != {:?}",
        source.identifier
    ))
}

/// What the client wants instead of the source; `None`: it may be used.
fn decide(
    source: &pb::SourceOp,
    decision: DecisionResponse,
) -> Result<Option<pb::SourceOp>, Failure> {
    match PolicyAction::try_from(decision.action) {
        Ok(PolicyAction::Allow) => Ok(None),
        Ok(PolicyAction::Convert) => match decision.update {
            Some(changed) => Ok(Some(changed)),
            None => Err(user("convert action requires updated source")),
        },
        action => {
            let action = action.map_or_else(
                |_| decision.action.to_string(),
                |action| action.as_str_name().to_owned(),
            );
            let refused = user(format!(
                "source {:?} not allowed by policy: action {action}",
                source.identifier
            ));
            if decision.deny_messages.is_empty() {
                return Err(refused);
            }
            // Clients find what the policy has to say about it in the details.
            Err(refused.with(Detail::Policy(Box::new(DecisionResponse {
                action: PolicyAction::Deny.into(),
                deny_messages: decision.deny_messages,
                update: None,
            }))))
        }
    }
}

fn user(text: impl Into<String>) -> Failure {
    Failure::new(Class::User, text)
}
