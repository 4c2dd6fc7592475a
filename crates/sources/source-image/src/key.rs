//! The two keys of an image: what it was resolved to, and what is in it.

use oci::{Digest, Platform};
use serde::Serialize;

use crate::Error;
use crate::image::Config;

/// Compat: names and order of the fields as upstream hashes them.
#[derive(Serialize)]
struct Resolved<'a> {
    #[serde(rename = "Digest")]
    digest: &'a Digest,
    #[serde(rename = "OS")]
    os: &'a str,
    #[serde(rename = "Arch")]
    architecture: &'a str,
    #[serde(rename = "Variant", skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    #[serde(rename = "OSVersion", skip_serializing_if = "str::is_empty")]
    os_version: &'a str,
    #[serde(rename = "OSFeatures", skip_serializing_if = "<[String]>::is_empty")]
    os_features: &'a [String],
    #[serde(rename = "Limit", skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
}

/// The key of the name: what it stands for, and for which platform.
pub(crate) fn of_root(root: &Digest, platform: &Platform, limit: Option<usize>) -> String {
    let resolved = Resolved {
        digest: root,
        os: &platform.os,
        architecture: &platform.architecture,
        variant: &platform.variant,
        os_version: &platform.os_version,
        os_features: &platform.os_features,
        limit,
    };
    let json = serde_json::to_vec(&resolved).expect("strings and numbers always serialise");
    Digest::of(json).to_string()
}

/// The key of the content: the chain id of its layers, cut to the limit. `None`: it has no layers, and the other key
/// stands for both.
pub(crate) fn of_config(config: &[u8], limit: Option<usize>) -> Result<Option<String>, Error> {
    let rootfs = match (serde_json::from_slice::<Config>(config), limit) {
        (Ok(config), _) => config.rootfs,
        (Err(_), None) => return Ok(Some(Digest::of(config).to_string())),
        (Err(err), Some(_)) => return Err(Error::ConfigLimit(err)),
    };
    let all = rootfs.diff_ids.len();
    let count = limit.unwrap_or(all);
    if count > all {
        return Err(Error::TooFewDiffIds {
            layers: all,
            limit: count,
        });
    }
    let mut layers = rootfs.diff_ids.iter().take(count);
    let Some(first) = layers.next().filter(|_| rootfs.kind == "layers") else {
        return Ok(None);
    };
    let chain = layers.fold(first.clone(), |below, next| {
        Digest::of(format!("{below} {next}"))
    });
    Ok(Some(chain.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn vectors() -> Vec<Value> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../testing/vectors/cachekeys/cachemap.json"
        );
        let text = std::fs::read(path).expect("the vectors");
        let all: Value = serde_json::from_slice(&text).expect("JSON");
        let sources = all["sources"].as_array().expect("a list").clone();
        sources
            .into_iter()
            .filter(|case| {
                let name = case["name"].as_str().unwrap_or_default();
                name.starts_with("image-")
            })
            .collect()
    }

    #[test]
    fn keys_equal_upstreams() {
        let mut seen = (0, 0);
        for case in vectors() {
            let (name, params) = (&case["name"], &case["params"]);
            let limit = params["layer_limit"]
                .as_u64()
                .and_then(|limit| usize::try_from(limit).ok());
            let wanted = case["source_key"].as_str().expect("a key");
            if params.get("manifest_digest").is_some() {
                let digest: Digest =
                    serde_json::from_value(params["manifest_digest"].clone()).expect("a digest");
                let platform: Platform =
                    serde_json::from_value(params["platform"].clone()).expect("a platform");
                assert_eq!(of_root(&digest, &platform, limit), wanted, "{name}");
                seen.0 += 1;
            } else {
                let config = params["config"].as_str().expect("a config");
                let key = of_config(config.as_bytes(), limit).expect("a key");
                assert_eq!(key.unwrap_or_default(), wanted, "{name}");
                seen.1 += 1;
            }
        }
        assert_eq!(seen, (5, 5));
    }

    #[test]
    fn a_limit_needs_a_config_with_so_many_layers() {
        let error = |config: &str| of_config(config.as_bytes(), Some(2)).expect_err("refused");
        assert_eq!(
            error("not json").to_string(),
            "failed to parse image config"
        );
        assert_eq!(
            error(r#"{"rootfs":{"type":"layers","diff_ids":[]}}"#).to_string(),
            "image has 0 layers, limit is 2"
        );
    }
}
