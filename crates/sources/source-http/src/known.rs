//! Files that were downloaded before, with the tags their server gave them.

use cache::Ref;
use db::Table;
use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::{Http, Resolved};

pub(crate) const TABLE: Table = Table::new("http-files");

/// A file that is here.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) tag: String,
    pub(crate) digest: Digest,
    modified: Option<i64>,
    pub(crate) tree: Ref,
}

/// What stands in the index.
#[derive(Serialize, Deserialize)]
struct Note {
    tag: String,
    digest: Digest,
    modified: Option<i64>,
}

impl Http {
    /// The files of this URL that are here.
    pub(crate) fn known(&self, url_key: &str) -> Vec<Known> {
        let found = self.0.index.find(url_key).into_iter();
        found
            .filter_map(|(tree, note)| {
                let note: Note = serde_json::from_slice(&note).ok()?;
                Some(Known {
                    tag: note.tag,
                    digest: note.digest,
                    modified: note.modified,
                    tree,
                })
            })
            .collect()
    }

    /// Remembers a file by its tag.
    pub(crate) fn remember(&self, url_key: &str, tag: &str, resolved: &Resolved) {
        let note = Note {
            tag: tag.to_owned(),
            digest: resolved.digest.clone(),
            modified: resolved.modified,
        };
        let note = serde_json::to_vec(&note).expect("plain data always serialises");
        self.0.index.add(url_key, &resolved.tree, note);
    }
}

impl Known {
    pub(crate) fn resolved(self, filename: String) -> Resolved {
        Resolved {
            digest: self.digest,
            filename,
            modified: self.modified,
            tree: self.tree,
        }
    }
}

/// The file with this tag.
pub(crate) fn find(known: Vec<Known>, tag: &str) -> Option<Known> {
    known.into_iter().find(|known| known.tag == tag)
}

/// The tags, as a request takes them.
pub(crate) fn tags(known: &[Known]) -> Vec<&str> {
    known.iter().map(|known| known.tag.as_str()).collect()
}
