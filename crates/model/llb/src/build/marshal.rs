//! Writing the graph down.
//!
//! Depth first over inputs, each op after its inputs, equal bytes once. Metadata of ops with equal bytes is merged,
//! what comes later wins; their locations are put one after the other. The walk keeps its own stack.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use oci::{Digest, Platform};
use proto::pb;

use super::node::{Kind, Node, Output};
use super::source_map::Collector;
use super::state::State;
use crate::encode::op_bytes;
use crate::graph::to_pb;
use crate::{Error, attr, caps};

pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What holds for all ops that do not say otherwise.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// Platform of ops without one.
    pub platform: Platform,
    /// The daemon adds a default `PATH` itself.
    pub daemon_sets_path: bool,
    /// Names this client where a local directory names no session.
    pub local_unique: String,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            daemon_sets_path: true,
            local_unique: String::new(),
        }
    }
}

pub(super) fn marshal(state: &State, defaults: &Defaults) -> Result<pb::Definition, Error> {
    let Some((root, index)) = state.output().and_then(Output::resolve) else {
        return Ok(pb::Definition::default());
    };
    let mut writer = Writer {
        defaults,
        ops: Vec::new(),
        by_digest: HashMap::new(),
        digests: HashMap::new(),
        sources: Collector::default(),
    };
    writer.walk(root)?;
    let digest = writer.digests[&Arc::as_ptr(root)].as_str().to_owned();
    Ok(writer.finish(pb::Input {
        digest,
        index: i64::from(index),
    }))
}

struct Writer<'a> {
    defaults: &'a Defaults,
    /// In the order of the definition.
    ops: Vec<Written>,
    /// Where in `ops` the op with these bytes is.
    by_digest: HashMap<Digest, usize>,
    /// Nodes that are done.
    digests: HashMap<*const Node, Digest>,
    sources: Collector,
}

/// Everything a definition says of an op.
struct Written {
    digest: Digest,
    bytes: Bytes,
    metadata: pb::OpMetadata,
    locations: Vec<pb::Location>,
}

