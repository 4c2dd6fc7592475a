//! A build that its client drives: references by id, and the result the client returns.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use diagnostics::Failure;
use fault::Class;
use frontend::{Bridge, Outcome, Reference};
use parking_lot::Mutex;
use proto::pb;
use tasks::Cx;
use tokio::sync::oneshot;

/// The daemon's side of one gateway build.
pub struct Gateway {
    /// Cancelled with the build.
    pub cx: Cx,
    /// What the client may ask.
    pub bridge: Arc<dyn Bridge>,
    /// Definitions handed to the frontend.
    pub inputs: BTreeMap<String, pb::Definition>,
    references: Mutex<HashMap<String, Arc<dyn Reference>>>,
    answer: Mutex<Option<oneshot::Sender<Result<Outcome, Failure>>>>,
}

/// A result as it is on the wire: references by id.
#[derive(Debug, Clone, Default)]
pub struct Returned {
    /// A single result; the empty id is scratch.
    pub single: Option<String>,
    /// By platform id.
    pub platforms: BTreeMap<String, String>,
    /// Result metadata.
    pub metadata: BTreeMap<String, Bytes>,
}

impl Gateway {
    /// A gateway, and where its answer will come.
    pub(crate) fn new(
        cx: Cx,
        bridge: Arc<dyn Bridge>,
        inputs: BTreeMap<String, pb::Definition>,
    ) -> (Self, oneshot::Receiver<Result<Outcome, Failure>>) {
        let (answer, receiver) = oneshot::channel();
        let gateway = Self {
            cx,
            bridge,
            inputs,
            references: Mutex::default(),
            answer: Mutex::new(Some(answer)),
        };
        (gateway, receiver)
    }

    /// Makes the references of an outcome known, so that the client can name them.
    pub fn remember(&self, outcome: &Outcome) {
        let mut references = self.references.lock();
        for reference in outcome.references() {
            references.insert(reference.id().to_owned(), reference.clone());
        }
    }

    /// The reference with this id.
    pub fn reference(&self, id: &str) -> Result<Arc<dyn Reference>, Failure> {
        let references = self.references.lock();
        references.get(id).cloned().ok_or_else(|| {
            let mut known: Vec<&str> = references.keys().map(String::as_str).collect();
            known.sort_unstable();
            let text = format!("no such ref: {id}, all [{}]", known.join(" "));
            Failure::new(Class::User, text)
        })
    }

    /// Takes the client's answer.
    pub fn give_back(&self, answer: Result<Returned, Failure>) -> Result<(), Failure> {
        let outcome = match answer {
            Ok(returned) => Ok(self.outcome(returned)?),
            Err(failure) => Err(failure),
        };
        let sender = self
            .answer
            .lock()
            .take()
            .ok_or_else(|| Failure::new(Class::User, "gateway result is already set"))?;
        // The build may have been cancelled meanwhile; then nobody waits for the answer any more.
        let _ = sender.send(outcome);
        Ok(())
    }

    fn outcome(&self, returned: Returned) -> Result<Outcome, Failure> {
        let find = |id: &String| -> Result<Option<Arc<dyn Reference>>, Failure> {
            if id.is_empty() {
                return Ok(None);
            }
            let references = self.references.lock();
            let found = references.get(id).cloned();
            found
                .map(Some)
                .ok_or_else(|| Failure::new(Class::User, "return reference ID not found"))
        };
        let mut platforms = BTreeMap::new();
        for (platform, id) in &returned.platforms {
            platforms.insert(platform.clone(), find(id)?);
        }
        Ok(Outcome {
            single: returned.single.as_ref().map(find).transpose()?,
            platforms,
            metadata: returned.metadata,
            ..Outcome::default()
        })
    }
}
