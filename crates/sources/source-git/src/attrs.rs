//! What a source op says about a repository.

use source::Identifier;

use crate::Error;
use crate::bundle::{Bundle, Place};
use crate::remote::{self, Remote, is_commit};
use crate::resolve::Resolved;

/// An identifier, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attrs {
    pub(crate) remote: String,
    /// Branch, tag, full name of a ref, or commit; empty: the default branch.
    pub(crate) reference: String,
    /// Without a leading slash.
    pub(crate) subdir: String,
    pub(crate) checksum: String,
    pub(crate) keep_git_dir: bool,
    pub(crate) skip_submodules: bool,
    /// Files are as old as the commit.
    pub(crate) commit_times: bool,
    mtime: String,
    pub(crate) fetch_by_commit: bool,
    pub(crate) token_secret: String,
    pub(crate) header_secret: String,
    pub(crate) ssh_socket: String,
    pub(crate) known_hosts: String,
    /// Commits come from here, not from the remote.
    pub(crate) bundle: Option<Bundle>,
    /// The tree is one file with the commit and its history.
    pub(crate) checkout_bundle: bool,
}

impl Attrs {
    pub(crate) fn parse(id: &Identifier) -> Result<Self, Error> {
        let remote = Remote::parse(&with_scheme(&id.name))?;
        let mut attrs = Self {
            remote: remote.url,
            reference: remote.reference,
            subdir: remote.subdir,
            ..Self::default()
        };
        let (mut session, mut store) = (String::new(), String::new());
        for (name, value) in &id.attrs {
            let yes = value == "true";
            match name.as_str() {
                "git.fullurl" => attrs.remote = with_scheme(value),
                "git.keepgitdir" => attrs.keep_git_dir = yes,
                "git.skipsubmodules" => attrs.skip_submodules = yes,
                "git.fetchbycommit" => attrs.fetch_by_commit = yes,
                "git.checksum" => attrs.checksum.clone_from(value),
                "git.mtime" => attrs.mtime.clone_from(value),
                "git.authtokensecret" => attrs.token_secret.clone_from(value),
                "git.authheadersecret" => attrs.header_secret.clone_from(value),
                "git.mountsshsock" => attrs.ssh_socket.clone_from(value),
                "git.knownsshhosts" => attrs.known_hosts.clone_from(value),
                "git.bundle" if !value.is_empty() => attrs.bundle = Some(Bundle::parse(value)?),
                "git.checkoutbundle" => attrs.checkout_bundle = yes,
                "oci.session" => session.clone_from(value),
                "oci.store" => store.clone_from(value),
                // What restricts a source must not be passed over because it is not known yet.
                name if name.starts_with("git.sig.") => {
                    return Err(Error::Unimplemented {
                        what: "git signature verification",
                    });
                }
                // Compat: attributes nobody knows are ignored.
                _ => {}
            }
        }
        attrs.commit_times = attrs.mtime == "commit";
        if attrs.reference.starts_with('-') {
            return Err(Error::BadRef {
                reference: attrs.reference,
            });
        }
        if let Some(Bundle {
            place: Place::Layout(layout),
            ..
        }) = &mut attrs.bundle
        {
            layout.session = session;
            if !store.is_empty() {
                layout.store = store;
            }
        }
        attrs.check_bundles()?;
        Ok(attrs)
    }

    fn check_bundles(&self) -> Result<(), Error> {
        if self.bundle.is_some() {
            if self.checksum.is_empty() {
                return Err(Error::BundleChecksum);
            }
            if is_commit(&self.reference) && !self.reference.starts_with(&self.checksum) {
                return Err(Error::Checksum {
                    expected: self.checksum.clone(),
                    actual: self.reference.clone(),
                });
            }
        }
        let conflict = match (self.keep_git_dir, self.subdir.is_empty()) {
            _ if !self.checkout_bundle => return Ok(()),
            (true, _) => "git.keepgitdir",
            (_, false) => "git.subdir",
            (false, true) => return Ok(()),
        };
        Err(Error::BundleWith { attr: conflict })
    }

