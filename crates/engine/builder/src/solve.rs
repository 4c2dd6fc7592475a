//! The order of a build: frontend, evaluation, export.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diagnostics::Failure;
use export::{Exported, Instance, Work};
use fault::Class;
use frontend::{Outcome, Request};
use oci::Digest;
use ops::Entitlements;
use progress::{Event, Sink};
use tasks::Cx;

use crate::bridge::BuildBridge;
use crate::gateway::Gateway;
use crate::hub::Hub;
use crate::jobs::Job;
use crate::{Builder, SolveRequest, result, verify, vertex};

/// What a build answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// ExporterResponse.
    pub exporter: BTreeMap<String, String>,
}

impl Builder {
    /// Runs a build. Its progress ends before this returns, however it ends.
    pub async fn solve(&self, cx: &Cx, request: SolveRequest) -> Result<Response, Failure> {
        if request.definition.is_some() && !request.frontend.is_empty() {
            let text = "cannot solve with both Definition and Frontend specified";
            return Err(Failure::new(Class::User, text));
        }
        let entitlements = self.entitlements(&request.entitlements)?;
        let exporters = self.exporters(&request)?;
        let cx = cx.child();
        let hub = Arc::new(Hub::default());
        let sessions: Vec<String> = [request.session.clone()]
            .into_iter()
            .filter(|session| !session.is_empty())
            .collect();
        let sink: Arc<dyn Sink> = hub.clone();
        let job = Arc::new(self.machinery.solver.job(&request.id, sink, sessions));
        let bridge = BuildBridge {
            machinery: self.machinery.clone(),
            job: job.clone(),
            hub: hub.clone(),
            session: request.session.clone(),
            entitlements,
            imports: Arc::default(),
        };
        for import in &request.cache_imports {
            let sink = bridge.job.sink();
            bridge
                .imports
                .skip(&sink, &import.kind, &import.attrs)
                .await;
        }
        let driven = request.definition.is_none() && request.frontend.is_empty();
        let (gateway, answer) = if driven {
            let inputs = request.frontend_inputs.clone();
            let (gateway, answer) = Gateway::new(cx.clone(), Arc::new(bridge.clone()), inputs);
            (Some(Arc::new(gateway)), Some(answer))
        } else {
            (None, None)
        };
        let registration = self.jobs.add(&request.id, Job { hub, gateway })?;
        let work = async {
            let outcome = match answer {
                Some(answer) => cx
                    .run(answer)
                    .await
                    .map_err(|err| Failure::cancelled(&*err.cause))?
                    .unwrap_or_else(|_| Err(Failure::cancelled("context canceled")))?,
                None => self.outcome(&cx, &bridge, &request).await?,
            };
            self.finish(&cx, &bridge, &request, &exporters, outcome)
                .await
        };
        let ended = work.await;
        // Whatever still runs for this build has nobody left who wants it.
        cx.cancel("context canceled");
        job.finish();
        registration.finish();
        ended
    }

    fn entitlements(&self, wanted: &[String]) -> Result<Entitlements, Failure> {
        let mut granted = BTreeSet::new();
        for name in wanted {
            let known = matches!(name.as_str(), "network.host" | "security.insecure")
                || name == "device"
                || name.starts_with("device=");
            if !known {
                return Err(Failure::new(
                    Class::User,
                    format!("unknown entitlement {name}"),
                ));
            }
            let base = name.split('=').next().unwrap_or(name);
            if !self.machinery.entitlements.contains(base) {
                let text = format!(
                    "granting entitlement {name} is not allowed by build daemon configuration"
                );
                return Err(Failure::new(Class::User, text));
            }
            granted.insert(name.clone());
        }
        Ok(Entitlements(granted))
    }

