//! Actions that see nothing of what lies below their layer.
//!
//! Most actions only add names: a copy to a place where nothing is, a new directory. Such an action does the same in the
//! layer's own directory as in the mounted tree, once the directories above those names are there as overlayfs would
//! have made them. Looking that up costs some system calls a layer; a mount with a writable side costs half a dozen new
//! inodes. Where anything else is in the way (a link, a file to be replaced, a directory to be merged into), the answer
//! is no, and the tree is to be mounted.

use std::ffi::CString;
use std::io;
use std::path::{Path, PathBuf};

use fstree::{Meta, Root, path, xattr};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timestamps, Uid};

use crate::error::on;
use crate::{Copy, Error, Mkdir, Mkfile, Symlink};

/// What an action would add.
#[derive(Debug, Clone, Copy)]
pub enum Adding<'a> {
    /// Copies from a tree.
    Copy(&'a Root, &'a Copy),
    /// A file.
    Mkfile(&'a Mkfile),
    /// A directory.
    Mkdir(&'a Mkdir),
    /// A link.
    Symlink(&'a Symlink),
}

/// In directories with more names than this nobody looks for each of them.
const MANY: usize = 64;

const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Makes `layer` ready for the action alone, if that will do. `below` are the directories of the layers below, nearest
/// first. After `false` nothing was changed.
pub fn prepare_alone(layer: &Root, below: &[Root], adding: Adding<'_>) -> Result<bool, Error> {
    let at = match adding {
        Adding::Copy(_, copy) => path::relative(&copy.dest),
        Adding::Mkfile(mkfile) => path::relative(&mkfile.path),
        Adding::Mkdir(mkdir) => path::relative(&mkdir.path),
        Adding::Symlink(link) => path::relative(&link.new_path),
    };
    let layers: Vec<&Root> = std::iter::once(layer).chain(below).collect();
    let Some(way) = Way::to(&layers, &at).map_err(on("lstat", &at))? else {
        return Ok(false);
    };
    let free = if way.complete {
        match adding {
            Adding::Copy(source, copy) => inside(&way, source, copy, &at),
            _ => Ok(false),
        }
    } else {
        Ok(true)
    };
    // What cannot be looked at is for the action itself to complain about.
    if !free.unwrap_or(false) {
        return Ok(false);
    }
    way.make(layer)?;
    Ok(true)
}

/// The directories on the way to a place, as far as there are any.
struct Way<'a> {
    /// Those missing in the layer itself, outermost first.
    missing: Vec<Step>,
    /// Whether the place itself is a directory.
    complete: bool,
    /// The layers below that are seen in the last directory.
    below: Vec<&'a Root>,
}

struct Step {
    at: PathBuf,
    meta: Meta,
    xattrs: xattr::Xattrs,
}

/// What layers show at a path.
enum Shown<'a> {
    Nothing,
    Dir {
        /// The layers it is merged from, nearest first.
        layers: Vec<&'a Root>,
        nearest: Step,
    },
    Other,
}

