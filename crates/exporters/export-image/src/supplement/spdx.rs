//! SPDX documents as upstream reads and writes them: what its model knows, in the order of the model.
//!
//! The model is a table. A value is read and written in one go: what the table does not name is left out, what is
//! missing gets the value that stands for nothing.
//!
//! Compat: github.com/spdx/tools-golang, versions 2.1 to 2.3, written as 2.3.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use model::Kind::{Agent, Category, Flag, List, Maybe, Number, Party, Record, Reference, Text};
use model::{DOCUMENT, Field, Kind};

mod model;

type Object = Map<String, Value>;

const REFERENCE: &str = "SPDXRef-";
const ELSEWHERE: &str = "DocumentRef-";

/// Not a document of the model.
#[derive(Debug)]
struct Unreadable;

/// Reads values as their kinds and answers how they are written.
#[derive(Default)]
struct Model {
    /// The first thing that can be read and not be written.
    flaw: Option<String>,
}

impl Model {
    fn read(&mut self, kind: &Kind, value: Option<Value>) -> Result<Value, Unreadable> {
        let value = match (kind, value) {
            (Text, Some(Value::String(text))) => Value::String(text),
            (Category, Some(Value::String(text))) => json!(text.replace('_', "-")),
            (Text | Category, None | Some(Value::Null)) => json!(""),
            (Number, Some(Value::Number(number))) if number.is_i64() => Value::Number(number),
            (Number, None | Some(Value::Null)) => json!(0),
            (Flag, Some(Value::Bool(flag))) => Value::Bool(flag),
            (Flag, None | Some(Value::Null)) => json!(true),
            (Maybe(_) | List(_), None | Some(Value::Null)) => Value::Null,
            (Maybe(kind), value) => self.read(kind, value)?,
            (List(kind), Some(Value::Array(list))) => {
                let list = list.into_iter().map(|it| self.read(kind, Some(it)));
                Value::Array(list.collect::<Result<_, _>>()?)
            }
            (Record(fields), Some(Value::Object(object))) => self.record(fields, object)?,
            (Record(fields), None | Some(Value::Null)) => self.record(fields, Map::new())?,
            (Kind::Element, value) => name(REFERENCE, value)?,
            (Kind::Document, value) => name(ELSEWHERE, value)?,
            (Reference, value) => self.reference(value)?,
            (Agent(what), value) => self.agent(what, value)?,
            (Party(what), value) => self.party(what, value)?,
            (Text | Category | Number | Flag | List(_) | Record(_), Some(_)) => {
                return Err(Unreadable);
            }
        };
        Ok(value)
    }

    fn record(&mut self, fields: &[Field], mut object: Object) -> Result<Value, Unreadable> {
        let mut made = Map::with_capacity(fields.len());
        for field in fields {
            // Compat: Go knows fields whatever the case of their letters.
            let key = match object.contains_key(field.name) {
                true => Some(field.name.to_owned()),
                false => (object.keys().rev())
                    .find(|key| key.eq_ignore_ascii_case(field.name))
                    .cloned(),
            };
            let value = key.and_then(|key| object.get_mut(&key).map(Value::take));
            let value = self.read(field.kind, value)?;
            if !(field.optional && is_empty(&value)) {
                made.insert(field.name.to_owned(), value);
            }
        }
        Ok(Value::Object(made))
    }

    fn cannot_write(&mut self, what: &str, why: impl FnOnce() -> String) -> Value {
        self.flaw.get_or_insert_with(|| {
            format!("json: error calling MarshalJSON for type {what}: {}", why())
        });
        Value::Null
    }