    fn exporters(&self, request: &SolveRequest) -> Result<Vec<Arc<dyn Instance>>, Failure> {
        if let Some(cache) = request.cache_exports.first() {
            return Err(match cache.kind.as_str() {
                "registry" | "local" | "inline" | "gha" | "s3" | "azblob" => Failure::new(
                    Class::Unsupported,
                    format!("unimplemented: cache export to {}", cache.kind),
                ),
                other => Failure::new(Class::User, format!("unknown cache exporter: {other:?}")),
            });
        }
        request
            .exporters
            .iter()
            .map(|wanted| {
                let exporter = self
                    .machinery
                    .exporters
                    .iter()
                    .find(|exporter| exporter.kinds().contains(&wanted.kind.as_str()));
                let Some(exporter) = exporter else {
                    let text = format!("exporter {:?} could not be found", wanted.kind);
                    return Err(Failure::new(Class::User, text));
                };
                exporter
                    .resolve(&wanted.kind, &wanted.attrs)
                    .map_err(|err| Failure::from_error(&err))
            })
            .collect()
    }

    async fn outcome(
        &self,
        cx: &Cx,
        bridge: &BuildBridge,
        request: &SolveRequest,
    ) -> Result<Outcome, Failure> {
        if let Some(definition) = &request.definition {
            return bridge.load(definition.clone()).await;
        }
        let inner = Request {
            options: request.frontend_attrs.clone(),
            inputs: request.frontend_inputs.clone(),
            session: request.session.clone(),
        };
        bridge.frontend(cx, &request.frontend, inner).await
    }

    /// Evaluates everything, then exports.
    async fn finish(
        &self,
        cx: &Cx,
        bridge: &BuildBridge,
        request: &SolveRequest,
        exporters: &[Arc<dyn Instance>],
        outcome: Outcome,
    ) -> Result<Response, Failure> {
        let input = result::evaluate(cx, &outcome).await?;
        let sink = bridge.job.sink();
        let epoch = result::epoch(&request.frontend_attrs, &outcome)?;
        let warnings = verify::platforms(&request.frontend_attrs, &input)?;
        if exporters.is_empty() && !warnings.is_empty() {
            let id = format!("{}-verify", request.id);
            vertex::run(&sink, &id, "Verifying build result", |_| async {
                warn(&sink, &Digest::of(&id), &warnings);
                Ok(())
            })
            .await?;
        }
        let mut exports = Vec::new();
        for (index, exporter) in exporters.iter().enumerate() {
            let id = format!("{}-export-{index}", request.session);
            let sessions = bridge
                .machinery
                .worker
                .sessions
                .group(vec![request.session.clone()]);
            let work = move |progress| Work {
                cx: cx.clone(),
                progress,
                sessions: sessions.clone(),
                index,
                epoch,
            };
            let warnings: &[String] = if index == 0 { &warnings } else { &[] };
            exports.push(export_one(&sink, id, exporter, &input, warnings, work));
        }
        let exported = futures::future::try_join_all(exports).await?;
        let mut response = Response::default();
        for (key, value) in &outcome.metadata {
            if key.starts_with("frontend.") {
                let value = String::from_utf8_lossy(value).into_owned();
                response.exporter.insert(key.clone(), value);
            }
        }
        for exported in exported {
            response.exporter.extend(exported.response);
        }
        Ok(response)
    }
}

fn warn(sink: &Arc<dyn Sink>, vertex: &Digest, warnings: &[String]) {
    for short in warnings {
        sink.emit(Event::Warning(progress::Warning {
            vertex: vertex.to_string(),
            level: 1,
            short: short.clone(),
            ..progress::Warning::default()
        }));
    }
}

/// Runs one exporter, and its deferred part as a second start of the same vertex.
async fn export_one(
    sink: &Arc<dyn Sink>,
    id: String,
    exporter: &Arc<dyn Instance>,
    input: &export::Input,
    warnings: &[String],
    work: impl Fn(progress::Progress) -> Work,
) -> Result<Exported, Failure> {
    let name = exporter.name();
    let work = &work;
    let digest = Digest::of(&id);
    let mut exported = vertex::run(sink, &id, &name, |progress| async move {
        warn(sink, &digest, warnings);
        let work = work(progress);
        exporter
            .export(&work, input)
            .await
            .map_err(|err| Failure::from_error(&err))
    })
    .await?;
    if let Some(finalize) = exported.finalize.take() {
        vertex::run(sink, &id, &name, |progress| async move {
            finalize(work(progress))
                .await
                .map_err(|err| Failure::from_error(&err))
        })
        .await?;
    }
    Ok(exported)
}
