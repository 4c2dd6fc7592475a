//! What instructions set beside what they do, one by one, under the names users write.

use proto::pb::file_action::Action;
use proto::pb::user_opt::User;
use proto::{gojson, pb};

use cachekeys::Part;
use oci::Digest;

use super::parts::part;

/// Settings of one thing.
struct Settings {
    before: String,
    after: String,
    parts: Vec<Part>,
}

impl Settings {
    fn new(before: &str, after: &str) -> Self {
        Self {
            before: before.to_owned(),
            after: after.to_owned(),
            parts: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        let title = format!("{}{name}{}", self.before, self.after);
        self.parts.push(part(&title, value));
    }

    /// One of the words that the wire has in capitals.
    fn word(&mut self, name: &str, value: &str) {
        self.add(name, &value.to_lowercase());
    }

    /// Unless it is empty.
    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.add(name, value);
        }
    }

    /// If it is set.
    fn flag(&mut self, name: &str, set: bool) {
        if set {
            self.add(name, "true");
        }
    }

    fn list(&mut self, name: &str, values: &[String]) {
        self.text(name, &values.join(" "));
    }

    /// Unless it is zero.
    fn number(&mut self, name: &str, value: i64) {
        if value != 0 {
            self.add(name, &value.to_string());
        }
    }

    fn mode(&mut self, name: &str, mode: u32) {
        if mode != 0 {
            self.add(name, &format!("{mode:04o}"));
        }
    }

    /// Permission bits of a file action; negative ones are those of the source.
    fn chmod(&mut self, mode: i32) {
        if let Ok(mode) = u32::try_from(mode) {
            self.add("chmod", &format!("{mode:04o}"));
        }
    }

    fn chown(&mut self, owner: Option<&pb::ChownOpt>) {
        let Some(owner) = owner else { return };
        let shown = |who: Option<&pb::UserOpt>| match who.and_then(|who| who.user.as_ref()) {
            Some(User::ById(id)) => id.to_string(),
            Some(User::ByName(named)) => named.name.clone(),
            None => String::new(),
        };
        let (user, group) = (shown(owner.user.as_ref()), shown(owner.group.as_ref()));
        self.add("chown", &format!("{user}:{group}"));
    }

    /// Nanoseconds; -1 is that of the source.
    fn time(&mut self, timestamp: i64) {
        if timestamp != -1 {
            self.add("timestamp", &timestamp.to_string());
        }
    }
}

/// What an action does, and its settings.
pub(super) fn of_action(index: usize, action: &pb::FileAction) -> Vec<Part> {
    let (title, of) = match index {
        0 => ("action".to_owned(), String::new()),
        more => {
            let title = format!("action {}", more + 1);
            let of = format!(" of {title}");
            (title, of)
        }
    };
    let mut set = Settings::new("", &of);
    let what = match &action.action {
        Some(Action::Copy(copy)) => {
            of_copy(&mut set, copy);
            format!("copy {} to {}", copy.src, copy.dest)
        }
        Some(Action::Mkfile(mkfile)) => {
            let data = Digest::of(&mkfile.data);
            set.add(&format!("content of {}", mkfile.path), &data.hex()[..12]);
            for part in &mut set.parts {
                part.hidden = true;
            }
            set.chmod(mkfile.mode);
            set.chown(mkfile.owner.as_ref());
            set.time(mkfile.timestamp);
            format!("make file {}", mkfile.path)
        }
        Some(Action::Mkdir(mkdir)) => {
            set.chmod(mkdir.mode);
            set.chown(mkdir.owner.as_ref());
            set.time(mkdir.timestamp);
            set.flag("with parents", mkdir.make_parents);
            format!("make directory {}", mkdir.path)
        }
        Some(Action::Rm(rm)) => {
            set.flag("may be missing", rm.allow_not_found);
            set.flag("wildcards", rm.allow_wildcard);
            format!("remove {}", rm.path)
        }
        Some(Action::Symlink(link)) => {
            set.chown(link.owner.as_ref());
            set.time(link.timestamp);
            format!("link {} to {}", link.newpath, link.oldpath)
        }
        None => String::new(),
    };
    set.parts.insert(0, part(&title, &what));
    set.parts
}

