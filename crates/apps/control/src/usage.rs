//! Disk usage and pruning of the local cache.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cache::{Keeper, Rule, Usage};
use diagnostics::Failure;
use filters::Filter;
use proto::control::{DiskUsageRequest, PruneRequest, UsageRecord};
use tasks::Cx;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{Services, WithTask};

/// What keeps the cache in order.
#[derive(Clone)]
pub struct Upkeep {
    /// Collects garbage; absent: nobody does unless asked.
    pub keeper: Option<Arc<Keeper>>,
    /// Forgets cache keys whose results are gone. Blocks.
    pub forget_keys: Arc<dyn Fn() + Send + Sync>,
}

impl Upkeep {
    /// Something may have changed that calls for garbage collection.
    pub fn poke(&self) {
        if let Some(keeper) = &self.keeper {
            keeper.poke();
        }
    }
}

fn failed(err: &cache::Error) -> Status {
    Failure::from_error(err).to_status()
}

fn filter(texts: &[String], what: &str) -> Result<Filter, Status> {
    Filter::parse(texts).map_err(|err| {
        let texts = texts.join(" ");
        Status::invalid_argument(format!("failed to parse {what} filters [{texts}]: {err}"))
    })
}

/// Nanoseconds as they come; less than none is none.
fn duration(nanoseconds: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

fn bytes(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// The records that are asked for.
pub(crate) async fn list(
    services: &Services,
    request: DiskUsageRequest,
) -> Result<Vec<UsageRecord>, Status> {
    let filter = filter(&request.filter, "diskusage")?;
    let age = duration(request.age_limit);
    let since = SystemTime::now()
        .checked_sub(age)
        .filter(|_| !age.is_zero());
    // Writing down what a build did looks at trees for a moment.
    services.builder.machinery().history.settled().await;
    let records = services.cache.list(&Cx::root()).await;
    let records = records.map_err(|err| failed(&err))?.into_iter();
    Ok(records
        .filter(|record| record.matches(&filter))
        .filter(|record| since.is_none_or(|since| !record.is_used_since(since)))
        .map(|record| message(&record))
        .collect())
}

/// Removes what is asked for and tells of each record.
pub(crate) fn prune(
    services: &Services,
    request: PruneRequest,
) -> Result<WithTask<ReceiverStream<Result<UsageRecord, Status>>>, Status> {
    let rule = Rule {
        filter: filter(&request.filter, "prune")?,
        all: request.all,
        keep_duration: duration(request.keep_duration),
        reserved: bytes(request.reserved_space),
        max_used: bytes(request.max_used_space),
        min_free: bytes(request.min_free_space),
    };
    let (sender, receiver) = channel(64);
    let services = services.clone();
    let task = tasks::spawn("prune", async move {
        if let Err(status) = prune_now(&services, rule, &sender).await {
            // Nobody is there to hear it if this fails.
            let _ = sender.send(Err(status)).await;
        }
    });
    Ok(WithTask::new(ReceiverStream::new(receiver), task))
}

async fn prune_now(
    services: &Services,
    rule: Rule,
    sender: &Sender<Result<UsageRecord, Status>>,
) -> Result<(), Status> {
    let cx = Cx::root();
    let _stop = crate::control::CancelOnDrop(cx.clone());
    let (told, gone) = (sender.clone(), cx.clone());
    let removed = move |record: Usage| {
        if told.blocking_send(Ok(message(&record))).is_err() {
            gone.cancel("the client has gone");
        }
    };
    // Writing down what a build did keeps trees for a moment.
    services.builder.machinery().history.settled().await;
    let pruned = services
        .cache
        .prune(&cx, std::slice::from_ref(&rule), removed)
        .await;
    let pruned = pruned.map_err(|err| failed(&err))?;
    if pruned.records > 0 {
        let forget = services.upkeep.forget_keys.clone();
        tasks::blocking(move || forget()).await;
    }
    let everything = rule.all
        && rule.filter.is_everything()
        && rule.keep_duration.is_zero()
        && (rule.reserved, rule.max_used, rule.min_free) == (0, 0, 0);
    if everything {
        tidy_up(services).await?;
    }
    Ok(())
}

/// What belongs to no record may be needed by a build, and by nothing else.
async fn tidy_up(services: &Services) -> Result<(), Status> {
    let (builder, cache) = (services.builder.clone(), services.cache.clone());
    let dropped = tasks::blocking(move || {
        let soon = SystemTime::now() + Duration::from_secs(60);
        builder.while_idle(|| cache.drop_loose(soon))
    });
    match dropped.await {
        Some(Err(err)) => Err(failed(&err)),
        Some(Ok(_)) | None => Ok(()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_the_callers_fault() {
        let status = filter(&["id=x".into()], "prune").unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(
            status.message(),
            "failed to parse prune filters [id=x]: filters: parse error: [id >|=|< x]: unsupported operator \"=\": \
             invalid argument"
        );
    }
}
