//! Builds that steps ask for: definitions made by other steps.

use std::sync::Arc;

use async_trait::async_trait;
use diagnostics::Failure;
use ops::{Entitlements, Nested, Value};
use proto::pb;
use solver::Work;

use crate::Machinery;
use crate::bridge::BuildBridge;
use crate::reference::LazyReference;
use crate::sources::Sources;

/// What a build hands down to those within it. It must not hold the build's job, which holds the steps.
pub(crate) struct NestedBuilds {
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) entitlements: Entitlements,
}

#[async_trait]
impl Nested for NestedBuilds {
    async fn build(&self, work: &Work, definition: pb::Definition) -> Result<Value, Failure> {
        let id = identity::new_id();
        let job = self.machinery.solver.nested(&id, work);
        let sessions = (work.sessions)();
        let bridge = BuildBridge {
            machinery: self.machinery.clone(),
            job: Arc::new(job),
            hub: Arc::default(),
            session: sessions.into_iter().next().unwrap_or_default(),
            entitlements: self.entitlements.clone(),
            imports: Arc::default(),
            sources: self.sources.clone(),
            containers: Arc::default(),
            exposed: Arc::default(),
            scope: Arc::default(),
        };
        let outcome = bridge.load(&work.cx, definition, &[], None).await?;
        let Some(Some(reference)) = &outcome.single else {
            return Ok(Value(None));
        };
        let lazy = reference.as_any().downcast_ref::<LazyReference>();
        let lazy =
            lazy.ok_or_else(|| Failure::new(fault::Class::Internal, "a result of another build"))?;
        lazy.value(&work.cx).await
    }
}
