//! Going on from a graph that was written before.

use std::collections::HashMap;
use std::sync::Arc;

use oci::{Digest, Platform};
use proto::pb;
use smallvec::SmallVec;

use super::node::{Kind, Node, Output};
use super::options::Options;
use super::source_map::{Location, SourceMap};
use super::state::State;
use crate::Error;
use crate::encode::decode;

impl State {
    /// The tree a definition describes. Its ops keep their bytes, metadata and locations.
    pub fn from_definition(definition: &pb::Definition) -> Result<Self, Error> {
        let Some((terminal, ops)) = definition.def.split_last() else {
            return Ok(Self::scratch());
        };
        let maps = source_maps(definition);
        let mut nodes: HashMap<String, (Arc<Node>, Option<Platform>)> = HashMap::new();
        for bytes in ops {
            let op = decode(bytes)?;
            let digest = Digest::of(bytes).as_str().to_owned();
            let inputs = op.inputs.iter().map(|input| {
                let (node, _) = nodes
                    .get(&input.digest)
                    .ok_or_else(|| Error::MissingInput {
                        digest: input.digest.clone(),
                    })?;
                Ok(Output::new(node.clone(), output_index(input)?))
            });
            let inputs = inputs.collect::<Result<Vec<_>, Error>>()?;
            let metadata = definition
                .metadata
                .get(digest.as_str())
                .cloned()
                .unwrap_or_default();
            let kind = Kind::Written {
                bytes: bytes.clone(),
                inputs,
                metadata: Box::new(metadata),
            };
            let locations = locations(definition, &digest, &maps);
            let options = Options {
                locations,
                ..Options::default()
            };
            let platform = op.platform.as_ref().map(crate::graph::from_pb);
            nodes.insert(digest, (Arc::new(Node { kind, options }), platform));
        }
        let terminal = decode(terminal)?;
        let Some(root) = terminal.inputs.first() else {
            return Err(Error::NoRoot);
        };
        let (node, platform) = nodes.get(&root.digest).ok_or_else(|| Error::MissingInput {
            digest: root.digest.clone(),
        })?;
        let state = Self::of(node.clone(), output_index(root)?);
        Ok(match platform {
            Some(platform) => state.platform(platform.clone()),
            None => state,
        })
    }
}

fn output_index(input: &pb::Input) -> Result<u32, Error> {
    u32::try_from(input.index).map_err(|_| Error::OutputIndex {
        input: 0,
        index: input.index,
    })
}

fn source_maps(definition: &pb::Definition) -> Vec<Arc<SourceMap>> {
    let infos = definition.source.iter().flat_map(|source| &source.infos);
    let map = |info: &pb::SourceInfo| {
        Arc::new(SourceMap {
            definition: info.definition.clone(),
            filename: info.filename.clone(),
            language: info.language.clone(),
            data: info.data.clone(),
        })
    };
    infos.map(map).collect()
}

fn locations(
    definition: &pb::Definition,
    digest: &str,
    maps: &[Arc<SourceMap>],
) -> SmallVec<[Location; 1]> {
    let Some(found) = definition
        .source
        .as_ref()
        .and_then(|source| source.locations.get(digest))
    else {
        return SmallVec::new();
    };
    let locations = found.locations.iter().filter_map(|location| {
        let map = maps.get(usize::try_from(location.source_index).ok()?)?;
        Some(Location {
            map: map.clone(),
            ranges: location.ranges.clone(),
        })
    });
    locations.collect()
}
