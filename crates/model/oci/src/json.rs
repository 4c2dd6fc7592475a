//! JSON as Go reads it, and byte for byte as Go writes it: `<`, `>`, `&` and the two line separators of Unicode are escaped in strings.

use std::io;

use serde::Serialize;
use serde::de::{DeserializeOwned, Error, Unexpected};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter, Serializer};

/// Reads an object. Of a list serde takes the fields in their order, so that `[]` is whatever has no required field.
pub fn object<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    if text.trim_ascii_start().starts_with(b"[") {
        return Err(Error::invalid_type(Unexpected::Seq, &"an object"));
    }
    serde_json::from_slice(text)
}

/// On one line.
pub fn compact(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    write(value, CompactFormatter)
}

/// Indented by two spaces, without a newline at the end: the form of manifests.
pub fn indented(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    write(value, PrettyFormatter::with_indent(b"  "))
}

/// Indented by tabs: the form of the indexes in layers.
pub fn tabbed(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    write(value, PrettyFormatter::with_indent(b"\t"))
}

fn write(value: &impl Serialize, layout: impl Formatter) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, Escaping(layout));
    value.serialize(&mut serializer)?;
    Ok(out)
}

/// Takes the blanks out of a JSON text and escapes its strings; everything else stays as it was written.
pub(crate) fn compact_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    let mut escaped = false;
    for letter in text.chars() {
        if inside {
            inside = letter != '"' || escaped;
            escaped = letter == '\\' && !escaped;
        } else {
            if matches!(letter, ' ' | '\t' | '\n' | '\r') {
                continue;
            }
            inside = letter == '"';
        }
        match escape(letter) {
            Some(escape) => out.push_str(escape),
            None => out.push(letter),
        }
    }
    out
}

/// Breaks a JSON text without blanks into lines, as [`indented`] does.
pub fn indented_text(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 2);
    let mut depth = 0;
    let mut bytes = text.bytes().peekable();
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                out.push(byte);
                while let Some(inside) = bytes.next() {
                    out.push(inside);
                    match inside {
                        b'"' => break,
                        b'\\' => out.extend(bytes.next()),
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                out.push(byte);
                match bytes.next_if(|next| matches!(next, b'}' | b']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(&mut out, depth);
            }
            b':' => out.extend(b": "),
            _ => out.push(byte),
        }
    }
    out
}

fn escape(letter: char) -> Option<&'static str> {
    Some(match letter {
        '<' => "\\u003c",
        '>' => "\\u003e",
        '&' => "\\u0026",
        '\u{2028}' => "\\u2028",
        '\u{2029}' => "\\u2029",
        _ => return None,
    })
}

/// A layout with Go's escapes.
struct Escaping<F>(F);

/// Passes calls on to the layout inside.
macro_rules! pass_on {
    ($($call:ident($($flag:ident: $kind:ty)?);)+) => {$(
        fn $call<W: ?Sized + io::Write>(&mut self, out: &mut W $(, $flag: $kind)?) -> io::Result<()> {
            self.0.$call(out $(, $flag)?)
        }
    )+};
}

impl<F: Formatter> Formatter for Escaping<F> {
    pass_on! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut from = 0;
        for (at, letter) in fragment.char_indices() {
            if let Some(escape) = escape(letter) {
                out.write_all(&fragment.as_bytes()[from..at])?;
                out.write_all(escape.as_bytes())?;
                from = at + letter.len_utf8();
            }
        }
        out.write_all(&fragment.as_bytes()[from..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_no_object() {
        #[derive(Debug, PartialEq, serde::Deserialize)]
        struct Read {
            #[serde(default)]
            value: u8,
        }
        assert_eq!(
            object::<Read>(b" {}\n").expect("an object"),
            Read { value: 0 }
        );
        let refused = object::<Read>(b" [1]").expect_err("a list");
        assert_eq!(
            refused.to_string(),
            "invalid type: sequence, expected an object"
        );
    }

    #[test]
    fn strings_are_escaped_as_go_does_it() {
        let text = compact(&"a<b>&\u{2028}\n\"ü").expect("JSON");
        assert_eq!(
            String::from_utf8(text).expect("text"),
            "\"a\\u003cb\\u003e\\u0026\\u2028\\n\\\"ü\""
        );
    }

    #[test]
    fn a_text_is_broken_into_lines_as_a_value_is() {
        let value = serde_json::json!({
            "a": [], "b": {}, "c": [1, "x: {\"y\\\\\": [,]}", null], "d": {"e": {"f": -1.5, "<": true}},
        });
        let text = String::from_utf8(compact(&value).expect("JSON")).expect("text");
        assert_eq!(indented_text(&text), indented(&value).expect("JSON"));
    }

    #[test]
    fn a_text_loses_its_blanks_and_keeps_its_numbers() {
        assert_eq!(
            compact_text("{ \"a b\" : [1.50,\n 2e3], \"<\\\" \": null }"),
            "{\"a b\":[1.50,2e3],\"\\u003c\\\" \":null}"
        );
    }
}
