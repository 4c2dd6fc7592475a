//! One build going on record.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use diagnostics::{Detail, Failure};
use oci::Digest;
use progress::{Event, Sink};
use prost::Message as _;
use proto::control::{
    BuildHistoryEventType, BuildHistoryRecord, BuildResultInfo, Descriptor, Exporter,
};
use proto::pb;
use proto::stack::{Frame, Stack};
use tokio::sync::watch;

use crate::log::{Counts, Spool, stamp};
use crate::redact::Secrets;
use crate::{Attrs, Error, History, Inner, images, log, redact, trace};

/// Compat: the typing error is upstream's.
const ERROR_TYPE: &str = "application/vnd.googeapis.google.rpc.status+proto";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const PREDICATE_MEDIA_TYPE: &str = "application/vnd.in-toto+json";

/// What is known when a build starts.
#[derive(Debug, Clone, Default)]
pub struct Started {
    /// The build.
    pub name: String,
    /// Its frontend, empty for LLB and for builds that their clients drive.
    pub frontend: String,
    /// Options of the frontend. What looks secret is not kept.
    pub attrs: Attrs,
    /// Outputs: kind and options.
    pub exporters: Vec<(String, Attrs)>,
}

/// What came out of a build.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Metadata of the frontend's result.
    pub metadata: BTreeMap<String, bytes::Bytes>,
    /// What each exporter made, in the order of the request.
    pub made: Vec<Option<oci::Descriptor>>,
}

/// What is said about a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    /// Which result; empty for a single one.
    pub platform: String,
    /// The type of the predicate.
    pub kind: String,
    /// The predicate.
    pub predicate: Vec<u8>,
}

/// How a build ended.
#[derive(Debug, Clone, Default)]
pub struct Ended {
    /// Everything it told, outdated states left out.
    pub events: Vec<Event>,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
    /// What came out, as far as it came.
    pub outcome: Outcome,
}

/// A build that goes on. Dropping it forgets the build.
pub struct Recording {
    inner: Arc<Inner>,
    record: Option<BuildHistoryRecord>,
    started: SystemTime,
    spool: Arc<Spool>,
    secrets: Secrets,
}

