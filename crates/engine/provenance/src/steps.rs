//! The steps of a build, numbered: `step0` needs nothing, the last one is the result.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use oci::Digest;
use prost::Message as _;
use proto::pb;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::Error;

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Step {
    id: String,
    op: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
    #[serde(rename = "resourceUsage", skip_serializing_if = "Option::is_none")]
    usage: Option<Value>,
}

/// The steps of a definition and what they are called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Steps {
    steps: Arc<Vec<Step>>,
    numbers: BTreeMap<String, usize>,
}

/// The steps of a build as documents have them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildConfig {
    #[serde(
        rename = "llbDefinition",
        serialize_with = "shared",
        skip_serializing_if = "is_empty"
    )]
    steps: Arc<Vec<Step>>,
    #[serde(rename = "digestMapping", skip_serializing_if = "BTreeMap::is_empty")]
    names: BTreeMap<String, String>,
}

fn shared<S: Serializer>(steps: &[Step], to: S) -> Result<S::Ok, S::Error> {
    steps.serialize(to)
}

fn is_empty(steps: &[Step]) -> bool {
    steps.is_empty()
}

/// Which lines of which files the steps come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Places {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    locations: BTreeMap<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    infos: Vec<File>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct File {
    #[serde(skip_serializing_if = "String::is_empty")]
    filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(flatten)]
    config: BuildConfig,
}

impl Steps {
    /// Numbers the steps of a definition in the order in which they can run.
    pub fn new(definition: &pb::Definition) -> Result<Self, Error> {
        let mut ops = HashMap::with_capacity(definition.def.len());
        let mut last = None;
        for bytes in &definition.def {
            let mut op = pb::Op::decode(bytes.as_ref())
                .map_err(|_| Error::Definition("failed to parse llb proto op"))?;
            if let Some(pb::op::Op::Source(source)) = &mut op.op {
                source.attrs.remove("local.session");
                source.attrs.remove("local.unique");
            }
            let digest = Digest::of(bytes).to_string();
            ops.insert(digest.clone(), op);
            last = Some(digest);
        }
        let mut made = Self::default();
        let Some(last) = last else { return Ok(made) };
        let head = ops.get(&last).filter(|op| op.op.is_none());
        if head.is_none_or(|op| op.inputs.len() != 1) {
            return Err(Error::Definition("invalid last vertex"));
        }
        made.walk(&ops, last)?;
        Ok(made)
    }

    /// Inputs first, without recursion: chains may be long.
    fn walk(&mut self, ops: &HashMap<String, pb::Op>, last: String) -> Result<(), Error> {
        let mut stack = vec![(last, 0)];
        while let Some((digest, next)) = stack.pop() {
            if self.numbers.contains_key(&digest) {
                continue;
            }
            let op = ops.get(&digest);
            let op = op.ok_or(Error::Definition("failed to find input"))?;
            if let Some(input) = op.inputs.get(next) {
                if stack.len() > ops.len() {
                    return Err(Error::Definition("a step that needs itself"));
                }
                stack.push((digest, next + 1));
                stack.push((input.digest.clone(), 0));
                continue;
            }
            self.add(digest, op.clone())?;
        }
        Ok(())
    }

    fn add(&mut self, digest: String, mut op: pb::Op) -> Result<(), Error> {
        let inputs = std::mem::take(&mut op.inputs);
        let inputs = inputs.iter().map(|input| {
            let number = self.numbers.get(&input.digest).copied().unwrap_or(0);
            format!("step{number}:{}", input.index)
        });
        let number = self.steps.len();
        Arc::make_mut(&mut self.steps).push(Step {
            id: format!("step{number}"),
            inputs: inputs.collect(),
            usage: None,
            op: serde_json::from_str(&proto::gojson::to_string(&op))?,
        });
        self.numbers.insert(digest, number);
        Ok(())
    }

