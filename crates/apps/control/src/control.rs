//! `moby.buildkit.v1.Control`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::SystemTime;

use builder::{ExporterRequest, Progress, SolveRequest};
use diagnostics::Failure;
use fault::Class;
use futures::{Stream, StreamExt as _};
use prost_types::Timestamp;
use proto::control as wire;
use proto::control::control_server::Control;
use tasks::Cx;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{Services, WithTask, history, usage};

/// The newest behaviour we know.
const COMPATIBILITY: i64 = 30;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unimplemented(what: &str) -> Status {
    Status::unimplemented(format!("unimplemented: {what}"))
}

#[async_trait::async_trait]
impl Control for Services {
    type PruneStream = Replies<wire::UsageRecord>;
    type StatusStream = Replies<wire::StatusResponse>;
    type SessionStream = Replies<wire::BytesMessage>;
    type ListenBuildHistoryStream = Replies<wire::BuildHistoryEvent>;

    async fn disk_usage(
        &self,
        request: Request<wire::DiskUsageRequest>,
    ) -> Result<Response<wire::DiskUsageResponse>, Status> {
        let record = usage::list(self, request.into_inner()).await?;
        Ok(Response::new(wire::DiskUsageResponse { record }))
    }

    async fn prune(
        &self,
        request: Request<wire::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let removed = usage::prune(self, request.into_inner())?;
        Ok(Response::new(Box::pin(removed)))
    }

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let request = request.into_inner();
        let id = request.r#ref.clone();
        let request = solve_request(request).inspect_err(|_| self.builder.refuse(&id))?;
        let cx = Cx::root();
        // When the client goes away this future is dropped, and the build with it.
        let _stop = CancelOnDrop(cx.clone());
        let ended = self.builder.solve(&cx, request).await;
        self.upkeep.poke();
        match ended {
            Ok(response) => Ok(Response::new(wire::SolveResponse {
                exporter_response: response.exporter,
            })),
            Err(failure) => {
                tracing::info!(build = id, error = %failure, "build failed");
                Err(failure.to_status())
            }
        }
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let id = request.into_inner().r#ref;
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let builder = self.builder.clone();
        let task = tasks::spawn("status", async move {
            let mut reader = match builder.status(&id).await {
                Ok(Progress::Live(reader)) => reader,
                Ok(Progress::Past(log)) => {
                    let mut messages = std::pin::pin!(history::log(log));
                    while let Some(message) = messages.next().await {
                        if sender.send(message).await.is_err() {
                            return;
                        }
                    }
                    return;
                }
                Err(failure) => {
                    let _ = sender.send(Err(failure.to_status())).await;
                    return;
                }
            };
            while let Some(batch) = reader.next().await {
                for response in ::history::responses(&batch) {
                    if sender.send(Ok(response)).await.is_err() {
                        return;
                    }
                }
            }
        });
        let stream = WithTask::new(ReceiverStream::new(receiver), task);
        Ok(stamped(Box::pin(stream) as Self::StatusStream))
    }

    async fn session(
        &self,
        request: Request<Streaming<wire::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (headers, _, incoming) = request.into_parts();
        let served = self.sessions.serve(&headers, incoming).await;
        let outgoing = served.map_err(|err| Failure::from_error(&err).to_status())?;
        Ok(Response::new(outgoing))
    }

    async fn list_workers(
        &self,
        request: Request<wire::ListWorkersRequest>,
    ) -> Result<Response<wire::ListWorkersResponse>, Status> {
        let matches = self
            .worker
            .matches(&request.into_inner().filter)
            .map_err(Status::unknown)?;
        let record = if matches {
            let (worker, package) = (self.worker.clone(), self.package.clone());
            vec![tasks::blocking(move || worker.message(&package)).await]
        } else {
            Vec::new()
        };
        Ok(Response::new(wire::ListWorkersResponse { record }))
    }

    async fn info(
        &self,
        _: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        Ok(Response::new(wire::InfoResponse {
            buildkit_version: Some(self.package.message()),
        }))
    }

    async fn listen_build_history(
        &self,
        request: Request<wire::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let events = history::listen(self, request.into_inner()).await?;
        let events: Self::ListenBuildHistoryStream = Box::pin(events);
        Ok(stamped(events))
    }

    async fn update_build_history(
        &self,
        request: Request<wire::UpdateBuildHistoryRequest>,
    ) -> Result<Response<wire::UpdateBuildHistoryResponse>, Status> {
        history::update(self, request.into_inner()).await?;
        Ok(Response::new(wire::UpdateBuildHistoryResponse {}))
    }
}

