//! Snapshots as directories that overlayfs stacks: `<root>/<key>/fs` holds the changes, `<root>/<key>/work` belongs to
//! the kernel, or to the program fuse-overlayfs in its place.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mount::{Mount, Upper};

use crate::{
    Chain, Error, Key, Snapshotter, Usage, keys_in, make_root, remove, remove_home, tidy, usage,
    whiteouts,
};

/// The overlayfs snapshotter.
#[derive(Debug)]
pub struct Overlay {
    root: PathBuf,
    /// For every mount.
    options: Vec<String>,
    /// For mounts that are written.
    edit_options: Vec<String>,
    driver: Driver,
    /// Marks are those that an ordinary user may make.
    in_namespace: bool,
}

/// Who makes one tree of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    Kernel,
    /// The program fuse-overlayfs. What it leaves in layers for itself is taken away when they are finished, so that
    /// layers are the same whoever made them.
    Program,
}

impl Overlay {
    /// Opens the directory, making it if need be.
    pub fn open(root: &Path) -> Result<Self, Error> {
        make_root(root)?;
        let options = mount::probe::overlay_options();
        let mut edit_options = options.clone();
        if mount::probe::has_volatile() {
            // Steps do not wait for the disk. What they leave is synced before the record of it is (see `cache`).
            edit_options.push("volatile".to_owned());
        }
        Ok(Self {
            root: root.to_owned(),
            options,
            edit_options,
            driver: Driver::Kernel,
            in_namespace: mount::probe::in_user_namespace(),
        })
    }

    /// The same with mounts by the program fuse-overlayfs.
    pub fn open_with_fuse(root: &Path) -> Result<Self, Error> {
        if let Some(obstacle) = mount::fuse::obstacle() {
            return Err(Error::NoFuse { obstacle });
        }
        make_root(root)?;
        let options = vec![mount::fuse::FUSE_OVERLAYFS.to_owned()];
        let mut edit_options = options.clone();
        edit_options.push("volatile".to_owned());
        Ok(Self {
            root: root.to_owned(),
            options,
            edit_options,
            driver: Driver::Program,
            in_namespace: mount::probe::in_user_namespace(),
        })
    }

    /// Whether the program can be used with its upper directory in `root`.
    pub fn is_possible_with_fuse(root: &Path) -> bool {
        match mount::fuse::obstacle() {
            None => Self::try_mount(root, vec![mount::fuse::FUSE_OVERLAYFS.to_owned()]),
            Some(obstacle) => {
                tracing::info!(obstacle, "fuse-overlayfs is not to be had here");
                false
            }
        }
    }

    /// Whether overlay mounts with their upper directory in `root` work here.
    ///
    /// As root on the common filesystems the answer is known; elsewhere one is tried, which takes some milliseconds
    /// (taking it down again waits for every processor).
    pub fn is_possible(root: &Path) -> bool {
        let common = rustix::fs::statfs(root).is_ok_and(|stat| {
            // The type differs between machines.
            #[allow(clippy::useless_conversion)]
            let magic = i64::from(stat.f_type);
            // The magic numbers of ext2 to ext4, btrfs, f2fs and tmpfs.
            [0xef53, 0x9123_683e, 0xf2f5_2010, 0x0102_1994].contains(&magic)
        });
        if common && !mount::probe::in_user_namespace() && mount::probe::knows_overlay() {
            return true;
        }
        Self::try_mount(root, mount::probe::overlay_options())
    }

    fn try_mount(root: &Path, options: Vec<String>) -> bool {
        let probe = root.join(format!("probe-{}", std::process::id()));
        let dir = |name: &str| probe.join(name);
        let attempt = || -> io::Result<()> {
            for name in ["lower", "upper", "work"] {
                std::fs::create_dir_all(dir(name))?;
            }
            let mount = Mount::Overlay {
                lower: vec![dir("lower")],
                upper: Some(Upper {
                    dir: dir("upper"),
                    work: dir("work"),
                }),
                options: options.clone(),
            };
            let tree = mount.detached()?;
            std::fs::write(tree.path().join("file"), "")
        };
        let result = attempt();
        if let Err(err) = &result {
            tracing::info!(root = %root.display(), options = options.join(","), error = %err, "no overlay mounts here");
        }
        // What is left of the attempt is in nobody's way.
        let _ = std::fs::remove_dir_all(&probe);
        result.is_ok()
    }

    fn home(&self, key: Key) -> PathBuf {
        self.root.join(key.to_string())
    }

    /// An empty directory, for trees that need something below them.
    fn nothing(&self) -> PathBuf {
        self.root.join("empty")
    }

