//! The steps of a build, numbered: `step0` needs nothing, the last one is the result.
//!
//! They are kept as messages and put into words when a document is written: there may be thousands.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use base64::Engine as _;
use oci::Digest;
use prost::Message as _;
use proto::gojson::{Order, to_string_in};
use proto::pb;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::Error;

/// One step.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    /// Without its inputs.
    op: pb::Op,
    inputs: Vec<Output>,
    usage: Option<Value>,
}

/// What an output of a step is called: `step3:0`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Output(usize, i64);

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step{}:{}", self.0, self.1)
    }
}

impl Serialize for Output {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What a step is called.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Name(usize);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step{}", self.0)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The steps of a definition and what they are called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Steps {
    steps: Vec<Step>,
    names: BTreeMap<String, Name>,
}

/// Which lines of which files the steps come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Places {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    locations: BTreeMap<String, Lines>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    infos: Vec<File>,
}

#[derive(Debug, Clone, PartialEq)]
struct Lines(pb::Locations);

impl Serialize for Lines {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        text(&self.0, Order::Declared)?.serialize(to)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct File {
    #[serde(skip_serializing_if = "String::is_empty")]
    filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(flatten, serialize_with = "declared")]
    steps: Steps,
}

fn declared<S: Serializer>(steps: &Steps, to: S) -> Result<S::Ok, S::Error> {
    steps.told(Order::Declared).serialize(to)
}

/// A message as a document has it.
fn text<E: serde::ser::Error>(
    message: &impl prost::Name,
    order: Order,
) -> Result<Box<RawValue>, E> {
    RawValue::from_string(to_string_in(message, order)).map_err(E::custom)
}

/// The steps of a build as documents have them.
pub(crate) struct Told<'a> {
    steps: &'a Steps,
    order: Order,
}

impl Told<'_> {
    fn list<M: SerializeMap>(&self, to: &mut M) -> Result<(), M::Error> {
        let told = self.steps.steps.iter().enumerate();
        let told = told.map(|(number, step)| ToldStep {
            name: Name(number),
            step,
            order: self.order,
        });
        match told.collect::<Vec<_>>() {
            none if none.is_empty() => Ok(()),
            told => to.serialize_entry("llbDefinition", &told),
        }
    }

    fn names<M: SerializeMap>(&self, to: &mut M) -> Result<(), M::Error> {
        match &self.steps.names {
            none if none.is_empty() => Ok(()),
            names => to.serialize_entry("digestMapping", names),
        }
    }
}

impl Serialize for Told<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        match self.order {
            Order::Declared => {
                self.list(&mut map)?;
                self.names(&mut map)?;
            }
            Order::Sorted => {
                self.names(&mut map)?;
                self.list(&mut map)?;
            }
        }
        map.end()
    }
}

struct ToldStep<'a> {
    name: Name,
    step: &'a Step,
    order: Order,
}

impl ToldStep<'_> {
    fn inputs<M: SerializeMap>(&self, to: &mut M) -> Result<(), M::Error> {
        match &self.step.inputs {
            none if none.is_empty() => Ok(()),
            inputs => to.serialize_entry("inputs", inputs),
        }
    }
}

impl Serialize for ToldStep<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let op = text(&self.step.op, self.order)?;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("id", &self.name)?;
        if self.order == Order::Sorted {
            self.inputs(&mut map)?;
        }
        map.serialize_entry("op", &op)?;
        if self.order == Order::Declared {
            self.inputs(&mut map)?;
        }
        match (&self.step.usage, self.order) {
            (None, _) => {}
            (Some(usage), Order::Declared) => map.serialize_entry("resourceUsage", usage)?,
            (Some(usage), Order::Sorted) => {
                let usage = export::attestation::sorted(usage.clone());
                map.serialize_entry("resourceUsage", &usage)?;
            }
        }
        map.end()
    }
}

/// A definition being read.
struct Ops {
    digests: Vec<String>,
    /// Those that have no number yet.
    ops: Vec<Option<pb::Op>>,
}

impl Ops {
    fn read(definition: &pb::Definition) -> Result<Self, Error> {
        let mut read = Self {
            digests: Vec::with_capacity(definition.def.len()),
            ops: Vec::with_capacity(definition.def.len()),
        };
        for bytes in &definition.def {
            let mut op = pb::Op::decode(bytes.as_ref())
                .map_err(|_| Error::Definition("failed to parse llb proto op"))?;
            if let Some(pb::op::Op::Source(source)) = &mut op.op {
                source.attrs.remove("local.session");
                source.attrs.remove("local.unique");
            }
            read.digests.push(Digest::of(bytes).to_string());
            read.ops.push(Some(op));
        }
        Ok(read)
    }
}

