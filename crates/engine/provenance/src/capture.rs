//! What is known about where one result comes from.

use std::collections::BTreeMap;

use oci::{Platform, Reference};
use serde::Serialize;
use serde_json::Value;

use crate::Error;
use crate::request::Parameters;

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSource {
    /// Its name.
    pub name: String,
    /// What it runs on.
    pub platform: Option<Platform>,
    /// `sha256:…`, empty when nobody knows.
    pub digest: String,
    /// From a store of the client, not from a registry.
    pub local: bool,
}

/// A single blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageBlob {
    /// Its name, with the digest.
    pub name: String,
    /// `sha256:…`
    pub digest: String,
    /// From a store of the client, not from a registry.
    pub local: bool,
}

/// A commit of a git repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// The repository, and what of it behind `#`.
    pub url: String,
    /// The commit.
    pub commit: String,
    /// The blob it was unpacked from: `docker-image+blob://…@sha256:…`.
    pub bundle: Option<String>,
}

/// A file behind a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSource {
    /// Where.
    pub url: String,
    /// `sha256:…`
    pub digest: String,
}

/// A secret or an agent a step may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// What it is called.
    pub id: String,
    /// Whether it may be missing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// Everything a result was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Images.
    pub images: Vec<ImageSource>,
    /// Single blobs.
    pub blobs: Vec<ImageBlob>,
    /// Commits.
    pub git: Vec<GitSource>,
    /// Files.
    pub http: Vec<HttpSource>,
    /// Directories of the client, by name.
    pub local: Vec<String>,
}

/// What is known about one result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Capture {
    /// What was asked.
    pub request: Parameters,
    /// What it was made of.
    pub sources: Sources,
    /// Some step had a network.
    pub network: bool,
    /// There is more that nobody knows of.
    pub incomplete: bool,
    /// What steps used, by their digests.
    pub usage: BTreeMap<String, Value>,
}

impl Capture {
    /// Adds an image unless it is there.
    pub fn add_image(&mut self, image: ImageSource) {
        let same = |known: &ImageSource| {
            known.name == image.name
                && known.local == image.local
                && same_platform(known.platform.as_ref(), image.platform.as_ref())
        };
        if !self.sources.images.iter().any(same) {
            self.sources.images.push(image);
        }
    }

    /// Adds a blob unless it is there.
    pub fn add_blob(&mut self, blob: ImageBlob) {
        let same = |known: &ImageBlob| known.name == blob.name && known.local == blob.local;
        if !self.sources.blobs.iter().any(same) {
            self.sources.blobs.push(blob);
        }
    }

    /// Adds a directory of the client unless it is there.
    pub fn add_local(&mut self, name: &str) {
        if !self.sources.local.iter().any(|known| known == name) {
            self.sources.local.push(name.to_owned());
        }
    }

    /// Adds a commit unless it is there.
    pub fn add_git(&mut self, mut git: GitSource) {
        git.url = source::redacted(&git.url);
        let same = |known: &GitSource| known.url == git.url && known.bundle == git.bundle;
        if !self.sources.git.iter().any(same) {
            self.sources.git.push(git);
        }
    }

    /// Adds a file unless it is there.
    pub fn add_http(&mut self, mut http: HttpSource) {
        http.url = source::redacted(&http.url);
        if !self.sources.http.iter().any(|known| known.url == http.url) {
            self.sources.http.push(http);
        }
    }

    /// Adds a secret; one that is needed somewhere is needed.
    pub fn add_secret(&mut self, id: &str, optional: bool) {
        add_named(&mut self.request.secrets, id, optional);
    }

    /// Adds an agent; one that is needed somewhere is needed.
    pub fn add_ssh(&mut self, id: &str, optional: bool) {
        let id = if id.is_empty() { "default" } else { id };
        add_named(&mut self.request.ssh, id, optional);
    }

    /// Brings everything in order, and drops images named by digest that are there by tag.
    pub fn finish(&mut self) -> Result<(), Error> {
        for blob in &self.sources.blobs {
            let name = || blob.name.clone();
            let reference = Reference::parse(&blob.name);
            let reference = reference.map_err(|source| Error::Reference {
                name: name(),
                source,
            })?;
            // Compat: a tag is no part of what was made use of.
            if reference.tag().is_some() {
                return Err(Error::Blob { name: name() });
            }
        }
        let mut tagged = Vec::new();
        let mut read = Vec::with_capacity(self.sources.images.len());
        for image in &self.sources.images {
            let reference = Reference::parse(&image.name).map_err(|source| Error::Reference {
                name: image.name.clone(),
                source,
            })?;
            let tag = reference.tag().unwrap_or("latest");
            let name = format!("{}:{tag}", reference.name());
            if reference.digest().is_none() {
                tagged.push(name.clone());
            }
            read.push((reference.digest().is_some(), name));
        }
        let mut read = read.into_iter();
        self.sources.images.retain(|_| match read.next() {
            Some((pinned, name)) => !pinned || !tagged.contains(&name),
            None => true,
        });
        let sources = &mut self.sources;
        sources.images.sort_by(|a, b| a.name.cmp(&b.name));
        sources.blobs.sort_by(|a, b| a.name.cmp(&b.name));
        sources.local.sort();
        sources.git.sort_by(|a, b| a.url.cmp(&b.url));
        sources.http.sort_by(|a, b| a.url.cmp(&b.url));
        self.request.secrets.sort_by(|a, b| a.id.cmp(&b.id));
        self.request.ssh.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(())
    }
}

