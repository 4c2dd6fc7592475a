//! Files that get one more name without a look at each.
//!
//! Where a copy changes nothing of its files and may share all of them, a listing tells enough: what is a regular file,
//! and which inode it is. All levels of such a copy are alike, so no file that is looked at can be another name of one
//! that is not.

use std::ffi::CStr;
use std::path::Path;

use fstree::Kind;
use fstree::copy::{Existing, LinkedFiles, Links};
use fstree::dir::Listed;

use super::{Copier, To, in_the_way};
use crate::Error;
use crate::sharing::From;

/// So many at once; other threads begin with them meanwhile.
const AT_ONCE: usize = 64;

/// Files of one directory that were met and not passed on yet.
#[derive(Default)]
pub(super) struct Unseen(Option<(Links, From)>);

impl Unseen {
    /// One more file of the directory that is being copied.
    pub fn add(
        &mut self,
        copier: &mut Copier<'_, '_>,
        from: &From,
        at: &Path,
        name: &CStr,
    ) -> Result<(), Error> {
        let (links, _) = match &mut self.0 {
            Some(gathered) => gathered,
            none => {
                let to = copier.target_dir()?;
                let links = Links::new(from.dir.clone(), to.dir, at.to_owned(), copier.existing());
                none.insert((links, from.clone()))
            }
        };
        links.add(name);
        if links.len() >= AT_ONCE {
            self.flush(copier)?;
        }
        Ok(())
    }

    /// Passes on what was gathered.
    pub fn flush(&mut self, copier: &mut Copier<'_, '_>) -> Result<(), Error> {
        let Some((links, from)) = self.0.take() else {
            return Ok(());
        };
        copier.note_all_linked(&from.at, &links);
        copier.batch.push_links(links).map_err(in_the_way)
    }
}

impl Copier<'_, '_> {
    /// Whether this copy, from one directory to another, can do without looking at its regular files.
    pub(super) fn may_pass_unseen(&self, from: &From, to: &To) -> bool {
        let action = self.plan.action;
        let kept = action.owner.is_none() && self.plan.mode.is_none() && action.timestamp.is_none();
        self.sharing.is_some()
            && kept
            && from.plain
            && (self.plain_target || to.raw)
            && fstree::dir::tells_inodes(&from.dir)
    }

    /// Whether this entry of a directory on `dev` is such a file; it is shared then.
    pub(super) fn passes_unseen(&mut self, entry: &Listed<'_>, dev: u64) -> bool {
        let Some(sharing) = self.sharing.as_ref().filter(|_| self.unseen) else {
            return false;
        };
        let inode = (dev, entry.ino);
        // One that has a name in the target is copied, and its other names are linked to the copy.
        if entry.kind != Kind::File || sharing.used.contains(inode) {
            return false;
        }
        self.mine.push(inode);
        true
    }

    pub(super) fn existing(&self) -> Existing {
        match self.plan.action.always_replace {
            true => Existing::ReplaceDirs,
            false => Existing::Replace,
        }
    }

    fn note_all_linked(&mut self, from: &Path, links: &Links) {
        let mut files = LinkedFiles::new(from, &links.at);
        files.add_all(links);
        self.linked.push(files);
    }
}