/// A response that says what time it is here.
fn stamped<T>(body: T) -> Response<T> {
    let mut response = Response::new(body);
    if let Ok(value) = rfc3339(SystemTime::now()).parse() {
        response
            .metadata_mut()
            .insert("buildkit-current-timestamp", value);
    }
    response
}

/// Cancels a build whose client has gone.
pub(crate) struct CancelOnDrop(pub(crate) Cx);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel("context canceled");
    }
}

/// Translates the request, deprecated fields included.
#[allow(deprecated, reason = "old clients send them")]
fn solve_request(request: wire::SolveRequest) -> Result<SolveRequest, Status> {
    if request.compatibility_version > COMPATIBILITY {
        let text = format!(
            "unsupported compatibility-version {}: upgrade buildkit (max supported: {COMPATIBILITY})",
            request.compatibility_version
        );
        return Err(Status::unknown(text));
    }
    let compatibility = match request.compatibility_version {
        0 => None,
        10 => Some(10),
        20 => Some(20),
        30 => Some(30),
        other => {
            let text = format!("unsupported compatibility-version {other} (supported: [10 20 30])");
            return Err(Status::unknown(text));
        }
    };
    if request.proxy_network {
        return Err(unimplemented("proxy network"));
    }
    let mut exporters: Vec<ExporterRequest> = request
        .exporters
        .into_iter()
        .map(|exporter| ExporterRequest {
            kind: exporter.r#type,
            attrs: exporter.attrs,
        })
        .collect();
    if exporters.is_empty() && !request.exporter_deprecated.is_empty() {
        exporters.push(ExporterRequest {
            kind: request.exporter_deprecated,
            attrs: request.exporter_attrs_deprecated,
        });
    }
    let cache = request.cache.unwrap_or_default();
    Ok(SolveRequest {
        id: request.r#ref,
        definition: request.definition,
        frontend: request.frontend,
        frontend_attrs: request.frontend_attrs,
        frontend_inputs: request.frontend_inputs,
        exporters,
        session_exporter: request.enable_session_exporter,
        cache_imports: cache_imports(&cache),
        cache_exports: cache_exports(cache)?,
        session: request.session,
        entitlements: request.entitlements,
        source_policy: request.source_policy,
        source_policy_session: request.source_policy_session,
        internal: request.internal,
        compatibility,
    })
}

#[allow(deprecated, reason = "old clients send them")]
fn cache_imports(cache: &wire::CacheOptions) -> Vec<ExporterRequest> {
    let old = cache
        .import_refs_deprecated
        .iter()
        .map(|name| ExporterRequest {
            kind: "registry".into(),
            attrs: BTreeMap::from([("ref".to_owned(), name.clone())]),
        });
    let new = cache.imports.iter().map(|import| ExporterRequest {
        kind: import.r#type.clone(),
        attrs: import.attrs.clone(),
    });
    old.chain(new).collect()
}

#[allow(deprecated, reason = "old clients send them")]
fn cache_exports(cache: wire::CacheOptions) -> Result<Vec<ExporterRequest>, Status> {
    let mut exports: Vec<ExporterRequest> = cache
        .exports
        .into_iter()
        .map(|export| ExporterRequest {
            kind: export.r#type,
            attrs: export.attrs,
        })
        .collect();
    if exports.is_empty() && !cache.export_ref_deprecated.is_empty() {
        let mut attrs: BTreeMap<String, String> = cache.export_attrs_deprecated;
        attrs.insert("ref".into(), cache.export_ref_deprecated);
        exports.push(ExporterRequest {
            kind: "registry".into(),
            attrs,
        });
    }
    // Compat: one cache inside the image is enough, whoever asks for it (control/control.go).
    let mut inline = false;
    exports.retain(|export| export.kind != "inline" || !std::mem::replace(&mut inline, true));
    for (index, export) in exports.iter().enumerate() {
        if exports[..index]
            .iter()
            .any(|before| same_place(before, export))
        {
            let text = format!("duplicate cache exports [{}]", export.kind);
            return Err(Failure::new(Class::User, text).to_status());
        }
    }
    Ok(exports)
}

