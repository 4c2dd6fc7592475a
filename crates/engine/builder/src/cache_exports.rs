//! Remote caches a build fills: from its results to what another daemon can look up.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::{Cache, Ref};
use cachekeys::ResultId;
use diagnostics::Failure;
use export::{Input, Instance};
use fault::Class;
use frontend::{Outcome, Reference};
use ops::Worker;
use progress::Progress;
use remotecache::{Collect, Exporter, Kind, Mode, Results, Root, Work, collect, inline};
use tasks::Cx;

use crate::bridge::BuildBridge;
use crate::cache_mounts::Wanted;
use crate::reference::LazyReference;
use crate::{ExporterRequest, vertex};

/// An export a client asked for.
pub(crate) struct CacheExport {
    exporter: Arc<dyn Exporter>,
    mode: Mode,
    /// The build succeeds even if this does not.
    optional: bool,
    /// Cache mounts that go with it.
    mounts: Option<Wanted>,
}

/// Checks what a client asked for.
pub(crate) fn configure(
    kinds: &[Arc<dyn Kind>],
    wanted: &[ExporterRequest],
) -> Result<Vec<CacheExport>, Failure> {
    let one = |wanted: &ExporterRequest| {
        let Some(kind) = kinds.iter().find(|kind| kind.name() == wanted.kind) else {
            let text = format!("unknown cache exporter: {:?}", wanted.kind);
            return Err(Failure::new(Class::User, text));
        };
        let exporter = kind.exporter(&wanted.attrs).map_err(|err| {
            let text = format!("failed to configure {} cache exporter", wanted.kind);
            Failure::from_error(&err).context(text)
        })?;
        // Compat: modes and flags that nobody knows are passed over.
        let optional = wanted.attrs.get("ignore-error");
        Ok(CacheExport {
            exporter,
            mode: Mode::parse(wanted.attrs.get("mode").map(String::as_str)),
            mounts: Wanted::parse(&wanted.attrs)?,
            optional: optional.is_some_and(|text| fault::truth(text) == Some(true)),
        })
    };
    wanted.iter().map(one).collect()
}

/// The results of a build by platform id, as what they are known by; the empty id for a single one.
#[derive(Default)]
pub(crate) struct Roots(Vec<(String, Root)>);

impl Roots {
    /// All results must have been computed.
    pub(crate) async fn of(cx: &Cx, outcome: &Outcome) -> Result<Self, Failure> {
        let single = outcome.single.iter().map(|result| (String::new(), result));
        let platforms = outcome
            .platforms
            .iter()
            .map(|(id, result)| (id.clone(), result));
        let mut roots = Vec::new();
        for (id, result) in single.chain(platforms) {
            if let Some(root) = root(cx, result.as_ref()).await? {
                roots.push((id, root));
            }
        }
        Ok(Self(roots))
    }
}

async fn root(cx: &Cx, result: Option<&Arc<dyn Reference>>) -> Result<Option<Root>, Failure> {
    let lazy = result.and_then(|result| result.as_any().downcast_ref::<LazyReference>());
    let Some(lazy) = lazy else { return Ok(None) };
    let built = lazy.built(cx).await?;
    // All keys have the same above them.
    Ok(built.keys.first().map(|key| Root {
        key: key.clone(),
        stores: built.stores.clone(),
    }))
}

/// The daemon's results, for whoever looks for records that can be used.
struct Daemon {
    results: ops::Results,
    cache: Cache,
}

impl Daemon {
    fn over(worker: &Worker) -> Arc<dyn Results> {
        Arc::new(Self {
            results: ops::Results::new(worker.cache.clone(), &worker.options.id),
            cache: worker.cache.clone(),
        })
    }
}

impl Results for Daemon {
    fn exists(&self, result: &ResultId) -> bool {
        solver::ResultStore::exists(&self.results, result.as_str())
    }

    fn load(&self, result: &ResultId) -> Option<Option<Ref>> {
        self.results.find(result.as_str()).map(|value| value.0)
    }

    fn cache(&self) -> &Cache {
        &self.cache
    }
}

impl BuildBridge {
    fn cache_work(&self, cx: &Cx, progress: Progress) -> Work {
        let worker = &self.machinery.worker;
        Work {
            cx: cx.clone(),
            progress,
            sessions: worker.sessions.group(vec![self.session.clone()]),
            store: worker.cache.content().clone(),
        }
    }

