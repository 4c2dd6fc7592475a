//! The canonical JSON form of protobuf, used on the wire by one message only: the detail `errdefs.Solve`.
//!
//! Keys are lowerCamelCase, 64-bit numbers are strings, enums are names, members of a oneof stand beside the other
//! fields. Blanks and order of keys are not fixed in this form. Well-known types are not supported: no message that
//! takes this way has one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::{Message, Name};
use serde_json::{Map, Value as Json};

use crate::Error;
use crate::gojson::{number_text, object, parse_number, unexpected};
use crate::schema::{Field, Kind, SCHEMA, Shape, Tree, Value, encode};

/// The JSON text of a message.
pub fn to_string<M: Message + Name>(message: &M) -> String {
    let shape = SCHEMA
        .message(&M::full_name())
        .expect("every generated message is in the descriptors");
    let bytes = message.encode_to_vec();
    let tree = SCHEMA
        .decode(shape, &bytes)
        .expect("prost wrote these bytes");
    write_message(shape, &tree).to_string()
}

/// Reads a message from JSON. Keys that are not known are ignored.
pub fn from_slice<M: Message + Name + Default>(json: &[u8]) -> Result<M, Error> {
    let json: Json = serde_json::from_slice(json)?;
    let shape = SCHEMA.message(&M::full_name())?;
    let tree = read_message(shape, &json)?;
    Ok(M::decode(encode(shape, &tree).as_slice())?)
}

fn write_message(shape: &Shape, tree: &Tree<'_>) -> Json {
    let mut object = Map::new();
    for field in &shape.fields {
        let Some(values) = tree.get(&field.number).filter(|values| !values.is_empty()) else {
            continue;
        };
        let json = if let Some((key, value)) = SCHEMA.map_entry(&field.kind) {
            write_map(key, value, values)
        } else if field.repeated {
            let items = values.iter().map(|value| write_value(&field.kind, value));
            Json::Array(items.collect())
        } else {
            let last = values.last().cloned();
            write_value(&field.kind, &last.unwrap_or_else(|| field.kind.zero()))
        };
        object.insert(field.json_name.clone(), json);
    }
    Json::Object(object)
}

fn write_map(key: &Field, value: &Field, entries: &[Value<'_>]) -> Json {
    let mut object = Map::new();
    for entry in entries {
        let Value::Message(entry) = entry else {
            continue;
        };
        let last = |number: u32| entry.get(&number).and_then(|values| values.last());
        let name = match last(1).cloned().unwrap_or_else(|| key.kind.zero()) {
            Value::Varint(number) => number_text(&key.kind, number),
            Value::Text(text) => text.into_owned(),
            _ => String::new(),
        };
        let inner = last(2).cloned().unwrap_or_else(|| value.kind.zero());
        object.insert(name, write_value(&value.kind, &inner));
    }
    Json::Object(object)
}

fn write_value(kind: &Kind, value: &Value<'_>) -> Json {
    match (kind, value) {
        (Kind::Bool, Value::Varint(value)) => Json::Bool(*value != 0),
        (Kind::Int64 | Kind::Uint64, Value::Varint(value)) => {
            Json::String(number_text(kind, *value))
        }
        (Kind::Enum(name), Value::Varint(value)) => {
            let number = value.cast_signed() as i32;
            match SCHEMA.enum_name(name, number) {
                Some(name) => Json::from(name),
                None => Json::from(number),
            }
        }
        (_, Value::Varint(value)) => Json::from(value.cast_signed()),
        (_, Value::Text(text)) => Json::from(&**text),
        (_, Value::Bytes(bytes)) => Json::from(STANDARD.encode(bytes)),
        (Kind::Message(name), Value::Message(tree)) => match SCHEMA.shape(name) {
            Ok(shape) => write_message(shape, tree),
            Err(_) => Json::Object(Map::new()),
        },
        (_, Value::Message(_)) => Json::Object(Map::new()),
    }
}

fn read_message(shape: &Shape, json: &Json) -> Result<Tree<'static>, Error> {
    let mut tree = Tree::new();
    for (name, json) in object(shape, json)? {
        let same = |field: &&Field| field.json_name == *name || field.name == *name;
        let Some(field) = shape.fields.iter().find(same) else {
            continue;
        };
        if json.is_null() {
            continue;
        }
        let bad = || unexpected(shape, &field.name, json);
        let values = if let Some((key, value)) = SCHEMA.map_entry(&field.kind) {
            let mut entries = Vec::new();
            for (name, json) in json.as_object().ok_or_else(bad)? {
                let name = match &key.kind {
                    Kind::String => Value::Text(name.clone().into()),
                    kind => Value::Varint(parse_number(kind, name).ok_or_else(bad)?),
                };
                let inner = read_value(shape, value, json)?;
                entries.push(Value::Message(Tree::from([
                    (1, vec![name]),
                    (2, vec![inner]),
                ])));
            }
            entries
        } else if field.repeated {
            let items = json.as_array().ok_or_else(bad)?.iter();
            items
                .map(|json| read_value(shape, field, json))
                .collect::<Result<_, _>>()?
        } else {
            vec![read_value(shape, field, json)?]
        };
        tree.insert(field.number, values);
    }
    Ok(tree)
}

fn read_value(shape: &Shape, field: &Field, json: &Json) -> Result<Value<'static>, Error> {
    let bad = || unexpected(shape, &field.name, json);
    Ok(match (&field.kind, json) {
        (Kind::Bool, Json::Bool(value)) => Value::Varint(u64::from(*value)),
        (Kind::String, Json::String(text)) => Value::Text(text.clone().into()),
        (Kind::Bytes, Json::String(text)) => {
            Value::Bytes(STANDARD.decode(text).map_err(|_| bad())?.into())
        }
        (Kind::Message(name), json) => Value::Message(read_message(SCHEMA.shape(name)?, json)?),
        (Kind::Enum(name), Json::String(text)) => {
            let number = SCHEMA.enum_number(name, text).ok_or_else(bad)?;
            Value::Varint(i64::from(number).cast_unsigned())
        }
        (kind, Json::String(text)) => Value::Varint(parse_number(kind, text).ok_or_else(bad)?),
        (kind, Json::Number(number)) => {
            Value::Varint(parse_number(kind, &number.to_string()).ok_or_else(bad)?)
        }
        _ => return Err(bad()),
    })
}
