//! Which devices of the host a step may have.
//!
//! A build is granted devices by entitlements (`device` for all, `device=NAME` for one, `device=NAME,alias=OTHER` for
//! one under another name); others allow themselves. What a step asks for is replaced by what it gets before its keys
//! are made.

use std::collections::BTreeMap;

use diagnostics::Failure;
use executor::cdi::{Known, Registry, Wanted};
use proto::pb;

use crate::exec_mounts::user;
use crate::worker::Entitlements;

/// The entitlement for devices.
const DEVICE: &str = "device";

/// Devices a build was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceGrants {
    all: bool,
    named: Vec<String>,
    /// What a name that steps use stands for.
    aliases: BTreeMap<String, String>,
}

impl DeviceGrants {
    /// Reads entitlements; `None` if none of them is about devices.
    pub fn parse<'a>(
        entitlements: impl IntoIterator<Item = &'a String>,
    ) -> Result<Option<Self>, String> {
        let mut grants: Option<Self> = None;
        for entitlement in entitlements {
            let (name, rest) = entitlement.split_once('=').unwrap_or((entitlement, ""));
            if name == DEVICE {
                grants.get_or_insert_default().add(rest)?;
            }
        }
        Ok(grants)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            self.all = true;
            return Ok(());
        }
        let mut fields = text.split(',');
        let name = fields.next().unwrap_or_default();
        let mut alias = None;
        for field in fields {
            match field.split_once('=') {
                None => return Err(format!("invalid device config {field:?}")),
                Some(("alias", value)) => alias = Some(value).filter(|value| !value.is_empty()),
                Some((key, _)) => return Err(format!("unknown device config key {key:?}")),
            }
        }
        match alias {
            Some(alias) => drop(self.aliases.insert(alias.to_owned(), name.to_owned())),
            None => self.named.push(name.to_owned()),
        }
        Ok(())
    }
}

/// Lets an op have the devices that exist and were granted, under their own names.
pub(crate) fn resolve(
    op: &mut pb::ExecOp,
    granted: &Entitlements,
    registry: Option<&Registry>,
) -> Result<(), Failure> {
    if op.cdi_devices.is_empty() {
        return Ok(());
    }
    let Some(registry) = registry else {
        if let Some(device) = op.cdi_devices.iter().find(|device| !device.optional) {
            let name = &device.name;
            return Err(user(format!(
                "required device {name:?} is not registered: CDI is disabled in this daemon"
            )));
        }
        op.cdi_devices.clear();
        return Ok(());
    };
    let grants = DeviceGrants::parse(&granted.0).map_err(user)?;
    if grants.as_ref().is_some_and(|grants| grants.all) {
        return Ok(());
    }
    let devices = std::mem::take(&mut op.cdi_devices);
    op.cdi_devices = allowed(devices, &grants.unwrap_or_default(), &registry.known())?;
    Ok(())
}

fn allowed(
    devices: Vec<pb::CdiDevice>,
    grants: &DeviceGrants,
    known: &Known<'_>,
) -> Result<Vec<pb::CdiDevice>, Failure> {
    let find = |wanted: &[Wanted]| known.find(wanted).map_err(|err| Failure::from_error(&err));
    let mut allowed = Vec::new();
    let mut others = Vec::new();
    for device in devices {
        match grants.aliases.get(&device.name) {
            Some(name) => allowed.push(pb::CdiDevice {
                name: name.clone(),
                ..device
            }),
            None => others.push(wanted(&device)),
        }
    }
    let optional = |name: &String| Wanted {
        name: name.clone(),
        optional: true,
    };
    let granted = find(&grants.named.iter().map(optional).collect::<Vec<_>>())?;
    let mut forbidden = Vec::new();
    for name in find(&others)? {
        if granted.contains(&name) || known.is_auto_allowed(&name) {
            allowed.push(pb::CdiDevice {
                name,
                optional: false,
            });
        } else {
            forbidden.push(name);
        }
    }
    match forbidden.as_slice() {
        [] => Ok(allowed),
        [one] => Err(user(format!(
            "device {one} is requested by the build but not allowed"
        ))),
        many => Err(user(format!(
            "devices {} are requested by the build but not allowed",
            many.join(", ")
        ))),
    }
}

