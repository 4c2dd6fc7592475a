//! A document as it is written, and what makes it valid.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::yaml;
use crate::spec;

/// Versions of the format there have been.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];

/// Devices of one kind.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "cdiVersion")]
    pub version: String,
    /// `vendor/class`.
    pub kind: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub devices: Vec<Device>,
    /// For containers with any of the devices.
    #[serde(default, rename = "containerEdits")]
    pub edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub name: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    pub edits: ContainerEdits,
}

/// What a container needs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ContainerEdits {
    pub env: Vec<String>,
    pub device_nodes: Vec<Node>,
    pub net_devices: Vec<NetDevice>,
    pub hooks: Vec<Hook>,
    pub mounts: Vec<Mount>,
    pub intel_rdt: Option<IntelRdt>,
    #[serde(deserialize_with = "numbers")]
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Node {
    pub path: PathBuf,
    #[serde(default)]
    pub host_path: Option<PathBuf>,
    #[serde(default, rename = "type")]
    pub kind: Option<char>,
    #[serde(default, deserialize_with = "number")]
    pub major: Option<u32>,
    #[serde(default, deserialize_with = "number")]
    pub minor: Option<u32>,
    #[serde(default, deserialize_with = "number")]
    pub file_mode: Option<u32>,
    #[serde(default)]
    pub permissions: Option<String>,
    #[serde(default, deserialize_with = "number")]
    pub uid: Option<u32>,
    #[serde(default, deserialize_with = "number")]
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NetDevice {
    pub host_interface_name: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Hook {
    pub hook_name: String,
    pub path: String,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default, deserialize_with = "number")]
    pub timeout: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Mount {
    pub host_path: String,
    pub container_path: String,
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct IntelRdt {
    #[serde(rename = "closID")]
    pub clos_id: String,
    pub l3_cache_schema: String,
    pub mem_bw_schema: String,
    pub schemata: Vec<String>,
    #[serde(deserialize_with = "flag")]
    pub enable_monitoring: bool,
}

impl From<IntelRdt> for spec::IntelRdt {
    fn from(rdt: IntelRdt) -> Self {
        Self {
            clos_id: rdt.clos_id,
            l3_cache_schema: rdt.l3_cache_schema,
            mem_bw_schema: rdt.mem_bw_schema,
            schemata: rdt.schemata,
            enable_monitoring: rdt.enable_monitoring,
        }
    }
}

impl Document {
    /// Reads a document and checks it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let value = yaml::parse(text)?.ok_or("no Spec data")?;
        let document: Self = serde_json::from_value(value).map_err(|err| err.to_string())?;
        document.check()?;
        Ok(document)
    }

    fn check(&self) -> Result<(), String> {
        let known = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let version = self.version.trim_start_matches('v');
        let has = known(version).ok_or_else(|| format!("invalid version {:?}", self.version))?;
        let needed = self.needs();
        if known(needed) > Some(has) {
            return Err(format!("the spec version must be at least v{needed}"));
        }
        let (vendor, class) = self.kind.split_once('/').unwrap_or(("", &self.kind));
        check_name(vendor, "._-", char::is_alphabetic)
            .map_err(|why| format!("invalid vendor: {why}"))?;
        check_name(class, "._-", char::is_alphabetic)
            .map_err(|why| format!("invalid class: {why}"))?;
        self.edits.check()?;
        for (at, device) in self.devices.iter().enumerate() {
            let failed = |why| format!("failed to add device {:?}: {why}", device.name);
            check_name(&device.name, "._-:", char::is_alphanumeric).map_err(failed)?;
            if device.edits == ContainerEdits::default() {
                return Err(failed("empty device edits".to_owned()));
            }
            device.edits.check().map_err(failed)?;
            if self
                .devices
                .iter()
                .take(at)
                .any(|it| it.name == device.name)
            {
                return Err(format!("multiple device {:?}", device.name));
            }
        }
        if self.devices.is_empty() {
            return Err("no devices".to_owned());
        }
        Ok(())
    }

    /// The version in which everything the document uses was there.
    fn needs(&self) -> &'static str {
        let all = || {
            let own = std::iter::once(&self.edits);
            own.chain(self.devices.iter().map(|device| &device.edits))
        };
        let newest_rdt = |rdt: &IntelRdt| !rdt.schemata.is_empty() || rdt.enable_monitoring;
        if all()
            .any(|it| !it.net_devices.is_empty() || it.intel_rdt.as_ref().is_some_and(newest_rdt))
        {
            return "1.1.0";
        }
        if all().any(|it| it.intel_rdt.is_some() || !it.additional_gids.is_empty()) {
            return "0.7.0";
        }
        let annotated = self
            .devices
            .iter()
            .any(|device| !device.annotations.is_empty());
        let dotted = self
            .kind
            .split_once('/')
            .is_some_and(|(_, class)| class.contains('.'));
        if annotated || !self.annotations.is_empty() || dotted {
            return "0.6.0";
        }
        let digit = |device: &Device| device.name.starts_with(|c: char| c.is_ascii_digit());
        let elsewhere =
            |it: &ContainerEdits| it.device_nodes.iter().any(|node| node.host_path.is_some());
        if self.devices.iter().any(digit) || all().any(elsewhere) {
            return "0.5.0";
        }
        if all().any(|it| it.mounts.iter().any(|mount| mount.kind.is_some())) {
            return "0.4.0";
        }
        "0.3.0"
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        let bad_variable = |list: &[String]| {
            let bad = list
                .iter()
                .find(|entry| entry.find('=').is_none_or(|at| at == 0));
            bad.map_or(Ok(()), |entry| {
                Err(format!("invalid environment variable {entry:?}"))
            })
        };
        bad_variable(&self.env)?;
        for node in &self.device_nodes {
            let path = node.path.display();
            if !node.path.is_absolute() {
                return Err(format!("invalid device path {path:?}"));
            }
            if node.kind.is_some_and(|kind| !"bcup".contains(kind)) {
                return Err(format!("device {path:?}: invalid type"));
            }
            if let Some(access) = &node.permissions
                && access.contains(|c| !"rwm".contains(c))
            {
                return Err(format!("device {path:?}: invalid permissions {access:?}"));
            }
        }
        for hook in &self.hooks {
            if spec::Hooks::default().of_mut(&hook.hook_name).is_none() {
                return Err(format!("invalid hook name {:?}", hook.hook_name));
            }
            bad_variable(&hook.env)?;
        }
        for mount in &self.mounts {
            if mount.host_path.is_empty() || !mount.container_path.starts_with('/') {
                let place = &mount.container_path;
                return Err(format!(
                    "invalid mount of {:?} at {place:?}",
                    mount.host_path
                ));
            }
        }
        Ok(())
    }
}

