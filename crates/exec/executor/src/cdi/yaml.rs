//! YAML (and so JSON) as a plain tree of maps, lists and texts.
//!
//! What a text means is left to whoever reads it: a version `1.0` stays what was written, and a mode `0660` can be
//! read as octal. Entries without a value are left out, as if they were not there.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// Nested deeper than this, a document is refused.
const MAX_DEPTH: usize = 64;
/// Values of one document, counted with those that aliases repeat.
const MAX_VALUES: usize = 100_000;

/// The first document of a text; `None` if there is nothing in it.
pub(super) fn parse(text: &str) -> Result<Option<Value>, String> {
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|err| err.to_string())?;
        match tree.take(event) {
            Ok(false) => {}
            Ok(true) => break,
            Err(problem) => return Err(format!("line {}: {problem}", span.start.line())),
        }
    }
    Ok(tree.whole)
}

/// What is being read.
#[derive(Default)]
struct Tree {
    open: Vec<Open>,
    anchors: HashMap<usize, Option<Value>>,
    values: usize,
    whole: Option<Value>,
}

/// A list or map that has begun, with its anchor.
enum Open {
    List(usize, Vec<Value>),
    Map(usize, Map<String, Value>, Option<String>),
}

impl Tree {
    /// Whether the document is over.
    fn take(&mut self, event: Event<'_>) -> Result<bool, String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let value = scalar(text, style);
                self.anchored(anchor, value)?;
            }
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned().flatten();
                self.values += value.as_ref().map_or(0, count);
                self.add(value)?;
            }
            Event::SequenceStart(anchor, _) => self.begin(Open::List(anchor, Vec::new()))?,
            Event::MappingStart(anchor, _) => self.begin(Open::Map(anchor, Map::new(), None))?,
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(anchor, list)) => {
                    self.anchored(anchor, Some(Value::Array(list)))?
                }
                Some(Open::Map(anchor, map, _)) => {
                    self.anchored(anchor, Some(Value::Object(map)))?
                }
                None => {}
            },
            Event::DocumentEnd => return Ok(true),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => {}
        }
        Ok(false)
    }

    fn begin(&mut self, open: Open) -> Result<(), String> {
        if self.open.len() == MAX_DEPTH {
            return Err("nested too deeply".to_owned());
        }
        self.open.push(open);
        Ok(())
    }

    fn anchored(&mut self, anchor: usize, value: Option<Value>) -> Result<(), String> {
        // 0 stands for no anchor.
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        self.add(value)
    }

    fn add(&mut self, value: Option<Value>) -> Result<(), String> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err("too many values".to_owned());
        }
        match self.open.last_mut() {
            None => self.whole = value,
            Some(Open::List(_, list)) => list.extend(value),
            Some(Open::Map(_, map, key)) => match (key.take(), value) {
                (None, Some(Value::String(name))) => *key = Some(name),
                (None, _) => return Err("a key must be a text".to_owned()),
                (Some(name), _) if map.contains_key(&name) => {
                    return Err(format!("key {name:?} is there twice"));
                }
                (Some(name), Some(value)) => {
                    map.insert(name, value);
                }
                (Some(_), None) => {}
            },
        }
        Ok(())
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Option<Value> {
    let empty = ["", "~", "null", "Null", "NULL"].contains(&&*text);
    (style != ScalarStyle::Plain || !empty).then(|| Value::String(text.into_owned()))
}

fn count(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(count).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        parse(text).map_or_else(
            |problem| problem,
            |value| value.map_or_else(String::new, |value| value.to_string()),
        )
    }

    #[test]
    fn texts_stay_as_they_were_written() {
        assert_eq!(
            json("v: 1.10\nn: 0660\nb: true\nq: \"\"\nnothing:\nlist: [a, 'b c', ~]\n"),
            r#"{"v":"1.10","n":"0660","b":"true","q":"","list":["a","b c"]}"#
        );
        assert_eq!(json(r#"{"a": {"b": [1, null]}}"#), r#"{"a":{"b":["1"]}}"#);
    }

    #[test]
    fn only_the_first_document_counts() {
        assert_eq!(json("---\na: 1\n---\nb: 2\n"), r#"{"a":"1"}"#);
        assert_eq!(json("# nothing\n"), "");
    }

    #[test]
    fn aliases_repeat_what_they_name_within_limits() {
        assert_eq!(json("a: &x [1]\nb: *x\n"), r#"{"a":["1"],"b":["1"]}"#);
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..9 {
            let all = vec![format!("*a{}", n - 1); 10].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{all}]\n"));
        }
        assert!(json(&bomb).contains("too many values"), "{}", json(&bomb));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(json("a: 1\na: 2\n").contains("twice"));
        assert!(json("[1]: 2\n").contains("key must be a text"));
        assert!(json(&"[".repeat(100)).contains("too deeply"));
        assert!(parse("a: [1\n").is_err());
    }
}
