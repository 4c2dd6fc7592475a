//! `moby.buildkit.v1.frontend.LLBBridge`: builds that their clients drive.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use builder::{Builder, Gateway};
use diagnostics::Failure;
use fault::Class;
use frontend::{Container, SolveRequest, Warning};
use futures::Stream;
use proto::gateway as wire;
use proto::gateway::llb_bridge_server::LlbBridge;
use proto::{caps, pb};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::{WorkerRecord, exec, outcome};

const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// Whose calls these are.
#[derive(Clone)]
pub(crate) enum Callers {
    /// Clients of any build; their calls say which.
    Any(Arc<Builder>),
    /// One frontend.
    One(Arc<Gateway>),
}

/// The service.
#[derive(Clone)]
pub struct Bridges {
    pub(crate) callers: Callers,
    pub(crate) worker: Arc<WorkerRecord>,
}

impl Bridges {
    async fn gateway(&self, metadata: &MetadataMap, method: &str) -> Result<Arc<Gateway>, Status> {
        let builder = match &self.callers {
            Callers::One(gateway) => return Ok(gateway.clone()),
            Callers::Any(builder) => builder,
        };
        let id = metadata
            .get(BUILD_ID)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| Status::unknown("no buildid found in context"))?;
        builder
            .gateway(id, method)
            .await
            .map_err(|err| err.to_status())
    }
}

/// A container somebody wants to read.
fn container(gateway: &Gateway, id: &str, index: i32) -> Result<Arc<dyn Container>, Status> {
    gateway
        .container(id)
        .ok_or_else(|| Status::unknown(format!("container details for {id}@{index} not found")))
}

fn cap(id: &str, deprecated: bool) -> caps::ApiCap {
    caps::ApiCap {
        id: id.to_owned(),
        enabled: true,
        deprecated,
        ..caps::ApiCap::default()
    }
}

#[async_trait::async_trait]
impl LlbBridge for Bridges {
    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
        let gateway = self
            .gateway(request.metadata(), "ResolveImageConfig")
            .await?;
        let request = request.into_inner();
        let (scheme, attrs) = match request.resolver_type {
            0 => ("docker-image", BTreeMap::new()),
            1 => ("oci-layout", {
                let ids = [
                    ("oci.session", request.session_id),
                    ("oci.store", request.store_id),
                ];
                let given = ids.into_iter().filter(|(_, id)| !id.is_empty());
                given.map(|(key, id)| (key.to_owned(), id)).collect()
            }),
            other => return Err(Status::unknown(format!("unknown resolver type: {other}"))),
        };
        let meta = wire::ResolveSourceMetaRequest {
            source: Some(pb::SourceOp {
                identifier: format!("{scheme}://{}", request.r#ref),
                attrs,
            }),
            platform: request.platform,
            resolve_mode: request.resolve_mode,
            log_name: request.log_name,
            source_policies: request.source_policies,
            ..wire::ResolveSourceMetaRequest::default()
        };
        let resolved = gateway
            .bridge
            .source_meta(&gateway.cx, meta)
            .await
            .map_err(|err| err.in_build().to_status())?;
        let identifier = resolved.source.unwrap_or_default().identifier;
        let Some(image) = resolved.image else {
            let text = format!(
                "ref mutated by policy to non-image: docker-image://{} -> {identifier}",
                request.r#ref
            );
            return Err(Status::unknown(text));
        };
        let name = identifier.split_once("://").map_or("", |(_, name)| name);
        Ok(Response::new(wire::ResolveImageConfigResponse {
            digest: image.digest,
            config: image.config,
            r#ref: name.to_owned(),
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<wire::ResolveSourceMetaRequest>,
    ) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
        let gateway = self
            .gateway(request.metadata(), "ResolveSourceMeta")
            .await?;
        let request = request.into_inner();
        if request.source.is_none() {
            return Err(Status::invalid_argument("source is required"));
        }
        let answer = gateway.bridge.source_meta(&gateway.cx, request).await;
        Ok(Response::new(
            answer.map_err(|err| err.in_build().to_status())?,
        ))
    }

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "Solve").await?;
        let request = request.into_inner();
        let solve = SolveRequest {
            definition: request.definition,
            frontend: request.frontend,
            options: request.frontend_opt,
            inputs: request.frontend_inputs,
            evaluate: request.evaluate,
            cache_imports: request.cache_imports,
            source_policies: request.source_policies,
            ..SolveRequest::default()
        };
        // Compat: every failure of this call carries the detail, `{}` when nothing was executed.
        let outcome = gateway
            .bridge
            .solve(&gateway.cx, solve)
            .await
            .map_err(|err| gateway.bridge.exposed(err).to_status())?;
        gateway.remember(&outcome);
        if request.allow_result_return {
            return Ok(Response::new(wire::SolveResponse {
                result: Some(outcome::message(&outcome, request.allow_result_array_ref)),
                ..wire::SolveResponse::default()
            }));
        }
        let Some(single) = &outcome.single else {
            let failure = Failure::new(Class::User, "solve did not return default result");
            return Err(failure.to_status());
        };
        Ok(Response::new(wire::SolveResponse {
            r#ref: single
                .as_ref()
                .map(|it| it.id().to_owned())
                .unwrap_or_default(),
            ..wire::SolveResponse::default()
        }))
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "ReadFile").await?;
        let request = request.into_inner();
        let reference = gateway
            .reference(&request.r#ref)
            .map_err(|err| err.to_status())?;
        let range = request.range.map(|range| (range.offset, range.length));
        let data = reference
            .read_file(&gateway.cx, &request.file_path, range)
            .await
            .map_err(|err| gateway.bridge.exposed(err).to_status())?;
        Ok(Response::new(wire::ReadFileResponse { data }))
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "ReadDir").await?;
        let request = request.into_inner();
        let reference = gateway
            .reference(&request.r#ref)
            .map_err(|err| err.to_status())?;
        let entries = reference
            .read_dir(&gateway.cx, &request.dir_path, &request.include_pattern)
            .await
            .map_err(|err| gateway.bridge.exposed(err).to_status())?;
        Ok(Response::new(wire::ReadDirResponse { entries }))
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "StatFile").await?;
        let request = request.into_inner();
        let reference = gateway
            .reference(&request.r#ref)
            .map_err(|err| err.to_status())?;
        let stat = reference
            .stat_file(&gateway.cx, &request.path)
            .await
            .map_err(|err| gateway.bridge.exposed(err).to_status())?;
        Ok(Response::new(wire::StatFileResponse { stat: Some(stat) }))
    }

