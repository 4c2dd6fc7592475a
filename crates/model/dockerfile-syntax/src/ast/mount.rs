//! `RUN --mount` and `RUN --device`: from the text of the flag to checked values.
//!
//! A mount is checked in two steps, as its values may hold variables: [`MountFlag`] is what parsing leaves,
//! [`MountFlag::resolve`] expands and checks when the instruction is reached.

use crate::case::lower;
use crate::csv::{self, CsvError};
use crate::{number, suggest};

/// Type of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountKind {
    /// Files of a stage, image or context.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret of the client.
    Secret,
    /// The ssh agent of the client.
    Ssh,
}

impl MountKind {
    const NAMES: [&'static str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

    /// The word used in `type=`.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    fn from_word(word: &str) -> Option<Self> {
        [
            Self::Bind,
            Self::Cache,
            Self::Tmpfs,
            Self::Secret,
            Self::Ssh,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == word)
    }

    fn has_required(self) -> bool {
        matches!(self, Self::Secret | Self::Ssh)
    }
}

impl std::fmt::Display for MountKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How several steps may use one cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// All at once.
    Shared,
    /// Each its own.
    Private,
    /// One after the other.
    Locked,
}

impl Sharing {
    const NAMES: [&'static str; 3] = ["shared", "private", "locked"];

    /// The word used in `sharing=`.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Shared, Self::Private, Self::Locked]
            .into_iter()
            .find(|mode| mode.as_str() == word)
    }
}

/// A mount with all values expanded and checked. Which fields mean something depends on `kind`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// Type.
    pub kind: MountKind,
    /// Stage, image or context; empty if not given.
    pub from: String,
    /// Path in `from`, or id of a secret.
    pub source: String,
    /// Path in the step; may be empty or relative.
    pub target: String,
    /// Whether the step may not write. The default depends on the type and is filled in.
    pub readonly: bool,
    /// Limit of a tmpfs in bytes; 0 if not given.
    pub size: i64,
    /// Id of a cache, secret or ssh socket.
    pub id: String,
    /// Sharing mode, if given.
    pub sharing: Option<Sharing>,
    /// Whether a missing secret or socket fails the step.
    pub required: bool,
    /// Variable a secret goes to; may be an empty name.
    pub env: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// Why a mount is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum MountError {
    #[error("failed to parse csv mounts: {0}")]
    Csv(CsvError),
    #[error("'from' doesn't support variable expansion, define alias stage instead")]
    VariableInFrom,
    #[error("invalid field '{0}' must be a key=value pair")]
    NoValue(String),
    #[error("unsupported mount type {}{hint}", crate::quote::go(.value))]
    Kind { value: String, hint: suggest::Hint },
    #[error("unsupported sharing value {}{hint}", crate::quote::go(.value))]
    Sharing { value: String, hint: suggest::Hint },
    #[error("unexpected key '{key}' in '{field}'{hint}")]
    Key {
        key: String,
        field: String,
        hint: suggest::Hint,
    },
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    KeyForKind { key: String, kind: MountKind },
    #[error("invalid value for {key}: {value}")]
    Value { key: String, value: String },
    #[error("invalid value {value} for {key}")]
    Number { key: &'static str, value: String },
    #[error("{key} not allowed for \"{kind}\" type mounts")]
    FileMode { key: &'static str, kind: MountKind },
    #[error("secret mount should not have a from")]
    SecretFrom,
    #[error("secret mount should not define sharing")]
    SecretSharing,
    #[error("invalid secret mount. one of source, target required")]
    SecretNameless,
    #[error("both source and id can't be set")]
    SecretSourceAndId,
    #[error("invalid cache sharing set for {0} mount")]
    SharingForKind(MountKind),
}

/// `--mount` as written, split into fields. Only `from` is final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFlag {
    fields: Vec<String>,
    from: String,
}

impl MountFlag {
    /// Splits the value of the flag. Fails for text that is no CSV line and for variables in `from`.
    pub fn parse(value: &str) -> Result<Self, MountError> {
        let fields = csv::fields(value).map_err(MountError::Csv)?;
        let mut from = String::new();
        for field in &fields {
            let Some((key, value)) = field.split_once('=') else {
                continue;
            };
            if key.eq_ignore_ascii_case("from") {
                // A `$` at the very end cannot start a variable.
                if value.find('$').is_some_and(|at| at + 1 != value.len()) {
                    return Err(MountError::VariableInFrom);
                }
                from = value.to_owned();
            }
        }
        Ok(Self { fields, from })
    }

    /// Stage, image or context; empty if not given. Known before anything is expanded.
    pub fn from(&self) -> &str {
        &self.from
    }

    /// The fields as written, in order.
    pub fn fields(&self) -> &[String] {
        &self.fields
    }

    /// Expands all values with `expand`, in order, and checks them.
    pub fn resolve<E: From<MountError>>(
        &self,
        mut expand: impl FnMut(&str) -> Result<String, E>,
    ) -> Result<Mount, E> {
        let mut mount = Mount::default();
        let mut readonly = None;
        for field in &self.fields {
            match field.split_once('=') {
                None => mount.set_bare(field, &mut readonly)?,
                Some((key, value)) => {
                    let value = expand(value)?;
                    mount.set(field, &lower(key), value, &mut readonly)?;
                }
            }
        }
        mount.readonly =
            readonly.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
        mount.check()?;
        Ok(mount)
    }
}