    /// Adds what steps used, by their digests.
    pub fn add_usage(&mut self, usage: &BTreeMap<String, Value>) {
        let steps = Arc::make_mut(&mut self.steps);
        for (digest, number) in &self.numbers {
            if let Some(step) = steps.get_mut(*number) {
                step.usage = usage.get(digest).cloned();
            }
        }
    }

    /// What an output of a step is called: `step3:0`.
    pub fn output(&self, digest: &Digest, index: u32) -> Option<String> {
        let number = self.numbers.get(digest.as_str())?;
        Some(format!("step{number}:{index}"))
    }

    /// The steps as documents have them.
    pub fn config(&self) -> BuildConfig {
        let names = self.numbers.iter();
        BuildConfig {
            steps: self.steps.clone(),
            names: names
                .map(|(digest, number)| (digest.clone(), format!("step{number}")))
                .collect(),
        }
    }

    /// Where in which files the steps of `definition` are; nothing if nobody says.
    pub fn places(&self, definition: &pb::Definition) -> Result<Option<Places>, Error> {
        let source = definition.source.as_ref();
        let Some(source) = source.filter(|source| !source.infos.is_empty()) else {
            return Ok(None);
        };
        let mut infos = Vec::with_capacity(source.infos.len());
        for info in &source.infos {
            let steps = match &info.definition {
                Some(definition) => Self::new(definition)?,
                None => Self::default(),
            };
            infos.push(File {
                filename: info.filename.clone(),
                language: info.language.clone(),
                data: base64::engine::general_purpose::STANDARD.encode(&info.data),
                config: steps.config(),
            });
        }
        let mut locations = BTreeMap::new();
        for (digest, places) in &source.locations {
            let Some(number) = self.numbers.get(digest) else {
                continue;
            };
            let places = serde_json::from_str(&proto::gojson::to_string(places))?;
            locations.insert(format!("step{number}"), places);
        }
        Ok(Some(Places { locations, infos }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(inputs: &[&Digest], source: &str) -> pb::Op {
        let inputs = inputs.iter().map(|digest| pb::Input {
            digest: digest.to_string(),
            index: 0,
        });
        let source = (!source.is_empty()).then(|| {
            pb::op::Op::Source(pb::SourceOp {
                identifier: source.to_owned(),
                attrs: BTreeMap::from([("local.session".to_owned(), "x".to_owned())]),
            })
        });
        pb::Op {
            inputs: inputs.collect(),
            op: source,
            ..pb::Op::default()
        }
    }

    fn definition(ops: &[pb::Op]) -> pb::Definition {
        pb::Definition {
            def: ops.iter().map(|op| op.encode_to_vec().into()).collect(),
            ..pb::Definition::default()
        }
    }

    #[test]
    fn steps_are_numbered_in_the_order_they_can_run() {
        let first = op(&[], "local://a");
        let first_digest = Digest::of(first.encode_to_vec());
        let last = op(&[&first_digest], "");
        let steps = Steps::new(&definition(&[first, last])).expect("steps");
        let config = serde_json::to_value(steps.config()).expect("JSON");
        let wanted = serde_json::json!([
            {"id": "step0", "op": {"Op": {"source": {"identifier": "local://a"}}}},
            {"id": "step1", "op": {"Op": {}}, "inputs": ["step0:0"]},
        ]);
        assert_eq!(config["llbDefinition"], wanted);
        assert_eq!(steps.output(&first_digest, 0).as_deref(), Some("step0:0"));
        assert_eq!(steps.output(&Digest::of("x"), 0), None);
    }

    #[test]
    fn what_is_no_definition_is_refused() {
        assert!(Steps::new(&definition(&[op(&[], "local://a")])).is_err());
        let missing = op(&[&Digest::of("x")], "");
        assert!(Steps::new(&definition(&[missing])).is_err());
        assert_eq!(
            Steps::new(&definition(&[])).expect("none"),
            Steps::default()
        );
    }
}
