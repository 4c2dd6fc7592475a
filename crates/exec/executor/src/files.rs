//! The two files every step gets from the daemon: /etc/hosts and /etc/resolv.conf.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::settings::Dns;
use crate::{DEFAULT_HOSTNAME, Process};

/// Where systemd keeps the real list when its stub is the only server.
const SYSTEMD_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";

/// Servers used when the host offers none a step could reach.
const PUBLIC_SERVERS: [&str; 4] = [
    "8.8.8.8",
    "8.8.4.4",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
];

/// The text of /etc/hosts.
pub fn hosts(hostname: &str, extra: &[(String, IpAddr)]) -> String {
    let name = if hostname.is_empty() {
        DEFAULT_HOSTNAME
    } else {
        hostname
    };
    let mut text =
        format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (host, ip) in extra {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{ip}\t{host}");
    }
    text
}

/// What a resolv.conf says.
#[derive(Debug, Default)]
struct ResolvConf {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
    other: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            let owned =
                |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                Some("nameserver") => {
                    conf.servers.extend(
                        words
                            .next()
                            .filter(|text| address(text).is_some())
                            .map(str::to_owned),
                    );
                }
                Some("search" | "domain") => conf.search = owned(words),
                Some("options") => conf.options.extend(owned(words)),
                _ => conf.other.push(line.to_owned()),
            }
        }
        conf
    }

    fn write(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            text.push_str("nameserver ");
            text.push_str(server);
            text.push('\n');
        }
        for (word, list) in [("search", &self.search), ("options", &self.options)] {
            if !list.is_empty() {
                text.push_str(word);
                text.push(' ');
                text.push_str(&list.join(" "));
                text.push('\n');
            }
        }
        for line in &self.other {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

/// An address, with or without an IPv6 zone.
fn address(text: &str) -> Option<IpAddr> {
    match text.split_once('%') {
        Some((ip, zone)) if !zone.is_empty() => ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

/// The text of /etc/resolv.conf for a step, made from the host's.
pub fn resolv_conf(
    host_text: &str,
    dns: &Dns,
    host_network: bool,
) -> Result<String, BadNameserver> {
    let mut conf = ResolvConf::parse(host_text);
    if let Some(bad) = dns.nameservers.iter().find(|text| address(text).is_none()) {
        return Err(BadNameserver {
            address: bad.clone(),
        });
    }
    if !dns.nameservers.is_empty() {
        conf.servers.clone_from(&dns.nameservers);
    }
    if !dns.search_domains.is_empty() {
        conf.search = dns
            .search_domains
            .iter()
            .filter(|&domain| domain != ".")
            .cloned()
            .collect();
    }
    if !dns.options.is_empty() {
        conf.options.clone_from(&dns.options);
    }
    if !host_network && dns.nameservers.is_empty() {
        conf.servers
            .retain(|text| !address(text).is_some_and(|ip| ip.is_loopback()));
    }
    if conf.servers.is_empty() {
        conf.servers = PUBLIC_SERVERS.iter().map(|&text| text.to_owned()).collect();
    }
    Ok(conf.write())
}

/// A name server of the daemon's configuration is not an address.
#[derive(Debug, thiserror::Error)]
#[error("bad nameserver address: {address}")]
pub struct BadNameserver {
    /// The text.
    pub address: String,
}

/// The text a step's resolv.conf is made from.
fn resolv_source(host_file: &Path, host_network: bool) -> String {
    // A missing file counts as empty.
    let read = |path: &Path| {
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let text = read(host_file);
    if !host_network && ResolvConf::parse(&text).servers == ["127.0.0.53"] {
        return read(Path::new(SYSTEMD_RESOLV_CONF));
    }
    text
}

/// Keeps the files in the executor's directory, written again only when their source changed.
#[derive(Debug)]
pub struct Files {
    root: PathBuf,
    dns: Dns,
    written: parking_lot::Mutex<Written>,
}

/// When the files a resolv.conf may be made from last changed.
type Sources = [Option<SystemTime>; 2];

#[derive(Debug, Default)]
struct Written {
    hosts: bool,
    sandbox: Option<Sources>,
    host: Option<Sources>,
}

/// A hosts file; one made for a single step goes away with this value.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    private: bool,
}

impl HostsFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for HostsFile {
    fn drop(&mut self) {
        if self.private
            && let Err(err) = std::fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), error = %err, "hosts file stays behind");
        }
    }
}