/// The device as runtimes know it.
pub(crate) fn wanted(device: &pb::CdiDevice) -> Wanted {
    Wanted {
        name: device.name.clone(),
        optional: device.optional,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Fixture {
        _dir: tempfile::TempDir,
        registry: Registry,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().expect("a directory");
        let text = "cdiVersion: 0.6.0\nkind: v.com/d\ndevices:\n\
            - {name: a, containerEdits: {env: [A=1]}}\n\
            - {name: b, containerEdits: {env: [B=1]}}\n\
            - {name: free, annotations: {org.mobyproject.buildkit.device.autoallow: true}, containerEdits: {env: [C=1]}}\n";
        std::fs::write(dir.path().join("d.yaml"), text).expect("written");
        let registry = Registry::new(vec![dir.path().to_owned()], []);
        Fixture {
            _dir: dir,
            registry,
        }
    }

    /// What a step that asks for `devices` gets; a question mark makes one optional.
    fn gets(entitlements: &[&str], devices: &[&str]) -> String {
        let it = fixture();
        let granted: BTreeSet<String> = entitlements.iter().map(|&it| it.to_owned()).collect();
        resolved(devices, &Entitlements(granted), Some(&it.registry))
    }

    fn resolved(devices: &[&str], granted: &Entitlements, registry: Option<&Registry>) -> String {
        let device = |text: &&str| pb::CdiDevice {
            name: text.trim_end_matches('?').to_owned(),
            optional: text.ends_with('?'),
        };
        let mut op = pb::ExecOp {
            cdi_devices: devices.iter().map(device).collect(),
            ..pb::ExecOp::default()
        };
        match resolve(&mut op, granted, registry) {
            Ok(()) => {
                let names: Vec<_> = op.cdi_devices.iter().map(|it| it.name.as_str()).collect();
                names.join(" ")
            }
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn a_device_must_be_granted_or_allow_itself() {
        assert_eq!(gets(&[], &["v.com/d=free"]), "v.com/d=free");
        assert_eq!(
            gets(&[], &["v.com/d=a"]),
            "device v.com/d=a is requested by the build but not allowed"
        );
        assert_eq!(
            gets(&[], &["v.com/d=*"]),
            "devices v.com/d=a, v.com/d=b are requested by the build but not allowed"
        );
        assert_eq!(
            gets(&["device=v.com/d=a"], &["v.com/d=a", "v.com/d=free"]),
            "v.com/d=a v.com/d=free"
        );
        assert_eq!(
            gets(&["device=v.com/d=*"], &["v.com/d=*"]),
            "v.com/d=a v.com/d=b v.com/d=free"
        );
        assert_eq!(gets(&["device"], &["v.com/d", "none"]), "v.com/d none");
    }

    #[test]
    fn an_alias_is_another_name_for_a_granted_device() {
        assert_eq!(gets(&["device=v.com/d=b,alias=gpu"], &["gpu"]), "v.com/d=b");
        assert_eq!(
            gets(&["device=v.com/d=b,alias=gpu"], &["gpu", "v.com/d=free"]),
            "v.com/d=b v.com/d=free"
        );
    }

    #[test]
    fn what_is_not_there_fails_unless_it_is_optional() {
        assert_eq!(gets(&[], &["v.com/x=a?"]), "");
        assert_eq!(
            gets(&[], &["v.com/x=a"]),
            "required device \"v.com/x=a\" is not registered"
        );
        let nothing = Entitlements::default();
        assert_eq!(resolved(&["x?"], &nothing, None), "");
        assert!(resolved(&["x"], &nothing, None).contains("CDI is disabled"));
    }

    #[test]
    fn malformed_entitlements_are_told() {
        let parse = |text: &str| DeviceGrants::parse([&text.to_owned()]);
        assert_eq!(
            parse("device=a,b"),
            Err("invalid device config \"b\"".to_owned())
        );
        assert_eq!(
            parse("device=a,b=c"),
            Err("unknown device config key \"b\"".to_owned())
        );
        assert_eq!(parse("network.host"), Ok(None));
    }
}
