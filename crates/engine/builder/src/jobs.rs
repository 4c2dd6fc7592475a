//! The builds that are running or have just ended, by their ref.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use diagnostics::Failure;
use fault::Class;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::gateway::Gateway;
use crate::hub::Hub;

/// How long a finished build can still be asked for its progress.
const KEEP: Duration = Duration::from_secs(10);
/// How long a question for the progress of an unknown build waits for the build to come.
const WAIT_STATUS: Duration = Duration::from_secs(6);
/// The same for calls to a build's gateway.
const WAIT_GATEWAY: Duration = Duration::from_secs(3);

/// How often it is looked how much of the program is mapped while builds run, and how much may be.
const TRIM: Duration = Duration::from_millis(20);
const MAPPED: usize = 6 << 20;

/// One build as others see it.
#[derive(Clone)]
pub struct Job {
    /// Its events.
    pub hub: Arc<Hub>,
    /// Its gateway, when a client drives it.
    pub gateway: Option<Arc<Gateway>>,
}

/// All builds.
#[derive(Default)]
pub struct Jobs {
    jobs: Mutex<HashMap<String, Entry>>,
    changed: Notify,
    /// Keeps the program small while builds run.
    small: Mutex<Option<tasks::LittleCode>>,
}

struct Entry {
    job: Job,
    running: bool,
}

impl Jobs {
    /// Registers a build. A ref in use is refused.
    pub fn add(self: &Arc<Self>, id: &str, job: Job) -> Result<Registration, Failure> {
        let mut jobs = self.jobs.lock();
        if jobs.get(id).is_some_and(|entry| entry.running) {
            return Err(Failure::new(Class::User, format!("job ID {id} exists")));
        }
        jobs.insert(id.to_owned(), Entry { job, running: true });
        let keep_small = || tasks::LittleCode::keep(MAPPED, TRIM);
        self.small.lock().get_or_insert_with(keep_small);
        drop(jobs);
        self.changed.notify_waiters();
        Ok(Registration {
            jobs: self.clone(),
            id: id.to_owned(),
        })
    }

    /// Notes a build that was refused before it began, so that nobody waits for its progress.
    pub fn refuse(self: &Arc<Self>, id: &str) {
        let job = Job {
            hub: Arc::default(),
            gateway: None,
        };
        // Another build may go on under this name.
        if let Ok(registration) = self.add(id, job) {
            registration.finish();
        }
    }

    /// Does something while no build runs, and keeps builds from starting meanwhile; `None` when one runs.
    pub fn while_idle<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let jobs = self.jobs.lock();
        if jobs.values().any(|entry| entry.running) {
            return None;
        }
        let done = work();
        drop(jobs);
        Some(done)
    }

    /// Whether a build of this name goes on.
    pub fn is_running(&self, id: &str) -> bool {
        self.jobs.lock().get(id).is_some_and(|entry| entry.running)
    }

    /// The progress of a build that runs, has just ended or is about to come.
    pub async fn hub(&self, id: &str) -> Result<Arc<Hub>, Failure> {
        self.wait(id, WAIT_STATUS, |entry| Some(entry.job.hub.clone()))
            .await
            .ok_or_else(|| Failure::new(Class::NotFound, format!("no such job {id}")))
    }

    /// The gateway of a running build. One that ended, or was refused, has none and will have none.
    pub async fn gateway(&self, id: &str, method: &str) -> Result<Arc<Gateway>, Failure> {
        let found = |entry: &Entry| match &entry.job.gateway {
            None if entry.running => None,
            gateway => Some(gateway.clone()),
        };
        self.wait(id, WAIT_GATEWAY, found)
            .await
            .flatten()
            .ok_or_else(|| {
                let text = format!("forwarding {method}: no such job {id}");
                Failure::new(Class::NotFound, text)
            })
    }

    async fn wait<T>(
        &self,
        id: &str,
        limit: Duration,
        pick: impl Fn(&Entry) -> Option<T>,
    ) -> Option<T> {
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                let found = self.jobs.lock().get(id).and_then(&pick);
                if let Some(found) = found {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, found).await.ok()
    }
}

/// A running build's place in the table.
pub struct Registration {
    jobs: Arc<Jobs>,
    id: String,
}

