//! Values that templates show.

use std::fmt;

use anyhow::{Result, bail};
use serde_json::Value as Json;

/// A value. Records have two names for each field: the one templates use, and the one JSON has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A point in time: as JSON has it, and as people see it.
    Time(String, String),
    List(Vec<Value>),
    /// Values by names that are not known beforehand.
    Map(Vec<(String, Value)>),
    Record(Vec<Field>),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    name: &'static str,
    json: &'static str,
    value: Value,
    /// Left out of JSON when it is empty.
    optional: bool,
}

impl Field {
    /// A field with its name and its name in JSON.
    pub(crate) fn new(name: &'static str, json: &'static str, value: Value) -> Self {
        Self {
            name,
            json,
            value,
            optional: false,
        }
    }

    /// The same, but JSON has it only when there is something in it.
    pub(crate) fn unless_empty(name: &'static str, json: &'static str, value: Value) -> Self {
        Self {
            optional: true,
            ..Self::new(name, json, value)
        }
    }

    fn is_in_json(&self) -> bool {
        !self.optional || self.value.is_true()
    }
}

impl Value {
    /// Whether a condition holds: whatever is not zero or empty.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(value) => !value.is_empty(),
            Self::List(values) => !values.is_empty(),
            Self::Map(pairs) => !pairs.is_empty(),
            Self::Time(..) | Self::Record(_) => true,
        }
    }

    /// What is found by the names of fields.
    pub(crate) fn at(&self, path: &[String]) -> Result<Self> {
        let mut at = self;
        for name in path {
            if let Self::Map(pairs) = at {
                // Compat: what is not there is empty.
                let Some((_, value)) = pairs.iter().find(|(key, _)| key == name) else {
                    return Ok(Self::Text(String::new()));
                };
                at = value;
                continue;
            }
            let Self::Record(fields) = at else {
                bail!("can't evaluate field {name} in {}", at.kind());
            };
            match fields.iter().find(|field| field.name == name) {
                Some(field) => at = &field.value,
                None => bail!("can't evaluate field {name} in this record"),
            }
        }
        Ok(at.clone())
    }

    /// Keys and values, for `range`.
    pub(crate) fn pairs(&self) -> Result<Vec<(Self, Self)>> {
        let index = |at: usize| Self::Int(i64::try_from(at).unwrap_or(i64::MAX));
        Ok(match self {
            Self::List(values) => {
                let values = values.iter().cloned().enumerate();
                values.map(|(at, value)| (index(at), value)).collect()
            }
            Self::Map(pairs) => {
                let pairs = pairs.iter().cloned();
                pairs.map(|(key, value)| (Self::Text(key), value)).collect()
            }
            Self::Int(count) => (0..*count)
                .map(|at| (Self::Int(at), Self::Int(at)))
                .collect(),
            Self::Nil => Vec::new(),
            _ => bail!("range can't iterate over {self}"),
        })
    }

    /// The same record with the names of its fields instead of their values: the first line of a table.
    pub(crate) fn headings(&self) -> Self {
        match self {
            Self::Record(fields) => Self::Record(
                fields
                    .iter()
                    .map(|field| Field {
                        value: Self::Text(heading(field.name)),
                        ..field.clone()
                    })
                    .collect(),
            ),
            other => other.clone(),
        }
    }

    pub(crate) fn to_json(&self) -> Json {
        match self {
            Self::Nil => Json::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Text(value) | Self::Time(value, _) => value.as_str().into(),
            Self::List(values) => values.iter().map(Self::to_json).collect(),
            Self::Map(pairs) => pairs
                .iter()
                .map(|(key, value)| (key.clone(), value.to_json()))
                .collect(),
            Self::Record(fields) => fields
                .iter()
                .filter(|field| field.is_in_json())
                .map(|field| (field.json.to_owned(), field.value.to_json()))
                .collect(),
        }
    }

    /// The JSON text, fields in their order.
    pub(crate) fn json_text(&self) -> String {
        match self {
            Self::Record(fields) => {
                let fields: Vec<_> = fields
                    .iter()
                    .filter(|field| field.is_in_json())
                    .map(|field| {
                        let name = Json::from(field.json);
                        format!("{name}:{}", field.value.json_text())
                    })
                    .collect();
                format!("{{{}}}", fields.join(","))
            }
            // Compat: a list without elements was never made.
            Self::List(values) if values.is_empty() => "null".to_owned(),
            Self::List(values) => {
                let values: Vec<_> = values.iter().map(Self::json_text).collect();
                format!("[{}]", values.join(","))
            }
            other => other.to_json().to_string(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "type bool",
            Self::Int(_) => "type int64",
            Self::Float(_) => "type float64",
            Self::Text(_) => "type string",
            Self::Time(..) => "type time.Time",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
            Self::Record(_) => "a record",
        }
    }
}

/// `LastUsedAt` becomes `LAST USED AT`.
fn heading(name: &str) -> String {
    let mut text = String::new();
    let mut before = None;
    for c in name.chars() {
        if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
            text.push(' ');
        }
        text.extend(c.to_uppercase());
        before = Some(c);
    }
    text
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, values: &mut dyn Iterator<Item = &Value>| {
            for (at, value) in values.enumerate() {
                if at > 0 {
                    f.write_str(" ")?;
                }
                value.fmt(f)?;
            }
            Ok(())
        };
        match self {
            Self::Nil => f.write_str("<nil>"),
            Self::Bool(value) => value.fmt(f),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
            Self::Text(value) | Self::Time(_, value) => f.write_str(value),
            Self::List(values) => {
                f.write_str("[")?;
                list(f, &mut values.iter())?;
                f.write_str("]")
            }
            Self::Map(pairs) => {
                f.write_str("map[")?;
                for (at, (key, value)) in pairs.iter().enumerate() {
                    let blank = if at > 0 { " " } else { "" };
                    write!(f, "{blank}{key}:{value}")?;
                }
                f.write_str("]")
            }
            Self::Record(fields) => {
                f.write_str("{")?;
                list(f, &mut fields.iter().map(|field| &field.value))?;
                f.write_str("}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_become_headings() {
        assert_eq!(heading("ID"), "ID");
        assert_eq!(heading("LastUsedAt"), "LAST USED AT");
    }
}
