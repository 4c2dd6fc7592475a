//! The JSON objects operation digests are taken over: fields in a fixed order, empty ones left out on request.

use proto::gojson::write_str;

/// An object written field by field.
pub(crate) struct Object {
    text: String,
}

impl Object {
    pub(crate) fn new() -> Self {
        Self {
            text: String::from("{"),
        }
    }

    fn key(&mut self, key: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        write_str(&mut self.text, key);
        self.text.push(':');
    }

    /// A field whose JSON is given.
    pub(crate) fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.text.push_str(json);
    }

    /// A text, empty or not.
    pub(crate) fn string(&mut self, key: &str, text: &str) {
        self.key(key);
        write_str(&mut self.text, text);
    }

    /// A text that is left out when empty.
    pub(crate) fn string_if(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.string(key, text);
        }
    }

    /// A list of texts that is left out when empty.
    pub(crate) fn strings_if(&mut self, key: &str, texts: &[String]) {
        if !texts.is_empty() {
            self.key(key);
            self.text.push_str(&strings(texts));
        }
    }

    /// The object's text.
    pub(crate) fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// A list of texts.
pub(crate) fn strings(texts: &[String]) -> String {
    let mut json = String::from("[");
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        write_str(&mut json, text);
    }
    json.push(']');
    json
}
