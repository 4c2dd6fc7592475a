//! JSON as Go's standard encoder writes the generated structs.
//!
//! Error details, `dump-llb` and cache keys use this form, the last of them bit for bit: keys are field names in order
//! of declaration, zero values are left out, numbers are numbers (enums too), bytes are base64, `<`, `>`, `&` are
//! escaped. Three messages hold a oneof, which such structs cannot show; they have a shape of their own:
//!
//! | message | shape |
//! |---|---|
//! | `pb.Op` | the kind is wrapped in `Op`, where the first kind is declared |
//! | `pb.FileAction` | the kind is wrapped in `Action`; the three numbers are never left out |
//! | `pb.UserOpt` | the choice is wrapped in `User`, spelled `byName` or `byId` |

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::{Message, Name};
use serde_json::{Map, Value as Json};

use crate::Error;
use crate::schema::{Field, Kind, SCHEMA, Shape, Tree, Value, encode};

/// Which order the members of objects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// That of Go's structs.
    Declared,
    /// That of their names, as in what upstream writes by way of maps.
    Sorted,
}

/// The JSON text of a message.
pub fn to_string<M: Message + Name>(message: &M) -> String {
    to_string_in(message, Order::Declared)
}

/// The JSON text of a message, its members in this order.
pub fn to_string_in<M: Message + Name>(message: &M, order: Order) -> String {
    let shape = SCHEMA
        .message(&M::full_name())
        .expect("every generated message is in the descriptors");
    let bytes = message.encode_to_vec();
    let tree = SCHEMA
        .decode(shape, &bytes)
        .expect("prost wrote these bytes");
    let mut out = String::with_capacity(2 * bytes.len());
    write_message(&mut out, order, shape, &tree);
    out
}

/// Reads a message from JSON. Keys that are not known are ignored, as Go does; the case of keys does not matter.
pub fn from_slice<M: Message + Name + Default>(json: &[u8]) -> Result<M, Error> {
    let json: Json = serde_json::from_slice(json)?;
    from_value(&json)
}

/// Reads a message from JSON that is parsed already.
pub fn from_value<M: Message + Name + Default>(json: &Json) -> Result<M, Error> {
    let shape = SCHEMA.message(&M::full_name())?;
    let tree = read_message(shape, json)?;
    Ok(M::decode(encode(shape, &tree).as_slice())?)
}

/// Appends a JSON string with the escapes Go uses.
pub fn write_str(out: &mut String, text: &str) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            _ => out.push(char),
        }
    }
    out.push('"');
}

/// How a message with a oneof is written.
fn wrapper(shape: &Shape) -> Option<&'static str> {
    match shape.name.as_str() {
        ".pb.Op" => Some("Op"),
        ".pb.FileAction" => Some("Action"),
        ".pb.UserOpt" => Some("User"),
        _ => None,
    }
}

/// The key of a field. Compat: upstream's hand-made shape of UserOpt spells it differently (solver/pb/json.go).
fn key<'a>(shape: &Shape, field: &'a Field) -> &'a str {
    if shape.name == ".pb.UserOpt" && field.name == "byID" {
        return "byId";
    }
    &field.name
}

/// The name of the member of a message's object that a field is, or is in.
pub(crate) fn member<'a>(shape: &Shape, field: &'a Field) -> &'a str {
    match wrapper(shape) {
        Some(wrapper) if field.oneof.is_some() => wrapper,
        _ => key(shape, field),
    }
}

impl Shape {
    fn in_order(&self, order: Order) -> impl Iterator<Item = &Field> {
        (0..self.fields.len()).filter_map(move |at| match order {
            Order::Declared => self.fields.get(at),
            Order::Sorted => self.fields.get(*self.by_name.get(at)?),
        })
    }
}

/// Writes members with commas between them.
struct Object<'a> {
    out: &'a mut String,
    empty: bool,
}

impl<'a> Object<'a> {
    fn open(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, empty: true }
    }

    fn key(&mut self, key: &str) -> &mut String {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        write_str(self.out, key);
        self.out.push(':');
        self.out
    }

    fn close(self) {
        self.out.push('}');
    }
}

fn write_message(out: &mut String, order: Order, shape: &Shape, tree: &Tree<'_>) {
    let wrapper = wrapper(shape);
    let mut wrapped = false;
    let mut object = Object::open(out);
    for field in shape.in_order(order) {
        if let (Some(wrapper), Some(oneof)) = (wrapper, field.oneof) {
            if !wrapped {
                wrapped = true;
                write_choice(object.key(wrapper), order, (shape, oneof), tree);
            }
            continue;
        }
        let values = tree.get(&field.number).map_or(&[][..], Vec::as_slice);
        if shape.name == ".pb.FileAction" && values.is_empty() {
            object.key(key(shape, field)).push('0');
        }
        if values.iter().all(is_zero) && !field.repeated {
            continue;
        }
        if !values.is_empty() {
            write_field(object.key(key(shape, field)), order, field, values);
        }
    }
    object.close();
}

