//! The order of a build: frontend, evaluation, export.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use diagnostics::Failure;
use export::Instance;
use fault::Class;
use frontend::{Outcome, Request};
use oci::Digest;
use ops::Entitlements;
use progress::{Progress, Sink};
use provenance::Wanted;
use tasks::Cx;

use crate::attest::{Accounts, Times};
use crate::bridge::BuildBridge;
use crate::cache_exports::{self, CacheExport};
use crate::exports::Outputs;
use crate::gateway::Gateway;
use crate::hub::Hub;
use crate::jobs::Job;
use crate::requests::{Asked, Scope};
use crate::sources::Sources;
use crate::{Builder, ExporterRequest, SolveRequest, chosen, result, running, verify, vertex};

/// What a build answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// ExporterResponse.
    pub exporter: BTreeMap<String, String>,
}

/// What a request asks for, understood.
struct Checked {
    wanted: Wanted,
    entitlements: Entitlements,
    exporters: Vec<Arc<dyn Instance>>,
    caches: Vec<CacheExport>,
    sources: Sources,
}

impl Builder {
    /// Runs a build, which must not be dropped: see [`Builder::solve`].
    pub(crate) async fn run(&self, cx: &Cx, request: SolveRequest) -> Result<Response, Failure> {
        let checked = self.check(&request);
        let checked = checked.inspect_err(|_| self.jobs.refuse(&request.id));
        let Checked {
            wanted,
            entitlements,
            exporters,
            caches,
            sources,
        } = checked?;
        let times = Arc::new(Times::begin());
        let watched = times.clone();
        let curious = wanted.provenance.as_ref();
        let curious = curious.is_some_and(|options| options.capture_usage);
        let _curious = curious.then(|| self.machinery.worker.usages.ask());
        let cx = cx.child();
        let asking = running::ask(self, &request.frontend_attrs);
        let hub = Arc::new(Hub::new(asking.is_some()));
        let sessions: Vec<String> = [request.session.clone()]
            .into_iter()
            .filter(|session| !session.is_empty())
            .collect();
        let sink: Arc<dyn Sink> = hub.clone();
        let job = Arc::new(self.machinery.solver.job(&request.id, sink, sessions));
        let bridge = BuildBridge {
            sources: Arc::new(sources),
            containers: Arc::default(),
            exposed: Arc::default(),
            machinery: self.machinery.clone(),
            job: job.clone(),
            hub: hub.clone(),
            session: request.session.clone(),
            entitlements,
            imports: Arc::default(),
            scope: Scope::of_client(
                self.requests.clone(),
                Asked {
                    frontend: request.frontend.clone(),
                    options: request.frontend_attrs.clone(),
                    inputs: request.frontend_inputs.clone(),
                },
            ),
        };
        for import in &request.cache_imports {
            // Compat: what a frontend looks for, it names itself.
            if request.frontend.is_empty() {
                bridge.import(&import.kind, &import.attrs);
            } else {
                bridge.announce(&cx, &import.kind, &import.attrs);
            }
        }
        let driven = request.definition.is_none() && request.frontend.is_empty();
        let (gateway, answer) = if driven {
            let inputs = request.frontend_inputs.clone();
            let (gateway, answer) = Gateway::new(cx.clone(), Arc::new(bridge.clone()), inputs);
            (Some(Arc::new(gateway)), Some(answer))
        } else {
            (None, None)
        };
        let registered = Job {
            hub: hub.clone(),
            gateway,
        };
        let registration = self.jobs.add(&request.id, registered)?;
        let recording = running::begin(self, &request, &hub);
        let mut kept = running::Kept::default();
        let work = async {
            let outcome = match answer {
                Some(answer) => cx
                    .run(answer)
                    .await
                    .map_err(|err| Failure::cancelled(&*err.cause))?
                    .unwrap_or_else(|_| Err(Failure::cancelled("context canceled")))?,
                None => self.outcome(&cx, &bridge, &request).await?,
            };
            running::note(&mut kept, &outcome);
            let to = (exporters, caches.as_slice());
            let accounts = Accounts {
                bridge: &bridge,
                request: &request,
                wanted: &wanted,
                environment: &self.environment,
                times,
            };
            self.finish(&cx, &accounts, to, outcome, &mut kept).await
        };
        let ended = tokio::select! {
            ended = work => ended,
            never = watched.watch() => match never {},
        };
        // Whatever still runs for this build has nobody left who wants it.
        cx.cancel("context canceled");
        bridge.containers.release().await;
        job.finish();
        registration.finish();
        drop((bridge, job));
        let settled = self.machinery.solver.settled();
        let ended = running::end(recording, &hub, kept, ended);
        // Who prunes afterwards finds nothing of this build in use.
        tokio::join!(ended, settled).0
    }

