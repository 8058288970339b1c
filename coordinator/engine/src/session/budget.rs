//! A statement's cap in dollars: refused before it runs where it cannot be kept, watched by all that spend afterwards.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use gust_protocol::Usage;
use gust_protocol::plan::scans;

use super::Session;
use super::plan::Ready;
use crate::budget::{Budget, lower_bound};
use crate::cost::{Tariff, own_cost};
use crate::error::{ErrorKind, QueryError};
use crate::events::EventLog;
use crate::money::Money;
use crate::planner::Stage;

impl Session {
    /// # Errors
    /// [`ErrorKind::Setup`] where there are no prices to keep a cap by.
    pub(super) async fn tariff_for_cap(&self) -> Result<Tariff, QueryError> {
        let no_prices = |error| format!("a cap cannot be kept without prices: {error}");
        self.tariff().await.map_err(|error| QueryError::in_words(ErrorKind::Setup, no_prices(error)))
    }

    /// Opens the budget of a query that is planned.
    ///
    /// # Errors
    /// [`ErrorKind::CapReached`] where it is sure to cost more than `cap`, and [`ErrorKind::Setup`] without prices.
    pub(super) async fn budget(&self, cap: Money, ready: &Ready, events: EventLog) -> Result<Arc<Budget>, QueryError> {
        let tariff = self.tariff_for_cap().await?;
        let stages = ready.planned.iter().flat_map(|planned| &planned.stages);
        let fragments = stages.map(|stage| stage.fragments.len() as u64).sum();
        let (surely_fragments, surely_files) = certain(ready);
        let at_least = lower_bound(surely_fragments, surely_files, &tariff);
        let (stores, prices) = (self.stores.clone(), tariff.clone());
        let own = move |result_bytes| {
            let Usage { requests, bytes_read, .. } = stores.billed_usage();
            own_cost(&requests, bytes_read.saturating_sub(result_bytes), events.elapsed(), &prices)
        };
        let budget = Budget::new(cap, tariff, fragments, own);
        budget.allow(at_least).map_err(QueryError::over_cap)?;
        Ok(budget)
    }
}

/// Fragments that run and files that functions read whatever the rows are. A limit or a join may end a query before most of it has begun.
fn certain(ready: &Ready) -> (u64, u64) {
    let Some(planned) = &ready.planned else { return (0, 0) };
    if may_end_early(&planned.plan) {
        return (planned.stages.len().min(1) as u64, 0);
    }
    let fragments = planned.stages.iter().map(|stage| stage.fragments.len() as u64).sum();
    let files =
        planned.stages.iter().filter(|stage| reads_every_file(stage)).map(|stage| stage.units.len() as u64).sum();
    (fragments, files)
}

fn may_end_early(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut may = false;
    let walked = plan.apply(|node| {
        may |= node.fetch().is_some() || node.name().contains("Join");
        Ok(TreeNodeRecursion::Continue)
    });
    may || walked.is_err()
}

/// Without a predicate no statistics spare a file, but rows without columns are counted in footers, which a function may know.
fn reads_every_file(stage: &Stage) -> bool {
    scans(&stage.plan).iter().all(|scan| {
        let source = scan.file_source();
        source.filter().is_none() && source.projection().is_some_and(|columns| !columns.column_indices().is_empty())
    })
}