    /// The identifier in the form that policies see.
    pub(crate) fn canonical(&self) -> String {
        let location = match Remote::parse(&self.remote) {
            Ok(remote) => remote.location,
            Err(_) => self.remote.clone(),
        };
        let mut text = format!("git://{location}");
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            text.push('#');
            text.push_str(&self.reference);
        }
        if !self.subdir.is_empty() {
            text.push(':');
            text.push_str(&self.subdir);
        }
        text
    }

    /// S of the cache-key rules.
    pub(crate) fn key(&self, resolved: &Resolved) -> String {
        let mut key = match &resolved.commit {
            // The commit behind a tag, so that more finds match, unless the tag is part of what is checked out.
            Some(commit) if !self.keep_git_dir => commit.clone(),
            _ => resolved.checksum.clone(),
        };
        if is_commit(&resolved.reference) {
            key.clone_from(&resolved.reference);
        }
        if self.keep_git_dir {
            key.push_str(".git");
            if !resolved.reference.is_empty() {
                key.push('#');
                key.push_str(&resolved.reference);
            }
        }
        if !self.subdir.is_empty() {
            key.push(':');
            key.push_str(&self.subdir);
        }
        if self.skip_submodules {
            key.push_str("(skip-submodules)");
        }
        if !self.mtime.is_empty() && self.mtime != "checkout" {
            key.push_str(&format!("(mtime={})", self.mtime));
        }
        if self.checkout_bundle {
            key.push_str("(bundle)");
        }
        key
    }

    /// The address without user and password.
    pub(crate) fn shown(&self) -> String {
        source::redacted(&self.remote)
    }
}

fn with_scheme(text: &str) -> String {
    if remote::is_transport(text) {
        text.to_owned()
    } else {
        format!("https://{text}")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;

    pub(crate) fn parse(name: &str, attrs: &[(&str, &str)]) -> Result<Attrs, String> {
        let attrs = attrs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let id = Identifier {
            scheme: "git".to_owned(),
            name: name.to_owned(),
            attrs: attrs.collect(),
            platform: oci::Platform::host(),
        };
        Attrs::parse(&id).map_err(|err| err.to_string())
    }

    #[test]
    fn keys_equal_upstreams() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../testing/vectors/cachekeys/cachemap.json"
        );
        let all: Value =
            serde_json::from_slice(&std::fs::read(path).expect("the vectors")).expect("JSON");
        let mut seen = 0;
        for case in all["sources"].as_array().expect("a list") {
            let name = case["name"].as_str().unwrap_or_default();
            let id = &case["params"]["id"];
            let flag = |key: &str| id[key].as_bool().unwrap_or_default();
            if !name.starts_with("git-") {
                continue;
            }
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let attrs = Attrs {
                subdir: text(&id["Subdir"]),
                keep_git_dir: flag("KeepGitDir"),
                skip_submodules: flag("SkipSubmodules"),
                mtime: text(&id["MTime"]),
                checkout_bundle: flag("CheckoutBundle"),
                ..Attrs::default()
            };
            let resolved = Resolved {
                reference: text(&case["params"]["ref"]),
                checksum: text(&case["params"]["sha"]),
                ..Resolved::default()
            };
            assert_eq!(attrs.key(&resolved), text(&case["source_key"]), "{name}");
            seen += 1;
        }
        assert_eq!(seen, 8);
    }

    #[test]
    fn the_full_address_wins() {
        let attrs = parse(
            "example.com/a.git#v1:sub",
            &[("git.fullurl", "http://example.com:1234/a.git")],
        )
        .expect("valid");
        assert_eq!(attrs.remote, "http://example.com:1234/a.git");
        assert_eq!((&*attrs.reference, &*attrs.subdir), ("v1", "sub"));
        assert_eq!(attrs.canonical(), "git://example.com:1234/a.git#v1:sub");
    }

    #[test]
    fn policies_see_clean_directories() {
        let attrs = parse("github.com/user/repo.git#main:../absolute/path", &[]);
        let canonical = attrs.expect("valid").canonical();
        assert_eq!(
            canonical,
            "git://github.com/user/repo.git#main:absolute/path"
        );
    }

    #[test]
    fn bundles_have_conditions() {
        let blob = format!("oci-layout+blob://my/store@{}", oci::Digest::of("x"));
        let refused = |attrs: &[(&str, &str)]| parse("example.com/a.git#x:", attrs).err();
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(
            refused(&[("git.bundle", &blob)]),
            text("git.bundle requires git.checksum to be set")
        );
        assert_eq!(
            refused(&[("git.checkoutbundle", "true"), ("git.keepgitdir", "true")]),
            text("git.checkoutbundle is incompatible with git.keepgitdir")
        );
        let attrs = [
            ("git.bundle", &*blob),
            ("git.checksum", "abc"),
            ("oci.session", "s"),
        ];
        let parsed = parse("example.com/a.git", &attrs).expect("valid");
        let Some(Bundle {
            place: Place::Layout(layout),
            ..
        }) = parsed.bundle
        else {
            panic!("no layout");
        };
        assert_eq!((&*layout.session, &*layout.store), ("s", "my/store"));
    }

    #[test]
    fn dangerous_refs_are_refused() {
        let refused = parse("example.com/a.git#--upload-pack=x", &[]);
        assert_eq!(
            refused,
            Err("invalid git ref \"--upload-pack=x\"".to_owned())
        );
    }
}
