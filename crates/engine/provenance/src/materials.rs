//! What a result was made of, as documents list it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::Error;
use crate::capture::Sources;
use crate::url::GitAddress;

/// One thing a result was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Material {
    /// Where it is.
    pub uri: String,
    /// Digests by algorithm.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
}

type Digests = BTreeMap<String, String>;

fn digests(text: &str) -> Digests {
    let pair = text.split_once(':').into_iter();
    pair.map(|(algorithm, hex)| (algorithm.to_owned(), hex.to_owned()))
        .collect()
}

fn of_commit(commit: &str) -> Digests {
    let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
    Digests::from([(algorithm.to_owned(), commit.to_owned())])
}

fn kind(local: bool) -> &'static str {
    if local { "oci" } else { "docker" }
}

impl Sources {
    /// Everything with a digest, in order: images, blobs, commits, files.
    pub fn materials(&self) -> Result<Vec<Material>, Error> {
        let purl = |local, name: &str, platform, more: &[(&str, &str)]| {
            let url = export::purl::image(kind(local), name, platform, more);
            url.map_err(|source| Error::Reference {
                name: name.to_owned(),
                source,
            })
        };
        let mut all = Vec::new();
        for image in &self.images {
            all.push(Material {
                uri: purl(image.local, &image.name, image.platform.as_ref(), &[])?,
                digest: digests(&image.digest),
            });
        }
        for blob in &self.blobs {
            all.push(Material {
                uri: purl(blob.local, &blob.name, None, &[("ref_type", "blob")])?,
                digest: digests(&blob.digest),
            });
        }
        for git in &self.git {
            all.push(Material {
                uri: git.url.clone(),
                digest: of_commit(&git.commit),
            });
            let bundle = git.bundle.as_deref().and_then(|it| it.split_once("://"));
            let Some((scheme, name)) = bundle else {
                continue;
            };
            if let Some((body, digest)) = name.rsplit_once('@') {
                let local = scheme == "oci-layout+blob";
                let more = [("ref_type", "bundle"), ("vcs_url", git.url.as_str())];
                all.push(Material {
                    uri: purl(local, body, None, &more)?,
                    digest: digests(digest),
                });
            }
        }
        for http in &self.http {
            all.push(Material {
                uri: http.url.clone(),
                digest: digests(&http.digest),
            });
        }
        Ok(all)
    }

    /// The material a user means by an address, if it is one.
    pub(crate) fn find(&self, uri: &str) -> Option<Material> {
        let address = GitAddress::parse(uri);
        let whole = address.as_ref().map(GitAddress::whole);
        let wanted = whole.as_deref().unwrap_or(uri);
        if let Some(git) = self.git.iter().find(|git| git.url == wanted) {
            return Some(Material {
                uri: address.map_or_else(|| uri.to_owned(), |it| it.full()),
                digest: of_commit(&git.commit),
            });
        }
        let http = self.http.iter().find(|http| http.url == wanted)?;
        Some(Material {
            uri: http.url.clone(),
            digest: digests(&http.digest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{GitSource, ImageBlob};

    #[test]
    fn a_bundle_is_listed_behind_its_commit() {
        let digest = oci::Digest::of("");
        let sources = Sources {
            git: vec![GitSource {
                url: "https://h/r.git#main".to_owned(),
                commit: "ab".repeat(32),
                bundle: Some(format!("oci-layout+blob://x/y@{digest}")),
            }],
            blobs: vec![ImageBlob {
                name: format!("x/z@{digest}"),
                digest: digest.to_string(),
                local: false,
            }],
            ..Sources::default()
        };
        let all = sources.materials().expect("materials");
        let uris: Vec<_> = all.iter().map(|it| it.uri.as_str()).collect();
        assert_eq!(
            uris,
            [
                format!("pkg:docker/x/z?digest={digest}&ref_type=blob").as_str(),
                "https://h/r.git#main",
                "pkg:oci/x/y@latest?ref_type=bundle&vcs_url=https:%2F%2Fh%2Fr.git%23main",
            ]
        );
        assert!(all[1].digest.contains_key("sha256"));
        let found = sources
            .find("https://h/r.git#main:sub")
            .expect("the commit");
        assert_eq!(found.uri, "https://h/r.git#main:sub");
    }
}