fn of_copy(set: &mut Settings, copy: &pb::FileActionCopy) {
    set.chown(copy.owner.as_ref());
    match (copy.mode_str.as_str(), copy.mode) {
        ("", mode) => set.chmod(mode),
        // Letters count; numbers beside them are in the key all the same.
        (letters, ..=0) => set.add("chmod", letters),
        (letters, mode) => set.add("chmod", &format!("{letters} {mode:04o}")),
    }
    set.time(copy.timestamp);
    set.list("include", &copy.include_patterns);
    set.list("exclude", &copy.exclude_patterns);
    set.list("required paths", &copy.required_paths);
    set.flag("unpack", copy.attempt_unpack_docker_compatibility);
    set.flag("follow links", copy.follow_symlink);
    set.flag("contents of directories", copy.dir_copy_contents);
    set.flag("make destination", copy.create_dest_path);
    set.flag("wildcards", copy.allow_wildcard);
    set.flag("wildcards may match nothing", copy.allow_empty_wildcard);
    set.flag(
        "replace what is there",
        copy.always_replace_existing_dest_paths,
    );
}

/// A mount and its settings.
pub(super) fn of_mount(mount: &pb::Mount) -> Vec<Part> {
    let title = format!("mount {}", mount.dest);
    let mut set = Settings::new(&format!("{title}: "), "");
    set.flag("readonly", mount.readonly);
    if let Some(tmpfs) = &mount.tmpfs_opt {
        set.number("size", tmpfs.size);
    }
    if let Some(cache) = &mount.cache_opt {
        set.text("id", &cache.id);
        set.word("sharing", cache.sharing().as_str_name());
    }
    if let Some(secret) = &mount.secret_opt {
        set.text("id", &secret.id);
        set.number("uid", i64::from(secret.uid));
        set.number("gid", i64::from(secret.gid));
        set.mode("mode", secret.mode);
        set.flag("optional", secret.optional);
    }
    if let Some(ssh) = &mount.ssh_opt {
        set.text("id", &ssh.id);
        set.number("uid", i64::from(ssh.uid));
        set.number("gid", i64::from(ssh.gid));
        set.mode("mode", ssh.mode);
        set.flag("optional", ssh.optional);
    }
    set.text("source", mount.selector.trim_matches('/'));
    if mount.input > 0 {
        set.number("input", mount.input);
    }
    if mount.output > 0 {
        set.number("output", mount.output);
    }
    set.text("result", &mount.result_id);
    if mount.content_cache != 0 {
        set.word("content cache", mount.content_cache().as_str_name());
    }
    let kind = mount.mount_type().as_str_name().to_lowercase();
    set.parts.insert(0, part(&title, &kind));
    set.parts
}

