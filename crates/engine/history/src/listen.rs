//! Who wants to know about builds, and what they are told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use proto::control::{BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRecord};
use tokio::sync::{mpsc, watch};

use crate::filter::Filters;
use crate::{Error, History, Inner};

/// What somebody wants to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// Builds that have ended are not listed.
    pub active_only: bool,
    /// Only this build; empty: all.
    pub name: String,
    /// Only the list, not what happens later.
    pub early_exit: bool,
    /// Which builds that have ended; one of them has to match.
    pub filters: Vec<String>,
    /// Only so many of them, the newest; 0: all.
    pub limit: i32,
}

/// What is known of builds that go on, and who listens.
#[derive(Default)]
pub(crate) struct State {
    /// Builds that have not ended.
    pub(crate) active: BTreeMap<String, BuildHistoryRecord>,
    /// Records that somebody follows by name stay until they are let go.
    held: HashMap<String, usize>,
    /// Records that go when they are let go.
    pub(crate) deleted: BTreeSet<String>,
    /// Records that are not complete yet.
    pub(crate) unfinished: HashMap<String, watch::Receiver<bool>>,
    listeners: Vec<mpsc::UnboundedSender<BuildHistoryEvent>>,
}

impl State {
    pub(crate) fn is_held(&self, name: &str) -> bool {
        self.held.contains_key(name)
    }

    pub(crate) fn tell(&mut self, kind: BuildHistoryEventType, record: BuildHistoryRecord) {
        let event = event(kind, record);
        self.listeners
            .retain(|listener| listener.send(event.clone()).is_ok());
    }
}

fn event(kind: BuildHistoryEventType, record: BuildHistoryRecord) -> BuildHistoryEvent {
    BuildHistoryEvent {
        r#type: kind.into(),
        record: Some(record),
    }
}

/// What a listener was told so far is the list; the rest comes.
pub struct Listener {
    listed: std::vec::IntoIter<BuildHistoryEvent>,
    later: Option<mpsc::UnboundedReceiver<BuildHistoryEvent>>,
    name: String,
    _hold: Option<Hold>,
}

impl Listener {
    /// The next event; `None` at the end of the list, if only that was wanted.
    pub async fn next(&mut self) -> Option<BuildHistoryEvent> {
        if let Some(event) = self.listed.next() {
            return Some(event);
        }
        let later = self.later.as_mut()?;
        loop {
            let event = later.recv().await?;
            let about = event.record.as_ref().map_or("", |record| &record.r#ref);
            if self.name.is_empty() || self.name == about {
                return Some(event);
            }
        }
    }
}

/// Keeps a record from going while somebody follows it.
struct Hold {
    inner: Arc<Inner>,
    name: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        if let Some(count) = state.held.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                state.held.remove(&self.name);
            }
        }
        if state.is_held(&self.name) || !state.deleted.contains(&self.name) {
            return;
        }
        drop(state);
        let (inner, name) = (self.inner.clone(), self.name.clone());
        // Without a runtime the daemon is going away, and the record stays.
        if tokio::runtime::Handle::try_current().is_ok() {
            let keeper = inner.clone();
            keeper.keep(tasks::spawn("delete build record", async move {
                let deleted = tasks::blocking(move || inner.delete(&name)).await;
                if let Err(err) = deleted {
                    tracing::warn!(error = %fault::chain(&err), "a build record could not be removed");
                }
            }));
        }
    }
}

impl History {
    /// Lists builds: those that go on, then those that have ended; and follows what happens from then on. Waits for
    /// records that are being completed.
    pub async fn listen(&self, request: Request) -> Result<Listener, Error> {
        match request.name.as_str() {
            _ if request.active_only => {}
            "" => self.settled().await,
            name => self.finalize(name).await,
        }
        let inner = self.inner.clone();
        tasks::blocking(move || listen(&inner, request)).await
    }
}

fn listen(inner: &Arc<Inner>, request: Request) -> Result<Listener, Error> {
    let filters = Filters::parse(&request.filters, SystemTime::now())?;
    let limit = usize::try_from(request.limit).map_err(|_| Error::Limit(request.limit))?;
    let mut state = inner.state.lock();
    let hold = if request.name.is_empty() {
        None
    } else if state.deleted.contains(&request.name) {
        return Err(Error::Deleted { name: request.name });
    } else {
        *state.held.entry(request.name.clone()).or_default() += 1;
        Some(Hold {
            inner: inner.clone(),
            name: request.name.clone(),
        })
    };
    let wanted =
        |record: &BuildHistoryRecord| request.name.is_empty() || record.r#ref == request.name;
    let mut listed: Vec<_> = state
        .active
        .values()
        .filter(|record| wanted(record))
        .map(|record| event(BuildHistoryEventType::Started, record.clone()))
        .collect();
    let later = (!request.early_exit).then(|| {
        let (sender, receiver) = mpsc::unbounded_channel();
        state.listeners.push(sender);
        receiver
    });
    if !request.active_only {
        let mut ended = match ended(inner, &request.name, &state) {
            Ok(ended) => ended,
            Err(err) => {
                // Letting the record go takes the lock.
                drop(state);
                return Err(err);
            }
        };
        ended.retain(|record| wanted(record) && filters.match_record(record));
        if limit > 0 {
            ended.sort_by_key(|record| std::cmp::Reverse(seconds(record)));
            ended.truncate(limit);
        }
        let complete = |record| event(BuildHistoryEventType::Complete, record);
        listed.extend(ended.into_iter().map(complete));
    }
    drop(state);
    Ok(Listener {
        listed: listed.into_iter(),
        later,
        name: request.name,
        _hold: hold,
    })
}

fn seconds(record: &BuildHistoryRecord) -> Option<(i64, i32)> {
    record.created_at.map(|time| (time.seconds, time.nanos))
}

fn ended(inner: &Inner, name: &str, state: &State) -> Result<Vec<BuildHistoryRecord>, Error> {
    let mut records = if name.is_empty() {
        inner.records()?
    } else {
        match inner.record(name) {
            Ok(record) => vec![record],
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(err) => return Err(err),
        }
    };
    records.retain(|record| !state.deleted.contains(&record.r#ref));
    Ok(records)
}
