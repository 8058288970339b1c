//! Sizes of a stage's results, from statistics where there are any. For estimates only.

use std::sync::Arc;

use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::{HashJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::memory::{EXPANSION, row_bytes};
use crate::model::load::{Results, StageLoad};
use crate::planner::graph::Stage;

/// Share of Arrow bytes that LZ4 leaves (docs/measurements.md, `compression`).
const COMPRESSED: f64 = 0.44;

/// Rows of a stage's plan, as far as statistics tell. They are the same for all packings.
#[derive(Debug, Clone, Copy)]
pub struct PlanRows {
    scanned: Option<u64>,
    sent: Option<u64>,
}

impl PlanRows {
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Self {
        Self { scanned: chain(plan).last().and_then(rows), sent: rows(plan) }
    }
}

/// Estimates the bytes that the fragments of a stage will send in all.
pub fn results(stage: &Stage, rows: &PlanRows) -> Results {
    let lanes = stage.fragments.iter().map(|fragment| fragment.lanes.len()).sum::<usize>().max(1) as u64;
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
        (None, Some(_)) => None,
        _ => rows.sent.map(|rows| rows.saturating_mul(width)).or_else(|| rows_max.map(|_| at_most)),
    };
    let expected = expected.map(|bytes| compressed(bytes.min(at_most)));
    Results { expected, at_most }
}

/// Estimates the bytes that the fragments of a stage over exchanges will send in all: as many as they read of stages with the loads `parts`, or those that
/// statistics tell.
pub fn results_of_parts(stage: &Stage, rows: &PlanRows, parts: &[&StageLoad]) -> Results {
    let width = row_bytes(&stage.plan.schema()) as u64;
    let read: u64 = parts.iter().map(|load| load.results.at_most).sum();
    let sent = rows.sent.map(|rows| rows.saturating_mul(width));
    let at_most = read.max(sent.unwrap_or_default());
    Results { expected: sent.map(compressed), at_most }
}

/// Returns the encoded length of rows that have `bytes` bytes in memory.
pub fn compressed(bytes: u64) -> u64 {
    (bytes as f64 * COMPRESSED) as u64
}

/// Lists a fragment's operators from the top to its scan. The last input of a join is the one that it scans.
fn chain(plan: &Arc<dyn ExecutionPlan>) -> impl Iterator<Item = &Arc<dyn ExecutionPlan>> {
    std::iter::successors(Some(plan), |node| node.children().last().copied())
}

/// Returns the rows that a plan is expected to put out, if statistics tell.
fn rows(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new()).ok()?;
    statistics.num_rows.get_value().map(|rows| *rows as u64)
}
