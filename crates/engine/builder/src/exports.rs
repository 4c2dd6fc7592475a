//! What becomes of a build's results: all exporters first, then beside each other what they put off (pushes) and the
//! remote caches, which find the layers made.

use std::collections::BTreeMap;
use std::sync::Arc;

use diagnostics::Failure;
use export::{Exported, Finalize, Input, Instance, Work};
use frontend::Outcome;
use oci::Digest;
use progress::Progress;
use tasks::Cx;

use crate::bridge::BuildBridge;
use crate::cache_exports::{CacheExport, Roots};
use crate::{solve, vertex};

/// Everything that is to be done with the results of a build.
pub(crate) struct Outputs<'a> {
    pub(crate) bridge: &'a BuildBridge,
    pub(crate) exporters: &'a [Arc<dyn Instance>],
    pub(crate) caches: &'a [CacheExport],
    pub(crate) input: &'a Input,
    pub(crate) epoch: Option<i64>,
    /// Shown with the first exporter.
    pub(crate) warnings: &'a [String],
}

impl Outputs<'_> {
    /// Does it. Answers what each exporter did, and what the caches tell the client.
    pub(crate) async fn run(
        &self,
        cx: &Cx,
        outcome: &Outcome,
    ) -> Result<(Vec<Exported>, BTreeMap<String, String>), Failure> {
        let roots = if self.caches.is_empty() {
            Roots::default()
        } else {
            Roots::of(cx, outcome).await?
        };
        let exports = self.exporters.iter().enumerate();
        let exports = exports.map(|(index, exporter)| self.export(cx, &roots, index, exporter));
        let mut exported = futures::future::try_join_all(exports).await?;
        let mut left = Vec::new();
        for (index, (exported, exporter)) in exported.iter_mut().zip(self.exporters).enumerate() {
            if let Some(finalize) = exported.finalize.take() {
                left.push(self.finalize(cx, index, exporter, finalize));
            }
        }
        let (_, answers) = futures::future::try_join(
            futures::future::try_join_all(left),
            self.bridge.export_caches(cx, self.caches, &roots),
        )
        .await?;
        Ok((exported, answers))
    }

    /// The id of an exporter's vertex.
    fn id(&self, index: usize) -> String {
        format!("{}-export-{index}", self.bridge.session)
    }

    fn work(&self, cx: &Cx, index: usize, progress: Progress) -> Work {
        let sessions = &self.bridge.machinery.worker.sessions;
        Work {
            cx: cx.clone(),
            progress,
            sessions: sessions.group(vec![self.bridge.session.clone()]),
            index,
            epoch: self.epoch,
        }
    }

    async fn export(
        &self,
        cx: &Cx,
        roots: &Roots,
        index: usize,
        exporter: &Arc<dyn Instance>,
    ) -> Result<Exported, Failure> {
        let (sink, id) = (self.bridge.job.sink(), self.id(index));
        vertex::run(&sink, &id, &exporter.name(), |progress| async {
            if index == 0 {
                solve::warn(&sink, &Digest::of(&id), self.warnings);
            }
            let bridge = self.bridge;
            let input = bridge.with_inline_cache(
                cx,
                self.caches,
                roots,
                &**exporter,
                self.input,
                &progress,
            );
            let input = input.await?;
            let work = self.work(cx, index, progress);
            let exported = exporter.export(&work, &input).await;
            exported.map_err(|err| Failure::from_error(&err))
        })
        .await
    }

    /// A second start of the exporter's vertex.
    async fn finalize(
        &self,
        cx: &Cx,
        index: usize,
        exporter: &Arc<dyn Instance>,
        finalize: Finalize,
    ) -> Result<(), Failure> {
        let (sink, id) = (self.bridge.job.sink(), self.id(index));
        vertex::run(&sink, &id, &exporter.name(), |progress| async {
            let done = finalize(self.work(cx, index, progress)).await;
            done.map_err(|err| Failure::from_error(&err))
        })
        .await
    }
}