impl Steps {
    /// Numbers the steps of a definition in the order in which they can run.
    pub fn new(definition: &pb::Definition) -> Result<Self, Error> {
        let read = Ops::read(definition)?;
        let mut made = Self::default();
        let Some(last) = read.ops.last() else {
            return Ok(made);
        };
        let head = last.as_ref().filter(|op| op.op.is_none());
        if head.is_none_or(|op| op.inputs.len() != 1) {
            return Err(Error::Definition("invalid last vertex"));
        }
        made.walk(read)?;
        Ok(made)
    }

    /// Inputs first, without recursion: chains may be long.
    fn walk(&mut self, read: Ops) -> Result<(), Error> {
        let Ops { digests, mut ops } = read;
        let places = digests.iter().enumerate();
        let places: HashMap<&str, usize> = places.map(|(at, name)| (name.as_str(), at)).collect();
        let mut stack = vec![(ops.len() - 1, 0)];
        while let Some((at, next)) = stack.pop() {
            let Some(op) = &ops[at] else { continue };
            if let Some(input) = op.inputs.get(next) {
                if stack.len() > ops.len() {
                    return Err(Error::Definition("a step that needs itself"));
                }
                let input = places.get(input.digest.as_str());
                let input = input.ok_or(Error::Definition("failed to find input"))?;
                stack.push((at, next + 1));
                stack.push((*input, 0));
                continue;
            }
            if let Some(op) = ops[at].take() {
                self.add(&digests[at], op);
            }
        }
        Ok(())
    }

    fn add(&mut self, digest: &str, mut op: pb::Op) {
        let inputs = std::mem::take(&mut op.inputs);
        let inputs = inputs.iter().map(|input| {
            let name = self.names.get(&input.digest);
            Output(name.map_or(0, |name| name.0), input.index)
        });
        let step = Step {
            inputs: inputs.collect(),
            usage: None,
            op,
        };
        let name = Name(self.steps.len());
        self.steps.push(step);
        self.names.insert(digest.to_owned(), name);
    }

    /// Adds what steps used, by their digests.
    pub fn add_usage(&mut self, usage: &BTreeMap<String, Value>) {
        for (digest, used) in usage {
            let name = self.names.get(digest);
            if let Some(step) = name.and_then(|name| self.steps.get_mut(name.0)) {
                step.usage = Some(used.clone());
            }
        }
    }

    /// What an output of a step is called: `step3:0`.
    pub fn output(&self, digest: &Digest, index: u32) -> Option<String> {
        let name = self.names.get(digest.as_str())?;
        Some(Output(name.0, index.into()).to_string())
    }

    /// The steps as documents have them.
    pub(crate) fn told(&self, order: Order) -> Told<'_> {
        Told { steps: self, order }
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
                steps,
            });
        }
        let locations = source.locations.iter().filter_map(|(digest, places)| {
            let name = self.names.get(&**digest)?;
            Some((name.to_string(), Lines(places.clone())))
        });
        Ok(Some(Places {
            locations: locations.collect(),
            infos,
        }))
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
        let told = serde_json::to_value(steps.told(Order::Declared)).expect("JSON");
        let wanted = serde_json::json!([
            {"id": "step0", "op": {"Op": {"source": {"identifier": "local://a"}}}},
            {"id": "step1", "op": {"Op": {}}, "inputs": ["step0:0"]},
        ]);
        assert_eq!(told["llbDefinition"], wanted);
        assert_eq!(steps.output(&first_digest, 0).as_deref(), Some("step0:0"));
        assert_eq!(steps.output(&Digest::of("x"), 0), None);
    }

    #[test]
    fn where_maps_were_between_all_names_are_in_order() {
        let first = op(&[], "local://a");
        let last = op(&[&Digest::of(first.encode_to_vec())], "");
        let mut steps = Steps::new(&definition(&[first, last])).expect("steps");
        let usage = serde_json::json!({"b": {"d": 1, "c": 2}, "a": 3});
        let digest = steps.names.keys().next().expect("two").clone();
        steps.add_usage(&BTreeMap::from([(digest, usage)]));
        let told = |order| serde_json::to_value(steps.told(order)).expect("JSON");
        let sorted = export::attestation::sorted(told(Order::Declared));
        assert_ne!(told(Order::Declared).to_string(), sorted.to_string());
        assert_eq!(told(Order::Sorted).to_string(), sorted.to_string());
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
