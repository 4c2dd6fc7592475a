//! Results of frontends on the wire.

use std::collections::BTreeMap;

use builder::Returned;
use diagnostics::Failure;
use fault::Class;
use frontend::Outcome;
use proto::gateway as wire;
use proto::gateway::result::Result as Kind;

/// A result as a message. Without `arrays` the old form is used: ids as plain texts.
#[allow(deprecated, reason = "old clients ask for it")]
pub(crate) fn message(outcome: &Outcome, arrays: bool) -> wire::Result {
    let kind = match (&outcome.single, outcome.platforms.is_empty()) {
        (Some(single), _) => {
            let reference = single.as_ref().map(reference).unwrap_or_default();
            Some(if arrays {
                Kind::Ref(reference)
            } else {
                Kind::RefDeprecated(reference.id)
            })
        }
        (None, false) => {
            let refs: BTreeMap<String, wire::Ref> = outcome
                .platforms
                .iter()
                .map(|(id, it)| (id.clone(), it.as_ref().map(reference).unwrap_or_default()))
                .collect();
            Some(if arrays {
                Kind::Refs(wire::RefMap { refs })
            } else {
                let refs = refs
                    .into_iter()
                    .map(|(id, reference)| (id, reference.id))
                    .collect();
                Kind::RefsDeprecated(wire::RefMapDeprecated { refs })
            })
        }
        (None, true) => None,
    };
    wire::Result {
        metadata: outcome.metadata.clone(),
        attestations: BTreeMap::new(),
        result: kind,
    }
}

fn reference(reference: &std::sync::Arc<dyn frontend::Reference>) -> wire::Ref {
    wire::Ref {
        id: reference.id().to_owned(),
        def: reference
            .definition()
            .map(|definition| (*definition).clone()),
    }
}

/// The client's answer.
pub(crate) fn returned(request: wire::ReturnRequest) -> Result<Result<Returned, Failure>, Failure> {
    match (request.result, request.error) {
        (Some(result), None) => Ok(Ok(from_message(result))),
        (None, Some(status)) => Ok(Err(Failure::from_rpc(&status))),
        _ => Err(Failure::new(
            Class::User,
            "gateway return must be either result or err",
        )),
    }
}

#[allow(deprecated, reason = "old clients send it")]
fn from_message(result: wire::Result) -> Returned {
    let mut returned = Returned {
        metadata: result.metadata,
        ..Returned::default()
    };
    match result.result {
        Some(Kind::Ref(reference)) => returned.single = Some(reference.id),
        Some(Kind::RefDeprecated(id)) => returned.single = Some(id),
        Some(Kind::Refs(map)) => {
            returned.platforms = map
                .refs
                .into_iter()
                .map(|(platform, reference)| (platform, reference.id))
                .collect();
        }
        Some(Kind::RefsDeprecated(map)) => returned.platforms = map.refs,
        None => {}
    }
    returned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_return_is_a_result_or_an_error_but_not_both() {
        let both = wire::ReturnRequest {
            result: Some(wire::Result::default()),
            error: Some(proto::rpc::Status::default()),
        };
        for request in [both, wire::ReturnRequest::default()] {
            let Err(err) = returned(request) else {
                panic!("taken");
            };
            assert_eq!(
                err.to_string(),
                "gateway return must be either result or err"
            );
        }
    }

    #[test]
    fn scratch_is_an_empty_id() {
        let outcome = Outcome {
            single: Some(None),
            ..Outcome::default()
        };
        let arrays = message(&outcome, true);
        assert_eq!(arrays.result, Some(Kind::Ref(wire::Ref::default())));
        assert_eq!(from_message(arrays).single.as_deref(), Some(""));
    }

    #[test]
    fn nothing_at_all_stays_nothing() {
        let message = message(&Outcome::default(), true);
        assert_eq!(message.result, None);
        let back = from_message(message);
        assert!(back.single.is_none() && back.platforms.is_empty());
    }

    #[test]
    fn platforms_survive_both_forms() {
        let outcome = Outcome {
            platforms: BTreeMap::from([("linux/amd64".to_owned(), None)]),
            ..Outcome::default()
        };
        for arrays in [false, true] {
            let back = from_message(message(&outcome, arrays));
            assert_eq!(back.platforms["linux/amd64"], "");
        }
    }
}
