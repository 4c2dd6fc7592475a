//! Places of ops in the file they were written in.

use std::sync::Arc;

use bytes::Bytes;
use proto::pb;
use smallvec::SmallVec;

/// A source file that a graph was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceMap {
    /// How the file can be fetched again.
    pub definition: Option<pb::Definition>,
    /// Its name.
    pub filename: String,
    /// `Dockerfile`, …
    pub language: String,
    /// All of it.
    pub data: Bytes,
}

impl SourceMap {
    /// The message errors and warnings carry.
    pub fn info(&self) -> pb::SourceInfo {
        pb::SourceInfo {
            filename: self.filename.clone(),
            data: self.data.clone(),
            definition: self.definition.clone(),
            language: self.language.clone(),
        }
    }
}

/// Places in a source file.
#[derive(Debug, Clone)]
pub struct Location {
    /// The file.
    pub map: Arc<SourceMap>,
    /// The places.
    pub ranges: SmallVec<[pb::Range; 1]>,
}

/// Gathers the files that locations are in.
#[derive(Default)]
pub(super) struct Collector {
    maps: Vec<Arc<SourceMap>>,
}

impl Collector {
    /// The locations of an op as they are on the wire.
    pub(super) fn places(
        &mut self,
        locations: &[Location],
    ) -> impl ExactSizeIterator<Item = pb::Location> {
        locations.iter().map(|location| {
            let known = self
                .maps
                .iter()
                .position(|map| Arc::ptr_eq(map, &location.map) || **map == *location.map);
            let index = known.unwrap_or_else(|| {
                self.maps.push(location.map.clone());
                self.maps.len() - 1
            });
            pb::Location {
                source_index: i32::try_from(index).unwrap_or(i32::MAX),
                ranges: location.ranges.clone(),
            }
        })
    }

    /// The files, for ops to be placed in.
    pub(super) fn finish(self) -> pb::Source {
        pb::Source {
            infos: self.maps.iter().map(|map| map.info()).collect(),
            ..pb::Source::default()
        }
    }
}