/// Zero values are left out; a message that is there is not one of them.
fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Varint(value) => *value == 0,
        Value::Text(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::Message(_) => false,
    }
}

fn write_choice(out: &mut String, order: Order, (shape, oneof): (&Shape, usize), tree: &Tree<'_>) {
    let mut object = Object::open(out);
    for field in shape.fields.iter().filter(|f| f.oneof == Some(oneof)) {
        if let Some(values) = tree.get(&field.number)
            && !values.iter().all(is_zero)
        {
            write_field(object.key(key(shape, field)), order, field, values);
        }
    }
    object.close();
}

fn write_field(out: &mut String, order: Order, field: &Field, values: &[Value<'_>]) {
    if let Some((key, value)) = SCHEMA.map_entry(&field.kind) {
        write_map(out, order, (key, value), values);
    } else if field.repeated {
        out.push('[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_value(out, order, &field.kind, value);
        }
        out.push(']');
    } else if let Some(value) = values.last() {
        write_value(out, order, &field.kind, value);
    }
}

fn write_map(
    out: &mut String,
    order: Order,
    (key, value): (&Field, &Field),
    entries: &[Value<'_>],
) {
    let mut sorted: Vec<(Cow<'_, str>, Option<&Value<'_>>)> = entries
        .iter()
        .filter_map(|entry| match entry {
            Value::Message(entry) => Some(entry),
            _ => None,
        })
        .map(|entry| {
            let name = match entry.get(&1).and_then(|keys| keys.last()) {
                Some(Value::Text(text)) => text.clone(),
                Some(Value::Varint(number)) => number_text(&key.kind, *number).into(),
                _ if key.kind == Kind::String => Cow::Borrowed(""),
                _ => Cow::Borrowed("0"),
            };
            (name, entry.get(&2).and_then(|values| values.last()))
        })
        .collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut object = Object::open(out);
    for (name, entry) in sorted {
        let out = object.key(&name);
        match entry {
            Some(entry) => write_value(out, order, &value.kind, entry),
            None => write_value(out, order, &value.kind, &value.kind.zero()),
        }
    }
    object.close();
}

/// A number as its type reads it.
pub(crate) fn number_text(kind: &Kind, varint: u64) -> String {
    match kind {
        // Negative numbers are sign-extended on the wire, whatever their width.
        Kind::Int32 | Kind::Int64 | Kind::Enum(_) => varint.cast_signed().to_string(),
        _ => varint.to_string(),
    }
}

fn write_value(out: &mut String, order: Order, kind: &Kind, value: &Value<'_>) {
    match (kind, value) {
        (Kind::Bool, Value::Varint(value)) => {
            out.push_str(if *value == 0 { "false" } else { "true" });
        }
        (_, Value::Varint(value)) => out.push_str(&number_text(kind, *value)),
        (_, Value::Text(text)) => write_str(out, text),
        (_, Value::Bytes(bytes)) => write_str(out, &STANDARD.encode(bytes)),
        (Kind::Message(name), Value::Message(tree)) => match SCHEMA.shape(name) {
            Ok(shape) => write_message(out, order, shape, tree),
            Err(_) => out.push_str("{}"),
        },
        (_, Value::Message(_)) => out.push_str("{}"),
    }
}

fn read_message(shape: &Shape, json: &Json) -> Result<Tree<'static>, Error> {
    let object = object(shape, json)?;
    let wrapper = wrapper(shape);
    let mut tree = Tree::new();
    for (name, json) in object {
        if wrapper.is_some_and(|wrapper| name.eq_ignore_ascii_case(wrapper)) {
            read_choice(shape, json, &mut tree)?;
            continue;
        }
        let field = shape
            .fields
            .iter()
            .find(|field| field.name == *name)
            .or_else(|| {
                let same = |field: &&Field| field.name.eq_ignore_ascii_case(name);
                shape.fields.iter().find(same)
            });
        if let Some(field) = field
            && !json.is_null()
        {
            tree.insert(field.number, read_field(shape, field, json)?);
        }
    }
    Ok(tree)
}

fn read_choice(shape: &Shape, json: &Json, tree: &mut Tree<'static>) -> Result<(), Error> {
    let members = object(shape, json)?;
    for (name, json) in members {
        let same =
            |field: &&Field| field.oneof.is_some() && key(shape, field).eq_ignore_ascii_case(name);
        if let Some(field) = shape.fields.iter().find(same)
            && !json.is_null()
        {
            tree.insert(field.number, read_field(shape, field, json)?);
        }
    }
    // An id of 0 is not written, so an empty choice of a user is id 0.
    if shape.name == ".pb.UserOpt"
        && members.is_empty()
        && let Some(id) = shape.fields.iter().find(|field| field.name == "byID")
    {
        tree.insert(id.number, vec![Value::Varint(0)]);
    }
    Ok(())
}

pub(crate) fn object<'a>(shape: &Shape, json: &'a Json) -> Result<&'a Map<String, Json>, Error> {
    json.as_object().ok_or_else(|| unexpected(shape, "", json))
}

