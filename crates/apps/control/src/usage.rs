//! Disk usage and pruning of the local cache, as far as they need no garbage collection policy.

use std::sync::Arc;

use builder::Builder;
use cache::{Cache, RecordType, Usage};
use diagnostics::Failure;
use proto::control::UsageRecord;
use tasks::Cx;
use tonic::Status;

/// Compat: an empty filter matches everything, and clients send it.
pub(crate) fn check_filter(filter: &[String]) -> Result<(), Status> {
    match filter.iter().find(|filter| !filter.is_empty()) {
        None => Ok(()),
        Some(filter) => Err(Status::unimplemented(format!(
            "unimplemented: filter {filter:?}"
        ))),
    }
}

fn failed(err: &cache::Error) -> Status {
    Failure::from_error(err).to_status()
}

/// All records.
pub(crate) async fn list(cache: &Cache) -> Result<Vec<UsageRecord>, Status> {
    let records = cache.list(&Cx::root()).await.map_err(|err| failed(&err))?;
    Ok(records.iter().map(message).collect())
}

/// Removes what nobody uses; internal records and those of frontends only with `all`.
pub(crate) async fn prune(cache: &Cache, all: bool) -> Result<Vec<UsageRecord>, Status> {
    let mut removed = Vec::new();
    loop {
        let records = cache.list(&Cx::root()).await.map_err(|err| failed(&err))?;
        let mut progress = false;
        for record in &records {
            let kept = matches!(
                record.record_type,
                RecordType::Internal | RecordType::Frontend
            );
            if record.in_use || (kept && !all) {
                continue;
            }
            // What others stand on is removed in a later round, when they are gone.
            if cache.remove(&record.id).is_ok() {
                progress = true;
                removed.push(message(record));
            }
        }
        if !progress {
            return Ok(removed);
        }
    }
}

/// Removes all blobs when no record is left and no build runs. Records take their layers along, but manifests and configs
/// belong to none.
pub(crate) async fn drop_blobs(builder: &Arc<Builder>, cache: &Cache) -> Result<(), Status> {
    let left = cache.list(&Cx::root()).await.map_err(|err| failed(&err))?;
    if !left.is_empty() {
        return Ok(());
    }
    let (builder, store) = (builder.clone(), cache.content().clone());
    let dropped = tasks::blocking(move || {
        builder.while_idle(|| {
            for blob in store.list()? {
                store.remove(&blob.digest)?;
            }
            Ok::<_, content::Error>(())
        })
    })
    .await;
    match dropped {
        Some(Err(err)) => Err(Failure::from_error(&err).to_status()),
        Some(Ok(())) | None => Ok(()),
    }
}

fn message(usage: &Usage) -> UsageRecord {
    UsageRecord {
        id: usage.id.to_string(),
        mutable: usage.mutable,
        in_use: usage.in_use,
        size: i64::try_from(usage.size).unwrap_or(i64::MAX),
        created_at: Some(usage.created.into()),
        last_used_at: usage.last_used.map(Into::into),
        usage_count: i64::try_from(usage.usage_count).unwrap_or(i64::MAX),
        description: usage.description.clone(),
        record_type: usage.record_type.as_str().to_owned(),
        shared: usage.shared,
        parents: usage.parents.iter().map(ToString::to_string).collect(),
        ..UsageRecord::default()
    }
}