    fn make(&self, key: Key, below: Option<&Chain>) -> io::Result<()> {
        let home = self.home(key);
        DirBuilder::new().mode(0o700).create(&home)?;
        let fs = home.join("fs");
        DirBuilder::new().mode(0o755).create(&fs)?;
        let (mode, owner) = match below.and_then(|chain| chain.keys.first()) {
            None => (0o755, (0, 0)),
            Some(nearest) => {
                // The root of a merged tree shows the attributes of the topmost directory.
                DirBuilder::new().mode(0o711).create(home.join("work"))?;
                let meta = std::fs::metadata(self.directory(*nearest))?;
                (meta.mode() & 0o7777, (meta.uid(), meta.gid()))
            }
        };
        let meta = std::fs::metadata(&fs)?;
        if (meta.uid(), meta.gid()) != owner && below.is_some() {
            std::os::unix::fs::chown(&fs, Some(owner.0), Some(owner.1))?;
        }
        if meta.mode() & 0o7777 != mode {
            std::fs::set_permissions(&fs, Permissions::from_mode(mode))?;
        }
        if below.is_some_and(|chain| chain.cut && chain.keys.len() == 1) {
            self.make_nothing()?;
        }
        Ok(())
    }

    fn make_nothing(&self) -> io::Result<()> {
        match DirBuilder::new().mode(0o755).create(self.nothing()) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => Err(err),
            _ => Ok(()),
        }
    }

    fn lower(&self, chain: &Chain) -> Vec<PathBuf> {
        chain.keys.iter().map(|key| self.directory(*key)).collect()
    }
}

impl Snapshotter for Overlay {
    fn name(&self) -> &'static str {
        match self.driver {
            Driver::Kernel => "overlayfs",
            Driver::Program => "fuse-overlayfs",
        }
    }

    fn prepare(&self, key: Key, below: Option<&Chain>) -> Result<(), Error> {
        self.make(key, below).map_err(|err| {
            let home = self.home(key);
            if err.kind() != io::ErrorKind::AlreadyExists {
                // Nothing is left of a failed attempt, or the next start sweeps it.
                let _ = std::fs::remove_dir_all(&home);
            }
            Error::io("prepare", &home)(err)
        })
    }

    fn edit(&self, key: Key, below: Option<&Chain>) -> Mount {
        let dir = self.directory(key);
        match below {
            None => Mount::writable(dir),
            Some(chain) => Mount::Overlay {
                lower: self.lower(chain),
                upper: Some(Upper {
                    dir,
                    work: self.home(key).join("work"),
                }),
                options: self.edit_options.clone(),
            },
        }
    }

    fn view(&self, chain: &Chain) -> Mount {
        let mut lower = self.lower(chain);
        if lower.len() == 1 {
            if !chain.cut {
                return Mount::readonly(lower.remove(0));
            }
            // Marks of deleted files are only hidden by a mount, and a mount needs two layers.
            if let Err(err) = self.make_nothing() {
                tracing::warn!(error = %err, "cannot make the empty directory");
            }
            lower.push(self.nothing());
        }
        Mount::Overlay {
            lower,
            upper: None,
            options: self.options.clone(),
        }
    }

    fn adopt(&self, key: Key) -> Result<(), Error> {
        whiteouts::mark(&self.directory(key), self.in_namespace)
    }

    fn is_unchanged(&self, key: Key, below: &Chain) -> Result<bool, Error> {
        let Some(nearest) = below.keys.first() else {
            return Ok(false);
        };
        let fs = self.directory(key);
        let check = || -> io::Result<bool> {
            if self.driver == Driver::Program {
                tidy::layer(&fs)?;
            }
            if std::fs::read_dir(&fs)?.next().is_some() {
                return Ok(false);
            }
            let (mine, theirs) = (
                std::fs::metadata(&fs)?,
                std::fs::metadata(self.directory(*nearest))?,
            );
            let same = (mine.mode(), mine.uid(), mine.gid())
                == (theirs.mode(), theirs.uid(), theirs.gid());
            Ok(same && only_overlay_xattrs(&fs)?)
        };
        check().map_err(Error::io("look at", &fs))
    }

    fn directory(&self, key: Key) -> PathBuf {
        let mut path = self.home(key);
        path.push("fs");
        path
    }

    fn is_layered(&self) -> bool {
        true
    }

    fn overlay_options(&self) -> &[String] {
        &self.options
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn usage(&self, key: Key) -> Result<Usage, Error> {
        usage(&self.home(key))
    }

    fn finish(&self, key: Key) -> Result<(), Error> {
        let work = self.home(key).join("work");
        remove(&work, &work.join("work"))
    }

    fn remove(&self, key: Key) -> Result<(), Error> {
        remove_home(&self.home(key))
    }

    fn keys(&self) -> Result<Vec<Key>, Error> {
        keys_in(&self.root)
    }
}

/// Whether the directory has no extended attributes but those overlayfs itself keeps there.
fn only_overlay_xattrs(path: &Path) -> io::Result<bool> {
    let mut names = vec![0; 256];
    loop {
        match rustix::fs::llistxattr(path, names.as_mut_slice()) {
            Ok(length) => {
                names.truncate(length);
                break;
            }
            Err(rustix::io::Errno::NOTSUP) => return Ok(true),
            Err(rustix::io::Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(err) => return Err(err.into()),
        }
    }
    Ok(names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .all(|name| {
            name.starts_with(b"trusted.overlay.")
                || name.starts_with(b"user.overlay.")
                || name == b"security.selinux"
        }))
}
