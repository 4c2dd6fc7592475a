//! From what a frontend answered to what exporters take.

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::Failure;
use export::{Input, PlatformResult};
use fault::Class;
use frontend::{Outcome, Reference};
use oci::Platform;
use serde::Deserialize;
use tasks::Cx;

use crate::reference::LazyReference;

#[derive(Deserialize)]
struct Platforms {
    #[serde(rename = "Platforms")]
    platforms: Vec<PlatformEntry>,
}

#[derive(Deserialize)]
struct PlatformEntry {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// Computes all results, in parallel.
pub(crate) async fn evaluate(cx: &Cx, outcome: &Outcome) -> Result<Input, Failure> {
    let mut input = Input {
        metadata: outcome.metadata.clone(),
        ..Input::default()
    };
    if let Some(single) = &outcome.single {
        input.single = Some(compute(cx, single.as_ref()).await?);
    }
    if outcome.platforms.is_empty() {
        return Ok(input);
    }
    let known = platforms(outcome)?;
    let computed =
        futures::future::try_join_all(outcome.platforms.iter().map(|(id, reference)| async move {
            Ok::<_, Failure>((id.clone(), compute(cx, reference.as_ref()).await?))
        }))
        .await?;
    let computed: BTreeMap<_, _> = computed.into_iter().collect();
    for entry in known {
        // A platform may have been asked for twice.
        let Some(result) = computed.get(&entry.id).cloned() else {
            let text = format!("failed to find ref for ID {}", entry.id);
            return Err(Failure::new(Class::User, text));
        };
        input.platforms.push(PlatformResult {
            id: entry.id,
            platform: entry.platform,
            result,
        });
    }
    Ok(input)
}

fn platforms(outcome: &Outcome) -> Result<Vec<PlatformEntry>, Failure> {
    let Some(json) = outcome.metadata.get("refs.platforms") else {
        let text = "unable to export multiple refs, missing platforms mapping";
        return Err(Failure::new(Class::User, text));
    };
    let parsed: Platforms = serde_json::from_slice(json).map_err(|err| {
        Failure::new(
            Class::User,
            format!("failed to parse platforms passed to exporter: {err}"),
        )
    })?;
    Ok(parsed.platforms)
}

async fn compute(
    cx: &Cx,
    reference: Option<&Arc<dyn Reference>>,
) -> Result<Option<cache::Ref>, Failure> {
    let Some(reference) = reference else {
        return Ok(None);
    };
    let lazy = reference
        .as_any()
        .downcast_ref::<LazyReference>()
        .ok_or_else(|| Failure::new(Class::Internal, "a result of another build"))?;
    Ok(lazy.value(cx).await?.0)
}

/// SOURCE_DATE_EPOCH: from the frontend's result, else from the build argument.
pub(crate) fn epoch(
    attrs: &BTreeMap<String, String>,
    outcome: &Outcome,
) -> Result<Option<i64>, Failure> {
    if let Some(value) = outcome.metadata.get("source.date.epoch") {
        let text = String::from_utf8_lossy(value);
        return text.parse().map(Some).map_err(|_| {
            let text = format!("invalid SOURCE_DATE_EPOCH from frontend: {text:?}");
            Failure::new(Class::User, text)
        });
    }
    let given = attrs
        .get("build-arg:SOURCE_DATE_EPOCH")
        .filter(|text| !text.is_empty());
    Ok(given.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn with(key: &str, value: &'static str) -> Outcome {
        Outcome {
            metadata: BTreeMap::from([(key.to_owned(), Bytes::from(value))]),
            ..Outcome::default()
        }
    }

    #[test]
    fn the_frontend_says_the_epoch_before_the_client() {
        let attrs = BTreeMap::from([("build-arg:SOURCE_DATE_EPOCH".to_owned(), "2".to_owned())]);
        let said = with("source.date.epoch", "1");
        assert_eq!(epoch(&attrs, &said).unwrap(), Some(1));
        assert_eq!(epoch(&attrs, &Outcome::default()).unwrap(), Some(2));
        assert_eq!(epoch(&BTreeMap::new(), &Outcome::default()).unwrap(), None);
    }

    #[test]
    fn an_epoch_of_the_frontend_must_be_a_number() {
        let err = epoch(&BTreeMap::new(), &with("source.date.epoch", "x")).unwrap_err();
        assert_eq!(
            err.to_string(),
            "invalid SOURCE_DATE_EPOCH from frontend: \"x\""
        );
    }

    #[tokio::test]
    async fn scratch_needs_no_work() {
        let outcome = Outcome {
            single: Some(None),
            ..Outcome::default()
        };
        let input = evaluate(&Cx::root(), &outcome).await.unwrap();
        assert!(matches!(input.single, Some(None)));
        assert!(input.platforms.is_empty());
    }

    #[tokio::test]
    async fn results_by_platform_need_the_list_of_platforms() {
        let outcome = Outcome {
            platforms: BTreeMap::from([("a".to_owned(), None)]),
            ..Outcome::default()
        };
        let Err(err) = evaluate(&Cx::root(), &outcome).await else {
            panic!("no list was given");
        };
        assert_eq!(
            err.to_string(),
            "unable to export multiple refs, missing platforms mapping"
        );
    }

    #[tokio::test]
    async fn a_listed_platform_needs_a_result() {
        let outcome = Outcome {
            platforms: BTreeMap::from([("a".to_owned(), None)]),
            ..with(
                "refs.platforms",
                r#"{"Platforms":[{"ID":"b","Platform":{"os":"linux","architecture":"amd64"}}]}"#,
            )
        };
        let Err(err) = evaluate(&Cx::root(), &outcome).await else {
            panic!("there is no b");
        };
        assert_eq!(err.to_string(), "failed to find ref for ID b");
    }
}
