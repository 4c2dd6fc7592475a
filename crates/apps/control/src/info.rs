//! What the daemon says about itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use executor::cdi::{Listed, Registry};
use oci::Platform;
use proto::{pb, types};

/// Version of the daemon.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// Name of the software.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The commit it was made of.
    pub revision: String,
    /// Version of the built-in Dockerfile frontend.
    pub dockerfile_version: String,
}

impl Package {
    pub(crate) fn message(&self) -> types::BuildkitVersion {
        types::BuildkitVersion {
            package: self.package.clone(),
            version: self.version.clone(),
            revision: self.revision.clone(),
            dockerfile_version: self.dockerfile_version.clone(),
        }
    }
}

/// A garbage collection rule as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcRule {
    /// Internal records as well.
    pub all: bool,
    /// Nanoseconds.
    pub keep_duration: i64,
    /// Which records.
    pub filters: Vec<String>,
    /// Bytes never pruned below.
    pub reserved_space: i64,
    /// Bytes the cache may use.
    pub max_used_space: i64,
    /// Bytes to keep free.
    pub min_free_space: i64,
}

/// The worker as it is shown.
#[derive(Debug, Clone, Default)]
pub struct WorkerRecord {
    /// Random, kept in the state directory.
    pub id: String,
    /// Facts about executor, network and snapshots.
    pub labels: BTreeMap<String, String>,
    /// What it runs, native first.
    pub platforms: Vec<Platform>,
    /// Garbage collection rules in order.
    pub gc: Vec<GcRule>,
    /// Devices of the host that steps may ask for; none when that is switched off.
    pub devices: Option<Arc<Registry>>,
}

impl WorkerRecord {
    /// Everything. Blocking: looks which devices there are.
    pub(crate) fn message(&self, package: &Package) -> types::WorkerRecord {
        let devices = self.devices.as_ref();
        let devices = devices.map_or_else(Vec::new, |devices| devices.known().list());
        types::WorkerRecord {
            cdi_devices: devices.into_iter().map(device).collect(),
            buildkit_version: Some(package.message()),
            gc_policy: self.gc.iter().map(gc_rule).collect(),
            ..self.short()
        }
    }

    /// Id, labels and platforms only.
    pub(crate) fn short(&self) -> types::WorkerRecord {
        types::WorkerRecord {
            id: self.id.clone(),
            labels: self.labels.clone(),
            platforms: self.platforms.iter().map(platform).collect(),
            ..types::WorkerRecord::default()
        }
    }

    /// Whether one of the filters (`id==X`, `labels.KEY==V`, joined by commas) lets the worker pass.
    pub(crate) fn matches(&self, filters: &[String]) -> Result<bool, String> {
        if filters.is_empty() {
            return Ok(true);
        }
        let mut any = false;
        for filter in filters {
            any |= self.matches_one(filter)?;
        }
        Ok(any)
    }

    fn matches_one(&self, filter: &str) -> Result<bool, String> {
        for term in filter.split(',').filter(|term| !term.is_empty()) {
            let (field, wanted, equal) = if let Some((field, value)) = term.split_once("==") {
                (field, value, true)
            } else if let Some((field, value)) = term.split_once("!=") {
                (field, value, false)
            } else {
                return Err(format!("invalid filter {filter:?}"));
            };
            let wanted = wanted.trim_matches('"');
            let actual = match field {
                "id" => Some(self.id.as_str()),
                _ => field
                    .strip_prefix("labels.")
                    .and_then(|key| self.labels.get(key.trim_matches('"')))
                    .map(String::as_str),
            };
            if (actual == Some(wanted)) != equal {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn device(device: Listed) -> types::CdiDevice {
    types::CdiDevice {
        name: device.name,
        auto_allow: device.auto_allow,
        annotations: device.annotations,
        on_demand: false,
    }
}

fn gc_rule(rule: &GcRule) -> types::GcPolicy {
    types::GcPolicy {
        all: rule.all,
        keep_duration: rule.keep_duration,
        filters: rule.filters.clone(),
        reserved_space: rule.reserved_space,
        max_used_space: rule.max_used_space,
        min_free_space: rule.min_free_space,
    }
}

pub(crate) fn platform(platform: &Platform) -> pb::Platform {
    pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        os_version: platform.os_version.clone(),
        os_features: platform.os_features.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_found_by_id_and_label() {
        let worker = WorkerRecord {
            id: "w".into(),
            labels: BTreeMap::from([("org.x/y".into(), "z".into())]),
            ..WorkerRecord::default()
        };
        let matches = |filter: &str| worker.matches(&[filter.to_owned()]);
        assert_eq!(matches("id==w"), Ok(true));
        assert_eq!(matches("id==w,labels.org.x/y==q"), Ok(false));
        assert_eq!(matches("labels.\"org.x/y\"==z"), Ok(true));
        assert!(matches("id=w").is_err());
    }
}
