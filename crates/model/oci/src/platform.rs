//! Platforms: parsing, printing, normalising. Which platform can run another's images is in [`matching`](crate::Matcher).

mod matching;

use std::fmt;
use std::str::FromStr;

use fault::{Class, Classify};
use serde::{Deserialize, Serialize};

pub use matching::Matcher;

/// What an image runs on. Field order is the order in which upstream writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`, …
    #[serde(default)]
    pub os: String,
    /// Windows build.
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Windows features.
    #[serde(rename = "os.features", default, skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// `v7`, …
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// A text that names no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}: invalid argument")]
pub struct PlatformError {
    /// What was given.
    pub text: String,
    problem: String,
}

impl PlatformError {
    fn new(text: &str, problem: impl FnOnce() -> String) -> Self {
        Self {
            text: text.to_owned(),
            problem: problem(),
        }
    }
}

impl Classify for PlatformError {
    fn class(&self) -> Class {
        Class::User
    }
}

impl Platform {
    /// What this machine runs natively.
    pub fn host() -> Self {
        Self {
            architecture: host_architecture().to_owned(),
            os: host_os().to_owned(),
            ..Self::default()
        }
        .normalized()
    }

    /// Reads a platform as a user typed it. Aliases are replaced, but a variant that was left out or given stays so;
    /// see [`Platform::normalized`].
    pub fn parse(text: &str) -> Result<Self, PlatformError> {
        if text.contains('*') {
            return Err(PlatformError::new(text, || {
                format!("{text:?}: wildcards not yet supported")
            }));
        }
        let mut parts = text.splitn(4, '/');
        let first = parts.next().unwrap_or_default();
        let mut platform = parse_os(text, first)?;
        let rest: Vec<&str> = parts.collect();
        for part in &rest {
            check_component(text, part)?;
        }
        match rest.as_slice() {
            [] if is_known_os(&platform.os) => {
                host_architecture().clone_into(&mut platform.architecture);
            }
            [] => {
                platform.set_architecture(first, "");
                if !is_known_architecture(&platform.architecture) {
                    return Err(PlatformError::new(text, || {
                        format!("{text:?}: unknown operating system or architecture")
                    }));
                }
                host_os().clone_into(&mut platform.os);
            }
            [architecture] => platform.set_architecture(architecture, ""),
            [architecture, variant] => {
                platform.set_architecture(architecture, variant);
                if platform.architecture == "arm" && platform.variant.is_empty() {
                    "v7".clone_into(&mut platform.variant);
                }
                if platform.architecture == "arm64" && platform.variant.is_empty() {
                    "v8".clone_into(&mut platform.variant);
                }
            }
            _ => {
                return Err(PlatformError::new(text, || {
                    format!("{text:?}: cannot parse platform specifier")
                }));
            }
        }
        Ok(platform)
    }

    /// Sets both in their canonical spelling; `arm` gets no variant unless it is an uncommon one.
    fn set_architecture(&mut self, architecture: &str, variant: &str) {
        let (architecture, variant) =
            normalize_architecture(&architecture.to_lowercase(), &variant.to_lowercase());
        self.variant = if architecture == "arm" && variant == "v7" {
            String::new()
        } else {
            variant
        };
        self.architecture = architecture;
    }

    /// The canonical spelling: lower case, aliases replaced, default variants dropped.
    #[must_use]
    pub fn normalized(&self) -> Self {
        let (architecture, variant) = normalize_architecture(
            &self.architecture.to_lowercase(),
            &self.variant.to_lowercase(),
        );
        let mut os_features = self.os_features.clone();
        os_features.sort();
        os_features.dedup();
        Self {
            architecture,
            os: normalize_os(&self.os),
            os_version: self.os_version.clone(),
            os_features,
            variant,
        }
    }

    /// Without version and features of the operating system: `windows/amd64`.
    pub fn short(&self) -> String {
        let plain = Self {
            os_version: String::new(),
            os_features: Vec::new(),
            ..self.clone()
        };
        plain.to_string()
    }
}

fn host_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// The form of an operating system with its options, for the error text.
const OS_PATTERN: &str =
    r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$";

/// `os[(version[+feature…])]`
fn parse_os(text: &str, part: &str) -> Result<Platform, PlatformError> {
    let invalid = || {
        PlatformError::new(text, || {
            format!(
                "{part:?} is an invalid OS component of {text:?}: OSAndVersion specifier component must match \
                 \"{OS_PATTERN}\""
            )
        })
    };
    let (os, options) = match part.split_once('(') {
        Some((os, rest)) => (os, rest.strip_suffix(')').ok_or_else(invalid)?),
        None => (part, ""),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let option = |byte: u8| plain(byte) || matches!(byte, b'.' | b'%');
    let mut pieces = options.split('+');
    let version = pieces.next().unwrap_or_default();
    let features: Vec<&str> = pieces.collect();
    let valid = !os.is_empty()
        && os.bytes().all(plain)
        && version.bytes().all(option)
        && features
            .iter()
            .all(|feature| !feature.is_empty() && feature.bytes().all(option));
    if !valid {
        return Err(invalid());
    }
    Ok(Platform {
        os: normalize_os(os),
        os_version: unescape(version).ok_or_else(invalid)?,
        os_features: features
            .into_iter()
            .map(|feature| unescape(feature).ok_or_else(invalid))
            .collect::<Result<_, _>>()?,
        ..Platform::default()
    })
}

fn check_component(text: &str, part: &str) -> Result<(), PlatformError> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if !part.is_empty() && part.bytes().all(valid) {
        return Ok(());
    }
    Err(PlatformError::new(text, || {
        format!(
            "{part:?} is an invalid component of {text:?}: platform specifier component must match \
             \"^[A-Za-z0-9_.-]+$\""
        )
    }))
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        bytes.push(u8::from_str_radix(rest.get(at + 1..at + 3)?, 16).ok()?);
        rest = &rest[at + 3..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

/// Makes an option of the operating system safe to print between its brackets.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '(' => out.push_str("%28"),
            ')' => out.push_str("%29"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '%' => out.push_str("%25"),
            other => out.push(other),
        }
    }
    out
}

fn is_known_os(os: &str) -> bool {
    matches!(
        os,
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "hurd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "nacl"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "windows"
            | "zos"
    )
}

fn is_known_architecture(architecture: &str) -> bool {
    const KNOWN: [&str; 24] = [
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "armbe",
        "arm64",
        "arm64be",
        "ppc64",
        "ppc64le",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "ppc",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
    ];
    KNOWN.contains(&architecture)
}

fn normalize_os(os: &str) -> String {
    match os.to_lowercase().as_str() {
        "" => host_os().to_owned(),
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    }
}

fn normalize_architecture(architecture: &str, variant: &str) -> (String, String) {
    let (architecture, variant) = match (architecture, variant) {
        ("i386", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
        ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (architecture.to_owned(), variant.to_owned())
}

/// Prints everything: `windows(10.0.17763+feature)/amd64`. This is also the id of a platform in results.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.os.is_empty() {
            return f.write_str("unknown");
        }
        f.write_str(&self.os)?;
        if !self.os_version.is_empty() || !self.os_features.is_empty() {
            write!(f, "({}", escape(&self.os_version))?;
            for feature in &self.os_features {
                write!(f, "+{}", escape(feature))?;
            }
            f.write_str(")")?;
        }
        for part in [&self.architecture, &self.variant] {
            if !part.is_empty() {
                write!(f, "/{part}")?;
            }
        }
        Ok(())
    }
}

/// Parses and normalises.
impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        Ok(Self::parse(text)?.normalized())
    }
}
