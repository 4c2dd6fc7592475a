//! Reading a definition.
//!
//! 1. Each entry is parsed; its provisional digest is that of the bytes as received. Metadata is found by it.
//! 2. Whoever enforces source policy may rewrite sources ([`Parsed::sources_mut`]).
//! 3. Digests are recomputed bottom-up over the canonical encoding, inputs replaced first.
//! 4. What the last entry refers to, and what that needs, is checked, named and normalised. This no longer changes
//!    digests.
//!
//! All walks keep their own stack: a chain of 100,000 ops is no deeper than one.

use std::collections::HashMap;

use oci::{Digest, Platform};
use proto::pb;

use crate::encode::{decode, op_bytes};
use crate::name::default_name;
use crate::validate::validate;
use crate::{Error, caps};

const PROXY_NETWORK_SUFFIX: &[u8] = b"\0buildkit.proxy-network.v0";
const CUSTOM_NAME: &str = "llb.customname";

/// A build's graph. Inputs stand before those who use them; everything is reachable from the root.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// The vertices.
    pub vertices: Vec<Vertex>,
    /// What the definition asks for.
    pub root: Edge,
}

/// One op of a graph.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// Names the vertex in progress and in the shared graph.
    pub digest: Digest,
    /// Digest of the bytes as received: what errors and source maps refer to.
    pub original: Digest,
    /// The op, its platform filled in and normalised.
    pub op: pb::Op,
    /// What the client said about it.
    pub metadata: pb::OpMetadata,
    /// What it reads, in the order of `op.inputs`.
    pub inputs: Vec<Edge>,
    /// What users see.
    pub name: String,
}

/// An output of a vertex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Edge {
    /// Index into [`Graph::vertices`].
    pub vertex: usize,
    /// Which of its outputs.
    pub output: usize,
}

/// How a definition is read.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Platform of ops that name none.
    pub platform: Platform,
    /// Refuse ops that ask for capabilities we do not know.
    pub check_caps: bool,
    /// The proxy network is on: it counts in the digests of what runs in it.
    pub proxy_network: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            check_caps: true,
            proxy_network: false,
        }
    }
}

impl Graph {
    /// Reads a definition without policy.
    pub fn load(definition: &pb::Definition, options: &LoadOptions) -> Result<Self, Error> {
        Parsed::parse(definition)?.into_graph(options)
    }

    /// The vertex the definition asks for.
    pub fn root_vertex(&self) -> Option<&Vertex> {
        self.vertices.get(self.root.vertex)
    }
}

struct Entry {
    original: Digest,
    bytes: bytes::Bytes,
    op: pb::Op,
    metadata: pb::OpMetadata,
    /// Recomputed digest.
    digest: Option<Digest>,
}

/// A definition whose ops are parsed but not yet linked.
pub struct Parsed {
    entries: Vec<Entry>,
    /// Provisional digest to entry.
    index: HashMap<String, usize>,
    last: usize,
}

impl Parsed {
    /// Step 1.
    pub fn parse(definition: &pb::Definition) -> Result<Self, Error> {
        if definition.def.is_empty() {
            return Err(Error::Empty);
        }
        let mut entries: Vec<Entry> = Vec::with_capacity(definition.def.len());
        let mut index = HashMap::with_capacity(definition.def.len());
        let mut last = 0;
        for bytes in &definition.def {
            let original = Digest::of(bytes);
            if let Some(&known) = index.get(original.as_str()) {
                last = known;
                continue;
            }
            let op = decode(bytes)?;
            for (input, edge) in op.inputs.iter().enumerate() {
                if edge.index < 0 {
                    return Err(Error::OutputIndex {
                        input,
                        index: edge.index,
                    });
                }
            }
            last = entries.len();
            index.insert(original.as_str().to_owned(), last);
            let metadata = definition
                .metadata
                .get(original.as_str())
                .cloned()
                .unwrap_or_default();
            entries.push(Entry {
                original,
                bytes: bytes.clone(),
                op,
                metadata,
                digest: None,
            });
        }
        Ok(Self {
            entries,
            index,
            last,
        })
    }

    /// Step 2: the ops that are sources.
    pub fn sources_mut(&mut self) -> impl Iterator<Item = &mut pb::Op> {
        self.entries
            .iter_mut()
            .map(|entry| &mut entry.op)
            .filter(|op| matches!(op.op, Some(pb::op::Op::Source(_))))
    }

    /// Steps 3 and 4.
    pub fn into_graph(mut self, options: &LoadOptions) -> Result<Graph, Error> {
        self.recompute(options)?;
        if self.entries.len() < 2 {
            return Err(Error::TooSmall {
                count: self.entries.len(),
            });
        }
        let Some(root) = self.entries[self.last].op.inputs.first().cloned() else {
            return Err(Error::NoRoot);
        };
        Linker::new(self)?.link(&root, options)
    }

    /// Replaces the inputs' digests and computes that of every entry, inputs first.
    fn recompute(&mut self, options: &LoadOptions) -> Result<(), Error> {
        let mut stack = Vec::new();
        for start in 0..self.entries.len() {
            stack.push((start, 0));
            while let Some((at, input)) = stack.pop() {
                if self.entries[at].digest.is_some() {
                    continue;
                }
                match self.entries[at].op.inputs.get(input) {
                    Some(edge) => {
                        let Some(&source) = self.index.get(&edge.digest) else {
                            return Err(Error::MissingInput {
                                digest: edge.digest.clone(),
                            });
                        };
                        stack.push((at, input + 1));
                        if self.entries[source].digest.is_none() {
                            stack.push((source, 0));
                        }
                    }
                    None => self.finish(at, options)?,
                }
            }
        }
        Ok(())
    }