    async fn evaluate(
        &self,
        request: Request<wire::EvaluateRequest>,
    ) -> Result<Response<wire::EvaluateResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "Evaluate").await?;
        let reference = gateway
            .reference(&request.into_inner().r#ref)
            .map_err(|err| err.to_status())?;
        reference
            .evaluate(&gateway.cx)
            .await
            .map_err(|err| gateway.bridge.exposed(err).to_status())?;
        Ok(Response::new(wire::EvaluateResponse::default()))
    }

    async fn ping(
        &self,
        request: Request<wire::PingRequest>,
    ) -> Result<Response<wire::PongResponse>, Status> {
        // Waits until the build is there: this is the first call of every client.
        self.gateway(request.metadata(), "Ping").await?;
        let gateway = llb::caps::GATEWAY.iter();
        Ok(Response::new(wire::PongResponse {
            frontend_api_caps: gateway
                .map(|id| cap(id, *id == "solve.inlinereturn"))
                .collect(),
            llb_caps: llb::caps::LLB.iter().map(|id| cap(id, false)).collect(),
            workers: vec![self.worker.short()],
        }))
    }

    async fn r#return(
        &self,
        request: Request<wire::ReturnRequest>,
    ) -> Result<Response<wire::ReturnResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "Return").await?;
        let answer = outcome::returned(request.into_inner()).map_err(|err| err.to_status())?;
        gateway.give_back(answer).map_err(|err| err.to_status())?;
        Ok(Response::new(wire::ReturnResponse::default()))
    }

    async fn inputs(
        &self,
        request: Request<wire::InputsRequest>,
    ) -> Result<Response<wire::InputsResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "Inputs").await?;
        Ok(Response::new(wire::InputsResponse {
            definitions: outcome::presentable(&gateway.inputs),
        }))
    }

    async fn new_container(
        &self,
        request: Request<wire::NewContainerRequest>,
    ) -> Result<Response<wire::NewContainerResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "NewContainer").await?;
        gateway
            .new_container(request.into_inner())
            .await
            .map_err(|err| gateway.bridge.exposed(err).to_status())?;
        Ok(Response::new(wire::NewContainerResponse::default()))
    }

    async fn release_container(
        &self,
        request: Request<wire::ReleaseContainerRequest>,
    ) -> Result<Response<wire::ReleaseContainerResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "ReleaseContainer").await?;
        gateway
            .release_container(&request.into_inner().container_id)
            .await
            .map_err(|err| err.to_status())?;
        Ok(Response::new(wire::ReleaseContainerResponse::default()))
    }

    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<wire::ExecMessage, Status>> + Send>>;

    async fn exec_process(
        &self,
        request: Request<Streaming<wire::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let gateway = self.gateway(request.metadata(), "ExecProcess").await?;
        let messages = exec::serve(gateway, request.into_inner());
        Ok(Response::new(Box::pin(messages)))
    }

    async fn read_file_container(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let gateway = self
            .gateway(request.metadata(), "ReadFileContainer")
            .await?;
        let request = request.into_inner();
        let container = container(&gateway, &request.r#ref, request.mount_index)?;
        let range = request.range.map(|range| (range.offset, range.length));
        let data = container
            .read_file(request.mount_index, &request.file_path, range)
            .await
            .map_err(|err| err.to_status())?;
        Ok(Response::new(wire::ReadFileResponse { data }))
    }

    async fn read_dir_container(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "ReadDirContainer").await?;
        let request = request.into_inner();
        let container = container(&gateway, &request.r#ref, request.mount_index)?;
        let entries = container
            .read_dir(
                request.mount_index,
                &request.dir_path,
                &request.include_pattern,
            )
            .await
            .map_err(|err| err.to_status())?;
        Ok(Response::new(wire::ReadDirResponse { entries }))
    }

    async fn stat_file_container(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let gateway = self
            .gateway(request.metadata(), "StatFileContainer")
            .await?;
        let request = request.into_inner();
        let container = container(&gateway, &request.r#ref, request.mount_index)?;
        let stat = container
            .stat_file(request.mount_index, &request.path)
            .await
            .map_err(|err| err.to_status())?;
        Ok(Response::new(wire::StatFileResponse { stat: Some(stat) }))
    }

    async fn warn(
        &self,
        request: Request<wire::WarnRequest>,
    ) -> Result<Response<wire::WarnResponse>, Status> {
        let gateway = self.gateway(request.metadata(), "Warn").await?;
        let request = request.into_inner();
        let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
        let warning = Warning {
            vertex: request.digest,
            level: request.level,
            short: text(&request.short),
            detail: request.detail.iter().map(text).collect(),
            url: request.url,
            info: request.info,
            ranges: request.ranges,
        };
        gateway
            .bridge
            .warn(warning)
            .await
            .map_err(|err| err.to_status())?;
        Ok(Response::new(wire::WarnResponse::default()))
    }
}
