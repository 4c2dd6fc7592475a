//! What the descriptors say about each message, and messages as trees of values.
//!
//! The JSON forms are written and read through such a tree, so that no message needs code of its own. Order of
//! declaration in the `.proto` files is kept: it is the order of keys in Go's JSON.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use bytes::Buf;
use prost::Message as _;
use prost::encoding::{self, WireType};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

use crate::Error;

/// Everything there is, by full name with a leading dot.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    messages: HashMap<String, Shape>,
    enums: HashMap<String, Vec<(i32, String)>>,
}

/// A message type.
#[derive(Debug)]
pub(crate) struct Shape {
    pub name: String,
    /// In order of declaration.
    pub fields: Vec<Field>,
    /// Their places there, by the names they have in Go's JSON.
    pub by_name: Vec<usize>,
    is_map_entry: bool,
}

/// A field of a message type.
#[derive(Debug)]
pub(crate) struct Field {
    pub number: u32,
    pub name: String,
    pub json_name: String,
    pub kind: Kind,
    pub repeated: bool,
    /// Which oneof of the message it belongs to.
    pub oneof: Option<usize>,
}

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    String,
    Bytes,
    Enum(String),
    Message(String),
}

/// One value of a field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    /// Bool, enum and every integer, as the varint says it.
    Varint(u64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Message(Tree<'a>),
}

/// A message as values by field number.
pub(crate) type Tree<'a> = BTreeMap<u32, Vec<Value<'a>>>;

/// The schema of all our messages.
pub(crate) static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(crate::DESCRIPTORS)
        .expect("the descriptors were written by the generator");
    let mut schema = Schema::default();
    for file in &set.file {
        let scope = format!(".{}", file.package());
        schema.add_enums(&scope, &file.enum_type);
        for message in &file.message_type {
            schema.add(&scope, message);
        }
    }
    schema
});

impl Schema {
    fn add(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for inner in &message.nested_type {
            self.add(&name, inner);
        }
        self.add_enums(&name, &message.enum_type);
        let mut shape = Shape {
            fields: message.field.iter().map(Field::new).collect(),
            by_name: (0..message.field.len()).collect(),
            is_map_entry: message
                .options
                .as_ref()
                .is_some_and(|options| options.map_entry()),
            name: name.clone(),
        };
        let mut by_name = std::mem::take(&mut shape.by_name);
        by_name.sort_by_key(|at| crate::gojson::member(&shape, &shape.fields[*at]));
        shape.by_name = by_name;
        self.messages.insert(name, shape);
    }

    fn add_enums(&mut self, scope: &str, enums: &[EnumDescriptorProto]) {
        for decl in enums {
            let values = decl
                .value
                .iter()
                .map(|value| (value.number(), value.name().to_owned()))
                .collect();
            self.enums
                .insert(format!("{scope}.{}", decl.name()), values);
        }
    }

    /// The shape of a message type, by full name without the dot.
    pub fn message(&self, name: &str) -> Result<&Shape, Error> {
        self.shape(&format!(".{name}"))
    }

    /// The shape of a message type, as fields name it.
    pub fn shape(&self, name: &str) -> Result<&Shape, Error> {
        self.messages.get(name).ok_or_else(|| Error::UnknownType {
            name: name.trim_start_matches('.').to_owned(),
        })
    }

    /// Key and value field, when `kind` is an entry of a map.
    pub fn map_entry(&self, kind: &Kind) -> Option<(&Field, &Field)> {
        let Kind::Message(name) = kind else {
            return None;
        };
        match self.messages.get(name) {
            Some(Shape {
                is_map_entry: true,
                fields,
                ..
            }) => match fields.as_slice() {
                [key, value] => Some((key, value)),
                _ => None,
            },
            _ => None,
        }
    }

    /// The name of an enum value.
    pub fn enum_name(&self, of: &str, number: i32) -> Option<&str> {
        let values = self.enums.get(of)?;
        let (_, name) = values.iter().find(|(value, _)| *value == number)?;
        Some(name)
    }

    /// The number of an enum value.
    pub fn enum_number(&self, of: &str, name: &str) -> Option<i32> {
        let values = self.enums.get(of)?;
        let (number, _) = values.iter().find(|(_, value)| value == name)?;
        Some(*number)
    }

    /// Reads a message.
    pub fn decode<'a>(&self, shape: &Shape, mut bytes: &'a [u8]) -> Result<Tree<'a>, Error> {
        let mut tree = Tree::new();
        while bytes.has_remaining() {
            let (number, wire) = encoding::decode_key(&mut bytes)?;
            let Some(field) = shape.fields.iter().find(|field| field.number == number) else {
                encoding::skip_field(wire, number, &mut bytes, Default::default())?;
                continue;
            };
            let values = tree.entry(number).or_default();
            if wire == WireType::Varint {
                push(
                    field,
                    values,
                    Value::Varint(encoding::decode_varint(&mut bytes)?),
                );
                continue;
            }
            if wire != WireType::LengthDelimited {
                encoding::skip_field(wire, number, &mut bytes, Default::default())?;
                continue;
            }
            let length = encoding::decode_varint(&mut bytes)? as usize;
            if length > bytes.len() {
                return Err(Error::Truncated);
            }
            let (mut inner, rest) = bytes.split_at(length);
            bytes = rest;
            match &field.kind {
                Kind::String => push(field, values, Value::Text(String::from_utf8_lossy(inner))),
                Kind::Bytes => push(field, values, Value::Bytes(inner.into())),
                Kind::Message(name) => {
                    let tree = self.decode(self.shape(name)?, inner)?;
                    push(field, values, Value::Message(tree));
                }
                _ => {
                    while inner.has_remaining() {
                        values.push(Value::Varint(encoding::decode_varint(&mut inner)?));
                    }
                }
            }
        }
        Ok(tree)
    }
}

