//! The document: what is known about a result, in the words of SLSA.

use std::collections::BTreeMap;
use std::sync::Arc;

use oci::{Descriptor, Timestamp};
use proto::gojson::Order;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::Error;
use crate::capture::Capture;
use crate::materials::Material;
use crate::options::{Mode, Options, Version};
use crate::request::{ConfigSource, Local, Parameters, Requested};
use crate::steps::{Places, Steps, Told};

/// What kind of build this was, in either version.
const TYPE_1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const TYPE_02: &str = "https://mobyproject.org/buildkit@v1";

/// What the machine says about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Environment {
    /// What it is: `linux/amd64`.
    pub platform: String,
    /// Version of the built-in frontend.
    pub dockerfile_version: String,
    /// What its owner wants to have said.
    pub custom: BTreeMap<String, Value>,
}

/// When something was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Which build it was.
    pub id: String,
    /// When it began.
    pub started: Timestamp,
    /// When it was done.
    pub finished: Timestamp,
}

/// Blobs of the layers of each output of a step; a step may have made several chains.
pub type Layers = BTreeMap<String, Vec<Vec<Descriptor>>>;

/// A document that only lacks the time.
#[derive(Debug, Clone)]
pub struct Predicate {
    version: Version,
    builder: String,
    reproducible: bool,
    materials: Vec<Material>,
    config_source: ConfigSource,
    request: Parameters,
    environment: Map<String, Value>,
    steps: Option<Arc<Steps>>,
    vcs: BTreeMap<String, String>,
    places: Option<Arc<Places>>,
    layers: Layers,
    usage: Vec<Value>,
    hermetic: bool,
    request_complete: bool,
    materials_complete: bool,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    vcs: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a Places>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    layers: &'a Layers,
    #[serde(rename = "sysUsage", skip_serializing_if = "<[Value]>::is_empty")]
    usage: &'a [Value],
}

#[derive(Serialize)]
struct Id<'a> {
    id: &'a str,
}

/// Version 1.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct V1<'a> {
    build_definition: Definition<'a>,
    run_details: RunDetails<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Definition<'a> {
    build_type: &'static str,
    #[serde(skip_serializing_if = "<[Material]>::is_empty")]
    resolved_dependencies: &'a [Material],
    external_parameters: External<'a>,
    internal_parameters: BTreeMap<&'a str, Internal<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct External<'a> {
    config_source: &'a ConfigSource,
    request: &'a Parameters,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Internal<'a> {
    Fact(Value),
    Steps(Told<'a>),
}

#[derive(Serialize)]
struct RunDetails<'a> {
    builder: Id<'a>,
    metadata: RunMetadata<'a>,
}

#[derive(Serialize)]
struct RunMetadata<'a> {
    #[serde(rename = "invocationId")]
    invocation_id: String,
    #[serde(rename = "startedOn")]
    started_on: String,
    #[serde(rename = "finishedOn")]
    finished_on: String,
    #[serde(rename = "buildkit_metadata")]
    metadata: Metadata<'a>,
    #[serde(rename = "buildkit_hermetic", skip_serializing_if = "is_false")]
    hermetic: bool,
    #[serde(rename = "buildkit_completeness")]
    completeness: Value,
    #[serde(rename = "buildkit_reproducible", skip_serializing_if = "is_false")]
    reproducible: bool,
}

/// Version 0.2.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct V02<'a> {
    builder: Id<'a>,
    build_type: &'static str,
    #[serde(skip_serializing_if = "<[Material]>::is_empty")]
    materials: &'a [Material],
    invocation: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_config: Option<Told<'a>>,
    metadata: Metadata02<'a>,
}

