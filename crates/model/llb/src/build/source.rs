//! Sources: images, layouts, local directories, git, HTTP.

use std::collections::BTreeMap;

use super::options::Options;
use super::state::State;
use crate::{attr, caps};

/// When an image name is asked for at the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResolveMode {
    /// As the daemon likes.
    #[default]
    Default,
    /// Always.
    Pull,
    /// Only when it is not here.
    Local,
}

impl ResolveMode {
    /// The attribute's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Pull => "pull",
            Self::Local => "local",
        }
    }
}

/// An image from a registry.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Full reference.
    pub reference: String,
    /// When to ask the registry.
    pub resolve_mode: ResolveMode,
    /// `internal`, … for usage records.
    pub record_type: String,
    /// Take only the lowest layers.
    pub layer_limit: Option<u32>,
    /// Required digest.
    pub checksum: Option<oci::Digest>,
}

impl Image {
    /// The image with this full reference.
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            ..Self::default()
        }
    }

    /// Its tree.
    pub fn state(self, options: Options) -> State {
        let mut attrs = Attrs::new(caps::SOURCE_IMAGE);
        if self.resolve_mode != ResolveMode::Default {
            attrs.set(attr::IMAGE_RESOLVE_MODE, self.resolve_mode.as_str());
        }
        if self.resolve_mode == ResolveMode::Pull {
            attrs.need(caps::SOURCE_IMAGE_RESOLVE_MODE);
        }
        if !self.record_type.is_empty() {
            attrs.set(attr::IMAGE_RECORD_TYPE, self.record_type);
        }
        if let Some(limit) = self.layer_limit {
            attrs.set_with(
                attr::IMAGE_LAYER_LIMIT,
                limit.to_string(),
                caps::SOURCE_IMAGE_LAYER_LIMIT,
            );
        }
        if let Some(digest) = self.checksum {
            attrs.set_with(
                attr::IMAGE_CHECKSUM,
                digest.to_string(),
                caps::SOURCE_IMAGE_CHECKSUM,
            );
        }
        attrs.state(format!("docker-image://{}", self.reference), options)
    }
}

/// An image from a store of the client.
#[derive(Debug, Clone, Default)]
pub struct OciLayout {
    /// Full reference with digest.
    pub reference: String,
    /// Session that has the store.
    pub session: String,
    /// Name of the store.
    pub store: String,
}

impl OciLayout {
    /// Its tree.
    pub fn state(self, options: Options) -> State {
        let mut attrs = Attrs::new(caps::SOURCE_OCI_LAYOUT);
        for (key, value) in [
            (attr::OCI_SESSION, self.session),
            (attr::OCI_STORE, self.store),
        ] {
            if !value.is_empty() {
                attrs.set(key, value);
            }
        }
        attrs.state(format!("oci-layout://{}", self.reference), options)
    }
}

/// A directory of the client.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// What the client calls it.
    pub name: String,
    /// Session that has it; without one the client's own is taken and the op gets a unique id.
    pub session: String,
    /// Send only these.
    pub include: Vec<String>,
    /// Send only these and what their links lead to.
    pub follow_paths: Vec<String>,
    /// Do not send these.
    pub exclude: Vec<String>,
    /// Directories with the same hint share what was sent before.
    pub shared_key_hint: String,
    /// Send everything anew, whatever was sent before.
    pub without_differ: bool,
    /// Send names and attributes only.
    pub metadata_only: bool,
}

impl Local {
    /// The directory with this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Its tree.
    pub fn state(self, options: Options) -> State {
        let mut attrs = Attrs::new(caps::SOURCE_LOCAL);
        if !self.session.is_empty() {
            attrs.set_with(
                attr::LOCAL_SESSION,
                self.session,
                caps::SOURCE_LOCAL_SESSION_ID,
            );
        }
        for (list, key, cap) in [
            (
                &self.include,
                attr::LOCAL_INCLUDE_PATTERNS,
                caps::SOURCE_LOCAL_INCLUDE_PATTERNS,
            ),
            (
                &self.follow_paths,
                attr::LOCAL_FOLLOW_PATHS,
                caps::SOURCE_LOCAL_FOLLOW_PATHS,
            ),
            (
                &self.exclude,
                attr::LOCAL_EXCLUDE_PATTERNS,
                caps::SOURCE_LOCAL_EXCLUDE_PATTERNS,
            ),
        ] {
            if !list.is_empty() {
                attrs.set_with(key, json_list(list), cap);
            }
        }
        if !self.shared_key_hint.is_empty() {
            let cap = caps::SOURCE_LOCAL_SHARED_KEY_HINT;
            attrs.set_with(attr::LOCAL_SHARED_KEY_HINT, self.shared_key_hint, cap);
        }
        if self.without_differ {
            attrs.set(attr::LOCAL_DIFFER, "none");
        }
        if self.metadata_only {
            let cap = caps::SOURCE_LOCAL_METADATA_TRANSFER;
            attrs.set_with(attr::LOCAL_METADATA_TRANSFER, "true", cap);
        }
        attrs.state(format!("local://{}", self.name), options)
    }
}

