//! From a definition to vertices the solver takes.

use std::collections::BTreeSet;
use std::sync::Arc;

use diagnostics::Failure;
use oci::Platform;
use proto::pb;
use solver::Vertex;

use crate::build::{BuildOp, Nested};
use crate::combine::{DiffOp, MergeOp, PassthroughOp};
use crate::devices;
use crate::exec::ExecOp;
use crate::exec_mounts::user;
use crate::file::FileOp;
use crate::json::Object;
use crate::source::SourceOp;
use crate::worker::Entitlements;
use crate::{Op, Worker};

/// What a definition asks for.
pub type Edge = solver::Edge<Op>;

/// How a definition is turned into operations.
#[derive(Clone)]
pub struct LoadOptions {
    /// What they work on.
    pub worker: Arc<Worker>,
    /// What they may do.
    pub entitlements: Entitlements,
    /// What the build has resolved before.
    pub memo: Arc<::source::Memo>,
    /// Builds definitions that steps make.
    pub nested: Arc<dyn Nested>,
}

/// A definition, read.
pub struct Loaded {
    /// What it asks for.
    pub edge: Edge,
    /// Ids of cache mounts of steps that must not use a cache: what is in them is to be forgotten once, not by every
    /// step, for later steps of the build may share them.
    pub stale_cache_dirs: BTreeSet<String>,
    /// Ids of all cache mounts.
    pub cache_dirs: BTreeSet<String>,
    /// Vertices whose results must not go into a remote cache.
    pub unexported: BTreeSet<oci::Digest>,
}

/// Reads a definition; nothing runs.
pub fn load(definition: &pb::Definition, options: &LoadOptions) -> Result<Loaded, Failure> {
    let parsed = llb::Parsed::parse(definition).map_err(|err| Failure::from_error(&err))?;
    load_parsed(parsed, options)
}

/// The same for a definition whose sources policy may have changed.
pub fn load_parsed(parsed: llb::Parsed, options: &LoadOptions) -> Result<Loaded, Failure> {
    let worker = &options.worker;
    let llb_options = llb::LoadOptions {
        platform: worker.options.platform.clone(),
        ..llb::LoadOptions::default()
    };
    let graph = parsed
        .into_graph(&llb_options)
        .map_err(|err| Failure::from_error(&err))?;
    let mut stale_cache_dirs = BTreeSet::new();
    let mut all_cache_dirs = BTreeSet::new();
    let mut unexported = BTreeSet::new();
    let mut vertices: Vec<Arc<Vertex<Op>>> = Vec::with_capacity(graph.vertices.len());
    for mut vertex in graph.vertices {
        check_entitlements(&vertex.op, &options.entitlements)?;
        if let Some(pb::op::Op::Exec(exec)) = &mut vertex.op.op {
            devices::resolve(exec, &options.entitlements, worker.devices.as_deref())?;
        }
        let used = cache_dirs(&vertex.op);
        if vertex.metadata.ignore_cache {
            stale_cache_dirs.extend(used.iter().cloned());
        }
        all_cache_dirs.extend(used);
        let export = vertex.metadata.export_cache.as_ref();
        if export.is_some_and(|export| !export.value) {
            unexported.insert(vertex.digest.clone());
        }
        let inputs = vertex
            .inputs
            .iter()
            .map(|edge| Edge {
                vertex: vertices[edge.vertex].clone(),
                index: edge.output,
            })
            .collect();
        let op = operation(
            options,
            &vertex.name,
            vertex.op,
            &vertex.metadata,
            &vertex.digest,
        )?;
        vertices.push(Arc::new(Vertex {
            digest: vertex.digest,
            original: Some(vertex.original),
            name: vertex.name,
            inputs,
            op: Arc::new(op),
            ignore_cache: vertex.metadata.ignore_cache,
            group: vertex.metadata.progress_group.map(|group| {
                let pb::ProgressGroup { id, name, weak } = Arc::unwrap_or_clone(group);
                progress::Group { id, name, weak }
            }),
        }));
    }
    let root = graph.root;
    Ok(Loaded {
        edge: Edge {
            vertex: vertices[root.vertex].clone(),
            index: root.output,
        },
        stale_cache_dirs,
        cache_dirs: all_cache_dirs,
        unexported,
    })
}

fn cache_dirs(op: &pb::Op) -> BTreeSet<String> {
    let Some(pb::op::Op::Exec(exec)) = &op.op else {
        return BTreeSet::new();
    };
    exec.mounts
        .iter()
        .filter(|mount| mount.mount_type() == pb::MountType::Cache)
        .filter_map(|mount| mount.cache_opt.as_ref())
        .map(|options| options.id.clone())
        .collect()
}

fn check_entitlements(op: &pb::Op, granted: &Entitlements) -> Result<(), Failure> {
    let Some(pb::op::Op::Exec(exec)) = &op.op else {
        return Ok(());
    };
    let needs = [
        ("network.host", exec.network() == pb::NetMode::Host),
        (
            "security.insecure",
            exec.security() == pb::SecurityMode::Insecure,
        ),
    ];
    for (name, needed) in needs {
        if needed && !granted.allow(name) {
            return Err(user(format!("{name} is not allowed")));
        }
    }
    Ok(())
}

