//! Results a build may or may not compute: handles on edges of its graph.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use diagnostics::{Detail, Failure};
use frontend::Explain;
use ops::{Op, Value};
use proto::{fsutil, pb};
use solver::Built;
use tasks::Cx;
use tokio::sync::OnceCell;

use crate::requests::Scope;
use crate::{exposed, files};

/// A result that has not been asked for yet.
pub(crate) struct LazyReference {
    id: String,
    definition: Arc<pb::Definition>,
    edge: ops::Edge,
    job: Arc<solver::Job<Op>>,
    scope: Arc<Scope>,
    explain: Option<Arc<dyn Explain>>,
    built: OnceCell<Built<Value>>,
}

impl LazyReference {
    pub(crate) fn new(
        definition: Arc<pb::Definition>,
        edge: ops::Edge,
        job: Arc<solver::Job<Op>>,
        scope: Arc<Scope>,
        explain: Option<Arc<dyn Explain>>,
    ) -> Self {
        let id = identity::new_id();
        scope.note(&id, &definition, &edge);
        Self {
            id,
            definition,
            edge,
            job,
            scope,
            explain,
            built: OnceCell::new(),
        }
    }

    /// Where it is in the build's graph.
    pub(crate) fn edge(&self) -> &ops::Edge {
        &self.edge
    }

    /// The request it was made for.
    pub(crate) fn scope(&self) -> &Arc<Scope> {
        &self.scope
    }

    /// Computes the result, once.
    pub(crate) async fn value(&self, cx: &Cx) -> Result<Value, Failure> {
        Ok(self.built(cx).await?.value.clone())
    }

    /// The same with what it is known by.
    pub(crate) async fn built(&self, cx: &Cx) -> Result<&Built<Value>, Failure> {
        let built = self.built.get_or_try_init(|| async {
            match self.job.build(cx, &self.edge).await {
                Ok(built) => Ok(built),
                Err(err) => Err(self.explained(cx, locate(err, &self.definition)).await),
            }
        });
        built.await
    }

    async fn explained(&self, cx: &Cx, failure: Failure) -> Failure {
        match &self.explain {
            Some(explain) if !failure.is_cancelled() => explain.explain(cx, failure).await,
            _ => failure,
        }
    }
}

/// Adds the place in the source file of the step that failed.
fn locate(failure: Failure, definition: &pb::Definition) -> Failure {
    let failure = exposed::placed(failure, definition);
    let Some(source) = &definition.source else {
        return failure;
    };
    let vertex = failure.details().iter().find_map(|detail| match detail {
        Detail::Vertex { digest } => Some(digest.clone()),
        _ => None,
    });
    let Some(locations) = vertex.and_then(|digest| source.locations.get(digest.as_str())) else {
        return failure;
    };
    let mut failure = failure;
    for location in &locations.locations {
        let info = usize::try_from(location.source_index)
            .ok()
            .and_then(|index| source.infos.get(index));
        if let Some(info) = info {
            failure = failure.with(Detail::Source {
                info: info.clone(),
                ranges: location.ranges.to_vec(),
            });
        }
    }
    failure
}

#[async_trait]
impl frontend::Reference for LazyReference {
    fn id(&self) -> &str {
        &self.id
    }

    fn definition(&self) -> Option<Arc<pb::Definition>> {
        Some(self.definition.clone())
    }

    async fn evaluate(&self, cx: &Cx) -> Result<(), Failure> {
        self.value(cx).await.map(drop)
    }

    async fn read_file(
        &self,
        cx: &Cx,
        path: &str,
        range: Option<(i64, i64)>,
    ) -> Result<Bytes, Failure> {
        files::read_file(cx, &self.value(cx).await?, path, range).await
    }

    async fn read_dir(
        &self,
        cx: &Cx,
        path: &str,
        include: &str,
    ) -> Result<Vec<fsutil::Stat>, Failure> {
        files::read_dir(cx, &self.value(cx).await?, path, include).await
    }

    async fn stat_file(&self, cx: &Cx, path: &str) -> Result<fsutil::Stat, Failure> {
        files::stat_file(cx, &self.value(cx).await?, path).await
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