    /// All inputs of the entry have their digest.
    fn finish(&mut self, at: usize, options: &LoadOptions) -> Result<(), Error> {
        let inputs: Vec<String> = self.entries[at]
            .op
            .inputs
            .iter()
            .filter_map(|edge| self.index.get(&edge.digest))
            .filter_map(|&source| self.entries[source].digest.as_ref())
            .map(|digest| digest.as_str().to_owned())
            .collect();
        let entry = &mut self.entries[at];
        for (edge, digest) in entry.op.inputs.iter_mut().zip(inputs) {
            edge.digest = digest;
        }
        let mut bytes = op_bytes(&entry.op);
        if options.proxy_network && uses_proxy(&entry.op)? {
            bytes.extend_from_slice(PROXY_NETWORK_SUFFIX);
        }
        let digest = if bytes == entry.bytes {
            entry.original.clone()
        } else {
            Digest::of(&bytes)
        };
        entry.bytes = bytes::Bytes::new();
        entry.digest = Some(digest);
        Ok(())
    }
}

fn uses_proxy(op: &pb::Op) -> Result<bool, Error> {
    let Some(pb::op::Op::Exec(exec)) = &op.op else {
        return Ok(false);
    };
    match pb::NetMode::try_from(exec.network) {
        Ok(pb::NetMode::Unset | pb::NetMode::Host) => Ok(true),
        Ok(pb::NetMode::None) => Ok(false),
        Err(_) => Err(Error::ProxyNetwork { mode: exec.network }),
    }
}

/// Collects what the root needs, inputs first.
struct Linker {
    entries: Vec<Option<Entry>>,
    /// Recomputed digest to entry.
    index: HashMap<Digest, usize>,
    /// Entry to place in the graph.
    placed: Vec<Option<usize>>,
    vertices: Vec<Vertex>,
}

impl Linker {
    fn new(parsed: Parsed) -> Result<Self, Error> {
        let mut index = HashMap::with_capacity(parsed.entries.len());
        for (at, entry) in parsed.entries.iter().enumerate() {
            if at != parsed.last
                && let Some(digest) = &entry.digest
            {
                // Entries that differ only in encoding are one vertex; the first one's metadata counts.
                index.entry(digest.clone()).or_insert(at);
            }
        }
        let placed = vec![None; parsed.entries.len()];
        let entries = parsed.entries.into_iter().map(Some).collect();
        Ok(Self {
            entries,
            index,
            placed,
            vertices: Vec::new(),
        })
    }

    fn link(mut self, root: &pb::Input, options: &LoadOptions) -> Result<Graph, Error> {
        let start = self.find(&root.digest)?;
        let mut stack = vec![(start, 0)];
        while let Some((at, input)) = stack.pop() {
            let Some(entry) = &self.entries[at] else {
                continue; // placed already
            };
            if input == 0 {
                validate(&entry.op)?;
            }
            match entry.op.inputs.get(input) {
                Some(edge) => {
                    let source = self.find(&edge.digest)?;
                    stack.push((at, input + 1));
                    if self.placed[source].is_none() {
                        stack.push((source, 0));
                    }
                }
                None => self.place(at, options)?,
            }
        }
        let root = Edge {
            vertex: self.placed[start].unwrap_or_default(),
            output: usize::try_from(root.index).unwrap_or_default(),
        };
        Ok(Graph {
            vertices: self.vertices,
            root,
        })
    }

    fn find(&self, digest: &str) -> Result<usize, Error> {
        let known = digest
            .parse::<Digest>()
            .ok()
            .and_then(|digest| self.index.get(&digest));
        known.copied().ok_or_else(|| Error::MissingInput {
            digest: digest.to_owned(),
        })
    }

    fn place(&mut self, at: usize, options: &LoadOptions) -> Result<(), Error> {
        let Some(Entry {
            original,
            mut op,
            metadata,
            digest,
            ..
        }) = self.entries[at].take()
        else {
            return Ok(());
        };
        if options.check_caps {
            for id in metadata.caps.keys() {
                if !caps::supported(id) {
                    return Err(Error::Capability { id: id.to_owned() });
                }
            }
        }
        let mut inputs = Vec::with_capacity(op.inputs.len());
        for edge in &op.inputs {
            let source = self.find(&edge.digest)?;
            inputs.push(Edge {
                vertex: self.placed[source].unwrap_or_default(),
                output: usize::try_from(edge.index).unwrap_or_default(),
            });
        }
        normalize_platform(&mut op, &options.platform);
        let name = match metadata.description.get(CUSTOM_NAME) {
            Some(name) => name.clone(),
            None => default_name(&op, |input| {
                inputs
                    .get(input)
                    .map_or("", |edge| self.vertices[edge.vertex].name.as_str())
            }),
        };
        self.placed[at] = Some(self.vertices.len());
        let digest = digest.unwrap_or_else(|| original.clone());
        self.vertices.push(Vertex {
            digest,
            original,
            op,
            metadata,
            inputs,
            name,
        });
        Ok(())
    }
}

fn normalize_platform(op: &mut pb::Op, default: &Platform) {
    let given = op
        .platform
        .as_ref()
        .map_or_else(|| default.clone(), from_pb);
    op.platform = Some(to_pb(&given.normalized()));
}

/// A platform as ops carry it, unchanged.
pub(crate) fn to_pb(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

pub(crate) fn from_pb(platform: &pb::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}
