//! Graphs and imported caches come in.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cachekeys::StoreId;
use oci::Digest;
use parking_lot::Mutex;
use progress::Vertex as Shown;

use super::{Entry, Held, Imported, Message, Owner};
use crate::core::{self, Event, JobId, LoadedVertex, VertexId};
use crate::fanout::Fanout;
use crate::job::Import;
use crate::op::{Edge, Operation, Vertex};

impl<O: Operation> Owner<O> {
    /// Loads what is above an edge, as far as the job does not have it, and returns the edge's vertex.
    pub(super) fn load(&mut self, job: JobId, edge: &Edge<O>) -> Option<VertexId> {
        let state = self.jobs.get(&job)?;
        let held = |vertex: &Vertex<O>| state.vertices.get(&name(vertex));
        // What was loaded before the job brought a cache must be told of it.
        let up_to_date = |vertex: &Vertex<O>| {
            held(vertex).is_some_and(|held| held.imports == state.imports.len())
        };
        let order = order(&edge.vertex, up_to_date);
        let mut places = HashMap::with_capacity(order.len());
        let mut entries = Vec::with_capacity(order.len());
        for vertex in &order {
            let inputs = vertex.inputs.iter().map(|input| {
                let place = places.get(&name(&input.vertex)).copied();
                let output = u32::try_from(input.index).unwrap_or(u32::MAX);
                (place.unwrap_or_default(), output)
            });
            let entry = match held(vertex) {
                Some(held) => core::Entry::Known(held.id),
                None => core::Entry::New {
                    digest: vertex.digest.clone(),
                    inputs: inputs.collect(),
                    ignore_cache: vertex.ignore_cache,
                },
            };
            let place = u32::try_from(entries.len()).unwrap_or(u32::MAX);
            places.insert(name(vertex), place);
            entries.push(entry);
        }
        self.loading = order;
        self.step(Event::Load { job, entries });
        let held = self.jobs.get(&job)?.vertices.get(&name(&edge.vertex))?;
        Some(held.id)
    }

    /// The scheduler has named the vertices of the graph being loaded.
    pub(super) fn loaded(&mut self, job: JobId, ids: Vec<LoadedVertex>) {
        let Some(job) = self.jobs.get_mut(&job) else {
            return;
        };
        let mut refreshed = Vec::new();
        for (vertex, LoadedVertex { id, digest, fresh }) in self.loading.drain(..).zip(ids) {
            if fresh {
                let inputs = vertex.inputs.iter().filter_map(|input| {
                    let held = job.vertices.get(&name(&input.vertex))?;
                    Some(self.vertices.get(&held.id)?.digest.to_string())
                });
                let shown = Shown {
                    digest: digest.to_string(),
                    inputs: inputs.collect(),
                    name: vertex.name.clone(),
                    group: vertex.group.clone(),
                    ..Shown::default()
                };
                let fanout = Fanout::new(shown);
                let asked = fanout.clone();
                let entry = Entry {
                    op: vertex.op.clone(),
                    digest,
                    original: vertex.original.as_ref().unwrap_or(&vertex.digest).clone(),
                    leaf: vertex.inputs.is_empty(),
                    progress: fanout.progress(),
                    sessions: Arc::new(move || asked.sessions()),
                    fanout,
                    imports: Mutex::default(),
                };
                self.vertices.insert(id, Arc::new(entry));
            }
            if let Some(entry) = self.vertices.get(&id) {
                let mut imports = entry.imports.lock();
                let before = imports.len();
                for import in &job.imports {
                    if !imports.iter().any(|known| known.id == import.id) {
                        imports.push(import.clone());
                    }
                }
                if imports.len() > before && !fresh {
                    refreshed.push(id);
                }
            }
            let imports = job.imports.len();
            job.vertices.insert(name(&vertex), Held { id, imports });
        }
        if !refreshed.is_empty() {
            self.events.push_back(Event::Refresh {
                vertices: refreshed,
            });
        }
    }

    /// A job brings a cache, which is opened at once unless somebody else has done so.
    pub(super) fn import(&mut self, job: JobId, import: Arc<dyn Import<O::Value>>) {
        let Some(job) = self.jobs.get_mut(&job) else {
            return;
        };
        let known = self
            .imports
            .get(import.id())
            .and_then(std::sync::Weak::upgrade);
        let imported = known.unwrap_or_else(|| {
            let id = StoreId(self.shared.next_store.fetch_add(1, Ordering::Relaxed));
            let name = import.id().to_owned();
            let imported = Arc::new(Imported {
                id,
                import,
                store: tokio::sync::OnceCell::new(),
            });
            self.imports.retain(|_, known| known.strong_count() > 0);
            self.imports.insert(name, Arc::downgrade(&imported));
            let (cx, opened) = (self.cx.clone(), imported.clone());
            let sender = self.sender.clone();
            self.opening.retain(|task| !task.is_finished());
            self.opening
                .push(tasks::spawn("open imported cache", async move {
                    opened.open(&cx).await;
                    if let Some(sender) = sender.upgrade() {
                        // The owner may be gone.
                        let _ = sender.send(Message::Opened);
                    }
                }));
            imported
        });
        if !job.imports.iter().any(|known| known.id == imported.id) {
            job.imports.push(imported);
        }
    }
}

fn name<O>(vertex: &Vertex<O>) -> (Digest, bool) {
    (vertex.digest.clone(), vertex.ignore_cache)
}

/// A vertex and everything above it, inputs first. What is above vertices that are `known` is left out.
fn order<O>(vertex: &Arc<Vertex<O>>, known: impl Fn(&Vertex<O>) -> bool) -> Vec<Arc<Vertex<O>>> {
    let mut order = Vec::new();
    let mut seen = HashSet::from([name(vertex)]);
    // Vertices on the way down, with the number of inputs that were visited.
    let mut stack = vec![(vertex.clone(), 0)];
    while let Some((vertex, next)) = stack.last_mut() {
        let input = if known(vertex) {
            None
        } else {
            vertex.inputs.get(*next)
        };
        *next += 1;
        match input.map(|input| input.vertex.clone()) {
            Some(input) => {
                if seen.insert(name(&input)) {
                    stack.push((input, 0));
                }
            }
            None => order.extend(stack.pop().map(|(vertex, _)| vertex)),
        }
    }
    order
}
