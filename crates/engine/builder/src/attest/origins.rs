//! What the steps behind a result took from outside.

use std::collections::HashSet;

use ::source::{Facts, Identifier};
use diagnostics::Failure;
use ops::{Edge, Origin};
use proto::pb::{ExecOp, MountType, NetMode};
use provenance::{Capture, GitSource, HttpSource, ImageBlob};
use tasks::Cx;

use crate::bridge::BuildBridge;
use crate::requests;

/// Everything the steps of `edges` took.
pub(super) async fn of(
    cx: &Cx,
    bridge: &BuildBridge,
    edges: impl IntoIterator<Item = Edge>,
) -> Capture {
    let worker = &bridge.machinery.worker;
    let sessions = worker.sessions.group(vec![bridge.session.clone()]);
    let mut capture = Capture::default();
    let mut seen = HashSet::new();
    let mut pending: Vec<_> = edges.into_iter().map(|edge| edge.vertex).collect();
    pending.reverse();
    while let Some(vertex) = pending.pop() {
        if !seen.insert(vertex.digest.clone()) {
            continue;
        }
        // The first input first: equal things are listed once, as they were met.
        pending.extend(vertex.inputs.iter().rev().map(|input| input.vertex.clone()));
        match vertex.op.origin(cx, &sessions).await {
            Origin::Nothing => {}
            Origin::Source { id, facts } => add(&mut capture, id, facts),
            Origin::Process { exec, usage } => {
                add_process(&mut capture, exec);
                let usage = usage.and_then(|usage| serde_json::to_value(&*usage).ok());
                if let Some(usage) = usage {
                    let name = vertex.original.as_ref().unwrap_or(&vertex.digest);
                    capture.usage.insert(name.to_string(), usage);
                }
            }
            Origin::Unknown => capture.incomplete = true,
        }
    }
    capture
}

fn add(capture: &mut Capture, id: &Identifier, facts: Result<Facts, Failure>) {
    let name = format!("{}://{}", id.scheme, id.name);
    let facts = facts.unwrap_or_else(|err| {
        tracing::warn!(
            source = name,
            error = err.text(),
            "a source keeps its digest for itself"
        );
        capture.incomplete = true;
        Facts::Nothing
    });
    let attr = |key: &str| id.attrs.get(key).filter(|value| !value.is_empty()).cloned();
    match (id.scheme.as_str(), facts) {
        ("local", _) => capture.add_local(&id.name),
        ("docker-image" | "oci-layout", facts) => {
            let digest = match facts {
                Facts::Image { digest, .. } => digest.to_string(),
                _ => String::new(),
            };
            capture.add_image(requests::image(&name, Some(id.platform.clone()), &digest));
        }
        ("docker-image+blob" | "oci-layout+blob", _) => {
            let digest = id.name.rsplit_once('@').map(|(_, digest)| digest);
            capture.add_blob(ImageBlob {
                name: id.name.clone(),
                digest: digest.unwrap_or_default().to_owned(),
                local: id.scheme == "oci-layout+blob",
            });
        }
        ("git", facts) => {
            let (path, fragment) = id.name.split_once('#').unwrap_or((&id.name, ""));
            let reference = fragment.split(':').next().unwrap_or_default();
            let mut url = attr("git.fullurl").unwrap_or_else(|| match path.contains("://") {
                true => path.to_owned(),
                false => format!("https://{path}"),
            });
            if !reference.is_empty() {
                url = format!("{url}#{reference}");
            }
            let commit = match facts {
                Facts::Git(facts) => facts.checksum,
                _ => String::new(),
            };
            capture.add_git(GitSource {
                url,
                commit,
                bundle: attr("git.bundle"),
            });
            for key in ["git.authtokensecret", "git.authheadersecret"] {
                if let Some(secret) = attr(key) {
                    capture.add_secret(&secret, true);
                }
            }
            if let Some(agent) = attr("git.mountsshsock") {
                capture.add_ssh(&agent, true);
            }
        }
        (_, Facts::Http(facts)) => capture.add_http(HttpSource {
            url: name,
            digest: facts.digest.to_string(),
        }),
        _ => capture.incomplete = true,
    }
}

fn add_process(capture: &mut Capture, exec: &ExecOp) {
    for mount in &exec.mounts {
        match mount.mount_type() {
            MountType::Secret => {
                let secret = mount.secret_opt.clone().unwrap_or_default();
                capture.add_secret(&secret.id, secret.optional);
            }
            MountType::Ssh => {
                let ssh = mount.ssh_opt.clone().unwrap_or_default();
                capture.add_ssh(&ssh.id, ssh.optional);
            }
            _ => {}
        }
    }
    for secret in &exec.secretenv {
        capture.add_secret(&secret.id, secret.optional);
    }
    capture.network |= exec.network() != NetMode::None;
}
