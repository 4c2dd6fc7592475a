//! A build that its client drives: references by id, and the result the client returns.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use diagnostics::Failure;
use fault::Class;
use frontend::{Attestation, Bridge, Container, ContainerRequest, Outcome, Reference};
use parking_lot::Mutex;
use proto::{gateway as wire, pb};
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
    containers: Mutex<HashMap<String, Arc<dyn Container>>>,
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
    /// Statements about results, by platform id.
    pub attestations: BTreeMap<String, Vec<wire::Attestation>>,
}

impl Gateway {
    /// A gateway, and where its answer will come.
    pub fn new(
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
            containers: Mutex::default(),
            answer: Mutex::new(Some(answer)),
        };
        (gateway, receiver)
    }

    /// Makes the references of an outcome known, so that the client can name them.
    pub fn remember(&self, outcome: &Outcome) {
        let mut references = self.references.lock();
        let stated = outcome.attestations.values().flatten();
        let stated = stated.filter_map(|attestation| attestation.reference.as_ref());
        for reference in outcome.references().chain(stated) {
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

    /// Makes a container under the id the client chose.
    pub async fn new_container(&self, request: wire::NewContainerRequest) -> Result<(), Failure> {
        let id = request.container_id.clone();
        let network = request.network();
        let known = |mount: &pb::Mount| {
            let references = self.references.lock();
            let reference = references.get(&mount.result_id)?;
            Some((mount.result_id.clone(), reference.clone()))
        };
        let references = request.mounts.iter().filter_map(known).collect();
        let wanted = ContainerRequest {
            id: id.clone(),
            mounts: request.mounts,
            references,
            os: request.platform.map(|it| it.os).unwrap_or_default(),
            network,
            extra_hosts: request.extra_hosts,
            hostname: request.hostname,
            files: Vec::new(),
        };
        if self.containers.lock().contains_key(&id) {
            return Err(exists(&id));
        }
        let container = self.bridge.new_container(&self.cx, wanted).await?;
        let earlier = match self.containers.lock().entry(id.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(container);
                return Ok(());
            }
            Entry::Occupied(_) => container,
        };
        // Nothing ran in it.
        let _ = earlier.release().await;
        Err(exists(&id))
    }

    /// The container with this id.
    pub fn container(&self, id: &str) -> Option<Arc<dyn Container>> {
        self.containers.lock().get(id).cloned()
    }

    /// Gives up a container. Fails as the first process that failed in it did.
    pub async fn release_container(&self, id: &str) -> Result<(), Failure> {
        let container = self.containers.lock().remove(id);
        match container {
            Some(container) => container.release().await,
            None => {
                let text = format!("container details for {id} not found");
                Err(Failure::new(Class::User, text))
            }
        }
    }

    /// Gives up all containers.
    pub async fn release_containers(&self) {
        let containers = std::mem::take(&mut *self.containers.lock());
        for container in containers.into_values() {
            // Whoever wanted to know about failures has asked.
            let _ = container.release().await;
        }
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
            let missing = || format!("return reference {id} not found");
            found
                .map(Some)
                .ok_or_else(|| Failure::new(Class::User, missing()))
        };
        let mut platforms = BTreeMap::new();
        for (platform, id) in &returned.platforms {
            platforms.insert(platform.clone(), find(id)?);
        }
        let mut attestations = BTreeMap::new();
        for (platform, list) in &returned.attestations {
            let mut stated = Vec::with_capacity(list.len());
            for attestation in list {
                stated.push(Attestation {
                    kind: attestation.kind(),
                    metadata: attestation.metadata.clone(),
                    reference: match &attestation.r#ref {
                        Some(reference) => find(&reference.id)?,
                        None => None,
                    },
                    path: attestation.path.clone(),
                    predicate_type: attestation.in_toto_predicate_type.clone(),
                    subjects: attestation.in_toto_subjects.clone(),
                });
            }
            attestations.insert(platform.clone(), stated);
        }
        Ok(Outcome {
            single: returned.single.as_ref().map(find).transpose()?,
            platforms,
            metadata: returned.metadata,
            attestations,
        })
    }
}

fn exists(id: &str) -> Failure {
    Failure::new(
        Class::AlreadyExists,
        format!("Container {id} already exists"),
    )
}