fn check_name(name: &str, marks: &str, first: fn(char) -> bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("empty name".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric();
    let begins = name.starts_with(|c: char| c.is_ascii() && first(c));
    if !begins || !name.ends_with(plain) {
        return Err(format!(
            "{name:?} should start and end with a letter or digit"
        ));
    }
    match name.chars().find(|&c| !plain(c) && !marks.contains(c)) {
        Some(bad) => Err(format!("invalid character {bad:?} in name {name:?}")),
        None => Ok(()),
    }
}

/// A number as people write it: decimal, hexadecimal, octal with or without `o`.
fn parse_number(text: &str) -> Option<u32> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).ok();
    }
    let octal = text.strip_prefix("0o").or_else(|| text.strip_prefix('0'));
    match octal {
        Some(digits) if !digits.is_empty() => u32::from_str_radix(digits, 8).ok(),
        _ => text.parse().ok(),
    }
}

fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(from)?;
    let number =
        parse_number(&text).ok_or_else(|| D::Error::custom(format!("invalid number {text:?}")));
    number.map(Some)
}

fn numbers<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let number = |text: &String| {
        parse_number(text).ok_or_else(|| D::Error::custom(format!("invalid number {text:?}")))
    };
    texts.iter().map(number).collect()
}

fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match String::deserialize(from)?.to_lowercase().as_str() {
        "true" | "yes" | "on" => Ok(true),
        "false" | "no" | "off" => Ok(false),
        other => Err(D::Error::custom(format!("invalid switch {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        Document::parse(text).map_or_else(|problem| problem, |_| "good".to_owned())
    }

    fn with(version: &str, kind: &str, rest: &str) -> String {
        problem(&format!("cdiVersion: {version}\nkind: {kind}\n{rest}"))
    }

    const ONE: &str = "devices: [{name: a, containerEdits: {env: [A=1]}}]\n";

    #[test]
    fn a_whole_document_is_read() {
        let document = Document::parse(
            r#"{"cdiVersion": "1.1.0", "kind": "v.com/gpu", "annotations": {"x": true},
            "devices": [{"name": "0", "containerEdits": {"deviceNodes":
            [{"path": "/dev/x", "hostPath": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438,
            "permissions": "rw", "uid": 1, "gid": 2}], "additionalGids": [5]}}],
            "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/h", "args": ["h"], "timeout": 3}],
            "mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["ro"]}],
            "intelRdt": {"closID": "c", "enableMonitoring": true}, "netDevices": [{"hostInterfaceName": "e", "name": "f"}]}}"#,
        )
        .expect("valid");
        let node = &document.devices[0].edits.device_nodes[0];
        assert_eq!(
            (node.kind, node.major, node.file_mode),
            (Some('c'), Some(1), Some(0o666))
        );
        assert_eq!(document.annotations["x"], "true");
        assert_eq!(document.edits.hooks[0].timeout, Some(3));
    }

    #[test]
    fn modes_are_octal_when_they_begin_with_a_zero() {
        assert_eq!(parse_number("0660"), Some(0o660));
        assert_eq!(parse_number("0o660"), Some(0o660));
        assert_eq!(parse_number("432"), Some(0o660));
        assert_eq!(
            (parse_number("0"), parse_number("0x10"), parse_number("-1")),
            (Some(0), Some(16), None)
        );
    }

    #[test]
    fn a_version_must_exist_and_have_what_is_used() {
        assert_eq!(with("0.6.0", "v/c", ONE), "good");
        assert_eq!(with("2.0.0", "v/c", ONE), "invalid version \"2.0.0\"");
        let late = |text: &str| with("0.3.0", "v/c", &format!("{ONE}{text}"));
        assert_eq!(
            late("annotations: {a: b}"),
            "the spec version must be at least v0.6.0"
        );
        assert_eq!(
            late("containerEdits: {additionalGids: [1]}"),
            "the spec version must be at least v0.7.0"
        );
        assert_eq!(
            late("containerEdits: {netDevices: [{hostInterfaceName: a, name: b}]}"),
            "the spec version must be at least v1.1.0"
        );
        assert_eq!(
            with("0.5.0", "v/c.d", ONE),
            "the spec version must be at least v0.6.0"
        );
    }

    #[test]
    fn names_and_edits_are_checked() {
        assert!(with("0.6.0", "c", ONE).starts_with("invalid vendor"));
        assert!(with("0.6.0", "v/-c", ONE).starts_with("invalid class"));
        assert_eq!(with("0.6.0", "v/c", "devices: []\n"), "no devices");
        assert!(with("0.6.0", "v/c", "devices: [{name: a}]\n").contains("empty device edits"));
        assert!(with("0.6.0", "v/c", "devicess: []\n").contains("unknown field"));
        let edits = |text: &str| with("0.6.0", "v/c", &format!("{ONE}containerEdits: {text}\n"));
        assert!(edits("{env: [A]}").contains("invalid environment variable"));
        assert!(edits("{hooks: [{hookName: x, path: /h}]}").contains("invalid hook name"));
        assert!(
            edits("{deviceNodes: [{path: /d, permissions: x}]}").contains("invalid permissions")
        );
        assert!(edits("{mounts: [{hostPath: '', containerPath: /a}]}").contains("invalid mount"));
    }
}
