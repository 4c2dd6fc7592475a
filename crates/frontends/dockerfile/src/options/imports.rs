//! `cache-imports`: a list of caches as JSON, which programs write.

use proto::gateway::CacheOptionsEntry;
use serde_json::{Map, Value};

use crate::error::{Result, text};

/// Reads the list.
///
/// Compat: what is of the wrong kind is said in upstream's words, names are read in any case, and `null` is nothing. Text
/// that is no JSON is said with its line and column, which upstream leaves out.
pub(super) fn cache_imports(list: &str) -> Result<Vec<CacheOptionsEntry>> {
    let entries = match serde_json::from_str(list) {
        Ok(value) => entries(value),
        Err(err) if err.is_eof() => Err("unexpected end of JSON input".to_owned()),
        Err(err) => Err(err.to_string()),
    };
    entries.map_err(|reason| {
        let list = dockerfile_syntax::quote::go(list);
        text(format!(
            "failed to unmarshal cache-imports ({list}): {reason}"
        ))
        .into()
    })
}

type Read<T> = std::result::Result<T, String>;

fn entries(value: Value) -> Read<Vec<CacheOptionsEntry>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items
            .into_iter()
            .filter(|item| !item.is_null())
            .map(entry)
            .collect(),
        other => Err(mismatch(
            &other,
            "Go value of type []*moby_buildkit_v1.CacheOptionsEntry",
        )),
    }
}

fn entry(value: Value) -> Read<CacheOptionsEntry> {
    let Value::Object(fields) = value else {
        let wanted = "Go value of type moby_buildkit_v1.CacheOptionsEntry";
        return Err(mismatch(&value, wanted));
    };
    let mut entry = CacheOptionsEntry::default();
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("type") {
            entry.r#type = string(value, "Type")?;
        } else if name.eq_ignore_ascii_case("attrs") {
            entry.attrs = attrs(value)?
                .into_iter()
                .map(|(key, value)| Ok((key, string(value, "Attrs")?)))
                .collect::<Read<_>>()?;
        }
    }
    Ok(entry)
}

fn attrs(value: Value) -> Read<Map<String, Value>> {
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(attrs) => Ok(attrs),
        other => Err(mismatch(&other, &field("Attrs", "map[string]string"))),
    }
}

fn string(value: Value, name: &str) -> Read<String> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        other => Err(mismatch(&other, &field(name, "string"))),
    }
}

fn field(name: &str, kind: &str) -> String {
    format!("Go struct field CacheOptionsEntry.{name} of type {kind}")
}

fn mismatch(value: &Value, wanted: &str) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {kind} into {wanted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &str) -> Read<Vec<CacheOptionsEntry>> {
        serde_json::from_str(list).map_or_else(|err| Err(err.to_string()), entries)
    }

    #[test]
    fn names_are_read_in_any_case_and_null_is_nothing() {
        let list = r#"[{"TYPE":"a","attrs":{"b":"c"},"x":1},null,{"Type":null,"Attrs":null}]"#;
        let one = CacheOptionsEntry {
            r#type: "a".to_owned(),
            attrs: [("b".to_owned(), "c".to_owned())].into(),
        };
        assert_eq!(read(list), Ok(vec![one, CacheOptionsEntry::default()]));
        assert_eq!(read("null"), Ok(Vec::new()));
    }

    #[test]
    fn other_kinds_are_refused_in_upstreams_words() {
        let of_entry = "Go value of type moby_buildkit_v1.CacheOptionsEntry";
        let of_list = "Go value of type []*moby_buildkit_v1.CacheOptionsEntry";
        let of_field = "Go struct field CacheOptionsEntry";
        for (list, kind, wanted) in [
            ("{}", "object", of_list.to_owned()),
            ("[[]]", "array", of_entry.to_owned()),
            (
                r#"[{"Type":true}]"#,
                "bool",
                format!("{of_field}.Type of type string"),
            ),
            (
                r#"[{"Attrs":1}]"#,
                "number",
                format!("{of_field}.Attrs of type map[string]string"),
            ),
            (
                r#"[{"Attrs":{"a":{}}}]"#,
                "object",
                format!("{of_field}.Attrs of type string"),
            ),
        ] {
            let wanted = format!("json: cannot unmarshal {kind} into {wanted}");
            assert_eq!(read(list), Err(wanted));
        }
    }
}
