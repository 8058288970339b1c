//! Sizes of a stage's results, from statistics where there are any. For estimates only.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::{HashJoinExec, SortMergeJoinExec};

use super::memory::{EXPANSION, row_bytes};
use super::sizes::{Sizes, sees_rows};
use crate::model::load::{Results, StageLoad};
use crate::planner::graph::Stage;

/// Share of Arrow bytes that LZ4 leaves (docs/measurements.md, `compression`).
const COMPRESSED: f64 = 0.44;

/// Rows of a stage's plan, as far as statistics tell. They are the same for all packings.
#[derive(Debug, Clone, Copy)]
pub struct PlanRows {
    scanned: Option<u64>,
    sent: Option<u64>,
    /// Groups of the last aggregate, where it sees the rows themselves. None where their number is not known.
    groups: Option<u64>,
}

impl PlanRows {
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        let sizes = Sizes::default();
        let first_step =
            chain(plan).find_map(|node| node.downcast_ref::<AggregateExec>()).filter(|last| sees_rows(last));
        Self {
            scanned: chain(plan).last().and_then(|scan| sizes.rows(scan)),
            sent: sizes.rows(plan),
            groups: first_step.and_then(|aggregate| sizes.groups(aggregate)),
        }
    }
}

/// Estimates the bytes that the fragments of a stage will send in all.
pub fn results(stage: &Stage, rows: &PlanRows) -> Results {
    let lanes = lanes(stage);
    let width = row_bytes(&stage.plan.schema()) as u64;
    let chain: Vec<&Arc<dyn ExecutionPlan>> = chain(&stage.plan).collect();
    let decoded = stage.weight_bytes().saturating_mul(EXPANSION);
    // The chain ends at one scan of several.
    let scanned = rows.scanned.filter(|_| stage.aligned.is_none()).map_or(decoded, |rows| rows.saturating_mul(width));
    let aggregate = chain.iter().find_map(|node| node.downcast_ref::<AggregateExec>());
    let rows_max = match aggregate {
        Some(aggregate) if aggregate.group_expr().is_empty() => Some(lanes),
        _ => chain.iter().filter_map(|node| node.fetch()).min().map(|fetch| (fetch as u64).saturating_mul(lanes)),
    };
    // A join may send more rows than were scanned.
    let joins = chain.iter().any(|node| node.is::<HashJoinExec>() || node.is::<SortMergeJoinExec>());
    let scanned = match joins {
        true => scanned.max(rows.sent.unwrap_or_default().saturating_mul(width)),
        false => scanned,
    };
    let at_most = rows_max.map_or(scanned, |rows| rows.saturating_mul(width).min(scanned.max(lanes * width)));
    let expected = match (rows_max, aggregate) {
        // Each lane may meet each group.
        (None, Some(_)) => rows.groups.map(|groups| groups.saturating_mul(lanes).saturating_mul(width)),
        _ => rows.sent.map(|rows| rows.saturating_mul(width)).or_else(|| rows_max.map(|_| at_most)),
    };
    let expected = expected.map(|bytes| compressed(bytes.min(at_most)));
    Results { expected, at_most }
}

/// Estimates the bytes that the fragments of a stage over exchanges will send in all: as many as they read of stages with the loads `parts`, or those that
/// statistics tell. Groups of unknown number that go to the coordinator are not known, as they are not known of scans.
pub fn results_of_parts(stage: &Stage, rows: &PlanRows, parts: &[&StageLoad]) -> Results {
    let width = row_bytes(&stage.plan.schema()) as u64;
    let read: u64 = parts.iter().map(|load| load.results.at_most).sum();
    let sent = rows.sent.map(|rows| rows.saturating_mul(width));
    let at_most = read.max(sent.unwrap_or_default());
    let last = chain(&stage.plan).find_map(|node| node.downcast_ref::<AggregateExec>());
    let is_first_step = last.is_some_and(|last| sees_rows(last) && !last.group_expr().is_empty());
    let expected = match stage.shuffle.partitions {
        None if is_first_step => {
            let rows = rows.groups.map(|groups| groups.saturating_mul(lanes(stage)));
            rows.map(|rows| rows.saturating_mul(width).min(at_most))
        }
        _ => sent,
    };
    Results { expected: expected.map(compressed), at_most }
}

fn lanes(stage: &Stage) -> u64 {
    stage.fragments.iter().map(|fragment| fragment.lanes.len()).sum::<usize>().max(1) as u64
}

/// Returns the encoded length of rows that have `bytes` bytes in memory.
pub fn compressed(bytes: u64) -> u64 {
    (bytes as f64 * COMPRESSED) as u64
}

/// Lists a fragment's operators from the top to its scan. The last input of a join is the one that it scans.
fn chain(plan: &Arc<dyn ExecutionPlan>) -> impl Iterator<Item = &Arc<dyn ExecutionPlan>> {
    std::iter::successors(Some(plan), |node| node.children().last().copied())
}