fn operation(
    options: &LoadOptions,
    name: &str,
    op: pb::Op,
    metadata: &pb::OpMetadata,
    digest: &oci::Digest,
) -> Result<Op, Failure> {
    let worker = &options.worker;
    let platform = op
        .platform
        .as_ref()
        .map_or_else(|| worker.options.platform.clone(), platform);
    let inputs = op.inputs.len();
    Ok(match op.op {
        Some(pb::op::Op::Source(source)) => {
            let id = identifier(source, platform);
            let instance = instance_of(worker, &options.memo, id.clone());
            Op::Source(SourceOp::new(worker.clone(), id, instance))
        }
        Some(pb::op::Op::Exec(exec)) => Op::Exec(Box::new(ExecOp {
            worker: worker.clone(),
            op: exec,
            platform,
            inputs,
            resources: metadata.linux_resources.clone(),
            account: worker.usages.account(digest),
        })),
        Some(pb::op::Op::File(file)) => {
            Op::File(Box::new(FileOp::new(worker.clone(), name, file, inputs)?))
        }
        Some(pb::op::Op::Merge(merge)) => {
            Op::Merge(MergeOp::new(worker.clone(), name, merge, inputs)?)
        }
        Some(pb::op::Op::Diff(diff)) => Op::Diff(DiffOp::new(worker.clone(), name, diff, inputs)?),
        Some(pb::op::Op::Build(build)) => {
            Op::Build(BuildOp::new(build, inputs, options.nested.clone()))
        }
        Some(pb::op::Op::Passthrough(op)) => Op::Passthrough(PassthroughOp::new(op, inputs)?),
        None => return Err(user("no support for <nil>")),
    })
}

/// Finds out what a source op names; asks nobody.
pub fn instance(
    worker: &Worker,
    memo: &Arc<::source::Memo>,
    op: pb::SourceOp,
    platform: Platform,
) -> Result<Arc<dyn ::source::Instance>, Failure> {
    instance_of(worker, memo, identifier(op, platform))
}

fn instance_of(
    worker: &Worker,
    memo: &Arc<::source::Memo>,
    id: ::source::Identifier,
) -> Result<Arc<dyn ::source::Instance>, Failure> {
    let instance = source_of(worker, &id)?.instance(id, memo);
    instance.map_err(|err| Failure::from_error(&err))
}

/// The identifier of a source op as policies see it; one that says nothing stays as it is.
pub fn canonical(worker: &Worker, op: &pb::SourceOp) -> String {
    let id = identifier(op.clone(), worker.options.platform.clone());
    match source_of(worker, &id) {
        Ok(source) => source.canonical(&id),
        Err(_) => op.identifier.clone(),
    }
}

fn source_of<'w>(
    worker: &'w Worker,
    id: &::source::Identifier,
) -> Result<&'w Arc<dyn ::source::Source>, Failure> {
    if id.scheme.is_empty() {
        return Err(user(format!("failed to parse {}: invalid", id.name)));
    }
    let unknown = || user(format!("unknown scheme {}: not found", id.scheme));
    worker.source(&id.scheme).ok_or_else(unknown)
}

/// The words of a source op. Without a scheme it names nothing.
fn identifier(op: pb::SourceOp, platform: Platform) -> ::source::Identifier {
    let parts = op.identifier.split_once("://");
    let named = parts.filter(|(scheme, _)| !scheme.is_empty());
    let (scheme, name) = named.unwrap_or(("", &op.identifier));
    ::source::Identifier {
        scheme: scheme.to_owned(),
        name: name.to_owned(),
        attrs: op.attrs,
        platform,
    }
}

/// The platform of an op, as a word of images.
pub fn platform(platform: &pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
        variant: platform.variant.clone(),
    }
    .normalized()
}

/// The platform as operation digests spell it.
pub(crate) fn platform_fields(json: &mut Object, platform: &Platform) {
    json.string("OS", &platform.os);
    json.string("Arch", &platform.architecture);
    json.string_if("Variant", &platform.variant);
    json.string_if("OSVersion", &platform.os_version);
    json.strings_if("OSFeatures", &platform.os_features);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cache_mounts_of_a_step_are_stale() {
        let mount = |kind: pb::MountType, id: &str| pb::Mount {
            mount_type: kind.into(),
            cache_opt: Some(pb::CacheOpt {
                id: id.to_owned(),
                ..pb::CacheOpt::default()
            }),
            ..pb::Mount::default()
        };
        let exec = pb::ExecOp {
            mounts: vec![
                mount(pb::MountType::Bind, "no"),
                mount(pb::MountType::Cache, "yes"),
            ],
            ..pb::ExecOp::default()
        };
        let op = pb::Op {
            op: Some(pb::op::Op::Exec(exec)),
            ..pb::Op::default()
        };
        assert_eq!(cache_dirs(&op), BTreeSet::from(["yes".to_owned()]));
    }
}
