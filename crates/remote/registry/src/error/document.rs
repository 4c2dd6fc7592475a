//! What a registry says when it refuses, made readable.

use std::fmt;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

/// How much of a body that is no error document is shown.
const SHOWN: usize = 256;

/// Why a registry refused, in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its error document, as one text.
    Document(String),
    /// Status and the beginning of a body of another kind.
    Body(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document(text) | Self::Body(text) => f.write_str(text),
        }
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default, alias = "Errors")]
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    detail: Option<Value>,
}

/// Reads the body of a refusal. `None` when there is nothing in it.
pub(crate) fn read(status: StatusCode, body: &[u8]) -> Option<Refusal> {
    if body.is_empty() {
        return None;
    }
    if let Ok(document) = serde_json::from_slice::<Document>(body)
        && !document.errors.is_empty()
    {
        return Some(Refusal::Document(print(&document.errors)));
    }
    let mut text = format!("{}", status.as_u16());
    if let Some(reason) = status.canonical_reason() {
        text.push(' ');
        text.push_str(reason);
    }
    text.push_str(": ");
    text.push_str(&excerpt(body));
    Some(Refusal::Body(text))
}

fn print(entries: &[Entry]) -> String {
    match entries {
        [one] => one.to_string(),
        several => {
            let lines = several.iter().map(|entry| format!("{entry}\n"));
            format!("errors:\n{}", lines.collect::<String>())
        }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = self.code.as_deref().and_then(known);
        let code = match (&self.code, usual) {
            (Some(code), Some(_)) => code.to_lowercase().replace('_', " "),
            _ => "unknown".to_owned(),
        };
        let message = self.message.as_deref().unwrap_or_default();
        let detail = match &self.detail {
            Some(Value::String(detail)) => detail,
            _ => "",
        };
        f.write_str(&code)?;
        if !message.is_empty() && usual != Some(message) {
            write!(f, ": {message}")?;
        } else if self.detail.is_some() {
            write!(f, ": {}", usual.unwrap_or("unknown error"))?;
        }
        if !detail.is_empty() {
            write!(f, " - {detail}")?;
        }
        Ok(())
    }
}

/// What a code of the specification means; codes that are not in it count as unknown.
fn known(code: &str) -> Option<&'static str> {
    Some(match code {
        "UNKNOWN" => "unknown error",
        "UNSUPPORTED" => "The operation is unsupported.",
        "UNAUTHORIZED" => "authentication required",
        "DENIED" => "requested access to the resource is denied",
        "UNAVAILABLE" => "service unavailable",
        "TOOMANYREQUESTS" => "too many requests",
        _ => return None,
    })
}

fn excerpt(body: &[u8]) -> String {
    if let Ok(value) = serde_json::from_slice::<Value>(body)
        && let Some(details) = value.get("details").and_then(Value::as_str)
        && !details.is_empty()
    {
        return details.to_owned();
    }
    let mut text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).into_owned();
    if body.len() > SHOWN {
        text.push_str(&format!("... ({} bytes truncated)", body.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &str) -> String {
        read(StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes())
            .map(|refusal| refusal.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn a_registry_document_is_told_in_one_line() {
        assert_eq!(
            text(r#"{"errors":[{"code":"DENIED","message":"no push for you"}]}"#),
            "denied: no push for you"
        );
        assert_eq!(
            text(r#"{"errors":[{"code":"BOOM","message":"boom"}]}"#),
            "unknown: boom"
        );
        assert_eq!(
            text(r#"{"errors":[{"code":"DENIED","message":"m","detail":"why"}]}"#),
            "denied: m - why"
        );
        assert_eq!(
            text(r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#),
            "toomanyrequests"
        );
    }

    #[test]
    fn several_errors_are_listed() {
        assert_eq!(
            text(
                r#"{"errors":[{"code":"DENIED","message":"a"},{"code":"UNKNOWN","message":"b"}]}"#
            ),
            "errors:\ndenied: a\nunknown: b\n"
        );
    }

    #[test]
    fn other_bodies_are_cut() {
        assert_eq!(text("oops"), "500 Internal Server Error: oops");
        assert_eq!(
            text(r#"{"details":"the vault is locked"}"#),
            "500 Internal Server Error: the vault is locked"
        );
        let long = text(&"x".repeat(300));
        assert!(long.ends_with("xxx... (44 bytes truncated)"), "{long}");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(read(StatusCode::FORBIDDEN, b""), None);
    }
}
