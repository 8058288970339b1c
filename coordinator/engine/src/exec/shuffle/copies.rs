//! Build sides whose rows were sent by partition, and are so few that every function of another stage gets all of them.
//!
//! ```text
//!  producers of the build sides ─► bytes of all rows ─┬─ few ──► read and joined here ─► copies ─► the stage that scans for the last exchange, with the joins
//!                                                     └─ many ─► producers of the last exchange ─► the stage as it was planned
//! ```
//!
//! What was sent stays where it is, so that the stage can begin as it was planned whatever comes in between.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use gust_protocol::parts::PartsInput;
use gust_protocol::plan::{PartsExec, PartsLanes};

use super::produced::{Objects, Produced};
use crate::events::QueryEvent;
use crate::exchange::EXCHANGE_ACCESS;
use crate::exec::RemoteFragmentExec;
use crate::exec::broadcast::{Begun, GatheredBuilds, Joining};
use crate::exec::query::QueryContext;
use crate::planner::Stage;
use crate::planner::lanes::LaneParts;
use crate::planner::passes::shuffle::{build_sides, with_shuffles};

/// Returns the start of the stage with copies in the place of `joining`'s. None where its build sides are too large, or cannot be read here: functions know how to mend that.
///
/// # Errors
/// The refusal of the query's cap, and those of rows that cannot be sent on their way.
pub(super) async fn begun(joining: &Joining, with_copies: &Arc<Stage>, produced: &[Produced]) -> Result<Option<Begun>> {
    let attempts = &joining.query.attempts;
    let bytes: u64 = produced.iter().map(Produced::bytes).sum();
    if bytes > with_copies.broadcast_bytes_max {
        return Ok(None);
    }
    let objects: Vec<Objects> = produced.iter().map(Produced::objects).collect();
    let object_bytes: u64 = objects.iter().map(|objects| objects.bytes).sum();
    attempts.pay_for_read(object_bytes).await.map_err(|over| DataFusionError::External(Box::new(over)))?;
    let gathered = match Box::pin(gathered(joining, with_copies, produced)).await {
        Ok(gathered) => gathered,
        Err(error) => {
            tracing::debug!(stage = joining.stage.index, %error, "its build sides are not copied");
            return Ok(None);
        }
    };
    let Ok(begun) = Box::pin(joining.begun(with_copies, gathered)).await? else { return Ok(None) };
    attempts.events().push(QueryEvent::BuildsCopied {
        stage: joining.stage.index,
        by: with_copies.index,
        bytes,
        bytes_expected: with_copies.broadcasts.iter().copied().sum(),
        objects: objects.iter().map(|objects| objects.count as u64).sum(),
        object_bytes,
    });
    Ok(Some(Begun { numbers: joining.stand_in_numbers.clone(), ..begun }))
}

/// Notes that a stage never runs, nor those below it.
pub(super) fn leave_out(stage: &Arc<dyn ExecutionPlan>, query: &QueryContext) {
    if let Some(stage) = stage.downcast_ref::<RemoteFragmentExec>() {
        query.attempts.expect_fragments(&stage.expected, 0);
        stage.producers.iter().for_each(|below| leave_out(below, query));
    }
}

/// Runs the build sides here, over the rows that were sent for them.
async fn gathered(joining: &Joining, with_copies: &Stage, produced: &[Produced]) -> Result<GatheredBuilds> {
    let mut left = produced.iter();
    let mut streams = Vec::new();
    for side in build_sides(&joining.subtree) {
        // Exchanges have one order, from the top of the stage to its last.
        let side = with_shuffles(&side, &mut |_, mark| {
            let missing = || DataFusionError::Internal("the rows of a build side are missing".to_owned());
            let produced = left.next().ok_or_else(missing)?;
            let lanes = all_rows(produced, &joining.query).map_err(DataFusionError::Internal)?;
            Ok(Arc::new(PartsExec::over(lanes, mark.schema())))
        })?;
        let side: Arc<dyn ExecutionPlan> = match side.output_partitioning().partition_count() {
            1 => side,
            _ => Arc::new(CoalescePartitionsExec::new(side)),
        };
        // Its operators may be those of an earlier run.
        streams.push(reset_plan_states(side)?.execute(0, Arc::clone(&joining.context))?);
    }
    joining.gather(with_copies, streams).await
}

/// Returns the rows of a stage, all in one lane.
fn all_rows(produced: &Produced, query: &QueryContext) -> Result<PartsLanes, String> {
    // A lane of whole partitions has the rows of all producers, whatever the leaf's number is.
    let lane = LaneParts::whole(0..produced.weights.len());
    let input = PartsInput {
        access: EXCHANGE_ACCESS,
        prefix: query.exchange.prefix.clone(),
        lanes: vec![produced.slices(&lane, 0).encoded()],
    };
    PartsLanes::of(&input, &query.id, Arc::clone(&query.exchange.store))
}