    fn reference(&mut self, value: Option<Value>) -> Result<Value, Unreadable> {
        let text = value.map(|value| raw(&value)).unwrap_or_default();
        if matches!(&*text, "NONE" | "NOASSERTION") {
            return Ok(json!(text));
        }
        let (document, element) = match text.starts_with(ELSEWHERE) {
            true => match text.split_once(':') {
                Some((document, element)) => (Some(document), element),
                None => (Some(&*text), ""),
            },
            false => (None, &*text),
        };
        let document = document.map(|it| own(ELSEWHERE, it)).transpose()?;
        if element.is_empty() && (document.is_some() || text.is_empty()) {
            let why = || "failed to marshal empty DocElementID".to_owned();
            return Ok(self.cannot_write("common.DocElementID", why));
        }
        let element = own(REFERENCE, element)?;
        Ok(Value::String(match document {
            Some(document) => format!("{document}:{element}"),
            None => element,
        }))
    }

    fn agent(&mut self, what: &str, value: Option<Value>) -> Result<Value, Unreadable> {
        let (role, name) = match value {
            None => (String::new(), String::new()),
            Some(value) => {
                let text = raw(&value);
                let (role, name) = text.split_once(':').ok_or(Unreadable)?;
                (role.trim().to_owned(), name.trim().to_owned())
            }
        };
        if name.is_empty() {
            let why = || "unexpected end of JSON input".to_owned();
            return Ok(self.cannot_write(&format!("common.{what}"), why));
        }
        Ok(json!(format!("{role}: {name}")))
    }

