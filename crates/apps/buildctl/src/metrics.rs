//! How much of a build came from the cache, as JSON (`--debug-json-cache-metrics`).

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use proto::control::StatusResponse;

/// Steps that are not what the user asked for.
const OWN: &[&str] = &["[internal]", "[auth]", "importing cache", "exporting "];

/// What was seen of the steps of a build.
pub(crate) struct Metrics {
    out: Out,
    start: Instant,
    steps: BTreeMap<String, Step>,
}

enum Out {
    Stdout,
    Stderr,
    File(File),
}

#[derive(Default)]
struct Step {
    name: String,
    is_from: bool,
    is_cached: bool,
    is_completed: bool,
}

#[derive(serde::Serialize, Default)]
struct Counts {
    total: u64,
    completed: u64,
    user_total: u64,
    user_cached: u64,
    user_completed: u64,
    user_cacheable: u64,
    from: u64,
    miss: u64,
    client_duration_ms: u64,
}

impl Metrics {
    /// Opens where they go; nowhere if that is empty.
    pub(crate) fn open(place: &str) -> Result<Option<Self>> {
        let out = match place {
            "" => return Ok(None),
            "stdout" => Out::Stdout,
            "stderr" => Out::Stderr,
            path => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).truncate(true).mode(0o600);
                let file = options.open(path);
                Out::File(file.map_err(|err| fstree::Error::new("open", path, err))?)
            }
        };
        Ok(Some(Self {
            out,
            start: Instant::now(),
            steps: BTreeMap::new(),
        }))
    }

    /// Notes what a message tells of steps.
    pub(crate) fn note(&mut self, status: &StatusResponse) {
        for vertex in &status.vertexes {
            let step = self.steps.entry(vertex.digest.clone()).or_default();
            if step.name.is_empty() {
                step.name.clone_from(&vertex.name);
            }
            step.is_from |= vertex.name.starts_with('[') && vertex.name.contains("] FROM");
            step.is_cached |= vertex.cached;
            step.is_completed |= vertex.completed.is_some();
        }
    }

    /// Writes what missed the cache, and the counts.
    pub(crate) fn write(mut self) -> io::Result<()> {
        let text = self.text(self.start.elapsed());
        match &mut self.out {
            Out::Stdout => io::stdout().lock().write_all(text.as_bytes()),
            Out::Stderr => io::stderr().lock().write_all(text.as_bytes()),
            Out::File(file) => file.write_all(text.as_bytes()),
        }
    }

    fn text(&self, took: Duration) -> String {
        let mut counts = Counts {
            client_duration_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ..Counts::default()
        };
        let mut text = String::new();
        for step in self.steps.values() {
            let completed = u64::from(step.is_completed);
            counts.total += 1;
            counts.completed += completed;
            if OWN.iter().any(|own| step.name.starts_with(own)) {
                continue;
            }
            counts.user_total += 1;
            counts.user_completed += completed;
            if step.is_from {
                counts.from += 1;
            } else {
                counts.user_cacheable += 1;
            }
            if step.is_cached {
                counts.user_cached += 1;
            } else if !step.is_from {
                counts.miss += 1;
                text.push_str(&format!("cache miss: {}\n", step.name));
            }
        }
        let counts = serde_json::to_string(&counts).expect("numbers are JSON");
        text + &counts + "\n"
    }
}

#[cfg(test)]
mod tests {
    use proto::control::Vertex;

    use super::*;

    #[test]
    fn steps_are_counted_once_and_misses_are_named() {
        let mut metrics = Metrics::open("stdout").expect("open").expect("somewhere");
        let step = |digest: &str, name: &str, cached, done: bool| Vertex {
            digest: digest.into(),
            name: name.into(),
            cached,
            completed: done.then(Default::default),
            ..Vertex::default()
        };
        for vertexes in [
            vec![
                step("1", "[internal] load build definition", false, true),
                step("2", "[1/3] FROM docker.io/library/a", false, true),
                step("3", "[2/3] RUN a", true, true),
                step("4", "[3/3] RUN b", false, false),
            ],
            vec![
                step("4", "[3/3] RUN b", false, true),
                step("5", "exporting to image", false, false),
            ],
        ] {
            metrics.note(&StatusResponse {
                vertexes,
                ..StatusResponse::default()
            });
        }
        assert_eq!(
            metrics.text(Duration::from_millis(7)),
            "cache miss: [3/3] RUN b\n\
             {\"total\":5,\"completed\":4,\"user_total\":3,\"user_cached\":1,\"user_completed\":3,\
             \"user_cacheable\":2,\"from\":1,\"miss\":1,\"client_duration_ms\":7}\n"
        );
    }

    #[test]
    fn a_place_that_cannot_be_written_is_refused() {
        let err = Metrics::open("/surely/not/there").err().expect("refused");
        assert_eq!(
            format!("{err:#}"),
            "open /surely/not/there: no such file or directory"
        );
        assert!(Metrics::open("").expect("nowhere").is_none());
    }
}
