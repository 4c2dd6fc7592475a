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
    let mut known = platforms(outcome)?;
    let computed =
        futures::future::try_join_all(outcome.platforms.iter().map(|(id, reference)| async move {
            Ok::<_, Failure>((id.clone(), compute(cx, reference.as_ref()).await?))
        }))
        .await?;
    let mut computed: BTreeMap<_, _> = computed.into_iter().collect();
    for entry in known.drain(..) {
        let Some(result) = computed.remove(&entry.id) else {
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