impl Registration {
    /// Ends the build's progress and lets its ref be used again; it is forgotten a little later.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut jobs = self.jobs.jobs.lock();
        let Some(entry) = jobs.get_mut(&self.id) else {
            return;
        };
        entry.running = false;
        entry.job.gateway = None;
        entry.job.hub.close();
        let hub = entry.job.hub.clone();
        drop(jobs);
        self.jobs.changed.notify_waiters();
        let (jobs, id) = (self.jobs.clone(), self.id.clone());
        forget_later(async move {
            tokio::time::sleep(KEEP).await;
            {
                let mut known = jobs.jobs.lock();
                if known
                    .get(&id)
                    .is_some_and(|entry| Arc::ptr_eq(&entry.job.hub, &hub))
                {
                    known.remove(&id);
                }
                if known.values().any(|entry| entry.running) {
                    return;
                }
                // Not before: what a build does last asks for code that nothing did before.
                jobs.small.lock().take();
            }
            drop(hub);
            tasks::blocking(tasks::release_memory).await;
        });
    }
}

/// A timer that nobody waits for: it holds nothing but memory, and the runtime's end is its end.
#[allow(clippy::disallowed_methods)]
fn forget_later(timer: impl Future<Output = ()> + Send + 'static) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(timer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            hub: Arc::default(),
            gateway: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ref_in_use_is_refused_and_free_again_afterwards() {
        let jobs = Arc::new(Jobs::default());
        let Ok(first) = jobs.add("a", job()) else {
            panic!("the ref is free");
        };
        let refused = jobs.add("a", job()).err().expect("in use");
        assert_eq!(refused.to_string(), "job ID a exists");
        first.finish();
        assert!(jobs.add("a", job()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_for_an_unknown_build_waits_six_seconds() {
        let jobs = Arc::new(Jobs::default());
        let start = tokio::time::Instant::now();
        let err = jobs.hub("zz").await.err().expect("unknown");
        assert_eq!(err.to_string(), "no such job zz");
        assert_eq!(start.elapsed().as_secs(), 6);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_progress_of_a_refused_build() {
        let jobs = Arc::new(Jobs::default());
        let start = tokio::time::Instant::now();
        let refuse = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            jobs.refuse("a");
        };
        let (hub, ()) = tokio::join!(jobs.hub("a"), refuse);
        let hub = hub.map_err(|err| err.to_string()).expect("known");
        assert!(hub.reader().next().await.is_none());
        assert_eq!(start.elapsed().as_secs(), 1);
        let refused = jobs.gateway("a", "Ping").await.err().expect("none");
        assert_eq!(refused.to_string(), "forwarding Ping: no such job a");
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_hears_of_the_end_of_its_build() {
        let jobs = Arc::new(Jobs::default());
        let start = tokio::time::Instant::now();
        let build = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Ok(running) = jobs.add("a", job()) else {
                panic!("the ref is free");
            };
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.finish();
        };
        let (gateway, ()) = tokio::join!(jobs.gateway("a", "Ping"), build);
        assert!(gateway.is_err());
        assert_eq!(start.elapsed().as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_for_an_unknown_build_waits_three_seconds() {
        let jobs = Arc::new(Jobs::default());
        let start = tokio::time::Instant::now();
        assert!(jobs.gateway("zz", "Ping").await.is_err());
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn refusing_a_build_leaves_one_of_the_same_name_alone() {
        let jobs = Arc::new(Jobs::default());
        let Ok(running) = jobs.add("a", job()) else {
            panic!("the ref is free");
        };
        jobs.refuse("a");
        assert!(jobs.is_running("a"));
        running.finish();
    }

    #[tokio::test(start_paused = true)]
    async fn a_finished_build_is_kept_for_ten_seconds() {
        let jobs = Arc::new(Jobs::default());
        let Ok(first) = jobs.add("a", job()) else {
            panic!("the ref is free");
        };
        first.finish();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(jobs.hub("a").await.is_ok());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(jobs.hub("a").await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_idle_while_a_build_runs() {
        let jobs = Arc::new(Jobs::default());
        let Ok(running) = jobs.add("a", job()) else {
            panic!("the ref is free");
        };
        assert_eq!(jobs.while_idle(|| 1), None);
        running.finish();
        assert_eq!(jobs.while_idle(|| 1), Some(1));
    }
}
