//! Results of frontends on the wire.

use std::collections::BTreeMap;

use builder::Returned;
use diagnostics::Failure;
use fault::Class;
use frontend::{Attestation, Outcome};
use proto::gateway as wire;
use proto::gateway::result::Result as Kind;
use proto::pb;

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
                .map(|(id, it)| (id.clone(), it.as_ref().map_or_else(scratch, reference)))
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
        attestations: outcome
            .attestations
            .iter()
            .map(|(platform, list)| {
                let attestation = list.iter().map(attestation).collect();
                (platform.clone(), wire::Attestations { attestation })
            })
            .collect(),
        result: kind,
    }
}

fn attestation(attestation: &Attestation) -> wire::Attestation {
    wire::Attestation {
        kind: attestation.kind.into(),
        metadata: attestation.metadata.clone(),
        r#ref: attestation.reference.as_ref().map(reference),
        path: attestation.path.clone(),
        in_toto_predicate_type: attestation.predicate_type.clone(),
        in_toto_subjects: attestation.subjects.clone(),
    }
}

fn reference(reference: &std::sync::Arc<dyn frontend::Reference>) -> wire::Ref {
    wire::Ref {
        id: reference.id().to_owned(),
        def: reference.definition().map(|definition| {
            let mut definition = (*definition).clone();
            leave_out_empty_places(&mut definition);
            definition
        }),
    }
}

/// The empty tree among others.
///
/// Compat: clients in Go take a map's value for nil when it is left out, and prost leaves out what says nothing.
fn scratch() -> wire::Ref {
    wire::Ref {
        id: String::new(),
        def: Some(pb::Definition::default()),
    }
}

/// Definitions as clients in Go can take them.
pub(crate) fn presentable(
    definitions: &BTreeMap<String, pb::Definition>,
) -> Vec<wire::NamedDefinition> {
    let named = definitions.iter().map(|(name, definition)| {
        let mut definition = definition.clone();
        leave_out_empty_places(&mut definition);
        wire::NamedDefinition {
            name: name.clone(),
            definition: Some(definition),
        }
    });
    named.collect()
}

/// Takes out what would be nil for a client in Go, which then dies of it: places of ops that have none.
fn leave_out_empty_places(definition: &mut pb::Definition) {
    let Some(source) = &mut definition.source else {
        return;
    };
    source
        .locations
        .retain(|_, places| !places.locations.is_empty());
    for info in &mut source.infos {
        if let Some(inner) = &mut info.definition {
            leave_out_empty_places(inner);
        }
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
        attestations: result
            .attestations
            .into_iter()
            .map(|(platform, list)| (platform, list.attestation))
            .collect(),
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
    fn an_input_without_operations_is_sent_as_an_empty_definition() {
        let inputs = [("a".to_owned(), pb::Definition::default())].into();
        let response = wire::InputsResponse {
            definitions: presentable(&inputs),
        };
        let bytes = prost::Message::encode_to_vec(&response);
        assert_eq!(bytes, [0x0a, 5, 0x0a, 1, b'a', 0x12, 0]);
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

    fn placed<N: From<&'static str>>(op: &'static str, places: usize) -> (N, pb::Locations) {
        let locations = std::iter::repeat_n(pb::Location::default(), places).collect();
        (op.into(), pb::Locations { locations })
    }

    #[test]
    fn no_place_in_a_definition_says_nothing() {
        let source = pb::Source {
            locations: [placed("a", 0), placed("b", 1)].into(),
            infos: Vec::new(),
        };
        let inner = pb::Definition {
            source: Some(source.clone()),
            ..pb::Definition::default()
        };
        let info = pb::SourceInfo {
            definition: Some(inner),
            ..pb::SourceInfo::default()
        };
        let mut outer = pb::Definition {
            source: Some(pb::Source {
                infos: vec![info],
                ..source
            }),
            ..pb::Definition::default()
        };
        leave_out_empty_places(&mut outer);
        let outer = outer.source.expect("kept");
        let inner = outer.infos[0].definition.clone();
        for source in [outer, inner.and_then(|it| it.source).expect("kept")] {
            assert_eq!(source.locations.keys().collect::<Vec<_>>(), ["b"]);
        }
    }

    #[test]
    fn scratch_for_a_platform_is_written_out() {
        let outcome = Outcome {
            platforms: BTreeMap::from([("linux/amd64".to_owned(), None)]),
            ..Outcome::default()
        };
        let Some(Kind::Refs(refs)) = message(&outcome, true).result else {
            panic!("by platform");
        };
        let scratch = &refs.refs["linux/amd64"];
        assert!(scratch.id.is_empty());
        assert_ne!(*scratch, wire::Ref::default());
    }
}
