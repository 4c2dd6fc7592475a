//! What devices change in the specification of a step.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::Error;
use super::document::{ContainerEdits, Mount, Node};
use crate::spec::{self, DeviceRule, Spec};

/// Changes to make to a specification, in order.
#[derive(Debug, Default)]
pub struct Edits(ContainerEdits);

impl Edits {
    pub(super) fn add(&mut self, more: &ContainerEdits) {
        let all = &mut self.0;
        all.env.extend(more.env.iter().cloned());
        all.device_nodes.extend(more.device_nodes.iter().cloned());
        all.net_devices.extend(more.net_devices.iter().cloned());
        all.hooks.extend(more.hooks.iter().cloned());
        all.mounts.extend(more.mounts.iter().cloned());
        all.additional_gids.extend(&more.additional_gids);
        if let Some(rdt) = &more.intel_rdt {
            all.intel_rdt = Some(rdt.clone());
        }
    }

    /// Where something gets mounted.
    pub fn mount_points(&self) -> impl Iterator<Item = &str> {
        self.0
            .mounts
            .iter()
            .map(|mount| mount.container_path.as_str())
    }

    /// Makes the changes. Looks at device nodes of the host.
    pub fn apply(self, spec: &mut Spec) -> Result<(), Error> {
        let edits = self.0;
        for entry in edits.env {
            set_variable(&mut spec.process.env, entry);
        }
        for node in edits.device_nodes {
            add_node(spec, node)?;
        }
        for device in edits.net_devices {
            let name = spec::NetDevice { name: device.name };
            spec.linux
                .net_devices
                .insert(device.host_interface_name, name);
        }
        if !edits.mounts.is_empty() {
            add_mounts(&mut spec.mounts, edits.mounts);
        }
        for hook in edits.hooks {
            let name = hook.hook_name;
            let hook = spec::Hook {
                path: hook.path,
                args: hook.args,
                env: hook.env,
                timeout: hook.timeout,
            };
            // The name was checked when the document was read.
            if let Some(list) = spec.hooks.get_or_insert_default().of_mut(&name) {
                list.push(hook);
            }
        }
        if let Some(rdt) = edits.intel_rdt {
            spec.linux.intel_rdt = Some(rdt.into());
        }
        for gid in edits.additional_gids {
            let groups = &mut spec.process.user.additional_gids;
            if gid != 0 && !groups.contains(&gid) {
                groups.push(gid);
            }
        }
        Ok(())
    }
}

/// Sets a variable at the place it has already, if it has one.
fn set_variable(env: &mut Vec<String>, entry: String) {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    match env.iter_mut().find(|earlier| name(earlier) == name(&entry)) {
        Some(earlier) => *earlier = entry,
        None => env.push(entry),
    }
}

fn add_node(spec: &mut Spec, node: Node) -> Result<(), Error> {
    let access = node.permissions.clone().filter(|it| !it.is_empty());
    let mut device = complete(node)?;
    let user = &spec.process.user;
    let unless_root = |id: u32| (id > 0).then_some(id);
    device.uid = device.uid.or(unless_root(user.uid));
    device.gid = device.gid.or(unless_root(user.gid));
    if matches!(device.kind, 'b' | 'c')
        && let Some(resources) = &mut spec.linux.resources
    {
        resources.devices.push(DeviceRule {
            allow: true,
            kind: Some(device.kind),
            major: Some(device.major),
            minor: Some(device.minor),
            access: access.unwrap_or_else(|| "rwm".to_owned()),
        });
    }
    let devices = &mut spec.linux.devices;
    devices.retain(|earlier| earlier.path != device.path);
    devices.push(device);
    Ok(())
}