impl Writer<'_> {
    fn walk(&mut self, root: &Arc<Node>) -> Result<(), Error> {
        let mut stack = vec![(root, false)];
        while let Some((node, ready)) = stack.pop() {
            if self.digests.contains_key(&Arc::as_ptr(node)) {
                continue;
            }
            if ready {
                self.write(node)?;
                continue;
            }
            stack.push((node, true));
            let inputs = node.kind.inputs();
            let resolved = inputs.into_iter().rev().filter_map(Output::resolve);
            stack.extend(resolved.map(|(node, _)| (node, false)));
        }
        Ok(())
    }

    /// All inputs of the node are written.
    fn write(&mut self, node: &Arc<Node>) -> Result<(), Error> {
        let (bytes, metadata) = match &node.kind {
            Kind::Written {
                bytes, metadata, ..
            } => (bytes.clone(), (**metadata).clone()),
            _ => {
                let (op, caps) = self.op(node)?;
                (Bytes::from(op_bytes(&op)), metadata(node, caps))
            }
        };
        let digest = Digest::of(&bytes);
        let locations = &node.options.locations;
        match self.by_digest.entry(digest.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(self.ops.len());
                self.ops.push(Written {
                    digest: digest.clone(),
                    bytes,
                    metadata,
                    locations: self.sources.places(locations).collect(),
                });
            }
            Entry::Occupied(entry) => {
                let op = &mut self.ops[*entry.get()];
                merge(&mut op.metadata, metadata);
                op.locations.extend(self.sources.places(locations));
            }
        }
        self.digests.insert(Arc::as_ptr(node), digest);
        Ok(())
    }

    fn op(&self, node: &Node) -> Result<(pb::Op, Vec<&'static str>), Error> {
        let options = &node.options;
        let state_platform = match &node.kind {
            Kind::Exec(exec) => exec.platform(),
            _ => None,
        };
        let platform = options
            .platform
            .as_ref()
            .or(state_platform)
            .unwrap_or(&self.defaults.platform);
        let mut inputs = Inputs {
            digests: &self.digests,
            list: Vec::new(),
        };
        let mut keeps_platform = false;
        let (op, caps) = match &node.kind {
            Kind::Source {
                identifier,
                attrs,
                caps,
            } => {
                keeps_platform = ["docker-image://", "oci-layout://"]
                    .iter()
                    .any(|scheme| identifier.starts_with(scheme));
                let (source, caps) = self.source(identifier, attrs, caps);
                (pb::op::Op::Source(source), caps)
            }
            Kind::Exec(exec) => {
                keeps_platform = true;
                let op = exec.to_op(self.defaults, platform, |output| inputs.number(output))?;
                (pb::op::Op::Exec(op), exec.caps(self.defaults, options))
            }
            Kind::File(file) => {
                let op = file.to_op(|output| inputs.number(output));
                if op.actions.is_empty() {
                    return Err(Error::Build("action is required"));
                }
                (pb::op::Op::File(op), file.caps())
            }
            Kind::Merge(merged) => {
                let inputs = merged.iter().filter_map(|output| inputs.append(output));
                let inputs = inputs.map(|input| pb::MergeInput { input }).collect();
                (
                    pb::op::Op::Merge(pb::MergeOp { inputs }),
                    vec![caps::MERGE_OP],
                )
            }
            Kind::Diff { lower, upper } => {
                let mut side = |side: &Option<Output>| {
                    side.as_ref()
                        .and_then(|output| inputs.append(output))
                        .unwrap_or(-1)
                };
                let lower = Some(pb::LowerDiffInput { input: side(lower) });
                let upper = Some(pb::UpperDiffInput { input: side(upper) });
                (
                    pb::op::Op::Diff(pb::DiffOp { lower, upper }),
                    vec![caps::DIFF_OP],
                )
            }
            Kind::Build {
                definition,
                filename,
            } => build(inputs.number(definition), filename),
            Kind::Passthrough { id, trees } => {
                let outputs = trees.iter().map(|tree| inputs.number(tree)).collect();
                let op = pb::PassthroughOp {
                    id: id.clone(),
                    outputs,
                };
                (pb::op::Op::Passthrough(op), vec![caps::PASSTHROUGH_OP])
            }
            Kind::Written { .. } | Kind::Gone => {
                return Err(Error::Build("the graph was taken apart"));
            }
        };
        let op = pb::Op {
            inputs: inputs.list,
            op: Some(op),
            platform: keeps_platform.then(|| to_pb(platform)),
            constraints: Some(pb::WorkerConstraints {
                filter: options.filters.clone(),
            }),
        };
        Ok((op, caps))
    }

    fn source(
        &self,
        identifier: &str,
        attrs: &std::collections::BTreeMap<String, String>,
        caps: &[&'static str],
    ) -> (pb::SourceOp, Vec<&'static str>) {
        let (mut attrs, mut caps) = (attrs.clone(), caps.to_vec());
        if identifier.starts_with("local://") && !attrs.contains_key(attr::LOCAL_SESSION) {
            attrs.insert(
                attr::LOCAL_UNIQUE.to_owned(),
                self.defaults.local_unique.clone(),
            );
            caps.push(caps::SOURCE_LOCAL_UNIQUE);
        }
        (
            pb::SourceOp {
                identifier: identifier.to_owned(),
                attrs,
            },
            caps,
        )
    }

    fn finish(self, input: pb::Input) -> pb::Definition {
        let mut definition = pb::Definition {
            def: self.ops.iter().map(|op| op.bytes.clone()).collect(),
            source: Some(self.sources.finish()),
            ..pb::Definition::default()
        };
        let mut needed = vec![caps::CONSTRAINTS, caps::PLATFORM];
        for Written { metadata, .. } in &self.ops {
            if metadata.ignore_cache {
                needed.push(caps::META_IGNORE_CACHE);
            }
            if !metadata.description.is_empty() {
                needed.push(caps::META_DESCRIPTION);
            }
            if metadata.export_cache.is_some() {
                needed.push(caps::META_EXPORT_CACHE);
            }
        }
        // Maps are made at once from sorted lists: digests come in no order, and finding the place of each takes time.
        let mut ops = self.ops;
        ops.sort_unstable_by(|a, b| a.digest.cmp(&b.digest));
        if let Some(source) = &mut definition.source {
            let places = ops.iter_mut().map(|op| {
                let locations = std::mem::take(&mut op.locations);
                (op.digest.as_str().to_owned(), pb::Locations { locations })
            });
            source.locations = places.collect();
        }
        definition.metadata = ops
            .into_iter()
            .map(|op| (op.digest.as_str().to_owned(), op.metadata))
            .collect();
        let terminal = pb::Op {
            inputs: vec![input],
            ..pb::Op::default()
        };
        let bytes = op_bytes(&terminal);
        let metadata = pb::OpMetadata {
            caps: cap_map(needed),
            ..pb::OpMetadata::default()
        };
        let digest = Digest::of(&bytes).as_str().to_owned();
        definition.metadata.insert(digest, metadata);
        definition.def.push(Bytes::from(bytes));
        definition
    }
}

