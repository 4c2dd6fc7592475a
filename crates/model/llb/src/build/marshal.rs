//! Writing the graph down.
//!
//! Depth first over inputs, each op after its inputs, equal bytes once. Metadata of ops with equal bytes is merged,
//! what comes later wins; their locations are put one after the other. The walk keeps its own stack.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use oci::Platform;
use proto::pb;
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;

use super::capsets::CapSets;
use super::node::{Kind, Node, Output};
use super::options::Options;
use super::quick::Quick;
use super::source_map::Collector;
use super::state::State;
use super::wire::{DIGEST, Wire, digest_text, push_digest};
use crate::encode::op_bytes;
use crate::graph::to_pb;
use crate::{Error, attr, caps};

pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The size of ops, as a rule.
const SMALL_OP: usize = 256;

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
    let (order, places) = inputs_first(root);
    let mut writer = Writer {
        defaults,
        bytes: Vec::with_capacity(order.len() * SMALL_OP),
        ops: Vec::with_capacity(order.len()),
        by_digest: HashMap::with_capacity_and_hasher(order.len(), Quick::default()),
        done: Done {
            ops: Vec::with_capacity(order.len()),
            places,
        },
        sources: Collector::default(),
        caps: CapSets::default(),
        scratch: Scratch::default(),
    };
    for node in order {
        writer.write(node)?;
    }
    let last = writer.done.ops.last().map(|at| &writer.ops[*at]);
    let digest = last.map(|op| digest_text(&op.raw)).unwrap_or_default();
    Ok(writer.finish(pb::Input {
        digest,
        index: i64::from(index),
    }))
}

struct Writer<'a> {
    defaults: &'a Defaults,
    /// The ops, one behind the other.
    bytes: Vec<u8>,
    /// In the order of the definition.
    ops: Vec<Written>,
    /// Where in `ops` the op with these bytes is.
    by_digest: HashMap<[u8; 32], usize, Quick>,
    done: Done,
    sources: Collector,
    caps: CapSets,
    scratch: Scratch,
}

/// Room to write an op in, used again for the next one.
#[derive(Default)]
struct Scratch {
    /// What the op does.
    body: Wire,
    /// Its inputs: places in `ops`, and numbers of outputs.
    inputs: Vec<(usize, u32)>,
}

/// Nodes that are written.
struct Done {
    /// Where in the writer's `ops` they are, in the order of the nodes.
    ops: Vec<usize>,
    places: Places,
}

impl Done {
    /// Where in the writer's `ops` this one is.
    fn find(&self, node: &Arc<Node>) -> Option<usize> {
        let place = *self.places.get(&Arc::as_ptr(node))?;
        self.ops.get(place).copied()
    }
}

/// Places of nodes in their order.
type Places = HashMap<*const Node, usize, Quick>;

/// Everything a definition says of an op.
struct Written {
    raw: [u8; 32],
    /// Where in the writer's `bytes` it is.
    place: Range<usize>,
    metadata: pb::OpMetadata,
    locations: SmallVec<[pb::Location; 1]>,
}

/// Everything `root` needs, and itself at last, in the order of the definition.
fn inputs_first(root: &Arc<Node>) -> (Vec<&Arc<Node>>, Places) {
    let mut order = Vec::new();
    let mut places = Places::default();
    let mut stack = vec![(root, false)];
    while let Some((node, ready)) = stack.pop() {
        if places.contains_key(&Arc::as_ptr(node)) {
            continue;
        }
        if ready {
            places.insert(Arc::as_ptr(node), order.len());
            order.push(node);
            continue;
        }
        stack.push((node, true));
        let before = stack.len();
        node.kind.each_input(|output| {
            stack.extend(output.resolve().map(|(node, _)| (node, false)));
        });
        stack[before..].reverse();
    }
    (order, places)
}

