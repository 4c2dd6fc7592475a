//! What was learned on the way: which repository has which blob, and what a name stood for a moment ago.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use oci::{Descriptor, Digest, Reference};
use parking_lot::Mutex;

use crate::Credentials;

/// Blobs that are remembered at most; a daemon that saw more forgets all and learns anew.
const BLOBS: usize = 1 << 16;
/// A name that was resolved is not asked for again by the same build for so long.
const FRESH: Duration = Duration::from_secs(10);

/// Repositories by registry and blob.
#[derive(Default)]
pub(crate) struct Known(Mutex<HashMap<(String, Digest), BTreeSet<String>>>);

impl Known {
    pub(crate) fn add(&self, domain: &str, repository: &str, blob: &Digest) {
        let mut known = self.0.lock();
        if known.len() >= BLOBS {
            known.clear();
        }
        let key = (domain.to_owned(), blob.clone());
        known.entry(key).or_default().insert(repository.to_owned());
    }

    pub(crate) fn repositories(&self, domain: &str, blob: &Digest) -> BTreeSet<String> {
        let key = (domain.to_owned(), blob.clone());
        self.0.lock().get(&key).cloned().unwrap_or_default()
    }
}

/// Resolved names, per build: two builds may see different things, one build may not.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<(Vec<String>, Reference), Answer>>);

/// When it came, and what it was.
type Answer = (Instant, Descriptor);

impl Names {
    pub(crate) fn get(&self, who: &dyn Credentials, name: &Reference) -> Option<Descriptor> {
        if who.holders().is_empty() {
            return None;
        }
        let mut names = self.0.lock();
        names.retain(|_, (since, _)| since.elapsed() < FRESH);
        let key = (who.holders().to_vec(), name.clone());
        names.get(&key).map(|(_, found)| found.clone())
    }

    pub(crate) fn set(&self, who: &dyn Credentials, name: &Reference, found: &Descriptor) {
        if who.holders().is_empty() {
            return;
        }
        let key = (who.holders().to_vec(), name.clone());
        let value = (Instant::now(), found.clone());
        self.0.lock().insert(key, value);
    }

    /// Somebody pushed there.
    pub(crate) fn forget(&self, name: &Reference) {
        let name = name.with_default_tag();
        self.0.lock().retain(|(_, known), _| *known != name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Anonymous, Login};
    use async_trait::async_trait;
    use oci::media_type::OCI_MANIFEST;
    use tasks::Cx;

    struct Build(Vec<String>);

    #[async_trait]
    impl Credentials for Build {
        fn holders(&self) -> &[String] {
            &self.0
        }

        async fn login(&self, _: &Cx, _: &str) -> Result<Option<(String, Login)>, session::Error> {
            Ok(None)
        }
    }

    #[test]
    fn a_build_remembers_its_own_names_until_somebody_pushes() {
        let (names, one, two) = (
            Names::default(),
            Build(vec!["one".to_owned()]),
            Build(vec!["two".to_owned()]),
        );
        let name = Reference::parse("busybox:latest").expect("a name");
        let found = Descriptor::new(OCI_MANIFEST, Digest::of("x"), 1);
        names.set(&one, &name, &found);
        names.set(&Anonymous, &name, &found);
        assert_eq!(names.get(&one, &name), Some(found));
        assert_eq!(names.get(&two, &name), None);
        assert_eq!(names.get(&Anonymous, &name), None);
        names.forget(&Reference::parse("busybox").expect("a name"));
        assert_eq!(names.get(&one, &name), None);
    }
}