/// What an exec sets beside command, environment and mounts; of `op` stays what is not known here.
pub(super) fn of_exec(op: &mut pb::ExecOp) -> Vec<Part> {
    let mut set = Settings::new("", "");
    let network = match op.network() {
        pb::NetMode::Unset => "default",
        other => other.as_str_name(),
    };
    set.word("network", network);
    set.word("security", op.security().as_str_name());
    (op.network, op.security) = (0, 0);
    for secret in std::mem::take(&mut op.secretenv) {
        let title = format!("secret variable {}", secret.name);
        set.add(&title, &secret.id);
        set.flag(&format!("{title}: optional"), secret.optional);
    }
    for device in std::mem::take(&mut op.cdi_devices) {
        let needed = if device.optional {
            "optional"
        } else {
            "required"
        };
        set.add(&format!("device {}", device.name), needed);
    }
    if let Some(meta) = &mut op.meta {
        set.text("hostname", &std::mem::take(&mut meta.hostname));
        set.text("cgroup parent", &std::mem::take(&mut meta.cgroup_parent));
        for limit in std::mem::take(&mut meta.ulimit) {
            let title = format!("limit {}", limit.name);
            set.add(&title, &format!("{}:{}", limit.soft, limit.hard));
        }
        // No key knows their addresses.
        let hosts = std::mem::take(&mut meta.extra_hosts);
        let hosts: Vec<String> = hosts.into_iter().map(|host| host.host).collect();
        set.list("hosts", &hosts);
        let codes = std::mem::take(&mut meta.valid_exit_codes);
        let codes: Vec<String> = codes.iter().map(i32::to_string).collect();
        set.list("exit codes", &codes);
        let stubs = std::mem::take(&mut meta.remove_mount_stubs_recursive);
        set.flag("remove mount points", stubs);
        // No key knows these.
        meta.proxy_env = None;
    }
    if *op != empty(op) {
        set.add("other settings", &gojson::to_string(op));
    }
    set.parts
}

