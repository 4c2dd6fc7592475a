//! What was lowered lately. The same request, the same file and the same facts mean the same graph.
//!
//! Lowering is a function: of the request, of the ignore file, and of the images that names lead to. An entry remembers
//! all of them. It counts when the request is equal and the images and the ignore file, asked for anew, are what they
//! were; so nothing is kept from being noticed, only the work is saved. What is taken from named contexts, or from the
//! age of a source, is lowered each time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use dockerfile_syntax::lint::Finding;
use frontend::{ResolveOptions, ResolvedImage};
use futures::future::join_all;
use oci::Platform;
use parking_lot::Mutex;
use proto::pb;

use crate::files::{Files, Source};
use crate::lower::Lowered;

/// How many are remembered. Builds that follow each other closely are those of one client: services of one project.
const ENTRIES: usize = 8;

/// The latest files that were lowered.
#[derive(Default)]
pub(crate) struct Memo(Mutex<VecDeque<Arc<Entry>>>);

/// Everything in a request that can make a difference.
#[derive(PartialEq)]
pub(crate) struct Key {
    data: Bytes,
    filename: String,
    /// How the file was read, which names the session.
    read_by: Option<pb::Definition>,
    attributes: BTreeMap<String, String>,
    inputs: BTreeMap<String, pb::Definition>,
    session: String,
    platforms: Vec<Platform>,
    platform: Option<Platform>,
    warns: bool,
    capabilities: Vec<bool>,
}

/// An image that was looked up on the way.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) name: String,
    pub(crate) options: ResolveOptions,
    pub(crate) found: ResolvedImage,
}

struct Entry {
    key: Key,
    images: Vec<Asked>,
    patterns: Vec<String>,
    lowered: Lowered,
    findings: Vec<Finding>,
}

impl Key {
    pub(crate) fn new(
        files: &Files,
        source: &Source,
        platform: Option<&Platform>,
        warns: bool,
    ) -> Self {
        let map = &source.map;
        Self {
            data: map.data.clone(),
            filename: map.filename.clone(),
            read_by: map.definition.clone(),
            attributes: files.options.attributes.clone(),
            inputs: files.inputs.clone(),
            session: files.session().to_owned(),
            platforms: files.bridge.platforms(),
            platform: platform.cloned(),
            warns,
            capabilities: llb::caps::LLB
                .iter()
                .map(|capability| files.bridge.supports(capability))
                .collect(),
        }
    }
}

impl Memo {
    /// What the request meant before, if it still means that.
    pub(crate) async fn find(
        &self,
        files: &Files,
        source: &Source,
        key: &Key,
    ) -> Option<(Lowered, Vec<Finding>)> {
        let known = self
            .0
            .lock()
            .iter()
            .find(|entry| entry.key == *key)
            .cloned();
        let entry = known?;
        let images = entry.images.iter().map(async |asked| {
            let found = files.resolve_image(&asked.name, asked.options.clone());
            // One that is not there any more is for the lowering to tell.
            found.await.is_ok_and(|found| {
                found.reference == asked.found.reference
                    && found.digest == asked.found.digest
                    && found.config == asked.found.config
            })
        });
        let same = join_all(images).await.into_iter().all(|same| same);
        let patterns = files.ignored(source).await.ok()?;
        (same && patterns == entry.patterns)
            .then(|| (entry.lowered.clone(), entry.findings.clone()))
    }

    /// Remembers what a request means.
    pub(crate) async fn keep(
        &self,
        files: &Files,
        source: &Source,
        key: Key,
        lowered: &Lowered,
        findings: &[Finding],
    ) {
        let Some(images) = files.asked() else {
            return;
        };
        let Ok(patterns) = files.ignored(source).await else {
            return;
        };
        let entry = Arc::new(Entry {
            key,
            images,
            patterns: patterns.to_vec(),
            lowered: lowered.clone(),
            findings: findings.to_vec(),
        });
        let mut entries = self.0.lock();
        entries.retain(|other| other.key != entry.key);
        entries.truncate(ENTRIES - 1);
        entries.push_front(entry);
    }
}
