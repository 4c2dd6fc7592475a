//! What frontends may ask of a build.

use std::sync::Arc;

use async_trait::async_trait;
use diagnostics::{Detail, Failure};
use fault::Class;
use frontend::{
    Bridge, Container, ContainerRequest, Explain, Outcome, Request, ResolveOptions, ResolvedImage,
    SolveRequest, Warning,
};
use oci::Platform;
use ops::{Entitlements, LoadOptions, Op};
use progress::{Event, Sink as _, SourceExcerpt};
use prost::Message as _;
use proto::sourcepolicy::Policy;
use tasks::Cx;

use crate::Machinery;
use crate::container::Containers;
use crate::exposed::Exposed;
use crate::hub::Hub;
use crate::imports::Imports;
use crate::nested::NestedBuilds;
use crate::reference::LazyReference;
use crate::requests::{Asked, Scope, image};
use crate::sources::Sources;

/// One build's side of the bridge. Clones share everything.
#[derive(Clone)]
pub(crate) struct BuildBridge {
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) job: Arc<solver::Job<Op>>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) session: String,
    pub(crate) entitlements: Entitlements,
    pub(crate) imports: Arc<Imports>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) containers: Arc<Containers>,
    pub(crate) exposed: Arc<Exposed>,
    pub(crate) scope: Arc<Scope>,
}

impl BuildBridge {
    /// A handle on the result of a definition; nothing runs yet.
    pub(crate) async fn load(
        &self,
        cx: &Cx,
        definition: proto::pb::Definition,
        policies: &[Policy],
        explain: Option<Arc<dyn Explain>>,
    ) -> Result<Outcome, Failure> {
        if definition.def.is_empty() {
            return Ok(Outcome {
                single: Some(None),
                ..Outcome::default()
            });
        }
        let options = LoadOptions {
            worker: self.machinery.worker.clone(),
            entitlements: self.entitlements.clone(),
            memo: self.sources.memo.clone(),
            nested: Arc::new(NestedBuilds {
                machinery: self.machinery.clone(),
                sources: self.sources.clone(),
                entitlements: self.entitlements.clone(),
            }),
        };
        let parsed = self.parse(cx, &definition, policies).await;
        let loaded = parsed
            .and_then(|parsed| ops::load_parsed(parsed, &options))
            .map_err(|err| err.context("failed to load LLB"))?;
        let worker = &self.machinery.worker;
        for id in &loaded.stale_cache_dirs {
            worker.cache_dirs.forget(&worker.cache, id).await;
        }
        self.imports
            .mounts
            .lock()
            .note(loaded.cache_dirs, loaded.stale_cache_dirs);
        self.imports.keep(loaded.unexported);
        self.job.load(&loaded.edge);
        let definition = Arc::new(definition);
        let (job, scope) = (self.job.clone(), self.scope.clone());
        let reference = LazyReference::new(definition, loaded.edge, job, scope, explain);
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
        mut request: Request,
    ) -> Result<Outcome, Failure> {
        let name = built_in(name, &mut request);
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
        let mut bridge = self.clone();
        bridge.scope = self.scope.frontend(Asked {
            frontend: name.to_owned(),
            options: request.options.clone(),
            inputs: request.inputs.clone(),
        });
        frontend
            .solve(cx, Arc::new(bridge), request)
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
        let outcome = match (request.definition, request.frontend.as_str()) {
            (Some(_), name) if !name.is_empty() => {
                let text = "cannot solve with both Definition and Frontend specified";
                return Err(Failure::new(Class::User, text));
            }
            (Some(definition), _) => {
                // Compat: what a frontend looks for, it names itself.
                for import in &request.cache_imports {
                    self.import(&import.r#type, &import.attrs);
                }
                let policies = &request.source_policies;
                self.load(cx, definition, policies, request.explain).await?
            }
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
        let platform = options
            .platform
            .unwrap_or_else(|| self.machinery.worker.options.platform.clone());
        let mut source = proto::pb::SourceOp {
            identifier: format!("docker-image://{name}"),
            ..proto::pb::SourceOp::default()
        };
        if let Some(store) = options.store {
            source.identifier = format!("oci-layout://{name}");
            let attrs = [("oci.session", store.session), ("oci.store", store.store)];
            let given = attrs.into_iter().filter(|(_, value)| !value.is_empty());
            source
                .attrs
                .extend(given.map(|(key, value)| (key.to_owned(), value)));
        }
        let request = proto::gateway::ResolveSourceMetaRequest {
            source: Some(source),
            platform: Some(wire(&platform)),
            log_name: options.log_name,
            resolve_mode: options.mode,
            ..proto::gateway::ResolveSourceMetaRequest::default()
        };
        let answer = Bridge::source_meta(self, cx, request)
            .await
            .map_err(|err| {
                err.context(format_args!("failed to resolve source metadata for {name}"))
            })?;
        let identifier = answer.source.unwrap_or_default().identifier;
        let Some(image) = answer.image else {
            return Err(Failure::new(
                Class::User,
                format!(
                    "ref mutated by policy to non-image: docker-image://{name} -> {identifier}"
                ),
            ));
        };
        let reference = identifier
            .strip_prefix("docker-image://")
            .or_else(|| identifier.strip_prefix("oci-layout://"));
        Ok(ResolvedImage {
            reference: reference.unwrap_or(name).to_owned(),
            digest: image
                .digest
                .parse()
                .map_err(|err: oci::DigestError| Failure::new(Class::Internal, err.to_string()))?,
            config: image.config,
        })
    }

    async fn source_meta(
        &self,
        cx: &Cx,
        request: proto::gateway::ResolveSourceMetaRequest,
    ) -> Result<proto::gateway::ResolveSourceMetaResponse, Failure> {
        let platform = request.platform.as_ref().map(|platform| Platform {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.clone(),
        });
        let answer = BuildBridge::source_meta(self, cx, request).await?;
        if let (Some(resolved), Some(source)) = (&answer.image, &answer.source) {
            let found = image(&source.identifier, platform, &resolved.digest);
            self.scope.note_image(found);
        }
        Ok(answer)
    }

    async fn new_container(
        &self,
        cx: &Cx,
        request: ContainerRequest,
    ) -> Result<Arc<dyn Container>, Failure> {
        self.new_driven(cx, request).await
    }

    fn exposed(&self, failure: Failure) -> Failure {
        let worker = &self.machinery.worker.options.id;
        self.exposed.expose(failure, worker)
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

fn wire(platform: &Platform) -> proto::pb::Platform {
    proto::pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

/// Compat: a gateway with the name of the built-in frontend for an image is that frontend, unless the client says what
/// that name stands for.
fn built_in<'a>(name: &'a str, request: &mut Request) -> &'a str {
    const DOCKERFILE: &str = "dockerfile.v0";
    let source = request.options.get("source").map(String::as_str);
    let named = |key: &String| {
        let name = key.strip_prefix("context:dockerfile.v0");
        name.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if name != "gateway.v0" || source != Some(DOCKERFILE) || request.options.keys().any(named) {
        return name;
    }
    request.options.remove("source");
    DOCKERFILE
}

fn range(range: &proto::pb::Range) -> (i32, i32, i32, i32) {
    let start = range.start.unwrap_or_default();
    let end = range.end.unwrap_or_default();
    (start.line, start.character, end.line, end.character)
}
