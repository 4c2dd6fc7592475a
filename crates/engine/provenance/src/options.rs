//! What a client wants to have said about its results: `attest:provenance`, `attest:sbom`.

use std::collections::BTreeMap;

use oci::Reference;

use crate::Error;

type Attrs = BTreeMap<String, String>;

/// Which words a document uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// SLSA 0.2
    V02,
    /// SLSA 1
    #[default]
    V1,
}

impl Version {
    /// The URI of the predicate.
    pub fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// How much a document says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Nothing of what users pass to their builds.
    Min,
    /// Everything.
    #[default]
    Max,
}

/// How provenance is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// In which words.
    pub version: Version,
    /// How much of it. What is no mode is refused when the document is made.
    pub mode: Result<Mode, String>,
    /// Who built it.
    pub builder: String,
    /// The file it would be.
    pub filename: String,
    /// Whether somebody claims that building again gives the same.
    pub reproducible: bool,
    /// In images only.
    pub inline_only: bool,
    /// Fail when something the result was made of is not known.
    pub complete_materials: bool,
    /// Say what steps and the machine used.
    pub capture_usage: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::default(),
            mode: Ok(Mode::default()),
            builder: String::new(),
            filename: "provenance.json".to_owned(),
            reproducible: false,
            inline_only: false,
            complete_materials: false,
            capture_usage: false,
        }
    }
}

/// How a document about what is in the results is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sbom {
    /// The image that makes it.
    pub generator: String,
    /// What it is told.
    pub parameters: Attrs,
}

/// What is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Where results come from.
    pub provenance: Option<Options>,
    /// What is in them.
    pub sbom: Option<Sbom>,
}

impl Wanted {
    /// Reads the options of a frontend.
    pub fn parse(attrs: &Attrs) -> Result<Self, Error> {
        let mut kinds: BTreeMap<String, &str> = BTreeMap::new();
        for prefix in ["attest:", "build-arg:BUILDKIT_ATTEST_"] {
            for (key, value) in attrs {
                if let Some(kind) = key.strip_prefix(prefix) {
                    kinds.insert(kind.to_lowercase(), value);
                }
            }
        }
        let mut wanted = Self::default();
        for (kind, value) in &kinds {
            let fields = fields(kind, value)?;
            match kind.as_str() {
                "provenance" => wanted.provenance = Some(Options::parse(&fields)?),
                "sbom" => wanted.sbom = Some(Sbom::parse(fields)?),
                _ => {
                    let text = format!("unknown attestation type {kind:?}");
                    return Err(Error::Option(text));
                }
            }
        }
        Ok(wanted)
    }
}

/// `k=v,"k=v,v"`
fn fields(kind: &str, text: &str) -> Result<Attrs, Error> {
    if text.is_empty() {
        return Ok(Attrs::new());
    }
    let fields = dockerfile_syntax::csv::fields(text)
        .map_err(|err| Error::Option(format!("failed to parse {kind}: {err}")))?;
    let pair = |field: &String| {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        (key.to_owned(), value.to_owned())
    };
    Ok(fields.iter().map(pair).collect())
}

impl Options {
    fn parse(fields: &Attrs) -> Result<Self, Error> {
        let mut options = Self::default();
        let flag = |key: &str, value: &str| {
            export::parse_bool(key, value).map_err(|_| {
                Error::Option(format!(
                    "failed to parse {key} flag {value:?}: strconv.ParseBool: parsing {value:?}: invalid syntax"
                ))
            })
        };
        for (key, value) in fields {
            match key.as_str() {
                "version" => {
                    options.version = match value.as_str() {
                        "v1" => Version::V1,
                        "v0.2" => Version::V02,
                        "" => {
                            let text = "provenance SLSA version cannot be empty";
                            return Err(Error::Option(text.to_owned()));
                        }
                        other => {
                            let text = format!("invalid provenance SLSA version: {other}");
                            return Err(Error::Option(text));
                        }
                    }
                }
                "mode" => {
                    options.mode = match value.as_str() {
                        "max" | "full" => Ok(Mode::Max),
                        "min" => Ok(Mode::Min),
                        other => Err(other.to_owned()),
                    }
                }
                "builder-id" => options.builder.clone_from(value),
                "filename" => options.filename.clone_from(value),
                "reproducible" => options.reproducible = flag(key, value)?,
                "complete-materials" => options.complete_materials = flag(key, value)?,
                // Compat: what is no flag is no.
                "inline-only" => options.inline_only = flag(key, value).unwrap_or(false),
                "capture-usage" => options.capture_usage = flag(key, value).unwrap_or(false),
                _ => {}
            }
        }
        Ok(options)
    }

    /// How much is wanted.
    pub fn mode(&self) -> Result<Mode, Error> {
        let mode = self.mode.clone();
        mode.map_err(|mode| Error::Option(format!("invalid mode {mode:?}")))
    }
}

impl Sbom {
    fn parse(mut fields: Attrs) -> Result<Self, Error> {
        let generator = fields.remove("generator");
        let generator =
            generator.unwrap_or_else(|| "docker/buildkit-syft-scanner:stable-1".to_owned());
        if generator.is_empty() {
            let text = "sbom generator cannot be empty";
            return Err(Error::Option(text.to_owned()));
        }
        let reference = Reference::parse(&generator).map_err(|err| {
            Error::Option(format!("failed to parse sbom generator {generator}: {err}"))
        })?;
        Ok(Self {
            generator: reference.with_default_tag().to_string(),
            parameters: fields,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str, value: &str) -> Result<Wanted, String> {
        let attrs = Attrs::from([(key.to_owned(), value.to_owned())]);
        Wanted::parse(&attrs).map_err(|err| err.to_string())
    }

    #[test]
    fn what_buildx_asks_for_is_understood() {
        let wanted = parse("attest:provenance", "mode=min,inline-only=true").expect("options");
        let options = wanted.provenance.expect("provenance");
        assert_eq!(options.mode().ok(), Some(Mode::Min));
        assert!(options.inline_only);
        assert_eq!(options.version, Version::V1);
        let wanted = parse("build-arg:BUILDKIT_ATTEST_SBOM", "");
        let sbom = wanted.expect("options").sbom.expect("a document");
        assert_eq!(
            sbom.generator,
            "docker.io/docker/buildkit-syft-scanner:stable-1"
        );
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        for (key, value, wanted) in [
            ("attest:x", "", "unknown attestation type \"x\""),
            (
                "attest:sbom",
                "generator=",
                "sbom generator cannot be empty",
            ),
            (
                "attest:provenance",
                "version=v3",
                "invalid provenance SLSA version: v3",
            ),
        ] {
            assert_eq!(parse(key, value), Err(wanted.to_owned()));
        }
        let wanted = parse("attest:provenance", "mode=most").expect("options");
        let options = wanted.provenance.expect("provenance");
        let refused = options.mode().expect_err("refused").to_string();
        assert_eq!(refused, "invalid mode \"most\"");
    }

    #[test]
    fn fields_may_be_quoted() {
        let found = fields("sbom", "a=1,\"b=2,\"\"3\",c").expect("fields");
        let wanted = [("a", "1"), ("b", "2,\"3"), ("c", "")];
        let wanted = wanted.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(found, Attrs::from(wanted));
        let refused = fields("sbom", "a,\"").expect_err("refused").to_string();
        assert_eq!(
            refused,
            "failed to parse sbom: parse error on line 1, column 4: extraneous or missing \" in quoted-field"
        );
    }
}