/// A git repository at some revision.
#[derive(Debug, Clone, Default)]
pub struct Git {
    /// `HOST/PATH`: the same for all ways to reach it.
    pub location: String,
    /// URL to clone from.
    pub url: String,
    /// Branch, tag or commit.
    pub reference: String,
    /// Take only this directory.
    pub subdir: String,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Required commit.
    pub checksum: String,
    /// Leave submodules out.
    pub skip_submodules: bool,
    /// `checkout` or `commit`.
    pub mtime: String,
    /// Fetch the commit itself, not a branch that has it.
    pub fetch_by_commit: bool,
    /// Over ssh: host keys, if known.
    pub ssh: Option<String>,
}

impl Git {
    /// Its tree.
    pub fn state(self, options: Options) -> State {
        let mut attrs = Attrs::new(caps::SOURCE_GIT);
        if self.keep_git_dir {
            attrs.set_with(attr::GIT_KEEP_DIR, "true", caps::SOURCE_GIT_KEEP_DIR);
        }
        if !self.url.is_empty() {
            attrs.set_with(attr::GIT_FULL_URL, self.url, caps::SOURCE_GIT_FULL_URL);
        }
        attrs.set(attr::GIT_AUTH_TOKEN_SECRET, "GIT_AUTH_TOKEN");
        attrs.set(attr::GIT_AUTH_HEADER_SECRET, "GIT_AUTH_HEADER");
        if let Some(hosts) = self.ssh {
            attrs.need(caps::SOURCE_GIT_KNOWN_SSH_HOSTS);
            if !hosts.is_empty() {
                attrs.set(attr::GIT_KNOWN_SSH_HOSTS, hosts);
            }
            attrs.set_with(
                attr::GIT_MOUNT_SSH_SOCK,
                "default",
                caps::SOURCE_GIT_MOUNT_SSH_SOCK,
            );
        }
        if !self.checksum.is_empty() {
            attrs.set_with(attr::GIT_CHECKSUM, self.checksum, caps::SOURCE_GIT_CHECKSUM);
        }
        if self.skip_submodules {
            let cap = caps::SOURCE_GIT_SKIP_SUBMODULES;
            attrs.set_with(attr::GIT_SKIP_SUBMODULES, "true", cap);
        }
        if !self.mtime.is_empty() {
            attrs.set_with(attr::GIT_MTIME, self.mtime, caps::SOURCE_GIT_MTIME);
        }
        if self.fetch_by_commit {
            attrs.set_with(
                attr::GIT_FETCH_BY_COMMIT,
                "true",
                caps::SOURCE_GIT_FETCH_BY_COMMIT,
            );
        }
        let mut identifier = format!("git://{}", self.location);
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            identifier.push('#');
            identifier.push_str(&self.reference);
            if !self.subdir.is_empty() {
                identifier.push(':');
                identifier.push_str(&self.subdir);
            }
        }
        attrs.state(identifier, options)
    }
}

/// A file from the web.
#[derive(Debug, Clone, Default)]
pub struct Http {
    /// `http://…` or `https://…`
    pub url: String,
    /// Name of the file in the tree.
    pub filename: String,
    /// Required digest.
    pub checksum: String,
    /// Mode of the file, 0: 0600.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl Http {
    /// Its tree.
    pub fn state(self, options: Options) -> State {
        let mut attrs = Attrs::new(caps::SOURCE_HTTP);
        if !self.checksum.is_empty() {
            attrs.set_with(
                attr::HTTP_CHECKSUM,
                self.checksum,
                caps::SOURCE_HTTP_CHECKSUM,
            );
        }
        if !self.filename.is_empty() {
            attrs.set(attr::HTTP_FILENAME, self.filename);
        }
        if self.mode != 0 {
            let mode = format!("0{:o}", self.mode);
            attrs.set_with(attr::HTTP_PERM, mode, caps::SOURCE_HTTP_PERM);
        }
        for (key, id) in [(attr::HTTP_UID, self.uid), (attr::HTTP_GID, self.gid)] {
            if id != 0 {
                attrs.set_with(key, id.to_string(), caps::SOURCE_HTTP_UIDGID);
            }
        }
        attrs.state(self.url, options)
    }
}

struct Attrs {
    values: BTreeMap<String, String>,
    caps: Vec<&'static str>,
}

impl Attrs {
    fn new(cap: &'static str) -> Self {
        Self {
            values: BTreeMap::new(),
            caps: vec![cap],
        }
    }

    fn need(&mut self, cap: &'static str) {
        self.caps.push(cap);
    }

    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_owned(), value.into());
    }

    fn set_with(&mut self, key: &str, value: impl Into<String>, cap: &'static str) {
        self.set(key, value);
        self.need(cap);
    }

    fn state(self, identifier: String, options: Options) -> State {
        State::source(identifier, self.values, self.caps, options)
    }
}

/// A JSON array of strings as Go writes it.
pub fn json_list(items: &[String]) -> String {
    let mut text = String::from("[");
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        push_json(&mut text, item);
    }
    text.push(']');
    text
}

fn push_json(text: &mut String, item: &str) {
    text.push('"');
    for char in item.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(char)));
            }
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_escaped_as_go_does() {
        let items = [
            "a\"b".to_owned(),
            "<&>".to_owned(),
            "\u{1}\n\u{2028}".to_owned(),
        ];
        assert_eq!(
            json_list(&items),
            r#"["a\"b","\u003c\u0026\u003e","\u0001\n\u2028"]"#
        );
    }
}
