//! The keys of a file: what its content makes, and what its URL makes.

use std::time::{Duration, UNIX_EPOCH};

use oci::Digest;
use proto::gojson::write_str;

use crate::attrs::Attrs;

/// S of the cache-key rules. Compat: names and order of the fields as upstream hashes them.
pub(crate) fn text(
    attrs: &Attrs,
    filename: &str,
    digest: &Digest,
    modified: Option<i64>,
) -> String {
    let mut json = String::from("{\"Filename\":");
    write_str(&mut json, filename);
    let file = &attrs.file;
    let (perm, uid, gid) = (file.perm, file.uid, file.gid);
    json.push_str(&format!(
        ",\"Perm\":{perm},\"UID\":{uid},\"GID\":{gid},\"Checksum\":\"{digest}\""
    ));
    if let Some(modified) = modified {
        json.push_str(",\"LastModTime\":");
        write_str(&mut json, &date(modified));
    }
    if !attrs.auth_secret.is_empty() {
        json.push_str(",\"AuthHeaderSecret\":");
        write_str(&mut json, &attrs.auth_secret);
    }
    if !attrs.headers.is_empty() {
        json.push_str(",\"Header\":[");
        for (index, (name, value)) in attrs.headers.iter().enumerate() {
            if index > 0 {
                json.push(',');
            }
            json.push_str(&format!("{{\"Name\":\"{name}\",\"Value\":"));
            write_str(&mut json, value);
            json.push('}');
        }
        json.push(']');
    }
    json.push('}');
    Digest::of(json).to_string()
}

/// The last second that has a form of HTTP.
const LAST: u64 = 253_402_300_799;

/// A time in the form of HTTP.
fn date(seconds: i64) -> String {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0).min(LAST));
    httpdate::fmt_http_date(UNIX_EPOCH + since)
}

impl Attrs {
    /// All that makes the file behind the URL another one; its checksum does not.
    pub(crate) fn url_key(&self) -> String {
        let file = &self.file;
        let parts = [
            self.url.clone(),
            file.filename.clone(),
            format!("{} {} {}", file.perm, file.uid, file.gid),
            self.auth_secret.clone(),
        ];
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}"));
        let all: Vec<String> = parts.into_iter().chain(headers).collect();
        Digest::of(all.join("\0")).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::attrs::tests::parse;

    #[test]
    fn every_time_has_a_form() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(i64::MIN), date(0));
        assert_eq!(date(i64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn keys_equal_upstreams() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../testing/vectors/cachekeys/cachemap.json"
        );
        let all: Value =
            serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON");
        let sources = all["sources"].as_array().expect("a list");
        let cases = sources.iter().filter(|case| {
            let name = case["name"].as_str().unwrap_or_default();
            name.starts_with("http-")
        });
        let mut seen = 0;
        for case in cases {
            let params = &case["params"];
            let id = &params["id"];
            let mut attrs = parse(id["URL"].as_str().expect("a URL"), &[]).expect("attributes");
            let text_of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            attrs.file.filename = text_of(&id["Filename"]);
            attrs.file.perm = id["Perm"].as_i64().expect("a number");
            attrs.file.uid = id["UID"].as_i64().expect("a number");
            attrs.file.gid = id["GID"].as_i64().expect("a number");
            attrs.auth_secret = text_of(&id["AuthHeaderSecret"]);
            for header in id["Header"].as_array().into_iter().flatten() {
                let name = match header["Name"].as_str() {
                    Some("Accept") => "Accept",
                    _ => "User-Agent",
                };
                attrs.headers.push((name, text_of(&header["Value"])));
            }
            let digest: Digest = text_of(&params["content_digest"])
                .parse()
                .expect("a digest");
            // 2024-01-02T03:04:05Z is the only time in the vectors.
            let modified = params["last_modified"].as_str().map(|_| 1_704_164_645);
            let filename = text_of(&params["resolved_filename"]);
            assert_eq!(crate::name::of(&attrs, None), filename, "{}", case["name"]);
            let key = text(&attrs, &filename, &digest, modified);
            assert_eq!(
                key,
                case["source_key"].as_str().expect("a key"),
                "{}",
                case["name"]
            );
            seen += 1;
        }
        assert_eq!(seen, 6);
    }

    #[test]
    fn another_name_is_another_file() {
        let one = parse("http://x/y", &[]).expect("attributes");
        let two = parse("http://x/y", &[("http.filename", "z")]).expect("attributes");
        assert_ne!(one.url_key(), two.url_key());
    }
}