#[derive(Serialize)]
struct Metadata02<'a> {
    #[serde(rename = "buildInvocationID")]
    id: String,
    #[serde(rename = "buildStartedOn")]
    started: String,
    #[serde(rename = "buildFinishedOn")]
    finished: String,
    completeness: Value,
    reproducible: bool,
    #[serde(rename = "https://mobyproject.org/buildkit@v1#metadata")]
    metadata: Metadata<'a>,
    #[serde(
        rename = "https://mobyproject.org/buildkit@v1#hermetic",
        skip_serializing_if = "is_false"
    )]
    hermetic: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

impl Predicate {
    /// The document about a captured result.
    pub fn new(
        capture: &Capture,
        options: &Options,
        environment: &Environment,
    ) -> Result<Self, Error> {
        let mode = options.mode()?;
        let materials = capture.sources.materials()?;
        let materials_complete = !capture.incomplete && capture.sources.local.is_empty();
        if options.complete_materials && !materials_complete {
            return Err(incomplete(capture));
        }
        let asked = &capture.request;
        let requested = Requested::new(&asked.frontend, asked.args.clone(), &capture.sources);
        let mut request = asked.clone();
        request.args = requested.request.args;
        let mut vcs = BTreeMap::new();
        request.args.retain(|key, value| {
            let Some(name) = key.strip_prefix("vcs:") else {
                return true;
            };
            if !value.is_empty() {
                let value = if name == "source" {
                    source::redacted(value)
                } else {
                    value.clone()
                };
                vcs.insert(name.to_owned(), value);
            }
            false
        });
        let locals = capture.sources.local.iter();
        request
            .locals
            .extend(locals.map(|name| Local { name: name.clone() }));
        let mut request_complete = !asked.frontend.is_empty();
        if mode == Mode::Min && request.scrub() {
            request_complete = false;
        }
        let mut around: BTreeMap<String, Value> = environment.custom.clone();
        if request.frontend == "dockerfile.v0" && !environment.dockerfile_version.is_empty() {
            let version = json!(environment.dockerfile_version);
            around.insert("dockerfileVersion".to_owned(), version);
        }
        let platform = match options.version {
            Version::V1 => "builderPlatform",
            Version::V02 => "platform",
        };
        around.insert(platform.to_owned(), json!(environment.platform));
        Ok(Self {
            version: options.version,
            builder: options.builder.clone(),
            reproducible: options.reproducible,
            materials,
            config_source: requested.config_source,
            request,
            environment: around.into_iter().collect(),
            steps: None,
            vcs,
            places: None,
            layers: Layers::new(),
            usage: Vec::new(),
            hermetic: materials_complete && !capture.network,
            request_complete,
            materials_complete,
        })
    }

    /// Adds how the result is made, step by step.
    pub fn add_steps(
        &mut self,
        definition: &proto::pb::Definition,
        steps: &Arc<Steps>,
    ) -> Result<(), Error> {
        self.steps = Some(steps.clone());
        self.places = steps.places(definition)?.map(Arc::new);
        Ok(())
    }

    /// Adds the layers of outputs of steps.
    pub fn set_layers(&mut self, layers: Layers) {
        self.layers = layers;
    }

    /// Adds what the machine did meanwhile.
    pub fn set_usage(&mut self, usage: Vec<Value>) {
        self.usage = usage;
    }

    /// Adds whose behaviour was wanted.
    pub fn set_compatibility(&mut self, version: u32) {
        self.request.compatibility_version = Some(version);
    }