/// What a document leaves open about a node is as on the host.
fn complete(node: Node) -> Result<spec::Device, Error> {
    let path = node.path.display().to_string();
    let on_host = node.host_path.unwrap_or(node.path);
    let told = match (node.kind, node.major.unwrap_or(0)) {
        (Some('p'), _) => Some(('p', 0, 0)),
        (Some(kind), major @ 1..) => Some((kind, major, node.minor.unwrap_or(0))),
        _ => None,
    };
    let host = look_at(&on_host);
    let file_mode = node.file_mode.or(host.as_ref().ok().map(|host| host.mode));
    let (kind, major, minor) = match (told, host) {
        (Some(told), _) => told,
        (None, Err(err)) => return Err(err),
        (None, Ok(host)) => {
            if let Some(wanted) = node.kind.filter(|&kind| kind != host.kind) {
                let found = host.kind;
                return Err(Error::Mismatch {
                    path: on_host,
                    wanted,
                    found,
                });
            }
            match (host.kind, node.major.unwrap_or(0)) {
                ('p', _) => ('p', 0, 0),
                (kind, 0) => (kind, host.major, host.minor),
                (kind, major) => (kind, major, node.minor.unwrap_or(0)),
            }
        }
    };
    Ok(spec::Device {
        path,
        kind,
        major,
        minor,
        file_mode,
        uid: node.uid,
        gid: node.gid,
    })
}

struct OnHost {
    kind: char,
    major: u32,
    minor: u32,
    mode: u32,
}

fn look_at(path: &Path) -> Result<OnHost, Error> {
    let meta = std::fs::symlink_metadata(path).map_err(|source| Error::HostDevice {
        path: path.to_owned(),
        source,
    })?;
    let kind = match meta.file_type() {
        it if it.is_block_device() => 'b',
        it if it.is_char_device() => 'c',
        it if it.is_fifo() => 'p',
        _ => {
            return Err(Error::NotADevice {
                path: path.to_owned(),
            });
        }
    };
    Ok(OnHost {
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
    })
}

