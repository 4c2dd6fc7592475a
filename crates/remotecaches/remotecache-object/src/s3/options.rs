//! What a cache in a bucket is configured with.

use std::collections::BTreeMap;
use std::time::Duration;

use oci::Digest;
use remotecache::Error;
use url::Url;

use crate::Environment;

/// Who signs.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

/// A bucket, and where in it a cache is.
pub(crate) struct Options {
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) scheme: String,
    /// With a port if that is not the usual one.
    pub(crate) host: String,
    /// In front of every key.
    pub(crate) path: String,
    pub(crate) credentials: Credentials,
    prefix: String,
    blobs_prefix: String,
    manifests_prefix: String,
    pub(crate) names: Vec<String>,
    pub(crate) touch_refresh: Duration,
    pub(crate) parallelism: usize,
    pub(crate) attempts: u32,
}

impl Options {
    pub(crate) fn parse(
        attrs: &BTreeMap<String, String>,
        environment: &Environment,
    ) -> Result<Self, Error> {
        let given = |key: &str, variable: &str| {
            let value = attrs.get(key).cloned();
            value
                .or_else(|| environment(variable))
                .filter(|value| !value.is_empty())
        };
        let needed = |key: &str, variable: &str| {
            given(key, variable)
                .ok_or_else(|| Error::option(format!("{key} (${variable}) not set for s3 cache")))
        };
        let bucket = needed("bucket", "AWS_BUCKET")?;
        let region = needed("region", "AWS_REGION")?;
        let text = |key: &str, otherwise: &str| {
            attrs.get(key).map_or(otherwise, String::as_str).to_owned()
        };
        let positive = |key: &str, otherwise: usize| match attrs.get(key) {
            None => Ok(otherwise),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(|| Error::option(format!("{key} must be a positive integer"))),
        };
        if let Some(mode) = attrs.get("retry_mode")
            && !matches!(mode.as_str(), "standard" | "adaptive")
        {
            let text = "retry_mode must be \"standard\" or \"adaptive\"";
            return Err(Error::option(text));
        }
        let attempts = u32::try_from(positive("retry_max_attempts", 3)?).unwrap_or(u32::MAX);
        let path_style = attrs.get("use_path_style").map(String::as_str);
        let path_style = matches!(path_style, Some("1" | "t" | "T" | "true" | "TRUE" | "True"));
        let (scheme, host, path) = place(attrs.get("endpoint_url"), &bucket, &region, path_style)?;
        Ok(Self {
            scheme,
            host,
            path,
            credentials: Credentials {
                id: given("access_key_id", "AWS_ACCESS_KEY_ID").unwrap_or_default(),
                secret: given("secret_access_key", "AWS_SECRET_ACCESS_KEY").unwrap_or_default(),
                token: given("session_token", "AWS_SESSION_TOKEN"),
            },
            prefix: text("prefix", ""),
            blobs_prefix: text("blobs_prefix", "blobs/"),
            manifests_prefix: text("manifests_prefix", "manifests/"),
            names: text("name", "buildkit")
                .split(';')
                .map(str::to_owned)
                .collect(),
            touch_refresh: attrs
                .get("touch_refresh")
                .and_then(|text| duration(text))
                .unwrap_or(Duration::from_secs(86_400)),
            parallelism: positive("upload_parallelism", 4)?,
            attempts,
            bucket,
            region,
        })
    }

    pub(crate) fn manifest_key(&self, name: &str) -> String {
        format!("{}{}{name}", self.prefix, self.manifests_prefix)
    }

    pub(crate) fn blob_key(&self, digest: &Digest) -> String {
        format!("{}{}{digest}", self.prefix, self.blobs_prefix)
    }
}

/// Scheme, host, and what stands in front of keys.
fn place(
    endpoint: Option<&String>,
    bucket: &str,
    region: &str,
    path_style: bool,
) -> Result<(String, String, String), Error> {
    let standard = format!("https://s3.{region}.amazonaws.com");
    let endpoint = endpoint
        .filter(|text| !text.is_empty())
        .unwrap_or(&standard);
    let invalid = || Error::option(format!("invalid endpoint_url {endpoint:?}"));
    let url: Url = endpoint.parse().map_err(|_| invalid())?;
    let mut host = url.host_str().ok_or_else(invalid)?.to_owned();
    if let Some(port) = url.port() {
        host = format!("{host}:{port}");
    }
    let base = url.path().trim_end_matches('/').to_owned();
    Ok(if path_style {
        (url.scheme().to_owned(), host, format!("{base}/{bucket}"))
    } else {
        (url.scheme().to_owned(), format!("{bucket}.{host}"), base)
    })
}

/// A time as Go writes it: `1h30m`, `90s`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|letter: char| letter.is_ascii_digit())
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn parse(attrs: &[(&str, &str)]) -> Result<Options, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let environment: Environment =
            Arc::new(|name| (name == "AWS_REGION").then(|| "eu-1".to_owned()));
        let parsed = Options::parse(&attrs.iter().map(owned).collect(), &environment);
        parsed.map_err(|err| err.to_string())
    }

    #[test]
    fn a_bucket_is_a_host_or_a_folder() {
        let options = parse(&[("bucket", "b")]).expect("options");
        assert_eq!(options.host, "b.s3.eu-1.amazonaws.com");
        let options = parse(&[
            ("bucket", "b"),
            ("endpoint_url", "http://h:9000/"),
            ("use_path_style", "true"),
        ]);
        let options = options.expect("options");
        assert_eq!(
            (options.host.as_str(), options.path.as_str()),
            ("h:9000", "/b")
        );
        let digest = Digest::of("x");
        assert_eq!(options.blob_key(&digest), format!("blobs/{digest}"));
        assert_eq!(options.manifest_key("buildkit"), "manifests/buildkit");
    }

    #[test]
    fn what_is_wrong_is_said_in_upstreams_words() {
        let error = |attrs: &[(&str, &str)]| parse(attrs).err().expect("refused");
        assert_eq!(error(&[]), "bucket ($AWS_BUCKET) not set for s3 cache");
        assert_eq!(
            error(&[("bucket", "b"), ("upload_parallelism", "0")]),
            "upload_parallelism must be a positive integer"
        );
        assert_eq!(
            error(&[("bucket", "b"), ("retry_mode", "x")]),
            "retry_mode must be \"standard\" or \"adaptive\""
        );
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("soon"), None);
    }
}
