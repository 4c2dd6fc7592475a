//! Running without being root: where things are then, and whether the process is in a namespace that makes it possible.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Where things are unless somebody says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Places {
    pub config: PathBuf,
    pub root: PathBuf,
    pub address: String,
}

impl Places {
    /// In a user namespace that an ordinary user made for himself: his own places. Compat: whoever says to be root is.
    pub(crate) fn of_this_process() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let user = variable("USER").filter(|user| user != "root");
        match user {
            Some(_) if mount::probe::in_user_namespace() => Self::of_user(&variable),
            _ => Self::of_machine(),
        }
    }

    fn of_machine() -> Self {
        Self {
            config: PathBuf::from("/etc/buildkit/buildkitd.toml"),
            root: PathBuf::from("/var/lib/buildkit"),
            address: "unix:///run/buildkit/buildkitd.sock".to_owned(),
        }
    }

    fn of_user(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let machine = Self::of_machine();
        // Compat: some of these may hold lists.
        let first = |name| {
            let value = variable(name)?;
            value.split(':').next().map(PathBuf::from)
        };
        let home = |below: &str| variable("HOME").map(|home| Path::new(&home).join(below));
        let config = first("XDG_CONFIG_HOME").or_else(|| home(".config"));
        let data = first("XDG_DATA_HOME").or_else(|| home(".local/share"));
        let socket = |dir: PathBuf| format!("unix://{}/buildkit/buildkitd.sock", dir.display());
        Self {
            config: config.map_or(machine.config, |dir| dir.join("buildkit/buildkitd.toml")),
            root: data.map_or(machine.root, |dir| dir.join("buildkit")),
            address: first("XDG_RUNTIME_DIR").map_or(machine.address, socket),
        }
    }
}

/// What keeps a process from running without root.
pub(crate) fn check() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "rootless mode requires to be executed as the mapped root in a user namespace; you may use RootlessKit for setting up the namespace, or: unshare --user --map-root-user --map-auto --mount buildkitd"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)]) -> Places {
        Places::of_user(&|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_users_places_are_where_the_session_says() {
        let told = places(&[
            ("HOME", "/home/u"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("XDG_DATA_HOME", "/data:/more"),
        ]);
        assert_eq!(
            told.config,
            Path::new("/home/u/.config/buildkit/buildkitd.toml")
        );
        assert_eq!(told.root, Path::new("/data/buildkit"));
        assert_eq!(told.address, "unix:///run/user/7/buildkit/buildkitd.sock");
    }

    #[test]
    fn without_a_session_they_are_below_the_home_and_else_the_machines() {
        assert_eq!(
            places(&[("HOME", "/h")]).root,
            Path::new("/h/.local/share/buildkit")
        );
        assert_eq!(places(&[]), Places::of_machine());
    }
}
