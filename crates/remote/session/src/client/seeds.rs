//! Random seeds, one per registry host, from which a client derives the keys that stand for its credentials.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

const FILE: &str = ".token_seed";
const LOCK: &str = ".token_seed.lock";

/// The seeds of one configuration folder. Where they cannot be written they live as long as this does.
#[derive(Debug)]
pub(crate) struct Seeds {
    dir: PathBuf,
    known: Mutex<BTreeMap<String, Vec<u8>>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "Seed")]
    seed: String,
}

impl Seeds {
    pub(crate) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            known: Mutex::default(),
        }
    }

    /// The seed of a host, made when there is none.
    pub(crate) fn of(&self, host: &str) -> Vec<u8> {
        let mut known = self.known.lock();
        if let Some(seed) = known.get(host) {
            return seed.clone();
        }
        let seed = match self.stored(host) {
            Ok(seed) => seed,
            Err(err) => {
                tracing::debug!(error = %err, "token seeds are kept in memory only");
                fresh()
            }
        };
        known.insert(host.to_owned(), seed.clone());
        seed
    }

    fn stored(&self, host: &str) -> io::Result<Vec<u8>> {
        let lock = File::create(self.dir.join(LOCK))?;
        lock.lock()?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join(FILE))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        // A file that is broken is begun anew: seeds only save questions.
        let mut entries: BTreeMap<String, Entry> = serde_json::from_str(&text).unwrap_or_default();
        let decoded = entries
            .get(host)
            .and_then(|entry| STANDARD.decode(&entry.seed).ok());
        if let Some(seed) = decoded {
            return Ok(seed);
        }
        let seed = fresh();
        let entry = Entry {
            seed: STANDARD.encode(&seed),
        };
        entries.insert(host.to_owned(), entry);
        let text = serde_json::to_vec_pretty(&entries)?;
        file.rewind()?;
        file.set_len(0)?;
        file.write_all(&text)?;
        Ok(seed)
    }
}

fn fresh() -> Vec<u8> {
    rand::random::<[u8; 16]>().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_kept_for_the_next_client() {
        let dir = tempfile::tempdir().expect("a scratch folder");
        let seed = Seeds::new(dir.path()).of("r.example");
        let next = Seeds::new(dir.path());
        assert_eq!(next.of("r.example"), seed);
        assert_ne!(next.of("other.example"), seed);
    }

    #[test]
    fn without_a_folder_the_seed_is_kept_in_memory() {
        let seeds = Seeds::new(Path::new("/nonexistent/folder"));
        assert_eq!(seeds.of("r"), seeds.of("r"));
    }
}