/// Whether one cache would overwrite the other.
fn same_place(one: &ExporterRequest, other: &ExporterRequest) -> bool {
    let tag = |export: &ExporterRequest| {
        let place = export.attrs.get("ref").filter(|place| !place.is_empty());
        place.filter(|_| export.kind == "registry").cloned()
    };
    match (tag(one), tag(other)) {
        (Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

/// A time as Go prints it with nanoseconds: trailing zeros of the fraction cut.
fn rfc3339(time: SystemTime) -> String {
    let stamp = Timestamp::from(time);
    let text = stamp.to_string();
    match text.strip_suffix('Z').and_then(|text| text.split_once('.')) {
        Some((whole, fraction)) => {
            let fraction = fraction.trim_end_matches('0');
            if fraction.is_empty() {
                format!("{whole}Z")
            } else {
                format!("{whole}.{fraction}Z")
            }
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(request: wire::SolveRequest) -> (tonic::Code, String) {
        let status = solve_request(request).unwrap_err();
        (status.code(), status.message().to_owned())
    }

    #[test]
    fn clients_from_the_future_are_refused() {
        let request = wire::SolveRequest {
            compatibility_version: 9999,
            ..wire::SolveRequest::default()
        };
        let text = "unsupported compatibility-version 9999: upgrade buildkit (max supported: 30)"
            .to_owned();
        assert_eq!(refusal(request), (tonic::Code::Unknown, text));
    }

    /// A request for two equal exports.
    fn twice(kind: &str) -> wire::SolveRequest {
        let export = wire::CacheOptionsEntry {
            r#type: kind.into(),
            ..wire::CacheOptionsEntry::default()
        };
        wire::SolveRequest {
            cache: Some(wire::CacheOptions {
                exports: vec![export.clone(), export],
                ..wire::CacheOptions::default()
            }),
            ..wire::SolveRequest::default()
        }
    }

    #[test]
    fn the_same_cache_export_twice_is_refused_but_for_inline() {
        let text = "duplicate cache exports [registry]".to_owned();
        assert_eq!(refusal(twice("registry")), (tonic::Code::Unknown, text));
        let request = solve_request(twice("inline")).expect("a request");
        assert_eq!(request.cache_exports.len(), 1);
    }

    #[test]
    fn two_caches_under_one_tag_are_refused() {
        let export = |kind: &str, mode: &str| ExporterRequest {
            kind: kind.into(),
            attrs: [("ref", "example.com/a:b"), ("mode", mode)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let same = |one: (&str, &str), other: (&str, &str)| {
            same_place(&export(one.0, one.1), &export(other.0, other.1))
        };
        assert!(same(("registry", "min"), ("registry", "max")));
        assert!(!same(("registry", "max"), ("s3", "max")));
        assert!(!same(("s3", "min"), ("s3", "max")));
    }

    #[test]
    fn old_clients_name_caches_and_exporters_in_old_fields() {
        #[allow(deprecated, reason = "old clients send them")]
        let request = wire::SolveRequest {
            exporter_deprecated: "local".into(),
            cache: Some(wire::CacheOptions {
                import_refs_deprecated: vec!["example.com/a".into()],
                export_ref_deprecated: "example.com/b".into(),
                ..wire::CacheOptions::default()
            }),
            ..wire::SolveRequest::default()
        };
        let request = solve_request(request).unwrap();
        assert_eq!(request.exporters[0].kind, "local");
        assert_eq!(request.cache_imports[0].attrs["ref"], "example.com/a");
        assert_eq!(request.cache_exports[0].attrs["ref"], "example.com/b");
    }
}
