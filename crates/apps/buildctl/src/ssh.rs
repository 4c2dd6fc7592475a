//! `--ssh`: agents of the user, and keys that an agent of ours answers for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use client::{Agent, Keyring};

/// No key is larger.
const LARGEST_KEY: u64 = 100 << 10;

/// All `--ssh` options.
pub(crate) fn agents(options: &[String]) -> Result<BTreeMap<String, Agent>> {
    let mut agents = BTreeMap::new();
    for option in options {
        let (id, agent) = agent(option)?;
        match agents.entry(id) {
            Entry::Vacant(entry) => entry.insert(agent),
            Entry::Occupied(entry) => bail!("duplicate agent ID {:?}", entry.key()),
        };
    }
    Ok(agents)
}

/// `ID[=SOCKET|KEY[,KEY…]][,raw=BOOL]`
fn agent(option: &str) -> Result<(String, Agent)> {
    let (id, rest) = option.split_once('=').unwrap_or((option, ""));
    let (mut paths, mut raw) = (Vec::new(), false);
    for part in rest.split(',').filter(|_| !rest.is_empty()) {
        match part.split_once('=') {
            Some(("raw", value)) => raw = word(value)?,
            _ => paths.push(part),
        }
    }
    if raw && paths.len() != 1 {
        bail!("raw mode must supply exactly one socket path for {id:?}");
    }
    let id = if id.is_empty() { "default" } else { id };
    let agent = convert(id, &paths, raw).with_context(|| {
        let paths = paths.join(" ");
        format!("failed to convert agent config {{{id} [{paths}] {raw}}}")
    })?;
    Ok((id.to_owned(), agent))
}

fn convert(id: &str, paths: &[&str], raw: bool) -> Result<Agent> {
    let own = match paths {
        [] | [""] => std::env::var_os("SSH_AUTH_SOCK").unwrap_or_default(),
        _ => OsString::new(),
    };
    let paths: Vec<&Path> = match paths {
        [] | [""] => vec![Path::new(&own)],
        paths => paths.iter().map(Path::new).collect(),
    };
    if paths[0].as_os_str().is_empty() {
        bail!("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set");
    }
    open(&paths, raw).with_context(|| format!("failed to convert agent config for ID: {id:?}"))
}

fn word(value: &str) -> Result<bool> {
    fault::truth(value).with_context(|| {
        format!(
            "invalid value for 'raw': {value}: strconv.ParseBool: parsing {value:?}: invalid syntax"
        )
    })
}

fn open(paths: &[&Path], raw: bool) -> Result<Agent> {
    let mut keys = Keyring::new();
    let mut socket = None;
    for path in paths {
        if socket.is_some() {
            bail!("only single socket allowed");
        }
        let meta = std::fs::metadata(path).map_err(|err| fstree::Error::new("stat", path, err))?;
        if meta.file_type().is_socket() {
            socket = Some(path.to_path_buf());
            continue;
        }
        if raw {
            bail!("raw mode only supported with socket paths");
        }
        let file = std::fs::File::open(path)
            .map_err(|err| fstree::Error::new("open", path, err))
            .with_context(|| format!("failed to open {}", path.display()))?;
        let mut bytes = Vec::new();
        file.take(LARGEST_KEY)
            .read_to_end(&mut bytes)
            .map_err(|err| fstree::Error::new("read", path, err))
            .with_context(|| format!("failed to read {}", path.display()))?;
        keys.add(&bytes)
            .with_context(|| format!("failed to parse {}", path.display()))?;
    }
    match socket {
        Some(_) if !keys.is_empty() => bail!("invalid combination of keys and sockets"),
        Some(path) => Ok(Agent::Socket { path, raw }),
        None => Ok(Agent::Keys(Arc::new(keys))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refused(option: &str) -> String {
        format!("{:#}", agent(option).expect_err(option))
    }

    #[test]
    fn an_agent_is_a_socket_or_files_with_keys() {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("agent");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        let no_key = dir.path().join("key");
        std::fs::write(&no_key, "no key").expect("a file");
        let (socket, no_key) = (socket.display(), no_key.display());

        let (id, found) = agent(&format!("work={socket},raw=1")).expect("valid");
        assert_eq!(id, "work");
        assert!(matches!(found, Agent::Socket { raw: true, .. }));
        let (id, found) = agent(&format!("={socket}")).expect("valid");
        assert_eq!(id, "default");
        assert!(matches!(found, Agent::Socket { raw: false, .. }));

        let failed = |config: &str| {
            format!(
                "failed to convert agent config {{a [{config}}}: failed to convert agent config for ID: \"a\""
            )
        };
        for (option, text) in [
            (
                format!("a={no_key}"),
                format!("{}: failed to parse {no_key}: ssh: no key found", failed(&format!("{no_key}] false"))),
            ),
            (
                format!("a={no_key},raw=true"),
                format!("{}: raw mode only supported with socket paths", failed(&format!("{no_key}] true"))),
            ),
            (
                format!("a={socket},{socket}"),
                format!("{}: only single socket allowed", failed(&format!("{socket} {socket}] false"))),
            ),
            (
                "a=/surely/not/there".to_owned(),
                format!("{}: stat /surely/not/there: no such file or directory", failed("/surely/not/there] false")),
            ),
            (
                format!("a={socket},raw=maybe"),
                "invalid value for 'raw': maybe: strconv.ParseBool: parsing \"maybe\": invalid syntax"
                    .to_owned(),
            ),
            (
                "a=,".to_owned(),
                "failed to convert agent config {a [ ] false}: \
                 invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"
                    .to_owned(),
            ),
            (
                "a=raw=true".to_owned(),
                "raw mode must supply exactly one socket path for \"a\"".to_owned(),
            ),
        ] {
            assert_eq!(refused(&option), text);
        }
        let twice = format!("a={socket}");
        let err = agents(&[twice.clone(), twice]).expect_err("twice");
        assert_eq!(err.to_string(), "duplicate agent ID \"a\"");
    }
}
