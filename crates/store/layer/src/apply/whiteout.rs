//! Deletions: removed from a plain target, marked for the kernel in an overlay's upper directory.

use std::ffi::CString;
use std::path::Path;

use fstree::{Root, path};
use rustix::fs::{FileType, Mode};

use super::{Place, Unpacker, attributes};
use crate::Error;
use crate::archive::Member;

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Unpacker {
    /// Whether the member is a whiteout; if so, it has been carried out.
    pub(super) fn whiteout(
        &mut self,
        member: &Member,
        place: &Place,
        base: &[u8],
    ) -> Result<bool, Error> {
        if base == OPAQUE {
            self.make_opaque(place)?;
            return Ok(true);
        }
        let Some(name) = base.strip_prefix(PREFIX) else {
            return Ok(false);
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(Error::archive(format!(
                "invalid whiteout name: {}: invalid archive",
                String::from_utf8_lossy(base)
            )));
        }
        let at = path::join(&place.path, name);
        if self.below.is_some() {
            self.mark(member, place, name, &at)?;
        } else {
            self.remove(&at)?;
        }
        Ok(true)
    }

    fn remove(&self, at: &Path) -> Result<(), Error> {
        self.root
            .remove_all(at)
            .map_err(|err| Error::target(format!("remove {}", self.show(at)), err))
    }

    fn mark(&self, member: &Member, place: &Place, name: &[u8], at: &Path) -> Result<(), Error> {
        let fail = |op: &str| {
            let what = format!(
                "failed to convert whiteout file {:?}: {op} {}",
                String::from_utf8_lossy(&member.name),
                self.show(at)
            );
            move |err: rustix::io::Errno| Error::target(what, err)
        };
        let name = c_name(name)?;
        rustix::fs::mknodat(
            &place.dir,
            &*name,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .map_err(fail("mknod"))?;
        attributes::chown(&place.dir, &name, member.uid, member.gid).map_err(fail("lchown"))
    }

    fn make_opaque(&mut self, place: &Place) -> Result<(), Error> {
        if self.below.is_some() {
            let set = |name: &[u8]| fstree::xattr::set_of_entry(&place.dir, b".", name, b"y");
            let set = match set(b"trusted.overlay.opaque") {
                // In a user namespace only the other mark can be written, and is what counts there.
                Err(err) if err.kind() == std::io::ErrorKind::PermissionDenied => {
                    set(b"user.overlay.opaque")
                }
                done => done,
            };
            return set
                .map_err(|err| Error::target(format!("setxattr {}", self.show(&place.path)), err));
        }
        let open = |err| Error::target(format!("open {}", self.show(&place.path)), err);
        let root = Root::from_borrowed(rustix::fd::AsFd::as_fd(&place.dir)).map_err(open)?;
        let mut doomed = Vec::new();
        let mut walk = fstree::Walk::new(&root)?;
        while let Some(entry) = walk.next() {
            let entry = entry?;
            let at = place.path.join(&entry.path);
            if !self.written.contains(&at) {
                walk.skip_dir();
                doomed.push(at);
            }
        }
        doomed.iter().try_for_each(|at| self.remove(at))
    }
}

pub(super) fn c_name(name: &[u8]) -> Result<CString, Error> {
    CString::new(name).map_err(|_| Error::archive("invalid tar header: NUL in a name"))
}
