//! Vertices of a build that are no steps: metadata look-ups, exporters.

use std::sync::Arc;
use std::time::SystemTime;

use diagnostics::Failure;
use oci::Digest;
use progress::{Event, Progress, Sink, Vertex};

/// Shows `work` as a vertex named `name`; `id` is the text its digest is made of.
pub(crate) async fn run<T, F>(
    sink: &Arc<dyn Sink>,
    id: &str,
    name: &str,
    work: impl FnOnce(Progress) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let digest = Digest::of(id).to_string();
    let mut vertex = Vertex {
        digest: digest.clone(),
        name: name.to_owned(),
        started: Some(SystemTime::now()),
        ..Vertex::default()
    };
    sink.emit(Event::from(vertex.clone()));
    let result = work(Progress::new(sink.clone(), &digest)).await;
    vertex.completed = Some(SystemTime::now());
    if let Err(err) = &result {
        vertex.error = err.to_string();
    }
    sink.emit(Event::from(vertex));
    result
}
