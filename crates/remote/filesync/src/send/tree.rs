//! A tree on disk as a listing.

use std::fmt;

use fstree::{Filter, FilterOptions, HardLinks, Root};
use proto::fsutil::Stat;

use super::{Content, Emit, Item, Listing};
use crate::{Error, stat};

/// A directory, filtered, its entries changed on the way.
pub struct Tree {
    /// The directory.
    pub root: Root,
    /// What of it is sent.
    pub filter: FilterOptions,
    /// Changes each entry before it is sent; the path is relative to the directory.
    pub map: Box<dyn FnMut(&mut Stat) + Send>,
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("root", &self.root)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

impl Tree {
    /// All of a directory, as it is.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            filter: FilterOptions::default(),
            map: Box::new(|_| {}),
        }
    }
}

impl Listing for Tree {
    fn list(mut self, emit: Emit<'_>) -> Result<(), Error> {
        let filter = Filter::new(&self.root, &self.filter)?;
        // Links are counted among what is sent: the first name that passes the filter is the file.
        let mut links = HardLinks::default();
        for entry in filter.walk(&self.root)? {
            let entry = entry?;
            let first = links.first_name(&entry.meta, &entry.path);
            let mut stat = stat::of_entry(&entry, first.as_deref())?;
            let content = if entry.meta.is_file() || entry.meta.kind() == fstree::Kind::Socket {
                Content::File {
                    root: self.root.clone(),
                    path: entry.path,
                }
            } else {
                Content::None
            };
            (self.map)(&mut stat);
            emit(Item { stat, content })?;
        }
        Ok(())
    }
}