impl Writer<'_> {
    /// All inputs of the node are written.
    fn write(&mut self, node: &Arc<Node>) -> Result<(), Error> {
        let start = self.bytes.len();
        let metadata = match &node.kind {
            Kind::Written {
                bytes, metadata, ..
            } => {
                self.bytes.extend_from_slice(bytes);
                (**metadata).clone()
            }
            Kind::Exec(exec) => {
                let platform = node.options.platform.as_deref().or(exec.platform());
                let platform = platform.unwrap_or(&self.defaults.platform);
                self.assemble(Some(platform), &node.options, |wire, number| {
                    wire.message(2, |wire| exec.write(wire, self.defaults, platform, number))
                })?;
                let caps = exec.caps(self.defaults, &node.options);
                metadata(node, self.caps.get(&caps))
            }
            Kind::File(file) => {
                self.assemble(None, &node.options, |wire, number| {
                    wire.message(4, |wire| file.write(wire, number))
                })?;
                metadata(node, self.caps.get(file.caps()))
            }
            _ => {
                let (op, caps) = self.op(node)?;
                let caps = self.caps.get(&caps);
                self.bytes.extend_from_slice(&op_bytes(&op));
                metadata(node, caps)
            }
        };
        let place = start..self.bytes.len();
        let raw: [u8; 32] = Sha256::digest(&self.bytes[place.clone()]).into();
        let locations = &node.options.locations;
        let at = match self.by_digest.entry(raw) {
            Entry::Vacant(entry) => {
                let at = *entry.insert(self.ops.len());
                self.ops.push(Written {
                    raw,
                    place,
                    metadata,
                    locations: self.sources.places(locations).collect(),
                });
                at
            }
            Entry::Occupied(entry) => {
                self.bytes.truncate(start);
                let at = *entry.get();
                let op = &mut self.ops[at];
                op.metadata.update(metadata);
                op.locations.extend(self.sources.places(locations));
                at
            }
        };
        self.done.ops.push(at);
        Ok(())
    }

    /// Adds the bytes of an op; `write` writes what it does, and is told the numbers of its inputs.
    fn assemble(
        &mut self,
        platform: Option<&Platform>,
        options: &Options,
        write: impl FnOnce(&mut Wire, &mut dyn FnMut(&Output) -> i64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let Scratch { body, inputs } = &mut self.scratch;
        body.0.clear();
        inputs.clear();
        let mut number = |output: &Output| {
            let Some((node, index)) = output.resolve() else {
                return -1;
            };
            let Some(at) = self.done.find(node) else {
                return -1;
            };
            let known = inputs.iter().position(|other| *other == (at, index));
            known.unwrap_or_else(|| {
                inputs.push((at, index));
                inputs.len() - 1
            }) as i64
        };
        write(body, &mut number)?;
        let mut op = Wire(std::mem::take(&mut self.bytes));
        for &(at, index) in &*inputs {
            op.message(1, |wire| {
                wire.digest(1, &self.ops[at].raw);
                wire.int(2, i64::from(index));
            });
        }
        if let Some(platform) = platform {
            op.platform(10, platform);
        }
        op.message(11, |wire| wire.list(1, &options.filters));
        // Compat: what an op does comes last, whatever its number.
        op.0.extend_from_slice(&body.0);
        self.bytes = op.0;
        Ok(())
    }

    /// The ops of which a graph has few.
    fn op(&self, node: &Node) -> Result<(pb::Op, Caps), Error> {
        let options = &node.options;
        let platform = options.platform.as_deref();
        let platform = platform.unwrap_or(&self.defaults.platform);
        let mut inputs = Inputs {
            writer: self,
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
                (pb::op::Op::Source(source), caps.into())
            }
            Kind::Merge(merged) => {
                let inputs = merged.iter().filter_map(|output| inputs.append(output));
                let inputs = inputs.map(|input| pb::MergeInput { input }).collect();
                (
                    pb::op::Op::Merge(pb::MergeOp { inputs }),
                    Cow::Borrowed(&[caps::MERGE_OP][..]),
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
                    Cow::Borrowed(&[caps::DIFF_OP][..]),
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
                let caps = Cow::Borrowed(&[caps::PASSTHROUGH_OP][..]);
                (pb::op::Op::Passthrough(op), caps)
            }
            Kind::Exec(_) | Kind::File(_) | Kind::Written { .. } | Kind::Gone => {
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
        attrs: &BTreeMap<String, String>,
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
        let mut ops = self.ops;
        let all = Bytes::from(self.bytes);
        let mut definition = pb::Definition {
            def: Vec::with_capacity(ops.len() + 1),
            source: Some(self.sources.finish()),
            ..pb::Definition::default()
        };
        let mut needed = vec![caps::CONSTRAINTS, caps::PLATFORM];
        for Written {
            metadata, place, ..
        } in &ops
        {
            definition.def.push(all.slice(place.clone()));
            let mut need = |wanted, cap| {
                if wanted && !needed.contains(&cap) {
                    needed.push(cap);
                }
            };
            need(metadata.ignore_cache, caps::META_IGNORE_CACHE);
            need(!metadata.description.is_empty(), caps::META_DESCRIPTION);
            need(metadata.export_cache.is_some(), caps::META_EXPORT_CACHE);
        }
        // Maps are made at once from sorted lists: digests come in no order, and finding the place of each takes time.
        let start = |op: &Written| {
            let first = op.raw.first_chunk().copied();
            u64::from_be_bytes(first.unwrap_or_default())
        };
        let mut order: Vec<(u64, usize)> = ops.iter().map(start).zip(0..).collect();
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| ops[a.1].raw.cmp(&ops[b.1].raw)));
        let mut texts = String::with_capacity(ops.len() * DIGEST);
        for (_, at) in &order {
            push_digest(&mut texts, &ops[*at].raw);
        }
        let texts = ByteString::from(texts);
        let names = (0..order.len()).map(|at| texts.slice_ref(&texts[at * DIGEST..][..DIGEST]));
        if let Some(source) = &mut definition.source {
            let places = names.clone().zip(&order).map(|(name, (_, at))| {
                let locations = std::mem::take(&mut ops[*at].locations);
                (name, pb::Locations { locations })
            });
            source.locations = places.collect();
        }
        let metadata = names
            .zip(&order)
            .map(|(name, (_, at))| (name, std::mem::take(&mut ops[*at].metadata)));
        definition.metadata = metadata.collect();
        let terminal = pb::Op {
            inputs: vec![input],
            ..pb::Op::default()
        };
        let bytes = op_bytes(&terminal);
        let metadata = pb::OpMetadata {
            caps: needed.iter().map(|cap| (*cap, true)).collect(),
            ..pb::OpMetadata::default()
        };
        let digest = digest_text(&Sha256::digest(&bytes).into());
        definition.metadata.insert(digest.into(), metadata);
        definition.def.push(Bytes::from(bytes));
        definition
    }
}

