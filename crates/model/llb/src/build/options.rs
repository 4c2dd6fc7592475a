//! What any op may be given besides what it does: names, groups, places, limits.

use std::borrow::Cow;
use std::sync::Arc;

use oci::Platform;
use proto::pb;
use smallvec::SmallVec;

use super::source_map::Location;

/// What can be said about any op without changing what it does.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Run on this platform instead of the state's.
    pub platform: Option<Arc<Platform>>,
    /// Free text by key; `llb.customname` is the name users see.
    pub description: pb::SmallMap<String>,
    /// Always run.
    pub ignore_cache: bool,
    /// Whether the op may go into exported caches.
    pub export_cache: Option<bool>,
    /// Shown as one line with others.
    pub group: Option<Arc<pb::ProgressGroup>>,
    /// Limits of a command.
    pub resources: Option<Arc<pb::LinuxResources>>,
    /// Worker filters.
    pub filters: Vec<String>,
    /// Where it was written.
    pub locations: SmallVec<[Location; 1]>,
}

impl Options {
    /// With the name users see.
    pub fn named(name: impl Into<String>) -> Self {
        Self::default().name(name)
    }

    /// Sets the name users see.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.describe("llb.customname", name)
    }

    /// Adds a description.
    pub fn describe(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.description.insert(key, value.into());
        self
    }

    /// Sets the platform.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(Arc::new(platform));
        self
    }

    /// Adds a place in a source file.
    pub fn at(mut self, location: Location) -> Self {
        self.locations.push(location);
        self
    }

    /// Puts the op into a progress group. Weak members do not make the group visible by starting.
    pub fn group(mut self, id: &str, name: &str, weak: bool) -> Self {
        let group = pb::ProgressGroup {
            id: id.to_owned(),
            name: name.to_owned(),
            weak,
        };
        self.group = Some(Arc::new(group));
        self
    }

    /// Always run, or not.
    pub fn ignore_cache(mut self, ignore: bool) -> Self {
        self.ignore_cache = ignore;
        self
    }
}