impl History {
    /// Begins the record of a build, and tells who listens.
    pub fn begin(&self, started: Started) -> Recording {
        let now = SystemTime::now();
        let exporters = started.exporters.into_iter();
        let secrets = Secrets::of(&started.attrs);
        let record = BuildHistoryRecord {
            r#ref: started.name,
            frontend: started.frontend,
            frontend_attrs: redact::redacted(&started.attrs),
            exporters: exporters
                .map(|(r#type, attrs)| Exporter { r#type, attrs })
                .collect(),
            created_at: stamp(now),
            ..BuildHistoryRecord::default()
        };
        let mut state = self.inner.state.lock();
        state.active.insert(record.r#ref.clone(), record.clone());
        state.tell(BuildHistoryEventType::Started, record.clone());
        drop(state);
        Recording {
            inner: self.inner.clone(),
            record: Some(record),
            started: now,
            spool: Arc::new(Spool::new(self.inner.blobs.scratch())),
            secrets,
        }
    }
}

impl Recording {
    /// Takes what is for the record only.
    pub fn overflow(&self) -> Arc<dyn Sink> {
        self.spool.clone()
    }

    /// Writes the record. It is there when this returns; what is said about the results comes a little later, and so do
    /// the spans. Nobody who reads the record sees it without them.
    pub async fn end(
        mut self,
        ended: Ended,
        statements: impl Future<Output = Vec<Statement>> + Send + 'static,
    ) -> Result<(), Error> {
        let Some(record) = self.record.take() else {
            return Ok(());
        };
        let completed = SystemTime::now();
        let (inner, spool, started) = (self.inner.clone(), self.spool.clone(), self.started);
        let secrets = std::mem::take(&mut self.secrets);
        let unfinished = Unfinished::new(&inner, &record.r#ref);
        let written = tasks::blocking({
            let inner = inner.clone();
            move || {
                inner.write_ended(record, (completed, &secrets), &ended, &spool)?;
                Ok::<_, Error>((ended, secrets))
            }
        });
        let (ended, secrets) = match written.await {
            Ok(written) => written,
            Err(err) => {
                inner.forget(&unfinished.name);
                return Err(err);
            }
        };
        let rest = async move {
            let statements = statements.await;
            let work = tasks::blocking(move || {
                let (name, inner) = (&unfinished.name, unfinished.inner.clone());
                let error = ended.failure.as_ref().map_or("", Failure::text);
                let trace = trace::document(name, started, completed, error, &ended.events);
                let added = inner.add_rest(name, &trace, &statements, &secrets);
                if let Err(err) = added {
                    tracing::warn!(build = name, error = %fault::chain(&err), "the record of a build is not complete");
                }
                drop(unfinished);
                inner.collect_if_much();
            });
            work.await;
        };
        inner.keep(tasks::spawn("record of a build", rest));
        Ok(())
    }
}

/// A record that lacks something. Whoever reads it waits until this is dropped.
struct Unfinished {
    inner: Arc<Inner>,
    name: String,
    done: watch::Sender<bool>,
}

impl Unfinished {
    fn new(inner: &Arc<Inner>, name: &str) -> Self {
        let (done, waiting) = watch::channel(false);
        let mut state = inner.state.lock();
        state.unfinished.insert(name.to_owned(), waiting);
        Self {
            inner: inner.clone(),
            name: name.to_owned(),
            done,
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.inner.state.lock().unfinished.remove(&self.name);
        self.done.send_replace(true);
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.inner.forget(&record.r#ref);
        }
    }
}

/// The failure with the place in the user's file as a call stack, which is where tools that show records look.
fn with_place(failure: &Failure) -> Failure {
    let frame = |info: &pb::SourceInfo, range: &pb::Range| Frame {
        name: failure.text().to_owned(),
        file: info.filename.clone(),
        line: range.start.as_ref().map_or(0, |start| start.line),
    };
    let mut frames = Vec::new();
    for detail in failure.details().iter().rev() {
        if let Detail::Source { info, ranges } = detail {
            frames.extend(ranges.first().map(|range| frame(info, range)));
        }
    }
    if frames.is_empty() {
        return failure.clone();
    }
    let stack = Stack {
        frames,
        cmdline: std::env::args().collect(),
        pid: i32::try_from(std::process::id()).unwrap_or(0),
        ..Stack::default()
    };
    failure.clone().with(Detail::Stack(Box::new(stack)))
}

impl Inner {
    /// A build leaves no record.
    fn forget(&self, name: &str) {
        let mut state = self.state.lock();
        state.active.remove(name);
        state.unfinished.remove(name);
    }

    fn write_ended(
        &self,
        mut record: BuildHistoryRecord,
        (completed, secrets): (SystemTime, &Secrets),
        ended: &Ended,
        spool: &Spool,
    ) -> Result<(), Error> {
        let _using = self.sweeping.read();
        record.completed_at = stamp(completed);
        record.logs = Some(log::write(&self.blobs, &ended.events, spool)?);
        let counts = Counts::of(&ended.events);
        record.num_total_steps = counts.total;
        record.num_cached_steps = counts.cached;
        record.num_completed_steps = counts.completed;
        record.num_warnings = counts.warnings;
        if let Some(failure) = &ended.failure {
            let mut status = with_place(failure).to_rpc();
            let blob = self.blobs.put(ERROR_TYPE, &status.encode_to_vec())?;
            record.external_error = Some(blob);
            status.details.clear();
            record.error = Some(status);
        }
        for (key, value) in &ended.outcome.metadata {
            let value = secrets.hide(&String::from_utf8_lossy(value));
            record.exporter_response.insert(key.clone(), value);
        }
        self.add_results(&mut record, &ended.outcome)?;
        let mut state = self.state.lock();
        state.active.remove(&record.r#ref);
        // Who listens is told when nothing is missing any more.
        self.write(&record)
    }

    fn add_results(&self, record: &mut BuildHistoryRecord, outcome: &Outcome) -> Result<(), Error> {
        for (index, made) in (0..).zip(&outcome.made) {
            let Some(made) = made else { continue };
            images::copy(&self.content, &self.blobs, made)?;
            let made = Descriptor {
                media_type: made.media_type.clone(),
                digest: made.digest.to_string(),
                size: made.size,
                annotations: made.annotations.clone(),
            };
            let info: &mut BuildResultInfo = record.result.get_or_insert_default();
            // Compat: old clients read this one.
            info.result_deprecated.get_or_insert_with(|| made.clone());
            info.results.insert(index, made);
        }
        Ok(())
    }

    /// Completes a record, and tells who listens.
    fn add_rest(
        &self,
        name: &str,
        trace: &str,
        statements: &[Statement],
        secrets: &Secrets,
    ) -> Result<(), Error> {
        let _using = self.sweeping.read();
        let mut blobs = Vec::new();
        let mut put = || {
            for statement in statements {
                let document = secrets.hide_in_document(&statement.predicate);
                let mut blob = self.blobs.put(PREDICATE_MEDIA_TYPE, &document)?;
                let key = PREDICATE_TYPE.to_owned();
                blob.annotations.insert(key, statement.kind.clone());
                blobs.push((statement.platform.as_str(), blob));
            }
            self.blobs.put(trace::MEDIA_TYPE, trace.as_bytes())
        };
        // What could be kept is kept, and who listens is told in any case.
        let (trace, failed) = match put() {
            Ok(trace) => (Some(trace), Ok(())),
            Err(err) => (None, Err(err)),
        };
        let changed = self.change(name, |record| {
            for (platform, blob) in &blobs {
                let info = if platform.is_empty() {
                    record.result.get_or_insert_default()
                } else {
                    record.results.entry((*platform).to_owned()).or_default()
                };
                info.attestations.push(blob.clone());
            }
            record.trace.clone_from(&trace);
        });
        if !matches!(changed, Err(Error::NotFound { .. })) {
            return changed.and(failed);
        }
        // It was deleted meanwhile.
        for blob in blobs.iter().map(|(_, blob)| blob).chain(&trace) {
            if let Ok(digest) = blob.digest.parse::<Digest>() {
                self.blobs.remove(&digest)?;
            }
        }
        failed
    }
}