type Caps = Cow<'static, [&'static str]>;

/// A build op for the definition in this input.
fn build(input: i64, filename: &str) -> (pb::op::Op, Caps) {
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
    (pb::op::Op::Build(op), needed.into())
}

/// The inputs of the op that is being written.
struct Inputs<'a> {
    writer: &'a Writer<'a>,
    list: Vec<pb::Input>,
}

impl Inputs<'_> {
    fn find(&self, output: &Output) -> Option<(String, i64)> {
        let (node, index) = output.resolve()?;
        let at = self.writer.done.find(node)?;
        Some((digest_text(&self.writer.ops[at].raw), i64::from(index)))
    }

    /// Equal inputs share a number; an empty tree is -1.
    fn number(&mut self, output: &Output) -> i64 {
        let Some((digest, index)) = self.find(output) else {
            return -1;
        };
        let known = |other: &pb::Input| other.index == index && other.digest == digest;
        if let Some(at) = self.list.iter().position(known) {
            return at as i64;
        }
        self.list.push(pb::Input { digest, index });
        self.list.len() as i64 - 1
    }

    /// Every input gets a number of its own.
    fn append(&mut self, output: &Output) -> Option<i64> {
        let (digest, index) = self.find(output)?;
        self.list.push(pb::Input { digest, index });
        Some(self.list.len() as i64 - 1)
    }
}

fn metadata(node: &Node, caps: pb::SmallMap<bool>) -> pb::OpMetadata {
    let options = &node.options;
    pb::OpMetadata {
        ignore_cache: options.ignore_cache,
        description: options.description.clone(),
        export_cache: options.export_cache.map(|value| pb::ExportCache { value }),
        caps,
        progress_group: options.group.clone(),
        linux_resources: options.resources.clone(),
    }
}
