//! What any op may be given besides what it does: names, groups, places, limits.

use std::borrow::Cow;

use oci::Platform;
use proto::pb;
use smallvec::SmallVec;

use super::source_map::Location;

/// What can be said about any op without changing what it does.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Run on this platform instead of the state's.
    pub platform: Option<Platform>,
    /// Free text by key, each key once; `llb.customname` is the name users see.
    pub description: Vec<(Cow<'static, str>, String)>,
    /// Always run.
    pub ignore_cache: bool,
    /// Whether the op may go into exported caches.
    pub export_cache: Option<bool>,
    /// Shown as one line with others.
    pub group: Option<pb::ProgressGroup>,
    /// Limits of a command.
    pub resources: Option<pb::LinuxResources>,
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
        let (key, value) = (key.into(), value.into());
        match self.description.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => {
                self.description.reserve_exact(1);
                self.description.push((key, value));
            }
        }
        self
    }

    /// Sets the platform.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// Adds a place in a source file.
    pub fn at(mut self, location: Location) -> Self {
        self.locations.push(location);
        self
    }

    /// Puts the op into a progress group. Weak members do not make the group visible by starting.
    pub fn group(mut self, id: &str, name: &str, weak: bool) -> Self {
        self.group = Some(pb::ProgressGroup {
            id: id.to_owned(),
            name: name.to_owned(),
            weak,
        });
        self
    }

    /// Always run, or not.
    pub fn ignore_cache(mut self, ignore: bool) -> Self {
        self.ignore_cache = ignore;
        self
    }
}
