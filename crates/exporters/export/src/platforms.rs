//! Which platforms a result is for.

use oci::Platform;
use serde::Deserialize;

use crate::{Error, Input};

const KEY: &str = "refs.platforms";
const CONFIG: &str = "containerimage.config";

/// The result for one platform.
#[derive(Clone)]
pub struct Part {
    /// `linux/amd64`
    pub id: String,
    /// The same, parsed.
    pub platform: Platform,
    /// `None`: scratch.
    pub result: Option<cache::Ref>,
}

#[derive(Deserialize)]
struct Platforms {
    #[serde(rename = "Platforms", default)]
    platforms: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

#[derive(Deserialize)]
struct ConfigPlatform {
    #[serde(flatten)]
    platform: Platform,
}

impl Input {
    /// Whether the frontend gave results by platform rather than a single one.
    pub fn is_map(&self) -> bool {
        !self.platforms.is_empty()
    }

    /// The results, in the order of the frontend's list of platforms. A single result has one part.
    pub fn parts(&self) -> Result<Vec<Part>, Error> {
        if self.is_map() {
            if !self.metadata.contains_key(KEY) {
                return Err(Error::user(
                    "unable to export multiple refs, missing platforms mapping",
                ));
            }
            let part = |one: &crate::PlatformResult| Part {
                id: one.id.clone(),
                platform: one.platform.clone(),
                result: one.result.clone(),
            };
            return Ok(self.platforms.iter().map(part).collect());
        }
        let mut listed = self.listed()?;
        if listed.len() > 1 {
            return Err(Error::user(
                "unable to export multiple platforms without map",
            ));
        }
        let (id, platform) = match listed.pop() {
            Some(entry) => (entry.id, entry.platform),
            None => {
                let platform = self.platform_of_config()?;
                (platform.to_string(), platform)
            }
        };
        Ok(vec![Part {
            id,
            platform,
            result: self.single.clone().flatten(),
        }])
    }

    fn listed(&self) -> Result<Vec<Entry>, Error> {
        let Some(json) = self.metadata.get(KEY) else {
            return Ok(Vec::new());
        };
        let parsed: Option<Platforms> = serde_json::from_slice(json).map_err(|err| {
            Error::user(format!(
                "failed to parse platforms passed to provenance processor: {err}"
            ))
        })?;
        let entries = parsed.and_then(|it| it.platforms).unwrap_or_default();
        if entries.is_empty() {
            return Err(Error::user("invalid empty platforms index for exporter"));
        }
        for entry in &entries {
            if entry.id.is_empty() {
                return Err(Error::user("invalid empty platform key for exporter"));
            }
            if entry.platform.os.is_empty() || entry.platform.architecture.is_empty() {
                let platform = &entry.platform;
                return Err(Error::user(format!(
                    "invalid platform value {platform} for exporter"
                )));
            }
        }
        Ok(entries)
    }

    /// What the config says, else this machine.
    fn platform_of_config(&self) -> Result<Platform, Error> {
        let Some(config) = self.metadata.get(CONFIG) else {
            return Ok(Platform::host());
        };
        let parsed: Option<ConfigPlatform> = serde_json::from_slice(config)
            .map_err(|err| Error::user(format!("failed to parse image config: {err}")))?;
        // A config that is null says nothing; whoever needs it refuses it.
        let platform = parsed.map(|it| it.platform).unwrap_or_default();
        match (platform.os.is_empty(), platform.architecture.is_empty()) {
            (false, false) => Ok(platform.normalized()),
            (true, true) => Ok(Platform::host()),
            _ => Err(Error::user(
                "invalid image config: os and architecture must be specified together",
            )),
        }
    }

    /// A value of the frontend's metadata for one platform; what is said for the platform comes first.
    pub fn metadata_for(&self, key: &str, platform: &str) -> Option<&bytes::Bytes> {
        let own = self.metadata.get(&format!("{key}/{platform}"));
        own.or_else(|| self.metadata.get(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(pairs: &[(&str, &str)]) -> Input {
        let mut input = Input {
            single: Some(None),
            ..Input::default()
        };
        for (key, value) in pairs {
            let value = bytes::Bytes::copy_from_slice(value.as_bytes());
            input.metadata.insert((*key).to_owned(), value);
        }
        input
    }

    fn ids(input: &Input) -> Result<Vec<String>, String> {
        let parts = input.parts().map_err(|err| err.message)?;
        Ok(parts.into_iter().map(|part| part.id).collect())
    }

    #[test]
    fn a_single_result_is_for_what_the_frontend_says() {
        let listed = r#"{"Platforms":[{"ID":"linux/arm/v7","Platform":{"architecture":"arm","os":"linux","variant":"v7"}}]}"#;
        assert_eq!(
            ids(&input(&[(KEY, listed)])),
            Ok(vec!["linux/arm/v7".to_owned()])
        );
        let config = r#"{"architecture":"aarch64","os":"linux","rootfs":{}}"#;
        assert_eq!(
            ids(&input(&[(CONFIG, config)])),
            Ok(vec!["linux/arm64".to_owned()])
        );
        assert_eq!(ids(&input(&[])), Ok(vec![Platform::host().to_string()]));
    }

    #[test]
    fn half_a_platform_is_refused() {
        assert_eq!(
            ids(&input(&[(CONFIG, r#"{"os":"linux"}"#)])),
            Err("invalid image config: os and architecture must be specified together".to_owned())
        );
        assert_eq!(
            ids(&input(&[(KEY, r#"{"Platforms":[]}"#)])),
            Err("invalid empty platforms index for exporter".to_owned())
        );
    }
}
