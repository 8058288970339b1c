//! Way of a stage's plan to its functions: in each request, or once through the exchange.

use std::sync::Arc;

use gust_protocol::exchange::StageObject;
use gust_protocol::{FragmentId, ObjectRef, PlanRef, StagePlan};
use object_store::ObjectStoreExt;
use tokio::sync::OnceCell;

use super::query::QueryContext;
use crate::events::QueryEvent;
use crate::exchange::{EXCHANGE_ACCESS, Exchange, PLAN_INLINE_BYTES_MAX};
use crate::scheduler::FragmentFailure;

/// Plan of a stage on its way to the functions.
#[derive(Debug)]
pub(super) struct PlanPublisher {
    stage_plan: Arc<StagePlan>,
    published: OnceCell<Arc<StagePlan>>,
}

impl PlanPublisher {
    pub(super) fn new(stage_plan: StagePlan) -> Self {
        Self { stage_plan: Arc::new(stage_plan), published: OnceCell::new() }
    }

    /// Returns the plan as requests carry it. The first fragment to ask writes a large plan into the exchange.
    pub(super) async fn published(
        &self,
        query: &QueryContext,
        id: &FragmentId,
    ) -> Result<&Arc<StagePlan>, FragmentFailure> {
        let plan = match &self.stage_plan.plan {
            PlanRef::Inline(plan) if plan.0.len() > PLAN_INLINE_BYTES_MAX => &plan.0,
            _ => return Ok(&self.stage_plan),
        };
        let publish = || async {
            let Exchange { prefix, store, .. } = &query.exchange;
            let path = StageObject::Plan.path(prefix, &id.query, id.stage);
            // The event comes before the write, so that the object is cleaned up if the query ends meanwhile.
            query.attempts.events().push(QueryEvent::PlanPublished { stage: id.stage, bytes: plan.len() as u64 });
            let written = store.put(&path, plan.clone().into()).await;
            written.map_err(|error| FragmentFailure::unpublished(id.clone(), &path, error))?;
            let object = ObjectRef {
                access: EXCHANGE_ACCESS,
                path: path.to_string(),
                size_bytes: plan.len() as u64,
                etag: None,
                footer_bytes: None,
            };
            let plan = PlanRef::Object { object, crc32: crc32fast::hash(plan) };
            Ok(Arc::new(StagePlan { plan, ..StagePlan::clone(&self.stage_plan) }))
        };
        self.published.get_or_try_init(publish).await
    }
}
