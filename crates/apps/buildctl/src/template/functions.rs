//! Functions of templates.

use std::cmp::Ordering;

use anyhow::{Result, bail};

use super::Value;

/// All there are.
pub(crate) const NAMES: [&str; 15] = [
    "json", "len", "index", "print", "printf", "println", "eq", "ne", "lt", "le", "gt", "ge",
    "and", "or", "not",
];

/// Calls a function.
pub(crate) fn call(name: &str, arguments: &[Value]) -> Result<Value> {
    let text = |text: String| Ok(Value::Text(text));
    match (name, arguments) {
        ("json", [value]) => text(value.json_text()),
        ("len", [value]) => length(value),
        ("index", [list, rest @ ..]) => index(list, rest),
        ("print", values) => text(values.iter().map(ToString::to_string).collect()),
        ("println", values) => {
            let words: Vec<_> = values.iter().map(ToString::to_string).collect();
            text(words.join(" ") + "\n")
        }
        ("printf", [Value::Text(format), values @ ..]) => text(printf(format, values)),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            Ok(Value::Bool(others.iter().any(|other| other == first)))
        }
        ("ne", [a, b]) => Ok(Value::Bool(a != b)),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = order(a, b)?;
            Ok(Value::Bool(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        ("and" | "or", [_, ..]) => {
            let wanted = name == "or";
            let found = arguments.iter().find(|value| value.is_true() == wanted);
            Ok(found.or(arguments.last()).cloned().unwrap_or(Value::Nil))
        }
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        _ if NAMES.contains(&name) => bail!("wrong arguments for {name}"),
        _ => bail!("function {name:?} not defined"),
    }
}

fn length(value: &Value) -> Result<Value> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(values) => values.len(),
        Value::Map(pairs) => pairs.len(),
        other => bail!("len of {other}"),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(list: &Value, path: &[Value]) -> Result<Value> {
    let mut at = list;
    for step in path {
        if let (Value::Map(pairs), Value::Text(name)) = (at, step) {
            let found = pairs.iter().find(|(key, _)| key == name);
            return Ok(found.map_or(Value::Text(String::new()), |(_, value)| value.clone()));
        }
        let (Value::List(values), Value::Int(index)) = (at, step) else {
            bail!("can't index item of {at}");
        };
        at = match usize::try_from(*index)
            .ok()
            .and_then(|index| values.get(index))
        {
            Some(value) => value,
            None => bail!("index out of range: {index}"),
        };
    }
    Ok(at.clone())
}

fn order(a: &Value, b: &Value) -> Result<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Text(a), Value::Text(b)) | (Value::Time(a, _), Value::Time(b, _)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.total_cmp(b)),
        _ => bail!("incompatible types for comparison"),
    }
}

/// Verbs `s`, `v`, `d`, `q`, `t` and `f` with flags, width and precision.
fn printf(format: &str, values: &[Value]) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | ' ' | '#')))
            .unwrap_or(rest.len());
        let (flags, tail) = rest.split_at(end);
        let Some(verb) = tail.chars().next() else {
            out.push_str("%!(NOVERB)");
            return out;
        };
        rest = &tail[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = values.next() else {
            out.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        out.push_str(&one(flags, verb, value));
    }
    out.push_str(rest);
    out
}

fn one(flags: &str, verb: char, value: &Value) -> String {
    let left = flags.contains('-');
    let numbers = flags.trim_start_matches(['-', '+', ' ', '#']);
    let (width, precision) = match numbers.split_once('.') {
        Some((width, precision)) => (width, precision.parse::<usize>().ok()),
        None => (numbers, None),
    };
    let zeros = width.starts_with('0') && !left;
    let width: usize = width.parse().unwrap_or(0);
    let text = match (verb, value) {
        ('q', value) => format!("{:?}", value.to_string()),
        ('f', Value::Float(value)) => format!("{value:.*}", precision.unwrap_or(6)),
        ('s' | 'v' | 'd' | 't', value) => {
            let text = value.to_string();
            match precision {
                Some(most) if verb == 's' => text.chars().take(most).collect(),
                _ => text,
            }
        }
        (verb, value) => format!("%!{verb}({value})"),
    };
    let missing = width.saturating_sub(text.chars().count());
    match (left, zeros) {
        (true, _) => text + &" ".repeat(missing),
        (false, true) => "0".repeat(missing) + &text,
        (false, false) => " ".repeat(missing) + &text,
    }
}