impl Files {
    /// Files below `root`, which must exist.
    pub fn new(root: &Path, dns: Dns) -> Self {
        Self {
            root: root.to_owned(),
            dns,
            written: parking_lot::Mutex::default(),
        }
    }

    /// The hosts file of a step; one for all steps that ask for nothing special.
    pub fn hosts(&self, id: &str, process: &Process) -> io::Result<HostsFile> {
        let plain = process.extra_hosts.is_empty()
            && (process.hostname.is_empty() || process.hostname == DEFAULT_HOSTNAME);
        let text = hosts(&process.hostname, &process.extra_hosts);
        if !plain {
            let path = self.root.join(format!("hosts.{id}"));
            replace(&path, &text)?;
            return Ok(HostsFile {
                path,
                private: true,
            });
        }
        let path = self.root.join("hosts");
        let mut written = self.written.lock();
        if !written.hosts {
            replace(&path, &text)?;
            written.hosts = true;
        }
        Ok(HostsFile {
            path,
            private: false,
        })
    }

    /// The resolv.conf for steps on the host's network or on another.
    pub fn resolv_conf(&self, host_network: bool) -> io::Result<PathBuf> {
        let host_file = Path::new("/etc/resolv.conf");
        let path = self.root.join(if host_network {
            "resolv-host.conf"
        } else {
            "resolv.conf"
        });
        let time = |path: &Path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        };
        let changed = [host_file, Path::new(SYSTEMD_RESOLV_CONF)].map(time);
        let mut written = self.written.lock();
        let seen = if host_network {
            &mut written.host
        } else {
            &mut written.sandbox
        };
        if *seen != Some(changed) {
            let source = resolv_source(host_file, host_network);
            let text = resolv_conf(&source, &self.dns, host_network)
                .map_err(|err| io::Error::new(io::ErrorKind::InvalidInput, err))?;
            replace(&path, &text)?;
            *seen = Some(changed);
        }
        Ok(path)
    }
}

/// Puts a new file in place of an old one that containers may still have mounted.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    std::fs::write(&fresh, text)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o644))?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_recorded_resolv_conf_is_met() {
        let text = include_str!("../../../../testing/vectors/exec/resolv-conf-cases.json");
        let cases: Vec<Value> = serde_json::from_str(text).expect("vector is JSON");
        for case in &cases {
            let list = |name: &str| -> Vec<String> {
                let list = case[name].as_array().map(Vec::as_slice).unwrap_or_default();
                list.iter()
                    .map(|text| text.as_str().expect("a text").to_owned())
                    .collect()
            };
            let dns = Dns {
                nameservers: list("override_nameservers"),
                search_domains: list("override_search"),
                options: list("override_options"),
            };
            let host = case["host_file"].as_str().expect("a text");
            let made =
                |host_network| resolv_conf(host, &dns, host_network).expect("addresses are good");
            assert_eq!(made(false), case["result_sandbox_network"], "{host:?}");
            assert_eq!(made(true), case["result_host_network"], "{host:?}");
        }
    }

    #[test]
    fn a_bad_configured_server_is_named() {
        let dns = Dns {
            nameservers: vec!["nonsense".into()],
            ..Dns::default()
        };
        let err = resolv_conf("", &dns, false).expect_err("not an address");
        assert_eq!(err.to_string(), "bad nameserver address: nonsense");
    }

    #[test]
    fn only_a_special_step_gets_a_hosts_file_of_its_own() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let files = Files::new(dir.path(), Dns::default());
        let plain = files.hosts("a", &Process::default()).expect("writable");
        assert!(plain.path().ends_with("hosts"));
        let special = Process {
            hostname: "h".into(),
            ..Process::default()
        };
        let special = files.hosts("b", &special).expect("writable");
        let path = special.path().to_owned();
        assert!(path.ends_with("hosts.b") && path.exists());
        drop((plain, special));
        assert!(!path.exists() && dir.path().join("hosts").exists());
    }
}
