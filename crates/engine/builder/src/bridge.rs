//! What frontends may ask of a build.

use std::sync::Arc;

use async_trait::async_trait;
use diagnostics::{Detail, Failure};
use fault::Class;
use frontend::{Bridge, Outcome, Request, ResolveOptions, ResolvedImage, SolveRequest, Warning};
use oci::Platform;
use ops::{Entitlements, LoadOptions, Op};
use progress::{Event, Sink as _, SourceExcerpt};
use prost::Message as _;
use tasks::Cx;

use crate::hub::Hub;
use crate::imports::Imports;
use crate::reference::LazyReference;
use crate::{Machinery, vertex};

/// One build's side of the bridge. Clones share everything.
#[derive(Clone)]
pub(crate) struct BuildBridge {
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) job: Arc<solver::Job<Op>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) session: String,
    pub(crate) entitlements: Entitlements,
    pub(crate) imports: Arc<Imports>,
}

impl BuildBridge {
    /// A handle on the result of a definition; nothing runs yet.
    pub(crate) async fn load(&self, definition: proto::pb::Definition) -> Result<Outcome, Failure> {
        if definition.def.is_empty() {
            return Ok(Outcome {
                single: Some(None),
                ..Outcome::default()
            });
        }
        let options = LoadOptions {
            worker: self.machinery.worker.clone(),
            entitlements: self.entitlements.clone(),
        };
        let loaded =
            ops::load(&definition, &options).map_err(|err| err.context("failed to load LLB"))?;
        let worker = &self.machinery.worker;
        for id in &loaded.stale_cache_dirs {
            worker.cache_dirs.forget(&worker.cache, id).await;
        }
        self.job.load(&loaded.edge);
        let reference = LazyReference::new(Arc::new(definition), loaded.edge, self.job.clone());
        Ok(Outcome {
            single: Some(Some(Arc::new(reference))),
            ..Outcome::default()
        })
    }

    /// Asks a frontend by name.
    pub(crate) async fn frontend(
        &self,
        cx: &Cx,
        name: &str,
        request: Request,
    ) -> Result<Outcome, Failure> {
        let frontend = self
            .machinery
            .frontends
            .iter()
            .find(|frontend| frontend.name() == name)
            .ok_or_else(|| Failure::new(Class::User, format!("invalid frontend: {name}")))?;
        // Frontends start from the trees of their inputs; one without any step is none.
        if request.inputs.values().any(|input| input.def.is_empty()) {
            let text = "invalid nil input definition to definition op";
            return Err(Failure::new(Class::User, text));
        }
        let source = request.options.get("source").cloned().unwrap_or_default();
        frontend
            .solve(cx, Arc::new(self.clone()), request)
            .await
            .map_err(|err| {
                let source = if name == "gateway.v0" {
                    source
                } else {
                    String::new()
                };
                err.with(Detail::Frontend {
                    name: name.to_owned(),
                    source,
                })
            })
    }
}

#[async_trait]
impl Bridge for BuildBridge {
    async fn solve(&self, cx: &Cx, request: SolveRequest) -> Result<Outcome, Failure> {
        for import in &request.cache_imports {
            let sink = self.job.sink();
            self.imports
                .skip(&sink, &import.r#type, &import.attrs)
                .await;
        }
        let outcome = match (request.definition, request.frontend.as_str()) {
            (Some(_), name) if !name.is_empty() => {
                let text = "cannot solve with both Definition and Frontend specified";
                return Err(Failure::new(Class::User, text));
            }
            (Some(definition), _) => self.load(definition).await?,
            (None, "") => Outcome::default(),
            (None, name) => {
                let inner = Request {
                    options: request.options,
                    inputs: request.inputs,
                    session: self.session.clone(),
                };
                self.frontend(cx, name, inner).await?
            }
        };
        if request.evaluate {
            for reference in outcome.references() {
                reference.evaluate(cx).await?;
            }
        }
        Ok(outcome)
    }

    async fn resolve_image(
        &self,
        cx: &Cx,
        name: &str,
        options: ResolveOptions,
    ) -> Result<ResolvedImage, Failure> {
        if options.store.is_some() {
            let text = "unimplemented: images of OCI layouts";
            return Err(Failure::new(Class::Unsupported, text));
        }
        let platform = options
            .platform
            .unwrap_or_else(|| self.machinery.worker.options.platform.clone());
        let id = format!("docker-image://{name}{platform}");
        let title = if options.log_name.is_empty() {
            format!("resolve image config for docker-image://{name}")
        } else {
            options.log_name
        };
        let wanted = source::ResolveImage {
            platform: Some(platform),
            mode: options.mode,
        };
        let sessions = self
            .machinery
            .worker
            .sessions
            .group(vec![self.session.clone()]);
        let sink = self.job.sink();
        let images = self.machinery.images.clone();
        let resolved = vertex::run(&sink, &id, &title, |progress| async move {
            images
                .resolve(cx, &sessions, &progress, name, &wanted)
                .await
                .map_err(|err| Failure::from_error(&err))
        })
        .await?;
        Ok(ResolvedImage {
            reference: resolved.reference,
            digest: resolved.digest,
            config: resolved.config.into(),
        })
    }

    async fn warn(&self, warning: Warning) -> Result<(), Failure> {
        let source = warning.info.map(|info| {
            let ranges = warning.ranges.iter().map(range).collect();
            Arc::new(SourceExcerpt {
                filename: info.filename,
                data: info.data,
                language: info.language,
                definition: info
                    .definition
                    .map(|definition| definition.encode_to_vec().into())
                    .unwrap_or_default(),
                ranges,
            })
        });
        self.hub.emit(Event::Warning(progress::Warning {
            vertex: warning.vertex,
            level: warning.level.max(1),
            short: warning.short,
            detail: warning.detail,
            url: warning.url,
            source,
        }));
        Ok(())
    }

    fn offers(&self, frontend: &str) -> bool {
        self.machinery.offers(frontend)
    }

    fn platforms(&self) -> Vec<Platform> {
        self.machinery.platforms.clone()
    }
}

fn range(range: &proto::pb::Range) -> (i32, i32, i32, i32) {
    let start = range.start.unwrap_or_default();
    let end = range.end.unwrap_or_default();
    (start.line, start.character, end.line, end.character)
}