/// Features and versions of the system tell no two images of one name apart.
fn same_platform(left: Option<&Platform>, right: Option<&Platform>) -> bool {
    match (left, right) {
        (None, None) => true,
        (Some(left), Some(right)) => {
            left.architecture == right.architecture
                && left.os == right.os
                && left.os_version == right.os_version
                && left.variant == right.variant
        }
        _ => false,
    }
}

fn add_named(list: &mut Vec<Named>, id: &str, optional: bool) {
    if let Some(known) = list.iter_mut().find(|known| known.id == id) {
        known.optional &= optional;
        return;
    }
    list.push(Named {
        id: id.to_owned(),
        optional,
    });
}

/// The images that count for one platform of several: of an image that is there for all of them, only its own.
pub fn image_platforms(
    all: &[ImageSource],
    platforms: &[(String, Platform)],
    id: &str,
) -> Vec<ImageSource> {
    let Some((_, current)) = platforms.iter().find(|(known, _)| known == id) else {
        return all.to_vec();
    };
    let mut for_all: BTreeMap<&str, bool> = BTreeMap::new();
    for image in all {
        for_all.entry(&image.name).or_insert_with(|| {
            platforms.iter().all(|(_, wanted)| {
                let same = |other: &&ImageSource| other.name == image.name;
                let mut same = all
                    .iter()
                    .filter(same)
                    .filter_map(|it| it.platform.as_ref());
                same.any(|platform| {
                    platform.normalized().to_string() == wanted.normalized().to_string()
                })
            })
        });
    }
    let counts = |image: &&ImageSource| match &image.platform {
        Some(platform) if for_all.get(image.name.as_str()) == Some(&true) => {
            platform.os == current.os && platform.architecture == current.architecture
        }
        _ => true,
    };
    all.iter().filter(counts).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(name: &str, platform: &str) -> ImageSource {
        ImageSource {
            name: name.to_owned(),
            platform: Platform::parse(platform).ok(),
            digest: String::new(),
            local: false,
        }
    }

    #[test]
    fn a_blob_is_named_by_its_digest_alone() {
        let digest = oci::Digest::of("");
        let finished = |name: &str| {
            let mut capture = Capture::default();
            capture.add_blob(ImageBlob {
                name: format!("{name}@{digest}"),
                digest: digest.to_string(),
                local: true,
            });
            capture.finish().map_err(|err| fault::chain(&err))
        };
        assert_eq!(finished("h.test/a"), Ok(()));
        assert_eq!(
            finished("h.test/a:v1"),
            Err(format!(
                "failed to capture provenance: invalid image blob reference h.test/a:v1@{digest}"
            ))
        );
        assert_eq!(
            finished("h.test/UP"),
            Err(format!(
                "failed to parse ref \"h.test/UP@{digest}\": invalid reference format: \
                 repository name (UP@sha256) must be lowercase"
            ))
        );
    }

    #[test]
    fn a_tag_is_better_than_a_digest() {
        let digest = oci::Digest::of("");
        let mut capture = Capture::default();
        for name in ["b:1", "a"] {
            capture.add_image(image(
                &format!("docker.io/library/{name}@{digest}"),
                "linux/amd64",
            ));
        }
        capture.add_image(image("docker.io/library/b:1", "linux/amd64"));
        capture.add_image(image("docker.io/library/b:1", "linux/amd64"));
        capture.finish().expect("finished");
        let names: Vec<_> = capture.sources.images.iter().map(|it| &*it.name).collect();
        assert_eq!(
            names,
            [
                format!("docker.io/library/a@{digest}").as_str(),
                "docker.io/library/b:1"
            ]
        );
    }

    #[test]
    fn a_secret_needed_somewhere_is_needed() {
        let mut capture = Capture::default();
        capture.add_secret("s", true);
        capture.add_secret("s", false);
        capture.add_secret("s", true);
        capture.add_ssh("", true);
        assert!(!capture.request.secrets[0].optional);
        assert_eq!(capture.request.ssh[0].id, "default");
    }

    #[test]
    fn platforms_keep_to_their_own_images() {
        let platforms = ["linux/amd64", "linux/arm64"]
            .map(|id| (id.to_owned(), Platform::parse(id).expect("a platform")));
        let all = [
            image("both", "linux/amd64"),
            image("both", "linux/arm64"),
            image("tool", "linux/amd64"),
        ];
        let found = image_platforms(&all, &platforms, "linux/arm64");
        assert_eq!(found, [all[1].clone(), all[2].clone()]);
    }
}
