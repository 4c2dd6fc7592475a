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
    /// Statements about the result: platform (empty for a single result), type of the predicate, and the predicate.
    pub statements: Vec<(String, String, Vec<u8>)>,
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

    /// Writes the record. It is there when this returns; the spans come a little later.
    pub async fn end(mut self, ended: Ended) -> Result<(), Error> {
        let Some(record) = self.record.take() else {
            return Ok(());
        };
        let completed = SystemTime::now();
        let (inner, spool, started) = (self.inner.clone(), self.spool.clone(), self.started);
        let name = record.r#ref.clone();
        let (done, unfinished) = watch::channel(false);
        inner
            .state
            .lock()
            .unfinished
            .insert(name.clone(), unfinished);
        let secrets = std::mem::take(&mut self.secrets);
        let events = tasks::blocking({
            let inner = inner.clone();
            move || {
                inner.write_ended(record, (completed, &secrets), &ended, &spool)?;
                Ok::<_, Error>(ended)
            }
        })
        .await;
        let ended = match events {
            Ok(ended) => ended,
            Err(err) => {
                inner.forget(&name);
                return Err(err);
            }
        };
        let writer = inner.clone();
        inner.keep(tasks::spawn("trace of a build", async move {
            let work = tasks::blocking(move || {
                let error = ended.failure.as_ref().map_or("", Failure::text);
                let text = trace::document(&name, started, completed, error, &ended.events);
                if let Err(err) = writer.write_trace(&name, &text) {
                    tracing::warn!(build = name, error = %fault::chain(&err), "the trace of a build cannot be kept");
                }
                writer.state.lock().unfinished.remove(&name);
            });
            work.await;
            done.send_replace(true);
        }));
        Ok(())
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
        self.add_results(&mut record, &ended.outcome, secrets)?;
        let mut state = self.state.lock();
        state.active.remove(&record.r#ref);
        self.write(&record)?;
        state.tell(BuildHistoryEventType::Complete, record);
        Ok(())
    }

    fn add_results(
        &self,
        record: &mut BuildHistoryRecord,
        outcome: &Outcome,
        secrets: &Secrets,
    ) -> Result<(), Error> {
        for (platform, predicate, document) in &outcome.statements {
            let document = secrets.hide_in_document(document);
            let mut blob = self.blobs.put(PREDICATE_MEDIA_TYPE, &document)?;
            let key = PREDICATE_TYPE.to_owned();
            blob.annotations.insert(key, predicate.clone());
            let info = if platform.is_empty() {
                record.result.get_or_insert_default()
            } else {
                record.results.entry(platform.clone()).or_default()
            };
            info.attestations.push(blob);
        }
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

    fn write_trace(&self, name: &str, text: &str) -> Result<(), Error> {
        let _using = self.sweeping.read();
        let blob = self.blobs.put(trace::MEDIA_TYPE, text.as_bytes())?;
        match self.change(name, |record| record.trace = Some(blob.clone())) {
            // It was deleted meanwhile.
            Err(Error::NotFound { .. }) => {
                if let Ok(digest) = blob.digest.parse::<Digest>() {
                    self.blobs.remove(&digest)?;
                }
                Ok(())
            }
            other => other,
        }
    }
}