/// The last one of a field that is not repeated counts.
fn push<'a>(field: &Field, values: &mut Vec<Value<'a>>, value: Value<'a>) {
    if !field.repeated {
        values.clear();
    }
    values.push(value);
}

/// Writes a message as the reference's deterministic encoder does: fields in ascending order, but members of a oneof
/// after all others; numbers that are repeated in one run; map entries sorted, key and value there even when zero.
pub(crate) fn encode(shape: &Shape, tree: &Tree<'_>) -> Vec<u8> {
    let mut fields: Vec<&Field> = shape
        .fields
        .iter()
        .filter(|field| tree.contains_key(&field.number))
        .collect();
    fields.sort_by_key(|field| (field.oneof.is_some(), field.number));
    let mut out = Vec::new();
    for field in fields {
        let values = tree.get(&field.number).map_or(&[][..], Vec::as_slice);
        if let Some((key, value)) = SCHEMA.map_entry(&field.kind) {
            encode_map(&mut out, field, key, value, values);
        } else if field.repeated && matches!(values.first(), Some(Value::Varint(_))) {
            let mut run = Vec::new();
            for value in values {
                if let Value::Varint(value) = value {
                    encoding::encode_varint(*value, &mut run);
                }
            }
            encode_bytes(&mut out, field.number, &run);
        } else {
            for value in values {
                encode_value(&mut out, field, value);
            }
        }
    }
    out
}

fn encode_map(out: &mut Vec<u8>, field: &Field, key: &Field, value: &Field, entries: &[Value<'_>]) {
    fn last<'a>(entry: &Tree<'a>, of: &Field) -> Value<'a> {
        let values = entry.get(&of.number).and_then(|values| values.last());
        values.cloned().unwrap_or_else(|| of.kind.zero())
    }
    let mut sorted: Vec<(Value<'_>, Value<'_>)> = entries
        .iter()
        .filter_map(|entry| match entry {
            Value::Message(entry) => Some((last(entry, key), last(entry, value))),
            _ => None,
        })
        .collect();
    sorted.sort_by(|(a, _), (b, _)| match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Varint(a), Value::Varint(b)) => a.cast_signed().cmp(&b.cast_signed()),
        _ => std::cmp::Ordering::Equal,
    });
    for (name, inner) in sorted {
        let mut entry = Vec::new();
        encode_value(&mut entry, key, &name);
        encode_value(&mut entry, value, &inner);
        encode_bytes(out, field.number, &entry);
    }
}

fn encode_value(out: &mut Vec<u8>, field: &Field, value: &Value<'_>) {
    match (value, &field.kind) {
        (Value::Varint(value), _) => {
            encoding::encode_key(field.number, WireType::Varint, out);
            encoding::encode_varint(*value, out);
        }
        (Value::Text(text), _) => encode_bytes(out, field.number, text.as_bytes()),
        (Value::Bytes(bytes), _) => encode_bytes(out, field.number, bytes),
        (Value::Message(tree), Kind::Message(name)) => match SCHEMA.shape(name) {
            Ok(shape) => encode_bytes(out, field.number, &encode(shape, tree)),
            Err(_) => encode_bytes(out, field.number, &[]),
        },
        (Value::Message(_), _) => encode_bytes(out, field.number, &[]),
    }
}

fn encode_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    encoding::encode_key(number, WireType::LengthDelimited, out);
    encoding::encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

impl Kind {
    /// What a value is when nothing was on the wire.
    pub fn zero(&self) -> Value<'static> {
        match self {
            Self::String => Value::Text(Cow::Borrowed("")),
            Self::Bytes => Value::Bytes(Cow::Borrowed(&[])),
            Self::Message(_) => Value::Message(Tree::new()),
            _ => Value::Varint(0),
        }
    }
}

impl Field {
    fn new(decl: &prost_types::FieldDescriptorProto) -> Self {
        let type_name = decl.type_name().to_owned();
        Self {
            number: decl.number().unsigned_abs(),
            name: decl.name().to_owned(),
            json_name: decl.json_name().to_owned(),
            kind: match decl.r#type() {
                Type::Bool => Kind::Bool,
                Type::Int32 => Kind::Int32,
                Type::Int64 => Kind::Int64,
                Type::Uint32 => Kind::Uint32,
                Type::Uint64 => Kind::Uint64,
                Type::Bytes => Kind::Bytes,
                Type::Enum => Kind::Enum(type_name),
                Type::Message => Kind::Message(type_name),
                // Invariant: what has one of our JSON forms uses no other types; a test walks all of it.
                _ => Kind::String,
            },
            repeated: decl.label() == Label::Repeated,
            oneof: decl
                .oneof_index
                .and_then(|index| usize::try_from(index).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_files_use_only_types_the_schema_knows() {
        let set = FileDescriptorSet::decode(crate::DESCRIPTORS).expect("descriptors");
        for file in &set.file {
            // Spans have a JSON form of their own.
            if file.package() == "google.protobuf" || file.package().starts_with("opentelemetry.") {
                continue;
            }
            for message in &file.message_type {
                for field in &message.field {
                    assert!(
                        matches!(
                            field.r#type(),
                            Type::Bool
                                | Type::Int32
                                | Type::Int64
                                | Type::Uint32
                                | Type::Uint64
                                | Type::String
                                | Type::Bytes
                                | Type::Enum
                                | Type::Message
                        ),
                        "{}.{}",
                        message.name(),
                        field.name()
                    );
                }
            }
        }
    }
}
