//! Places of ops in the file they were written in.

use std::sync::Arc;

use bytes::Bytes;
use proto::pb;

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
    pub ranges: Arc<[pb::Range]>,
}

/// Gathers the locations of all ops.
#[derive(Default)]
pub(super) struct Collector {
    maps: Vec<Arc<SourceMap>>,
    source: pb::Source,
}

impl Collector {
    pub(super) fn add(&mut self, digest: &str, locations: &[Location]) {
        if !self.source.locations.contains_key(digest) {
            self.source
                .locations
                .insert(digest.to_owned(), pb::Locations::default());
        }
        for location in locations {
            let known = self
                .maps
                .iter()
                .position(|map| Arc::ptr_eq(map, &location.map) || **map == *location.map);
            let index = known.unwrap_or_else(|| {
                self.maps.push(location.map.clone());
                self.maps.len() - 1
            });
            if let Some(entry) = self.source.locations.get_mut(digest) {
                entry.locations.push(pb::Location {
                    source_index: i32::try_from(index).unwrap_or(i32::MAX),
                    ranges: location.ranges.to_vec(),
                });
            }
        }
    }

    pub(super) fn finish(mut self) -> pb::Source {
        self.source.infos = self.maps.iter().map(|map| map.info()).collect();
        self.source
    }
}