/// A build op for the definition in this input.
fn build(input: i64, filename: &str) -> (pb::op::Op, Vec<&'static str>) {
    const LLB_BUILDER: i64 = -1;
    let mut op = pb::BuildOp {
        builder: LLB_BUILDER,
        inputs: [(
            "buildkit.llb.definition".to_owned(),
            pb::BuildInput { input },
        )]
        .into(),
        ..pb::BuildOp::default()
    };
    let mut needed = Vec::new();
    if !filename.is_empty() {
        let name = attr::BUILD_FILENAME.to_owned();
        op.attrs.insert(name, filename.to_owned());
        needed.push(caps::SOURCE_BUILD_FILENAME);
    }
    (pb::op::Op::Build(op), needed)
}

/// The inputs of the op that is being written.
struct Inputs<'a> {
    digests: &'a HashMap<*const Node, Digest>,
    list: Vec<pb::Input>,
}

impl Inputs<'_> {
    fn input(&self, output: &Output) -> Option<pb::Input> {
        let (node, index) = output.resolve()?;
        let digest = self.digests.get(&Arc::as_ptr(node))?;
        Some(pb::Input {
            digest: digest.as_str().to_owned(),
            index: i64::from(index),
        })
    }

    /// Equal inputs share a number; an empty tree is -1.
    fn number(&mut self, output: &Output) -> i64 {
        let Some(input) = self.input(output) else {
            return -1;
        };
        let known = self.list.iter().position(|other| *other == input);
        let at = known.unwrap_or_else(|| {
            self.list.push(input);
            self.list.len() - 1
        });
        at as i64
    }

    /// Every input gets a number of its own.
    fn append(&mut self, output: &Output) -> Option<i64> {
        let input = self.input(output)?;
        self.list.push(input);
        Some(self.list.len() as i64 - 1)
    }
}

fn metadata(node: &Node, caps: Vec<&'static str>) -> pb::OpMetadata {
    let options = &node.options;
    pb::OpMetadata {
        ignore_cache: options.ignore_cache,
        description: options.description.clone(),
        export_cache: options.export_cache.map(|value| pb::ExportCache { value }),
        caps: cap_map(caps),
        progress_group: options.group.clone(),
        linux_resources: options.resources.clone(),
    }
}

fn cap_map(caps: Vec<&'static str>) -> std::collections::BTreeMap<String, bool> {
    caps.into_iter().map(|cap| (cap.to_owned(), true)).collect()
}

fn merge(old: &mut pb::OpMetadata, new: pb::OpMetadata) {
    old.ignore_cache |= new.ignore_cache;
    old.description.extend(new.description);
    old.caps.extend(new.caps);
    if new.export_cache.is_some() {
        old.export_cache = new.export_cache;
    }
    if new.progress_group.is_some() {
        old.progress_group = new.progress_group;
    }
    if new.linux_resources.is_some() {
        old.linux_resources = new.linux_resources;
    }
}