    /// The URI of its type.
    pub fn predicate_type(&self) -> &'static str {
        self.version.predicate_type()
    }

    /// The document, indented.
    pub fn document(&self, run: &Run) -> Result<Vec<u8>, Error> {
        let document = match self.version {
            Version::V1 => oci::json::compact(&self.v1(run))?,
            Version::V02 => oci::json::compact(&self.v02(run)?)?,
        };
        // The steps are texts already, which do not break into lines by themselves.
        Ok(oci::json::indented_text(&String::from_utf8_lossy(
            &document,
        )))
    }

    fn metadata(&self) -> Metadata<'_> {
        Metadata {
            vcs: &self.vcs,
            source: self.places.as_deref(),
            layers: &self.layers,
            usage: &self.usage,
        }
    }

    fn v1(&self, run: &Run) -> V1<'_> {
        // Compat: these are written by way of maps, so all keys are in order.
        let around = self.environment.iter();
        let mut internal: BTreeMap<&str, Internal<'_>> = around
            .map(|(key, value)| {
                let value = export::attestation::sorted(value.clone());
                (key.as_str(), Internal::Fact(value))
            })
            .collect();
        if let Some(steps) = &self.steps {
            internal.insert("buildConfig", Internal::Steps(steps.told(Order::Sorted)));
        }
        V1 {
            build_definition: Definition {
                build_type: TYPE_1,
                resolved_dependencies: &self.materials,
                external_parameters: External {
                    config_source: &self.config_source,
                    request: &self.request,
                },
                internal_parameters: internal,
            },
            run_details: RunDetails {
                builder: Id { id: &self.builder },
                metadata: RunMetadata {
                    invocation_id: run.id.clone(),
                    started_on: run.started.to_string(),
                    finished_on: run.finished.to_string(),
                    metadata: self.metadata(),
                    hermetic: self.hermetic,
                    completeness: json!({
                        "request": self.request_complete,
                        "resolvedDependencies": self.materials_complete,
                    }),
                    reproducible: self.reproducible,
                },
            },
        }
    }

    fn v02(&self, run: &Run) -> Result<V02<'_>, Error> {
        let mut source = serde_json::to_value(&self.config_source)?;
        if let Some(source) = source.as_object_mut()
            && let Some(path) = source.remove("path")
        {
            source.insert("entryPoint".to_owned(), path);
        }
        Ok(V02 {
            builder: Id { id: &self.builder },
            build_type: TYPE_02,
            materials: &self.materials,
            invocation: json!({
                "configSource": source,
                "parameters": self.request,
                "environment": self.environment,
            }),
            build_config: self.steps.as_ref().map(|it| it.told(Order::Declared)),
            metadata: Metadata02 {
                id: run.id.clone(),
                started: run.started.to_string(),
                finished: run.finished.to_string(),
                completeness: json!({
                    "parameters": self.request_complete,
                    "environment": true,
                    "materials": self.materials_complete,
                }),
                reproducible: self.reproducible,
                metadata: self.metadata(),
                hermetic: self.hermetic,
            },
        })
    }
}

fn incomplete(capture: &Capture) -> Error {
    let mut text = "provenance materials are incomplete\n\nThe build requested complete provenance materials, but not all \
                    dependencies could be captured."
        .to_owned();
    let locals = capture.sources.local.clone();
    if !locals.is_empty() {
        text.push_str("\n\nUncaptured local sources:");
    }
    for name in &locals {
        let shown = if name.is_empty() { "<unnamed>" } else { name };
        text.push_str(&format!("\n  - {shown}\n    reason: local_source"));
    }
    Error::Incomplete { text, locals }
}

#[cfg(test)]
mod tests {
    use oci::Platform;

    use super::*;
    use crate::capture::ImageSource;

    fn capture() -> Capture {
        let mut capture = Capture::default();
        capture.request.frontend = "dockerfile.v0".to_owned();
        let args = [("filename", "Dockerfile.base"), ("build-arg:A", "b")];
        let owned = args.map(|(key, value)| (key.to_owned(), value.to_owned()));
        capture.request.args = BTreeMap::from(owned);
        capture.add_image(ImageSource {
            name: "localhost:39517/library/busybox:latest".to_owned(),
            platform: Platform::parse("linux/amd64").ok(),
            digest: format!("sha256:{}", "53".repeat(32)),
            local: false,
        });
        capture.add_local("dockerfile");
        capture.add_local("context");
        capture.finish().expect("finished");
        capture
    }