    /// What can be said of a request before anything of it is done.
    fn check(&self, request: &SolveRequest) -> Result<Checked, Failure> {
        if request.definition.is_some() && !request.frontend.is_empty() {
            let text = "cannot solve with both Definition and Frontend specified";
            return Err(Failure::new(Class::User, text));
        }
        let wanted = Wanted::parse(&request.frontend_attrs);
        Ok(Checked {
            wanted: wanted.map_err(|err| Failure::from_error(&err))?,
            entitlements: self.entitlements(&request.entitlements)?,
            exporters: self.exporters(&request.exporters)?,
            caches: cache_exports::configure(&self.machinery.caches, &request.cache_exports)?,
            sources: Sources::new(
                request.source_policy.clone(),
                request.source_policy_session.clone(),
            )?,
        })
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
                    "granting entitlement {base} is not allowed by build daemon configuration"
                );
                return Err(Failure::new(Class::User, text));
            }
            granted.insert(name.clone());
        }
        ops::DeviceGrants::parse(&granted).map_err(|text| Failure::new(Class::User, text))?;
        Ok(Entitlements(granted))
    }

    fn exporters(&self, wanted: &[ExporterRequest]) -> Result<Vec<Arc<dyn Instance>>, Failure> {
        wanted
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
            return bridge.load(cx, definition.clone(), &[], None).await;
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
        accounts: &Accounts<'_>,
        (mut exporters, caches): (Vec<Arc<dyn Instance>>, &[CacheExport]),
        outcome: Outcome,
        kept: &mut running::Kept,
    ) -> Result<Response, Failure> {
        let (bridge, request) = (accounts.bridge, accounts.request);
        let mut input = result::evaluate(cx, &outcome).await?;
        input.compatibility = request.compatibility;
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
        let known = accounts.attach(cx, &outcome, &mut input).await?;
        let sessions = &bridge.machinery.worker.sessions;
        let sessions = sessions.group(vec![bridge.session.clone()]);
        let chosen = chosen::find(cx, request, &sessions, &outcome).await?;
        exporters.extend(self.exporters(&chosen)?);
        let outputs = Outputs {
            bridge,
            exporters: &exporters,
            caches,
            input: &input,
            epoch,
            warnings: &warnings,
        };
        let done = outputs.run(cx, &outcome).await;
        kept.drafts = accounts.drafts(cx, &known, &outcome).await;
        let (exported, told) = done?;
        let mut response = Response::default();
        for (key, value) in &outcome.metadata {
            if key.starts_with("frontend.") {
                let value = String::from_utf8_lossy(value).into_owned();
                response.exporter.insert(key.clone(), value);
            }
        }
        response.exporter.extend(told);
        for exported in exported {
            response.exporter.extend(exported.response);
            kept.outcome.made.push(exported.descriptor);
        }
        chosen::finalize(cx, request, &sessions, &response.exporter).await?;
        Ok(response)
    }
}

pub(crate) fn warn(sink: &Arc<dyn Sink>, vertex: &Digest, warnings: &[String]) {
    let progress = Progress::new(sink.clone(), vertex.as_str());
    warnings.iter().for_each(|short| progress.warn(short));
}