/// Nothing but what says that there is a process.
fn empty(op: &pb::ExecOp) -> pb::ExecOp {
    pb::ExecOp {
        meta: op.meta.as_ref().map(|_| pb::Meta::default()),
        ..pb::ExecOp::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the parts that differ.
    fn differing(old: &[Part], new: &[Part]) -> Vec<String> {
        let only = |these: &[Part], those: &[Part]| -> Vec<String> {
            let these = these.iter().filter(|part| !those.contains(part));
            these
                .map(|part| format!("{} {}", part.name, part.value))
                .collect()
        };
        [only(old, new), only(new, old)].concat()
    }

    fn copy(change: impl FnOnce(&mut pb::FileActionCopy)) -> Vec<Part> {
        let mut copy = pb::FileActionCopy {
            src: "/a".to_owned(),
            dest: "/b".to_owned(),
            mode: -1,
            timestamp: -1,
            ..pb::FileActionCopy::default()
        };
        change(&mut copy);
        let action = pb::FileAction {
            action: Some(Action::Copy(copy)),
            ..pb::FileAction::default()
        };
        of_action(0, &action)
    }

    fn owner(user: u32, group: u32) -> Option<pb::ChownOpt> {
        let id = |id| {
            let user = Some(User::ById(id));
            Some(pb::UserOpt { user })
        };
        Some(pb::ChownOpt {
            user: id(user),
            group: id(group),
        })
    }

    #[test]
    fn one_setting_of_a_copy_is_one_part() {
        let plain = copy(|_| {});
        for (changed, wanted) in [
            (copy(|copy| copy.owner = owner(1, 2)), "chown 1:2"),
            (copy(|copy| copy.mode = 0o750), "chmod 0750"),
            (copy(|copy| copy.mode = 0), "chmod 0000"),
            (
                copy(|copy| (copy.mode_str, copy.mode) = ("u+x".to_owned(), 0o644)),
                "chmod u+x 0644",
            ),
            (copy(|copy| copy.timestamp = 5), "timestamp 5"),
            (
                copy(|copy| copy.exclude_patterns = vec!["*.o".to_owned(), "t".to_owned()]),
                "exclude *.o t",
            ),
            (
                copy(|copy| copy.include_patterns = vec!["x".to_owned()]),
                "include x",
            ),
            (
                copy(|copy| copy.attempt_unpack_docker_compatibility = true),
                "unpack true",
            ),
        ] {
            assert_eq!(differing(&plain, &changed), [wanted]);
        }
        let (one, other) = (
            copy(|copy| copy.owner = owner(1, 2)),
            copy(|copy| copy.owner = owner(3, 4)),
        );
        assert_eq!(differing(&one, &other), ["chown 1:2", "chown 3:4"]);
    }

    #[test]
    fn the_content_of_a_file_is_not_kept() {
        let mkfile = |data: &'static str| {
            let mkfile = pb::FileActionMkFile {
                path: "/f".to_owned(),
                data: data.into(),
                mode: 0o644,
                timestamp: -1,
                ..pb::FileActionMkFile::default()
            };
            let action = pb::FileAction {
                action: Some(Action::Mkfile(mkfile)),
                ..pb::FileAction::default()
            };
            of_action(1, &action)
        };
        let (one, other) = (mkfile("one"), mkfile("other"));
        let content = &one[1];
        assert_eq!(content.name, "content of /f of action 2");
        assert!(content.hidden && !content.value.contains("one"));
        assert!(!one[2].hidden, "its mode may be shown");
        assert_eq!(differing(&one, &other).len(), 2);
    }

    #[test]
    fn one_setting_of_a_mount_is_one_part() {
        let cache = |id: &str, sharing: pb::CacheSharingOpt| {
            of_mount(&pb::Mount {
                dest: "/c".to_owned(),
                mount_type: pb::MountType::Cache.into(),
                cache_opt: Some(pb::CacheOpt {
                    id: id.to_owned(),
                    sharing: sharing.into(),
                }),
                input: -1,
                output: -1,
                ..pb::Mount::default()
            })
        };
        let plain = cache("/c", pb::CacheSharingOpt::Shared);
        assert_eq!(
            differing(&plain, &cache("/c", pb::CacheSharingOpt::Locked)),
            ["mount /c: sharing shared", "mount /c: sharing locked"]
        );
        assert_eq!(
            differing(&plain, &cache("x", pb::CacheSharingOpt::Shared)),
            ["mount /c: id /c", "mount /c: id x"]
        );
        let secret = |secret: pb::SecretOpt| {
            of_mount(&pb::Mount {
                dest: "/run/secrets/s".to_owned(),
                mount_type: pb::MountType::Secret.into(),
                secret_opt: Some(secret),
                ..pb::Mount::default()
            })
        };
        let with = |uid, mode, optional| {
            secret(pb::SecretOpt {
                id: "s".to_owned(),
                uid,
                gid: 0,
                mode,
                optional,
            })
        };
        let plain = with(0, 0o400, false);
        let at = "mount /run/secrets/s:";
        assert_eq!(
            differing(&plain, &with(7, 0o400, false)),
            [format!("{at} uid 7")]
        );
        assert_eq!(
            differing(&plain, &with(0, 0o440, false)),
            [format!("{at} mode 0400"), format!("{at} mode 0440")]
        );
        assert_eq!(
            differing(&plain, &with(0, 0o400, true)),
            [format!("{at} optional true")]
        );
    }

    #[test]
    fn one_setting_of_an_exec_is_one_part() {
        let exec = |change: &dyn Fn(&mut pb::ExecOp)| {
            let mut op = pb::ExecOp {
                meta: Some(pb::Meta::default()),
                ..pb::ExecOp::default()
            };
            change(&mut op);
            of_exec(&mut op)
        };
        let plain = exec(&|_| {});
        assert_eq!(
            differing(&plain, &exec(&|op| op.network = pb::NetMode::Host.into())),
            ["network default", "network host"]
        );
        assert_eq!(
            differing(
                &plain,
                &exec(&|op| op.security = pb::SecurityMode::Insecure.into())
            ),
            ["security sandbox", "security insecure"]
        );
        let meta =
            |change: &dyn Fn(&mut pb::Meta)| exec(&|op| change(op.meta.get_or_insert_default()));
        assert_eq!(
            differing(&plain, &meta(&|meta| meta.hostname = "h".to_owned())),
            ["hostname h"]
        );
        assert_eq!(
            differing(&plain, &meta(&|meta| meta.args = vec!["x".to_owned()])),
            ["other settings {\"meta\":{\"args\":[\"x\"]}}"],
            "what has no name is not lost"
        );
    }
}
