//! The config of an image: an object of which we understand some keys and keep all.

use std::collections::BTreeMap;

use fault::{Class, Classify};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::history::History;
use crate::{Digest, Platform, Timestamp, json};

/// An image config. Keys that are not replaced keep the text of their values.
#[derive(Debug, Clone)]
pub struct ImageConfig {
    keys: BTreeMap<String, Box<RawValue>>,
}

/// The layers of an image, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first. Compat: none is written as `null`.
    #[serde(default)]
    pub diff_ids: Option<Vec<Digest>>,
}

/// Why a text is no image config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is no JSON object, or a value has the wrong type.
    #[error("failed to parse image config")]
    Json(#[source] serde_json::Error),
    /// It is `null`.
    #[error("invalid null image config for export")]
    Null,
    /// It does not say which operating system the image is for.
    #[error("invalid image config for export: missing os")]
    Os,
    /// It does not say which architecture the image is for.
    #[error("invalid image config for export: missing architecture")]
    Architecture,
}

impl Classify for ConfigError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl ImageConfig {
    /// Reads a config.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let keys: Option<_> = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        Ok(Self {
            keys: keys.ok_or(ConfigError::Null)?,
        })
    }

    /// What an image for `platform` has when nobody says anything.
    pub fn default_for(platform: &Platform, path: &str) -> Result<Self, ConfigError> {
        let mut config = Self {
            keys: BTreeMap::new(),
        };
        let mut set = |key: &str, value: &str| {
            if value.is_empty() {
                return Ok(());
            }
            config.set(key, &value)
        };
        set("architecture", &platform.architecture)?;
        set("os", &platform.os)?;
        set("os.version", &platform.os_version)?;
        set("variant", &platform.variant)?;
        if !platform.os_features.is_empty() {
            config.set("os.features", &platform.os_features)?;
        }
        let inner = serde_json::json!({"Env": [format!("PATH={path}")], "WorkingDir": "/"});
        config.set("config", &inner)?;
        config.set_rootfs(Vec::new())?;
        Ok(config)
    }

    fn get<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        match self.keys.get(key) {
            Some(value) => serde_json::from_str(value.get()).map_err(ConfigError::Json),
            None => Ok(None),
        }
    }

    fn set(&mut self, key: &str, value: &impl Serialize) -> Result<(), ConfigError> {
        let raw = json::compact(value)
            .and_then(|bytes| serde_json::from_slice(&bytes))
            .map_err(ConfigError::Json)?;
        self.keys.insert(key.to_owned(), raw);
        Ok(())
    }

    /// What the image is for; both parts must be there.
    pub fn platform(&self) -> Result<Platform, ConfigError> {
        let text = |key| Ok::<String, ConfigError>(self.get(key)?.unwrap_or_default());
        let platform = Platform {
            architecture: text("architecture")?,
            os: text("os")?,
            os_version: text("os.version")?,
            os_features: self.get("os.features")?.unwrap_or_default(),
            variant: text("variant")?,
        };
        if platform.os.is_empty() {
            return Err(ConfigError::Os);
        }
        if platform.architecture.is_empty() {
            return Err(ConfigError::Architecture);
        }
        Ok(platform)
    }

    /// When the image was made.
    pub fn created(&self) -> Result<Option<Timestamp>, ConfigError> {
        self.get("created")
    }

    /// Whether the key is there at all.
    pub fn has_created(&self) -> bool {
        self.keys.contains_key("created")
    }

    /// Sets when the image was made; `None` writes `null`.
    pub fn set_created(&mut self, created: Option<Timestamp>) -> Result<(), ConfigError> {
        self.set("created", &created)
    }

    /// How the image was made.
    pub fn history(&self) -> Result<Vec<History>, ConfigError> {
        Ok(self.get("history")?.unwrap_or_default())
    }

    /// Replaces the history.
    pub fn set_history(&mut self, history: &[History]) -> Result<(), ConfigError> {
        let before = self.keys.get("history");
        let was_list = before.is_some_and(|value| value.get() != "null");
        // Compat: an empty history stays what it was, a list or nothing.
        if history.is_empty() && !was_list {
            return self.set("history", &None::<()>);
        }
        self.set("history", &history)
    }

    /// Digests of the uncompressed layers, lowest first.
    pub fn diff_ids(&self) -> Result<Vec<Digest>, ConfigError> {
        let rootfs: Option<RootFs> = self.get("rootfs")?;
        Ok(rootfs
            .and_then(|rootfs| rootfs.diff_ids)
            .unwrap_or_default())
    }

    /// Replaces the layers.
    pub fn set_rootfs(&mut self, diff_ids: Vec<Digest>) -> Result<(), ConfigError> {
        let rootfs = RootFs {
            kind: "layers".to_owned(),
            diff_ids: (!diff_ids.is_empty()).then_some(diff_ids),
        };
        self.set("rootfs", &rootfs)
    }

    /// Adds the inline cache: a JSON document, stored as base64 text by the caller's choice of `value`.
    pub fn set_inline_cache(&mut self, value: Option<&str>) -> Result<(), ConfigError> {
        const KEY: &str = "moby.buildkit.cache.v0";
        match value {
            Some(value) => self.set(KEY, &value),
            None => {
                self.keys.remove(KEY);
                Ok(())
            }
        }
    }

    /// The bytes its digest is made of.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = String::from("{");
        for (key, value) in &self.keys {
            if out.len() > 1 {
                out.push(',');
            }
            let key = serde_json::Value::from(key.as_str()).to_string();
            out.push_str(&json::compact_text(&key));
            out.push(':');
            out.push_str(&json::compact_text(value.get()));
        }
        out.push('}');
        out.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(config: &ImageConfig) -> String {
        String::from_utf8(config.to_bytes()).expect("text")
    }

    #[test]
    fn unknown_keys_stay_and_all_are_sorted() {
        let mut config = ImageConfig::parse(
            br#"{"zz": 1.0, "os": "linux", "config": {"b": "<x>", "a": [ 1 ]}, "architecture": "arm"}"#,
        )
        .expect("a config");
        config.set_rootfs(Vec::new()).expect("set");
        config.set_created(None).expect("set");
        assert_eq!(
            text(&config),
            r#"{"architecture":"arm","config":{"b":"\u003cx\u003e","a":[1]},"created":null,"os":"linux","rootfs":{"type":"layers","diff_ids":null},"zz":1.0}"#
        );
    }

    #[test]
    fn a_config_must_say_what_it_is_for() {
        let error = |text: &str| {
            ImageConfig::parse(text.as_bytes())
                .and_then(|config| config.platform())
                .expect_err("incomplete")
                .to_string()
        };
        assert_eq!(error("null"), "invalid null image config for export");
        assert_eq!(error("{}"), "invalid image config for export: missing os");
        assert_eq!(
            error(r#"{"os":"linux"}"#),
            "invalid image config for export: missing architecture"
        );
    }

    #[test]
    fn the_default_has_a_path_and_a_folder_to_work_in() {
        let platform = "linux/arm/v6".parse().expect("a platform");
        let config = ImageConfig::default_for(&platform, "/bin").expect("a config");
        assert_eq!(
            text(&config),
            r#"{"architecture":"arm","config":{"Env":["PATH=/bin"],"WorkingDir":"/"},"os":"linux","rootfs":{"type":"layers","diff_ids":null},"variant":"v6"}"#
        );
    }
}