    fn party(&mut self, what: &str, value: Option<Value>) -> Result<Value, Unreadable> {
        let text = raw(&value.unwrap_or_default());
        if text == "NOASSERTION" {
            return Ok(json!(text));
        }
        let (role, name) = text.split_once(':').ok_or(Unreadable)?;
        let (role, name) = match what {
            "Originator" => (role, name.trim_start_matches([' ', '\t'])),
            _ => (role.trim(), name.trim()),
        };
        if role.is_empty() || name.is_empty() {
            let why =
                || format!("failed to marshal invalid {what}: {{{what}:{name} {what}Type:{role}}}");
            return Ok(self.cannot_write(&format!("*common.{what}"), why));
        }
        Ok(json!(format!("{role}: {name}")))
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}

/// Compat: names are taken from the JSON text, so that escapes in them stay and are escaped again.
fn raw(value: &Value) -> String {
    let text = oci::json::compact(value).expect("values always serialise");
    let text = String::from_utf8_lossy(&text);
    text.trim_matches('"').to_owned()
}

/// A name with its prefix, which it has once.
fn own(prefix: &str, text: &str) -> Result<String, Unreadable> {
    match text.strip_prefix(prefix) {
        Some("") | None => Err(Unreadable),
        Some(name) if name.starts_with(prefix) => Ok(name.to_owned()),
        Some(_) => Ok(text.to_owned()),
    }
}

fn name(prefix: &str, value: Option<Value>) -> Result<Value, Unreadable> {
    match value {
        None => Ok(json!(prefix)),
        Some(value) => Ok(Value::String(own(prefix, &raw(&value))?)),
    }
}

/// A document as it will be written, and what of it cannot be, if anything.
pub(super) struct Read {
    pub(super) document: Object,
    pub(super) flaw: Option<String>,
}

/// Reads a document. `None`: it is none, or of a version nobody knows.
pub(super) fn read(content: &[u8]) -> Option<Read> {
    let mut given: Object = serde_json::from_slice(content).ok()?;
    let version = given.get("spdxVersion")?.as_str()?.to_owned();
    if !["SPDX-2.1", "SPDX-2.2", "SPDX-2.3"].contains(&&*version) {
        return None;
    }
    renew(&mut given, &version);
    let mut model = Model::default();
    let further = further(&mut model, &mut given, &version).ok()?;
    let Ok(Value::Object(mut document)) = model.record(DOCUMENT, given) else {
        return None;
    };
    relate(&mut document, further, &version);
    Some(Read {
        document,
        flaw: model.flaw,
    })
}

fn objects<'a>(of: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    let list = of.get_mut(key).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Files of the document and of its packages.
pub(super) fn files(document: &mut Object) -> Vec<&mut Object> {
    let mut all = Vec::new();
    for (key, value) in document.iter_mut() {
        let list = value.as_array_mut().into_iter().flatten();
        let list = list.filter_map(Value::as_object_mut);
        match key.as_str() {
            "files" => all.extend(list),
            "packages" => all.extend(list.flat_map(|package| objects(package, "files"))),
            _ => {}
        }
    }
    all
}

/// Makes a document of an older version one of the last: fields that were not there yet go.
fn renew(given: &mut Object, version: &str) {
    if version == "SPDX-2.3" {
        return;
    }
    let first = version == "SPDX-2.1";
    given.insert("spdxVersion".to_owned(), json!("SPDX-2.3"));
    for file in files(given) {
        file.retain(|key, _| match key.as_str() {
            "artifactOfs" | "fileDependencies" => false,
            "attributionTexts" => !first,
            _ => true,
        });
    }
    for package in objects(given, "packages") {
        package.retain(|key, _| match key.as_str() {
            "primaryPackagePurpose" | "releaseDate" | "builtDate" | "validUntilDate" => false,
            "attributionTexts" => !first,
            _ => true,
        });
        let absent = |value: Option<&Value>| value.is_none_or(Value::is_null);
        if absent(package.get("packageVerificationCode")) {
            package.insert("packageVerificationCode".to_owned(), json!({}));
        }
        if first && absent(package.get("filesAnalyzed")) {
            package.insert("filesAnalyzed".to_owned(), json!(false));
        }
    }
}

/// The relationships that fields of older documents stand for.
fn further(
    model: &mut Model,
    given: &mut Object,
    version: &str,
) -> Result<Vec<[Value; 3]>, Unreadable> {
    let mut all = Vec::new();
    if version == "SPDX-2.1" {
        return Ok(all);
    }
    let mut add = |owner: &mut Object, key: &str, relation: &str| {
        let from = name(REFERENCE, owner.get("SPDXID").cloned())?;
        let to = model.read(&List(&Reference), owner.remove(key))?;
        if let Value::Array(to) = to {
            all.extend(to.into_iter().map(|to| [from.clone(), json!(relation), to]));
        }
        Ok(())
    };
    add(given, "documentDescribes", "DESCRIBES")?;
    for package in objects(given, "packages") {
        add(package, "hasFiles", "CONTAINS")?;
    }
    Ok(all)
}

/// Adds the relationships that the document does not have yet.
fn relate(document: &mut Object, further: Vec<[Value; 3]>, version: &str) {
    let mut list = match document.get_mut("relationships").map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if version != "SPDX-2.1" {
        list.retain(|it| !it.is_null());
    }
    let mut known: BTreeSet<[String; 3]> = list.iter().map(relation).collect();
    for [from, kind, to] in further {
        let made =
            json!({"spdxElementId": from, "relatedSpdxElement": to, "relationshipType": kind});
        if known.insert(relation(&made)) {
            list.push(made);
        }
    }
    document.insert("relationships".to_owned(), Value::Array(list));
}

/// The document as it is written, without what is empty.
pub(super) fn finish(mut document: Object) -> Value {
    if document.get("relationships").is_some_and(is_empty) {
        document.shift_remove("relationships");
    }
    for file in files(&mut document) {
        if file.get("comment").is_some_and(is_empty) {
            file.shift_remove("comment");
        }
    }
    Value::Object(document)
}

/// A relationship, told in one direction.
fn relation(it: &Value) -> [String; 3] {
    let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let (from, to) = (text("spdxElementId"), text("relatedSpdxElement"));
    match text("relationshipType").as_str() {
        "CONTAINED_BY" => [to, "CONTAINS".to_owned(), from],
        "DESCRIBED_BY" => [to, "DESCRIBES".to_owned(), from],
        kind => [from, kind.to_owned(), to],
    }
}