impl Mount {
    fn set_bare(&mut self, field: &str, readonly: &mut Option<bool>) -> Result<(), MountError> {
        let key = lower(field);
        match &*key {
            "readonly" | "ro" => *readonly = Some(true),
            "readwrite" | "rw" => *readonly = Some(false),
            "required" if self.kind.has_required() => self.required = true,
            "required" => {
                return Err(MountError::KeyForKind {
                    key: key.into_owned(),
                    kind: self.kind,
                });
            }
            _ => return Err(MountError::NoValue(field.to_owned())),
        }
        Ok(())
    }

    fn set(
        &mut self,
        field: &str,
        key: &str,
        value: String,
        readonly: &mut Option<bool>,
    ) -> Result<(), MountError> {
        let invalid = |value: &str| MountError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
        };
        let for_kind = |kind| MountError::KeyForKind {
            key: key.to_owned(),
            kind,
        };
        match key {
            "type" => {
                self.kind =
                    MountKind::from_word(&lower(&value)).ok_or_else(|| MountError::Kind {
                        hint: suggest::hint(&value, MountKind::NAMES, suggest::Case::Sensitive),
                        value,
                    })?;
            }
            "from" => self.from = value,
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => {
                *readonly = Some(fault::truth(&value).ok_or_else(|| invalid(&value))?)
            }
            "readwrite" | "rw" => {
                *readonly = Some(!fault::truth(&value).ok_or_else(|| invalid(&value))?)
            }
            "required" if self.kind.has_required() => {
                self.required = fault::truth(&value).ok_or_else(|| invalid(&value))?;
            }
            "required" => return Err(for_kind(self.kind)),
            "size" if self.kind == MountKind::Tmpfs => {
                self.size = number::ram_in_bytes(&value).ok_or_else(|| invalid(&value))?;
            }
            "size" => return Err(for_kind(self.kind)),
            "id" => self.id = value,
            "sharing" => {
                let mode =
                    Sharing::from_word(&lower(&value)).ok_or_else(|| MountError::Sharing {
                        hint: suggest::hint(&value, Sharing::NAMES, suggest::Case::Sensitive),
                        value,
                    })?;
                self.sharing = Some(mode);
            }
            "mode" => self.mode = Some(parse_u32("mode", value, 8)?),
            "uid" => self.uid = Some(parse_u32("uid", value, 10)?),
            "gid" => self.gid = Some(parse_u32("gid", value, 10)?),
            "env" => self.env = Some(value),
            _ => {
                return Err(MountError::Key {
                    hint: suggest::hint(key, MOUNT_KEYS, suggest::Case::Sensitive),
                    key: key.to_owned(),
                    field: field.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), MountError> {
        let kind = self.kind;
        if matches!(kind, MountKind::Bind | MountKind::Tmpfs) {
            for (key, value) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if value.is_some() {
                    return Err(MountError::FileMode { key, kind });
                }
            }
        }
        if kind == MountKind::Secret {
            if !self.from.is_empty() {
                return Err(MountError::SecretFrom);
            }
            if self.sharing.is_some() {
                return Err(MountError::SecretSharing);
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return Err(MountError::SecretNameless);
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return Err(MountError::SecretSourceAndId);
            }
        }
        if self.sharing.is_some() && kind != MountKind::Cache {
            return Err(MountError::SharingForKind(kind));
        }
        Ok(())
    }
}

const MOUNT_KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

fn parse_u32(key: &'static str, value: String, radix: u32) -> Result<u32, MountError> {
    number::go_uint(&value, radix)
        .and_then(|number| u32::try_from(number).ok())
        .ok_or(MountError::Number { key, value })
}

/// `--device`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Name of the device; may be empty.
    pub name: String,
    /// Whether a missing device fails the step.
    pub required: bool,
}

/// Why a device is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the texts say it")]
pub enum DeviceError {
    #[error("failed to parse csv devices: {0}")]
    Csv(CsvError),
    #[error("invalid field '{0}' must be a key=value pair")]
    NoValue(String),
    #[error("device name already set to {0}")]
    NameTwice(String),
    #[error("invalid value for {key}: {value}")]
    Value { key: String, value: String },
    #[error("unexpected key '{key}' in '{field}'{hint}")]
    Key {
        key: String,
        field: String,
        hint: suggest::Hint,
    },
}

impl Device {
    /// Reads the value of the flag: `NAME`, or fields `name=` and `required`.
    pub fn parse(value: &str) -> Result<Self, DeviceError> {
        let mut device = Self::default();
        for field in csv::fields(value).map_err(DeviceError::Csv)? {
            match field.split_once('=') {
                None if field.eq_ignore_ascii_case("required") => device.required = true,
                None if device.name.is_empty() => device.name = field,
                None => return Err(DeviceError::NoValue(field)),
                Some((key, value)) => match &*lower(key) {
                    "name" if !device.name.is_empty() => {
                        return Err(DeviceError::NameTwice(device.name));
                    }
                    "name" => device.name = value.to_owned(),
                    key @ "required" => {
                        device.required =
                            fault::truth(value).ok_or_else(|| DeviceError::Value {
                                key: key.to_owned(),
                                value: value.to_owned(),
                            })?;
                    }
                    // A CDI name holds `=` itself.
                    _ if device.name.is_empty() => device.name = field,
                    key => {
                        return Err(DeviceError::Key {
                            hint: suggest::hint(
                                key,
                                ["name", "required"],
                                suggest::Case::Sensitive,
                            ),
                            key: key.to_owned(),
                            field: field.clone(),
                        });
                    }
                },
            }
        }
        Ok(device)
    }
}
