//! What a cache in a bucket is configured with.

use std::time::Duration;

use oci::Digest;
use remotecache::Error;
use url::Url;

use super::credentials::Keys;
use crate::attrs::{Attrs, duration};
use crate::http::Patience;

/// A bucket, and where in it a cache is.
pub(crate) struct Options {
    pub(crate) bucket: String,
    pub(crate) region: String,
    pub(crate) scheme: String,
    /// With a port if that is not the usual one.
    pub(crate) host: String,
    /// In front of every key.
    pub(crate) path: String,
    /// If they were given.
    pub(crate) keys: Option<Keys>,
    prefix: String,
    blobs_prefix: String,
    manifests_prefix: String,
    pub(crate) names: Vec<String>,
    pub(crate) touch_refresh: Duration,
    pub(crate) parallelism: usize,
    pub(crate) patience: Patience,
    /// Whether the rate of requests is learnt.
    pub(crate) adaptive: bool,
}

impl Options {
    pub(crate) fn parse(attrs: &Attrs<'_>) -> Result<Self, Error> {
        let needed = |key: &str, variable: &str| {
            attrs
                .or_variable(key, variable)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| Error::option(format!("{key} (${variable}) not set for s3 cache")))
        };
        let bucket = needed("bucket", "AWS_BUCKET")?;
        let region = needed("region", "AWS_REGION")?;
        if let Some(mode) = attrs.get("retry_mode")
            && !matches!(mode, "standard" | "adaptive")
        {
            let text = "retry_mode must be \"standard\" or \"adaptive\"";
            return Err(Error::option(text));
        }
        let attempts = u32::try_from(attrs.positive("retry_max_attempts", 3)?).unwrap_or(u32::MAX);
        let path_style = attrs.flag("use_path_style");
        let (scheme, host, path) = place(attrs.get("endpoint_url"), &bucket, &region, path_style)?;
        Ok(Self {
            scheme,
            host,
            path,
            keys: Keys::given(attrs),
            prefix: attrs.text("prefix", ""),
            blobs_prefix: attrs.text("blobs_prefix", "blobs/"),
            manifests_prefix: attrs.text("manifests_prefix", "manifests/"),
            names: attrs.names(),
            touch_refresh: attrs
                .get("touch_refresh")
                .and_then(duration)
                .unwrap_or(Duration::from_secs(86_400)),
            parallelism: attrs.positive("upload_parallelism", 4)?,
            patience: Patience {
                attempts,
                throttled: Duration::ZERO,
            },
            adaptive: attrs.get("retry_mode") == Some("adaptive"),
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
    endpoint: Option<&str>,
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Environment;

    fn parse(attrs: &[(&str, &str)]) -> Result<Options, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let environment: Environment =
            Arc::new(|name| (name == "AWS_REGION").then(|| "eu-1".to_owned()));
        let parsed = Options::parse(&Attrs {
            given: &attrs.iter().map(owned).collect(),
            signing: &crate::Signing::default(),
            environment: &environment,
        });
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
}