impl<'a> Way<'a> {
    /// `None` if anything but directories is on the way.
    fn to(layers: &[&'a Root], place: &Path) -> io::Result<Option<Self>> {
        let own = layers[0];
        let mut way = Self {
            missing: Vec::new(),
            complete: true,
            below: layers[1..].to_vec(),
        };
        let mut seen = layers.to_vec();
        let mut at = PathBuf::new();
        for name in path::bytes(place).split(|byte| *byte == b'/') {
            if name.is_empty() {
                continue;
            }
            at = path::join(&at, name);
            match look(&seen, &at)? {
                Shown::Other => return Ok(None),
                Shown::Nothing => {
                    way.complete = false;
                    return Ok(Some(way));
                }
                Shown::Dir { layers, nearest } => {
                    let is_own = std::ptr::eq(layers[0], own);
                    way.below = layers[usize::from(is_own)..].to_vec();
                    if !is_own {
                        way.missing.push(nearest);
                    }
                    seen = layers;
                }
            }
        }
        Ok(Some(way))
    }

    /// Makes what is missing, as overlayfs copies directories up.
    fn make(&self, layer: &Root) -> Result<(), Error> {
        for step in &self.missing {
            step.make(layer).map_err(on("mkdir", &step.at))?;
        }
        // Making a child touched the times of its parent.
        for step in self.missing.iter().rev() {
            step.set_times(layer).map_err(on("utimensat", &step.at))?;
        }
        Ok(())
    }
}

impl Step {
    fn make(&self, layer: &Root) -> io::Result<()> {
        let parent = layer.parent(&self.at)?;
        rustix::fs::mkdirat(&parent.dir, parent.name(), Mode::from_raw_mode(0o700))?;
        let (uid, gid) = (Uid::from_raw(self.meta.uid), Gid::from_raw(self.meta.gid));
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&parent.dir, parent.name(), Some(uid), Some(gid), flags)?;
        let mode = Mode::from_raw_mode(self.meta.permissions());
        rustix::fs::chmodat(&parent.dir, parent.name(), mode, AtFlags::empty())?;
        for (name, value) in &self.xattrs {
            let name = name.as_encoded_bytes();
            if !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.") {
                xattr::set_of_entry(&parent.dir, parent.name().to_bytes(), name, value)?;
            }
        }
        Ok(())
    }

    fn set_times(&self, layer: &Root) -> io::Result<()> {
        let parent = layer.parent(&self.at)?;
        let times = Timestamps {
            last_access: self.meta.atime.timespec(),
            last_modification: self.meta.mtime.timespec(),
        };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(
            &parent.dir,
            parent.name(),
            &times,
            flags,
        )?)
    }
}

/// Whether a copy into the directory at `at`, the end of `way`, adds nothing but names that are not there.
fn inside(way: &Way<'_>, source: &Root, copy: &Copy, at: &Path) -> io::Result<bool> {
    let from = path::relative(&copy.src);
    let wild = copy.allow_wildcard && path::has_wildcard(path::bytes(&from));
    let filtered = !copy.include_patterns.is_empty() || !copy.exclude_patterns.is_empty();
    if wild || filtered || copy.attempt_unpack {
        return Ok(false);
    }
    let meta = source.symlink_meta(&from)?;
    let names = match from.file_name() {
        _ if meta.is_symlink() => return Ok(false),
        Some(name) if !meta.is_dir() || !copy.dir_copy_contents => {
            vec![CString::new(name.as_encoded_bytes())?]
        }
        _ if !meta.is_dir() => return Ok(false),
        _ => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            fstree::dir::names(source.open_with(&from, flags, Mode::empty())?)?
        }
    };
    // Without names nothing is added, and the directory must not show up in the layer.
    if names.is_empty() || names.len() > MANY {
        return Ok(false);
    }
    for name in names {
        let shown = look(&way.below, &path::join(at, name.to_bytes()))?;
        if !matches!(shown, Shown::Nothing) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What `layers`, all of which show the directory above, show at `at`.
fn look<'a>(layers: &[&'a Root], at: &Path) -> io::Result<Shown<'a>> {
    let mut dirs = Vec::new();
    let mut nearest: Option<Step> = None;
    for layer in layers {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let meta = match layer.open_with(at, flags, Mode::empty()) {
            Ok(entry) => Meta::from(&rustix::fs::fstat(entry)?),
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => return Err(err),
        };
        if !meta.is_dir() {
            let removed = meta.kind() == fstree::Kind::CharDevice
                && (meta.rdev.major, meta.rdev.minor) == (0, 0);
            if dirs.is_empty() && !removed {
                return Ok(Shown::Other);
            }
            break;
        }
        let xattrs = attributes(layer, at)?;
        let hides = xattrs
            .iter()
            .any(|(name, _)| OPAQUE.iter().any(|opaque| name == opaque));
        dirs.push(*layer);
        nearest.get_or_insert_with(|| Step {
            at: at.to_owned(),
            meta,
            xattrs,
        });
        if hides {
            break;
        }
    }
    Ok(match nearest {
        Some(nearest) => Shown::Dir {
            layers: dirs,
            nearest,
        },
        None => Shown::Nothing,
    })
}

fn attributes(layer: &Root, at: &Path) -> io::Result<xattr::Xattrs> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    xattr::of_file(layer.open_with(at, flags, Mode::empty())?)
}
