//! Metadata keys of sessions and of the calls inside them, and how their values are written.

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use crate::Error;

/// Id of a session.
pub const SESSION_ID: &str = "x-docker-expose-session-uuid";
/// Shared key of a session; often empty.
pub const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
/// A method the client serves; repeated.
pub const METHOD: &str = "x-docker-expose-session-grpc-method";
/// Period of health checks in milliseconds, for tests.
pub const HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";
/// Index of the exporter a result belongs to.
pub const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
/// Set when one transfer carries all platforms.
pub const MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
/// Prefix of facts about a result.
pub const EXPORTER_FACT: &str = "exporter-md-";
/// Name of a content store.
pub const STORE_ID: &str = "buildkit-attachable-store-id";
/// Id of an agent.
pub const SSH_ID: &str = "buildkit.ssh.id";
/// Path of an upload.
pub const UPLOAD_PATH: &str = "urlpath";
/// Host of an upload.
pub const UPLOAD_HOST: &str = "urlhost";

/// The first value of a key as text.
pub fn text<'a>(metadata: &'a MetadataMap, key: &str) -> Option<&'a str> {
    metadata.get(key)?.to_str().ok()
}

/// All values of a key, taken out of their escapes if the client or daemon says that it escaped them.
pub fn list(metadata: &MetadataMap, key: &str) -> Vec<String> {
    let escaped = text(metadata, &format!("{key}-encoded"))
        .is_some_and(|flag| fault::truth(flag) == Some(true));
    let values = metadata.get_all(key).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    if escaped {
        values.map(unescape).collect()
    } else {
        values.map(str::to_owned).collect()
    }
}

/// Appends all values under a key, escaped when one of them is not ASCII.
pub fn append_list(metadata: &mut MetadataMap, key: &'static str, values: &[String]) {
    let escaped = values.iter().any(|value| !value.is_ascii());
    for value in values {
        let text = if escaped {
            escape(value)
        } else {
            value.clone()
        };
        append(metadata, key, &text);
    }
    if escaped
        && let Ok(flag) = format!("{key}-encoded").parse::<tonic::metadata::MetadataKey<Ascii>>()
    {
        metadata.insert(flag, MetadataValue::from_static("1"));
    }
}

/// Appends one value; what no header can carry is left out.
pub fn append(metadata: &mut MetadataMap, key: &str, value: &str) {
    if let (Ok(key), Ok(value)) = (
        key.parse::<tonic::metadata::MetadataKey<Ascii>>(),
        value.parse::<MetadataValue<Ascii>>(),
    ) {
        metadata.append(key, value);
    }
}

/// Appends the name of something that the client has. Compat: upstream sends printable ASCII only, as gRPC wants it.
pub(crate) fn append_name(
    metadata: &mut MetadataMap,
    key: &'static str,
    name: &str,
) -> Result<(), Error> {
    if !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(Error::Header { key });
    }
    append(metadata, key, name);
    Ok(())
}

/// Escapes as in a query: blank is plus, everything but letters, digits and `-_.~` is a percent code.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Takes escapes back; what is no escape stays.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .filter(|_| byte == b'%')
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        rest = match code {
            Some(code) => {
                out.push(code);
                &tail[2..]
            }
            None => {
                out.push(if byte == b'+' { b' ' } else { byte });
                tail
            }
        };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(values: &[&str]) -> (Vec<String>, bool) {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut metadata = MetadataMap::new();
        append_list(&mut metadata, "include-patterns", &values);
        let escaped = metadata.contains_key("include-patterns-encoded");
        (list(&metadata, "include-patterns"), escaped)
    }

    #[test]
    fn plain_values_go_as_they_are() {
        assert_eq!(
            round_trip(&["a b", "50%+x"]),
            (vec!["a b".to_owned(), "50%+x".to_owned()], false)
        );
    }

    #[test]
    fn one_foreign_letter_escapes_all_values() {
        assert_eq!(
            round_trip(&["a b+c%", "größe/*"]),
            (vec!["a b+c%".to_owned(), "größe/*".to_owned()], true)
        );
        assert_eq!(escape("größe x/*"), "gr%C3%B6%C3%9Fe+x%2F%2A");
    }

    #[test]
    fn a_name_outside_ascii_is_refused_and_not_left_out() {
        let mut metadata = MetadataMap::new();
        let refused = append_name(&mut metadata, STORE_ID, "local:\u{e9}\u{e8}").err();
        assert_eq!(
            refused.map(|err| err.to_string()).as_deref(),
            Some(
                "header key \"buildkit-attachable-store-id\" contains value with non-printable ASCII characters"
            )
        );
        assert!(metadata.is_empty());
        assert!(append_name(&mut metadata, STORE_ID, "local:a b").is_ok());
        assert_eq!(text(&metadata, STORE_ID), Some("local:a b"));
    }
}
