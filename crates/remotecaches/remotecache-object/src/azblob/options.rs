//! What a cache in a container is configured with.

use oci::Digest;
use remotecache::Error;
use url::Url;

use crate::attrs::Attrs;

/// A container, and where in it a cache is.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) account_url: Url,
    pub(crate) account: String,
    pub(crate) container: String,
    /// Empty: somebody must log in.
    pub(crate) key: String,
    prefix: String,
    manifests_prefix: String,
    blobs_prefix: String,
    pub(crate) names: Vec<String>,
}

impl Options {
    pub(crate) fn parse(attrs: &Attrs<'_>) -> Result<Self, Error> {
        let wrong = |text: String| Error::option(format!("failed to create azblob config: {text}"));
        let address = attrs.or_variable("account_url", "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL");
        let address = address.ok_or_else(|| {
            wrong("either ${BUILDKIT_AZURE_STORAGE_ACCOUNT_URL} or account_url attribute is required for azblob cache".to_owned())
        })?;
        let invalid = |reason: &str| {
            wrong(format!(
                "azure storage account url provided is not a valid url: {address:?}: {reason}"
            ))
        };
        let account_url: Url = address.parse().map_err(|err: url::ParseError| {
            invalid(&match err {
                url::ParseError::RelativeUrlWithoutBase => {
                    format!("it has no scheme, is https://{address} meant?")
                }
                err => err.to_string(),
            })
        })?;
        let host = match (account_url.scheme(), account_url.host_str()) {
            ("http" | "https", Some(host)) => host.to_owned(),
            // What stands before the colon of a port is no scheme.
            _ => return Err(invalid("its scheme must be http or https")),
        };
        let account = attrs.or_variable("account_name", "BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME");
        let account = account.unwrap_or_else(|| {
            let first = host.split('.').next();
            first.unwrap_or_default().to_owned()
        });
        if account.is_empty() {
            return Err(wrong("unable to retrieve account name from account url or ${BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME} or account_name attribute for azblob cache".to_owned()));
        }
        let container = attrs.or_variable("container", "BUILDKIT_AZURE_STORAGE_CONTAINER");
        let prefix = attrs.or_variable("prefix", "BUILDKIT_AZURE_STORAGE_PREFIX");
        Ok(Self {
            account_url,
            account,
            container: container.unwrap_or_else(|| "buildkit-cache".to_owned()),
            key: attrs.text("secret_access_key", ""),
            prefix: prefix.unwrap_or_default(),
            manifests_prefix: attrs.text("manifests_prefix", "manifests"),
            blobs_prefix: attrs.text("blobs_prefix", "blobs"),
            names: attrs.names(),
        })
    }

    pub(crate) fn manifest_key(&self, name: &str) -> String {
        join(&[&self.prefix, &self.manifests_prefix, name])
    }

    pub(crate) fn blob_key(&self, digest: &Digest) -> String {
        join(&[&self.prefix, &self.blobs_prefix, digest.as_str()])
    }
}

/// Compat: keys are joined and cleaned like paths of files.
fn join(parts: &[&str]) -> String {
    let path = parts.iter().filter(|part| !part.is_empty());
    let path = path.copied().collect::<Vec<_>>().join("/");
    let rooted = path.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            part => kept.push(part),
        }
    }
    let slash = if rooted { "/" } else { "" };
    format!("{slash}{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Environment;

    fn parse(
        given: &[(&str, &str)],
        variables: &'static [(&str, &str)],
    ) -> Result<Options, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let environment: Environment = Arc::new(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        });
        let parsed = Options::parse(&Attrs {
            given: &given.iter().map(owned).collect(),
            signing: &crate::Signing::default(),
            environment: &environment,
        });
        parsed.map_err(|err| err.to_string())
    }

    #[test]
    fn an_account_is_named_by_its_host_unless_it_is_named() {
        let url = ("account_url", "https://mine.blob.core.windows.net");
        let options = parse(&[url], &[]).expect("options");
        assert_eq!(options.account, "mine");
        assert_eq!(options.container, "buildkit-cache");
        assert_eq!(options.manifest_key("buildkit"), "manifests/buildkit");
        let options = parse(&[url, ("account_name", "other")], &[]).expect("options");
        assert_eq!(options.account, "other");
    }

    #[test]
    fn what_is_not_given_is_taken_from_the_environment() {
        let options = parse(
            &[],
            &[
                (
                    "BUILDKIT_AZURE_STORAGE_ACCOUNT_URL",
                    "http://127.0.0.1:10000/dev",
                ),
                ("BUILDKIT_AZURE_STORAGE_ACCOUNT_NAME", "dev"),
                ("BUILDKIT_AZURE_STORAGE_CONTAINER", "c"),
                ("BUILDKIT_AZURE_STORAGE_PREFIX", "p/"),
            ],
        );
        let options = options.expect("options");
        assert_eq!(
            (options.account.as_str(), options.container.as_str()),
            ("dev", "c")
        );
        let digest = Digest::of("x");
        assert_eq!(options.blob_key(&digest), format!("p/blobs/{digest}"));
    }

    #[test]
    fn keys_are_cleaned_like_paths() {
        assert_eq!(join(&["", "manifests", "a"]), "manifests/a");
        assert_eq!(join(&["/p//q/", "./m/", "../a"]), "/p/q/a");
        assert_eq!(join(&["..", "m"]), "../m");
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        let text = parse(&[], &[]).expect_err("refused");
        assert_eq!(
            text,
            "failed to create azblob config: either ${BUILDKIT_AZURE_STORAGE_ACCOUNT_URL} or account_url attribute is required for azblob cache"
        );
        let refused = |url| parse(&[("account_url", url)], &[]).expect_err("refused");
        let text = refused("mine.blob.core.windows.net");
        assert!(
            text.ends_with("it has no scheme, is https://mine.blob.core.windows.net meant?"),
            "{text}"
        );
        let text = refused("localhost:10000/dev");
        assert!(text.ends_with("its scheme must be http or https"), "{text}");
    }
}