pub(crate) fn unexpected(shape: &Shape, field: &str, json: &Json) -> Error {
    Error::Unexpected {
        message: shape.name.trim_start_matches('.').to_owned(),
        field: field.to_owned(),
        found: match json {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array",
            Json::Object(_) => "an object",
        },
    }
}

fn read_field(shape: &Shape, field: &Field, json: &Json) -> Result<Vec<Value<'static>>, Error> {
    let bad = || unexpected(shape, &field.name, json);
    if let Some((key, value)) = SCHEMA.map_entry(&field.kind) {
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
        return Ok(entries);
    }
    if !field.repeated {
        return Ok(vec![read_value(shape, field, json)?]);
    }
    json.as_array()
        .ok_or_else(bad)?
        .iter()
        .map(|json| read_value(shape, field, json))
        .collect()
}

/// A number from its text.
pub(crate) fn parse_number(kind: &Kind, text: &str) -> Option<u64> {
    match kind {
        Kind::Uint32 | Kind::Uint64 => text.parse().ok(),
        Kind::Bool | Kind::String | Kind::Bytes | Kind::Message(_) => None,
        Kind::Int32 | Kind::Int64 | Kind::Enum(_) => {
            text.parse::<i64>().ok().map(i64::cast_unsigned)
        }
    }
}

fn read_value(shape: &Shape, field: &Field, json: &Json) -> Result<Value<'static>, Error> {
    let bad = || unexpected(shape, &field.name, json);
    Ok(match (&field.kind, json) {
        (kind, Json::Null) => kind.zero(),
        (Kind::Bool, Json::Bool(value)) => Value::Varint(u64::from(*value)),
        (Kind::String, Json::String(text)) => Value::Text(text.clone().into()),
        (Kind::Bytes, Json::String(text)) => {
            Value::Bytes(STANDARD.decode(text).map_err(|_| bad())?.into())
        }
        (Kind::Message(name), json) => Value::Message(read_message(SCHEMA.shape(name)?, json)?),
        (kind, Json::Number(number)) => {
            Value::Varint(parse_number(kind, &number.to_string()).ok_or_else(bad)?)
        }
        _ => return Err(bad()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn strings_are_escaped_as_go_does() {
        let mut out = String::new();
        write_str(&mut out, "a<b>&\u{2028}\u{1}\u{7f}\t\u{8}\u{c}\"\\é");
        assert_eq!(
            out,
            "\"a\\u003cb\\u003e\\u0026\\u2028\\u0001\u{7f}\\t\\b\\f\\\"\\\\é\""
        );
    }

    #[test]
    fn user_id_zero_is_an_empty_choice_both_ways() {
        let zero = pb::UserOpt {
            user: Some(pb::user_opt::User::ById(0)),
        };
        let text = to_string(&zero);
        assert_eq!(text, r#"{"User":{}}"#);
        assert_eq!(from_slice::<pb::UserOpt>(text.as_bytes()).ok(), Some(zero));
    }

    #[test]
    fn an_op_without_a_kind_has_an_empty_kind() {
        let op = pb::Op {
            inputs: vec![pb::Input {
                digest: "sha256:aa".to_owned(),
                index: 0,
            }],
            ..Default::default()
        };
        assert_eq!(
            to_string(&op),
            r#"{"inputs":[{"digest":"sha256:aa"}],"Op":{}}"#
        );
    }

    #[test]
    fn members_can_be_in_the_order_of_their_names() {
        let copy = pb::FileActionCopy {
            src: "/b".to_owned(),
            dest: "/a".to_owned(),
            ..Default::default()
        };
        let action = pb::FileAction {
            input: 1,
            action: Some(pb::file_action::Action::Copy(copy)),
            ..Default::default()
        };
        let op = pb::Op {
            op: Some(pb::op::Op::File(pb::FileOp {
                actions: vec![action],
            })),
            platform: Some(pb::Platform {
                architecture: "amd64".to_owned(),
                os: "linux".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let sorted: Json = serde_json::from_str(&to_string(&op)).expect("JSON");
        let sorted = std::collections::BTreeMap::from_iter(sorted.as_object().expect("an object"));
        let text = to_string_in(&op, Order::Sorted);
        assert_eq!(
            text,
            r#"{"Op":{"file":{"actions":[{"Action":{"copy":{"dest":"/a","src":"/b"}},"input":1,"output":0,"secondaryInput":0}]}},"platform":{"Architecture":"amd64","OS":"linux"}}"#
        );
        let read: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read, serde_json::json!(sorted));
    }

    #[test]
    fn minus_one_is_written_and_zero_is_not() {
        let mount = pb::Mount {
            input: -1,
            dest: "/".to_owned(),
            output: 0,
            ..Default::default()
        };
        assert_eq!(to_string(&mount), r#"{"input":-1,"dest":"/"}"#);
    }

    #[test]
    fn a_wrong_type_is_an_error_that_names_the_field() {
        let err = from_slice::<pb::Mount>(br#"{"dest":7}"#).expect_err("a number is no path");
        assert_eq!(err.to_string(), "pb.Mount: dest: unexpected a number");
    }
}