/// Puts mounts in place of those at the same paths, and all in such an order that none hides another.
fn add_mounts(list: &mut Vec<spec::Mount>, more: Vec<Mount>) {
    for mount in more {
        list.retain(|earlier| earlier.destination != mount.container_path);
        let kind = mount.kind.filter(|it| !it.is_empty());
        let is_bind = |option: &String| matches!(option.as_str(), "bind" | "rbind");
        let mut options = mount.options;
        let kind = match kind {
            Some(kind) if kind != "bind" => kind,
            _ => {
                if !options.iter().any(is_bind) {
                    options.push("rbind".to_owned());
                }
                "bind".to_owned()
            }
        };
        list.push(spec::Mount {
            destination: mount.container_path,
            kind,
            source: mount.host_path,
            options,
            step: None,
        });
    }
    let depth = |mount: &spec::Mount| {
        let names = mount.destination.split('/');
        names.filter(|name| !matches!(*name, "" | ".")).count()
    };
    list.sort_by_key(depth);
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::document::Document;
    use super::*;
    use crate::spec::{Linux, Process, Resources, Root};

    pub(in crate::cdi) fn spec() -> Spec {
        let mount = |destination: &str| spec::Mount {
            destination: destination.to_owned(),
            kind: "tmpfs".to_owned(),
            source: "tmpfs".to_owned(),
            options: Vec::new(),
            step: None,
        };
        Spec {
            oci_version: "1.3.0",
            process: Process::default(),
            root: Root {
                path: "/r".to_owned(),
                readonly: false,
            },
            hostname: String::new(),
            mounts: ["/proc", "/sys/fs/cgroup", "/mnt"].map(mount).to_vec(),
            hooks: None,
            linux: Linux {
                resources: Some(Resources::default()),
                ..Linux::default()
            },
        }
    }

    fn edited(text: &str, mut spec: Spec) -> Result<Spec, Error> {
        let text = format!(
            "cdiVersion: 1.1.0\nkind: v/d\ndevices: [{{name: a, containerEdits: {text}}}]\n"
        );
        let document = Document::parse(&text).expect("valid");
        let mut edits = Edits::default();
        edits.add(&document.devices[0].edits);
        edits.apply(&mut spec)?;
        Ok(spec)
    }

    #[test]
    fn variables_replace_those_of_the_same_name() {
        let mut before = spec();
        before.process.env = vec!["A=1".to_owned(), "B=2".to_owned()];
        let after = edited("{env: [B=3, C=4]}", before).expect("edited");
        assert_eq!(after.process.env, ["A=1", "B=3", "C=4"]);
    }

    #[test]
    fn a_node_is_as_on_the_host_unless_the_document_knows_better() {
        let mut before = spec();
        before.process.user.uid = 7;
        let text = "{deviceNodes: [{path: /dev/x, hostPath: /dev/null, permissions: rw}]}";
        let after = edited(text, before).expect("edited");
        let device = &after.linux.devices[0];
        assert_eq!(
            (
                device.path.as_str(),
                device.kind,
                device.major,
                device.minor,
                device.uid,
                device.gid
            ),
            ("/dev/x", 'c', 1, 3, Some(7), None)
        );
        assert_eq!(device.file_mode, Some(0o666));
        let rule = &after.linux.resources.expect("there").devices[0];
        assert_eq!(
            (rule.allow, rule.major, rule.minor, rule.access.as_str()),
            (true, Some(1), Some(3), "rw")
        );
        let text = "{deviceNodes: [{path: /nonexistent, type: b, major: 5, minor: 6, fileMode: 0600, gid: 3}]}";
        let device = &edited(text, spec()).expect("edited").linux.devices[0];
        assert_eq!(
            (device.kind, device.major, device.file_mode, device.gid),
            ('b', 5, Some(0o600), Some(3))
        );
    }

    #[test]
    fn a_node_that_is_not_there_is_named() {
        let failed = |text: &str| fault::chain(&edited(text, spec()).expect_err("no such device"));
        assert_eq!(
            failed("{deviceNodes: [{path: /nonexistent/device}]}"),
            "failed to stat CDI host device \"/nonexistent/device\": No such file or directory (os error 2)"
        );
        assert!(failed("{deviceNodes: [{path: /dev/null, type: b}]}").contains("mismatch (b, c)"));
        assert!(failed("{deviceNodes: [{path: /etc}]}").contains("is not a device node"));
    }

    #[test]
    fn mounts_come_after_those_they_are_inside_of() {
        let text = "{mounts: [{hostPath: /h, containerPath: /mnt/a}, {hostPath: /i, containerPath: /mnt, options: [ro, bind]}]}";
        let after = edited(text, spec()).expect("edited");
        let list: Vec<_> = after
            .mounts
            .iter()
            .map(|it| (it.destination.as_str(), it.kind.as_str()))
            .collect();
        assert_eq!(
            list,
            [
                ("/proc", "tmpfs"),
                ("/mnt", "bind"),
                ("/mnt/a", "bind"),
                ("/sys/fs/cgroup", "tmpfs")
            ]
        );
        assert_eq!(after.mounts[1].options, ["ro", "bind"]);
        assert_eq!(after.mounts[2].options, ["rbind"]);
    }

    #[test]
    fn what_only_a_runtime_can_do_is_handed_on() {
        let text = "{hooks: [{hookName: prestart, path: /h}], additionalGids: [0, 5, 5], \
            intelRdt: {closID: c}, netDevices: [{hostInterfaceName: e, name: f}]}";
        let after = edited(text, spec()).expect("edited");
        assert_eq!(after.process.user.additional_gids, [5]);
        let json = serde_json::to_string(&after).expect("a document");
        for part in [
            r#""hooks":{"prestart":[{"path":"/h"}]}"#,
            r#""netDevices":{"e":{"name":"f"}}"#,
            r#""intelRdt":{"closID":"c"}"#,
        ] {
            assert!(json.contains(part), "{json}");
        }
    }
}
