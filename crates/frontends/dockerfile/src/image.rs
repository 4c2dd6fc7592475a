//! The image config as the Dockerfile frontend reads and writes it: OCI's, with Docker's additions.
//!
//! The order of the fields is the order in which upstream writes them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use oci::{Platform, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::Error;

/// What every history entry of ours carries.
pub(crate) const HISTORY_COMMENT: &str = "buildkit.dockerfile.v0";

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Image {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Timestamp>,
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) author: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) architecture: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) os: String,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub(crate) os_version: String,
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) os_features: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) variant: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) rootfs: RootFs,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) history: Vec<Entry>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) config: Config,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct RootFs {
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) diff_ids: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct History {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) created: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) created_by: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) author: String,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub(crate) comment: Cow<'static, str>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) empty_layer: bool,
}

/// An entry of the history. Stages share what their bases did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry(Arc<History>);

impl From<History> for Entry {
    fn from(history: History) -> Self {
        Self(Arc::new(history))
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        History::deserialize(deserializer).map(Self::from)
    }
}

/// A set as Go writes it: `{"a":{}}`.
pub(crate) type Set = BTreeMap<String, Nothing>;

/// Written as `{}`; whatever is read is ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Nothing {}

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Config {
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) user: String,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) exposed_ports: Set,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) env: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) entrypoint: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) cmd: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) volumes: Set,
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) working_dir: String,
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(
        default,
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) stop_signal: String,
    #[serde(
        default,
        skip_serializing_if = "is_false",
        deserialize_with = "or_default"
    )]
    pub(crate) args_escaped: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<Healthcheck>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) on_build: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) shell: Vec<String>,
}

/// Durations in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Healthcheck {
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub(crate) test: Vec<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) interval: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) timeout: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) start_period: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) start_interval: i64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) retries: i64,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// `null` counts as nothing.
fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Image {
    /// What `FROM scratch` starts with.
    pub(crate) fn empty(platform: &Platform) -> Self {
        let mut image = Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            variant: platform.variant.clone(),
            ..Self::default()
        };
        image.rootfs.kind = "layers".to_owned();
        image.config.working_dir = "/".to_owned();
        if platform.os != "windows" {
            image.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        image
    }

    /// The platform the image says it is for.
    pub(crate) fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Takes over a platform.
    pub(crate) fn set_platform(&mut self, platform: Platform) {
        self.architecture = platform.architecture;
        self.os = platform.os;
        self.os_version = platform.os_version;
        self.os_features = platform.os_features;
        self.variant = platform.variant;
    }

    /// Whether there is nothing but the config.
    pub(crate) fn has_no_layers(&self) -> bool {
        self.rootfs.diff_ids.as_ref().is_none_or(Vec::is_empty)
            && self.history.iter().all(|entry| entry.0.empty_layer)
    }

    /// The variables, split at their first `=`.
    pub(crate) fn env(&self) -> impl Iterator<Item = (&str, &str)> {
        self.config
            .env
            .iter()
            .map(|line| line.split_once('=').unwrap_or((line, "")))
    }

    /// Replaces a variable in place, or adds it.
    pub(crate) fn set_env(&mut self, key: &str, value: &str) {
        let line = [key, "=", value].concat();
        let known = self
            .config
            .env
            .iter_mut()
            .find(|line| line.split_once('=').map_or(line.as_str(), |(name, _)| name) == key);
        match known {
            Some(known) => *known = line,
            None => self.config.env.push(line),
        }
    }

    /// Refuses times that JSON cannot say. Compat: Go's words.
    pub(crate) fn check_times(&self) -> Result<(), Error> {
        // What cannot be read again is in no year of four digits.
        let sayable = |time: Timestamp| time.to_string().parse::<Timestamp>().is_ok();
        let steps = self.history.iter().filter_map(|step| step.0.created);
        if self.created.into_iter().chain(steps).all(sayable) {
            return Ok(());
        }
        Err(Error::Says(
            "json: error calling MarshalJSON for type *time.Time: Time.MarshalJSON: year outside of range [0,9999]",
        ))
    }

    /// JSON as Go writes it.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // Nothing in it can fail to be written: all keys are texts.
        oci::json::compact(self).unwrap_or_default()
    }
}

pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_null_fields_do_not_disturb() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Memory":1},"x":2,"history":null}"#;
        let image: Image = serde_json::from_str(text).expect("a config");
        assert_eq!(
            String::from_utf8(image.to_json()).expect("text"),
            r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"","diff_ids":null},"config":{}}"#
        );
    }

    #[test]
    fn years_have_four_digits() {
        let said = |seconds| {
            let step = History {
                created: Some(Timestamp::from_seconds(seconds)),
                ..History::default()
            };
            let image = Image {
                history: vec![step.into()],
                ..Image::default()
            };
            image.check_times().map_err(|err| err.to_string())
        };
        for seconds in [-62_167_219_200, 0, 253_402_300_799] {
            assert_eq!(said(seconds), Ok(()));
        }
        for seconds in [-62_167_219_201, 253_402_300_800, i64::MAX] {
            assert_eq!(
                said(seconds).expect_err("refused"),
                "json: error calling MarshalJSON for type *time.Time: Time.MarshalJSON: year outside of range [0,9999]"
            );
        }
    }

    #[test]
    fn markup_is_escaped_as_go_does() {
        let mut image = Image::default();
        image.config.cmd = vec!["<&>".to_owned()];
        let text = String::from_utf8(image.to_json()).expect("text");
        assert!(text.contains(r#""Cmd":["\u003c\u0026\u003e"]"#), "{text}");
    }

    #[test]
    fn variables_are_replaced_in_place() {
        let mut image = Image::default();
        for (key, value) in [("A", "1"), ("B", "2"), ("A", "3")] {
            image.set_env(key, value);
        }
        assert_eq!(image.config.env, ["A=3", "B=2"]);
    }
}