    fn wanted(&self, roots: Vec<Root>, mode: Mode, options: layer::Options) -> Collect {
        let imports = self.imports.clone();
        Collect {
            roots,
            mode,
            options,
            results: Daemon::over(&self.machinery.worker),
            excluded: Arc::new(move |vertex| imports.is_kept(vertex)),
        }
    }

    /// Fills all caches that do not go into images, beside each other. Answers what clients are told.
    pub(crate) async fn export_caches(
        &self,
        cx: &Cx,
        exports: &[CacheExport],
        roots: &Roots,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let apart = exports.iter().filter(|export| !export.exporter.is_inline());
        let work = apart.enumerate().map(|(index, export)| async move {
            let id = format!("{}-cache-{index}", self.session);
            let name = export.exporter.name();
            let sink = self.job.sink();
            let exported = vertex::run(&sink, &id, name, |progress| {
                self.export_cache(cx, export, roots, progress)
            });
            match exported.await {
                Err(err) if export.optional && !cx.is_cancelled() => {
                    tracing::warn!(error = err.text(), cache = name, "cache not exported");
                    Ok(BTreeMap::new())
                }
                exported => exported,
            }
        });
        let answers = futures::future::try_join_all(work).await?;
        let facts = answers.into_iter().flatten();
        Ok(facts.filter(|(key, _)| key.starts_with("cache.")).collect())
    }

    async fn export_cache(
        &self,
        cx: &Cx,
        export: &CacheExport,
        roots: &Roots,
        progress: Progress,
    ) -> Result<BTreeMap<String, String>, Failure> {
        let work = self.cache_work(cx, progress);
        let status = work.progress.status("preparing build cache for export", "");
        let all = roots.0.iter().map(|(_, root)| root.clone()).collect();
        let wanted = self.wanted(all, export.mode, export.exporter.layers());
        let graph = collect(&work, &wanted).await;
        let mut graph = graph.map_err(|err| Failure::from_error(&err))?;
        drop(status);
        if let Some(wanted) = export.mounts.as_ref().filter(|_| graph.has_results()) {
            graph.mounts = self.outgoing(&work, wanted).await?;
        }
        let _status = work.progress.status("sending cache export", "");
        let answer = export.exporter.export(&work, &graph).await;
        answer.map_err(|err| Failure::from_error(&err))
    }

    /// What `exporter` exports, with the cache inside if the client wants that.
    pub(crate) async fn with_inline_cache(
        &self,
        cx: &Cx,
        exports: &[CacheExport],
        roots: &Roots,
        exporter: &dyn Instance,
        input: &Input,
        progress: &Progress,
    ) -> Result<Input, Failure> {
        let mut input = input.clone();
        let wanted = exports.iter().any(|export| export.exporter.is_inline());
        let Some(options) = exporter.layers(&input).filter(|_| wanted) else {
            return Ok(input);
        };
        let _status = progress.status("preparing layers for inline cache", "");
        let work = self.cache_work(cx, progress.clone());
        for (id, root) in &roots.0 {
            let result = match id.as_str() {
                "" => input.single.clone().flatten(),
                id => {
                    let found = input.platforms.iter().find(|platform| platform.id == id);
                    found.and_then(|platform| platform.result.clone())
                }
            };
            let Some(result) = result else { continue };
            let layers = result.layers(cx, &options, progress).await;
            let layers = layers.map_err(|err| Failure::from_error(&err))?;
            let image: Vec<_> = layers
                .into_iter()
                .map(|layer| (layer.descriptor.digest, layer.diff_id))
                .collect();
            let wanted = self.wanted(vec![root.clone()], Mode::Min, options.clone());
            let graph = collect(&work, &wanted).await;
            let records = graph.and_then(|graph| inline::records(&graph, &image));
            match records.map_err(|err| Failure::from_error(&err))? {
                Some(records) => {
                    input.inline_cache.insert(id.clone(), records.into());
                }
                None => tracing::warn!("failed to match any cache with layers"),
            }
        }
        Ok(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_nobody_knows_is_refused() {
        let wanted = ExporterRequest {
            kind: "carrier-pigeon".to_owned(),
            attrs: BTreeMap::new(),
        };
        let refused = configure(&[], &[wanted]).err();
        let text = refused.map(|err| err.text().to_owned());
        assert_eq!(
            text.as_deref(),
            Some("unknown cache exporter: \"carrier-pigeon\"")
        );
    }
}
