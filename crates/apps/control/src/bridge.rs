//! `moby.buildkit.v1.frontend.LLBBridge`: builds that their clients drive.

use std::pin::Pin;
use std::sync::Arc;

use builder::Gateway;
use diagnostics::{Detail, Failure};
use fault::Class;
use frontend::{ResolveOptions, SolveRequest, Warning};
use futures::Stream;
use oci::Platform;
use proto::gateway as wire;
use proto::gateway::llb_bridge_server::LlbBridge;
use proto::{caps, pb};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::{Services, outcome};

const BUILD_ID: &str = "buildkit-controlapi-buildid";

fn unimplemented(what: &str) -> Status {
    Status::unimplemented(format!("unimplemented: {what}"))
}

impl Services {
    async fn gateway(&self, metadata: &MetadataMap, method: &str) -> Result<Arc<Gateway>, Status> {
        let id = metadata
            .get(BUILD_ID)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| Status::unknown("no buildid found in context"))?;
        self.builder
            .gateway(id, method)
            .await
            .map_err(|err| err.to_status())
    }
}

fn cap(id: &str, deprecated: bool) -> caps::ApiCap {
    caps::ApiCap {
        id: id.to_owned(),
        enabled: true,
        deprecated,
        ..caps::ApiCap::default()
    }
}

fn platform(platform: pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture,
        os: platform.os,
        os_version: platform.os_version,
        os_features: platform.os_features,
        variant: platform.variant,
    }
    .normalized()
}

#[async_trait::async_trait]
impl LlbBridge for Services {
    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
        let gateway = self
            .gateway(request.metadata(), "ResolveImageConfig")
            .await?;
        let request = request.into_inner();
        if request.resolver_type != 0 {
            return Err(unimplemented("resolving images of OCI layouts"));
        }
        let options = ResolveOptions {
            platform: request.platform.map(platform),
            mode: request.resolve_mode,
            log_name: request.log_name,
            ..ResolveOptions::default()
        };
        let resolved = gateway
            .bridge
            .resolve_image(&gateway.cx, &request.r#ref, options)
            .await
            .map_err(|err| err.to_status())?;
        Ok(Response::new(wire::ResolveImageConfigResponse {
            digest: resolved.digest.to_string(),
            config: resolved.config,
            r#ref: resolved.reference,
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
        let Some(source) = request.source else {
            return Err(Status::invalid_argument("source is required"));
        };
        let Some(name) = source.identifier.strip_prefix("docker-image://") else {
            let scheme = source.identifier.split("://").next().unwrap_or_default();
            return Err(unimplemented(&format!("metadata of source {scheme}")));
        };
        let options = ResolveOptions {
            platform: request.platform.map(platform),
            mode: request.resolve_mode,
            log_name: request.log_name,
            ..ResolveOptions::default()
        };
        let resolved = gateway
            .bridge
            .resolve_image(&gateway.cx, name, options)
            .await
            .map_err(|err| err.to_status())?;
        Ok(Response::new(wire::ResolveSourceMetaResponse {
            image: Some(wire::ResolveSourceImageResponse {
                digest: resolved.digest.to_string(),
                config: resolved.config,
                attestation_chain: None,
            }),
            source: Some(source),
            ..wire::ResolveSourceMetaResponse::default()
        }))
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
            ..SolveRequest::default()
        };
        // Compat: every failure of this call carries the detail, `{}` when nothing was executed.
        let outcome = gateway
            .bridge
            .solve(&gateway.cx, solve)
            .await
            .map_err(|err| {
                let known = err
                    .details()
                    .iter()
                    .any(|detail| matches!(detail, Detail::Solve(_)));
                if known {
                    err
                } else {
                    err.with(Detail::Solve(Box::default()))
                }
                .to_status()
            })?;
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
            .map_err(|err| err.to_status())?;
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
            .map_err(|err| err.to_status())?;
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
            .map_err(|err| err.to_status())?;
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
            .map_err(|err| err.to_status())?;
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
            definitions: gateway.inputs.clone(),
        }))
    }

    async fn new_container(
        &self,
        _: Request<wire::NewContainerRequest>,
    ) -> Result<Response<wire::NewContainerResponse>, Status> {
        Err(unimplemented("gateway containers"))
    }

    async fn release_container(
        &self,
        _: Request<wire::ReleaseContainerRequest>,
    ) -> Result<Response<wire::ReleaseContainerResponse>, Status> {
        Err(unimplemented("gateway containers"))
    }

    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<wire::ExecMessage, Status>> + Send>>;

    async fn exec_process(
        &self,
        _: Request<Streaming<wire::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        Err(unimplemented("gateway containers"))
    }

    async fn read_file_container(
        &self,
        _: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        Err(unimplemented("gateway containers"))
    }

    async fn read_dir_container(
        &self,
        _: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        Err(unimplemented("gateway containers"))
    }

    async fn stat_file_container(
        &self,
        _: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        Err(unimplemented("gateway containers"))
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