    fn document(fields: &[(&str, &str)], capture: &Capture) -> String {
        let fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let attrs = BTreeMap::from([("attest:provenance".to_owned(), fields.join(","))]);
        let wanted = crate::Wanted::parse(&attrs).expect("options");
        let environment = Environment {
            platform: "linux/amd64".to_owned(),
            dockerfile_version: "1.26.0".to_owned(),
            custom: BTreeMap::new(),
        };
        let options = wanted.provenance.expect("provenance");
        let mut predicate = Predicate::new(capture, &options, &environment).expect("made");
        predicate.set_compatibility(30);
        let run = Run {
            id: "run".to_owned(),
            started: Timestamp::from_seconds(0),
            finished: Timestamp::from_seconds(1),
        };
        let document = predicate.document(&run).expect("written");
        let value: Value = serde_json::from_slice(&document).expect("JSON");
        serde_json::to_string(&value).expect("JSON")
    }

    #[test]
    fn version_1_is_written_in_upstreams_order() {
        assert_eq!(
            document(&[("mode", "min")], &capture()),
            format!(
                concat!(
                    r#"{{"buildDefinition":{{"buildType":"{}","resolvedDependencies":[{{"uri":"#,
                    r#""pkg:docker/localhost%3A39517/library/busybox@latest?platform=linux%2Famd64","#,
                    r#""digest":{{"sha256":"{}"}}}}],"externalParameters":{{"configSource":{{"path":"Dockerfile.base"}},"#,
                    r#""request":{{"frontend":"dockerfile.v0","locals":[{{"name":"context"}},{{"name":"dockerfile"}}],"#,
                    r#""compatibilityVersion":30}}}},"internalParameters":{{"builderPlatform":"linux/amd64","#,
                    r#""dockerfileVersion":"1.26.0"}}}},"runDetails":{{"builder":{{"id":""}},"metadata":{{"#,
                    r#""invocationId":"run","startedOn":"1970-01-01T00:00:00Z","finishedOn":"1970-01-01T00:00:01Z","#,
                    r#""buildkit_metadata":{{}},"buildkit_completeness":{{"request":false,"#,
                    r#""resolvedDependencies":false}}}}}}}}"#
                ),
                TYPE_1,
                "53".repeat(32)
            )
        );
    }

    #[test]
    fn version_02_says_the_same_in_other_words() {
        let text = document(&[("version", "v0.2"), ("builder-id", "me")], &capture());
        let start = r#"{"builder":{"id":"me"},"buildType":"https://mobyproject.org/buildkit@v1","materials":[{"uri":"#;
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains(r#""configSource":{"entryPoint":"Dockerfile.base"}"#));
        assert!(
            text.contains(
                r#""environment":{"dockerfileVersion":"1.26.0","platform":"linux/amd64"}"#
            )
        );
        assert!(text.ends_with(concat!(
            r#""completeness":{"parameters":true,"environment":true,"materials":false},"reproducible":false,"#,
            r#""https://mobyproject.org/buildkit@v1#metadata":{}}}"#
        )));
    }

    #[test]
    fn who_wants_everything_known_hears_what_is_not() {
        let options = Options {
            complete_materials: true,
            ..Options::default()
        };
        let refused = Predicate::new(&capture(), &options, &Environment::default());
        let text = refused.expect_err("refused").to_string();
        assert!(text.ends_with(
            "Uncaptured local sources:\n  - context\n    reason: local_source\n  - dockerfile\n    reason: local_source"
        ));
    }

    #[test]
    fn hints_about_the_repository_are_no_options() {
        let mut capture = capture();
        let hint = ("vcs:source".to_owned(), "https://u:p@h/r.git".to_owned());
        capture.request.args.extend([hint]);
        let text = document(&[], &capture);
        assert!(
            text.contains(
                r#""buildkit_metadata":{"vcs":{"source":"https://xxxxx:xxxxx@h/r.git"}}"#
            )
        );
        assert!(!text.contains("vcs:source"));
    }
}
