//! Everything about a step that is the same whoever runs it: user, files, stubs, working directory, specification.

use std::path::Path;

use rustix::fs::{FileType, Mode};

use crate::cdi::Edits;
use crate::files::{Files, HostsFile};
use crate::generate::{self, Facts};
use crate::host::Host;
use crate::rootfs::{Make, Owner, Root};
use crate::selinux::{Allotted, Labels};
use crate::settings::Settings;
use crate::spec::Spec;
use crate::stubs::Stubs;
use crate::user::{self, User};
use crate::{Error, NetMode, Security, Step};

/// What executors share: settings, facts about the machine, files mounted into every step.
#[derive(Debug)]
pub struct Shared {
    /// Configuration.
    pub settings: Settings,
    /// Machine.
    pub host: Host,
    files: Files,
    labels: Allotted,
}

/// A step that can run.
#[derive(Debug)]
pub struct Prepared {
    /// What to run. Sources of mounts with a selector are still empty.
    pub spec: Spec,
    /// The user it runs as.
    pub user: User,
    /// Its home directory.
    pub home: String,
    stubs: Stubs,
    hosts: HostsFile,
    /// Nobody else gets these as long as the container runs.
    _labels: Option<Labels>,
}

impl Shared {
    /// Makes the executor's directory if it is missing.
    pub fn new(settings: Settings) -> std::io::Result<Self> {
        std::fs::create_dir_all(&settings.root)?;
        let files = Files::new(&settings.root, settings.dns.clone());
        Ok(Self {
            settings,
            host: Host::probe(),
            files,
            labels: Allotted::default(),
        })
    }

    /// Gets a step ready. Blocking.
    ///
    /// `root` is the step's root filesystem, writable; `root_path` is where an external runtime would find it.
    pub fn prepare(&self, step: &Step, root: &Root, root_path: &Path) -> Result<Prepared, Error> {
        check_id(&step.id)?;
        let process = &step.process;
        // Compat: what the op says counts, not what the daemon makes of sandbox mode.
        let host_network = process.network == NetMode::Host;
        let resolv_conf = self
            .files
            .resolv_conf(host_network)
            .map_err(|err| Error::start_io("failed to write resolv.conf", err))?;
        let hosts = self
            .files
            .hosts(&step.id, process)
            .map_err(|err| Error::start_io("failed to write hosts file", err))?;
        let edits = self.device_edits(step)?;
        let destinations = step.mounts.iter().map(|mount| mount.dest.as_str());
        let destinations = destinations.chain(edits.mount_points());
        let stubs = Stubs::note(root, destinations, process.remove_stubs_recursive);
        let user =
            user::resolve(root, &process.user).map_err(|err| Error::start(fault::chain(&err)))?;
        let mut spec = generate::spec(
            step,
            &Facts {
                settings: &self.settings,
                host: &self.host,
                user: &user,
                root_path,
                hosts: hosts.path(),
                resolv_conf: &resolv_conf,
                free_loop: if process.security == Security::Insecure {
                    free_loop()
                } else {
                    0
                },
            },
        )?;
        let labels = self.label(&mut spec, process.security)?;
        // Last, since a device may change anything.
        edits.apply(&mut spec).map_err(|err| no_device(&err))?;
        make_working_dir(root, &process.cwd, &user)?;
        let home = user::home(root, user.uid);
        Ok(Prepared {
            spec,
            user,
            home,
            stubs,
            hosts,
            _labels: labels,
        })
    }
}

impl Shared {
    /// Gives the container labels, if that is configured.
    fn label(&self, spec: &mut Spec, security: Security) -> Result<Option<Labels>, Error> {
        if !self.settings.selinux {
            return Ok(None);
        }
        if !self.host.selinux {
            return Err(Error::start("selinux is not available"));
        }
        let labels = self.labels.allot(Path::new("/etc/selinux"));
        let labels = labels.map_err(|err| Error::start_io("failed to make SELinux labels", err))?;
        // What is not confined has the daemon's label.
        spec.process.selinux_label =
            (security == Security::Sandbox).then(|| labels.process.clone());
        spec.linux.mount_label = Some(labels.mount.clone());
        Ok(Some(labels))
    }

    /// What the devices of a step change.
    fn device_edits(&self, step: &Step) -> Result<Edits, Error> {
        let wanted = &step.process.devices;
        match &self.settings.devices {
            _ if wanted.is_empty() => Ok(Edits::default()),
            Some(registry) => registry
                .known()
                .edits(wanted)
                .map_err(|err| no_device(&err)),
            None => match wanted.iter().find(|wanted| !wanted.optional) {
                Some(wanted) => Err(Error::start(format!(
                    "CDI device injection failed: device {:?}: CDI is disabled in this daemon",
                    wanted.name
                ))),
                None => Ok(Edits::default()),
            },
        }
    }
}

fn no_device(err: &crate::cdi::Error) -> Error {
    Error::start(format!(
        "CDI device injection failed: {}",
        fault::chain(err)
    ))
}

impl Prepared {
    /// Takes away what was only there for the run.
    pub fn finish(self, root: &Root) {
        self.stubs.remove(root);
        drop(self.hosts);
    }
}

fn check_id(id: &str) -> Result<(), Error> {
    if id.is_empty() {
        return Err(Error::start("container id must not be empty"));
    }
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Error::start(format!(
            "invalid container id {id:?}: only letters and numbers are allowed"
        )));
    }
    Ok(())
}

/// Makes a missing working directory with all parents, owned by the user.
fn make_working_dir(root: &Root, cwd: &str, user: &User) -> Result<(), Error> {
    let walk = root.walk(Path::new(cwd)).map_err(|err| {
        Error::start_io(
            format_args!("working dir {cwd} points to invalid target"),
            err,
        )
    })?;
    let failed = |err| {
        Error::start_io(
            format_args!("failed to create working directory {cwd}"),
            err,
        )
    };
    if walk.exists() {
        let stat = rustix::fs::fstat(walk.at()).map_err(|errno| failed(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(failed(rustix::io::Errno::NOTDIR.into()));
        }
        return Ok(());
    }
    let owner = Owner {
        uid: user.uid,
        gid: user.gid,
    };
    walk.complete(Make::Dir, Mode::from_raw_mode(0o755), Some(owner))
        .map_err(failed)?;
    Ok(())
}

/// The first free loop device; 0 when nobody can tell.
fn free_loop() -> u32 {
    if !Path::new("/dev/loop-control").exists() {
        return 0;
    }
    let busy =
        |number: &u32| Path::new(&format!("/sys/block/loop{number}/loop/backing_file")).exists();
    (0..1024).find(|number| !busy(number)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_letters_and_digits() {
        assert!(check_id(&identity::new_id()).is_ok());
        let text = |id| check_id(id).expect_err("bad").to_string();
        assert_eq!(text(""), "container id must not be empty");
        assert_eq!(
            text("a/b"),
            "invalid container id \"a/b\": only letters and numbers are allowed"
        );
    }

    #[test]
    fn a_missing_working_directory_belongs_to_the_user() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(dir.path()).expect("just made");
        let user = User {
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: vec![],
        };
        make_working_dir(&root, "/w/x", &user).expect("writable");
        assert!(dir.path().join("w/x").is_dir());
        std::fs::write(dir.path().join("file"), "").expect("writable");
        let err = make_working_dir(&root, "/file", &user).expect_err("not a directory");
        assert!(
            err.to_string()
                .starts_with("failed to create working directory /file: "),
            "{err}"
        );
    }
}
