//! The memory that a plan is expected to hold at once: an estimate for EXPLAIN, from statistics where there are any.
//!
//! Counted are row groups being decoded and operators that hold their input: hash joins (their build side), sorts without a
//! limit, aggregates. Not counted are batches in flight and the page cache.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec};
use datafusion::physical_plan::sorts::sort::SortExec;

use super::sizes::Sizes;
use crate::planner::graph::Stage;

/// Arrow bytes for one byte of compressed Parquet. TPC-H lineitem (zstd) decodes to about five times its size.
pub const EXPANSION: u64 = 5;

/// Bytes assumed for one value of a type without a fixed width.
const VARIABLE_WIDTH_BYTES: usize = 32;

/// Memory that is held, and its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Operator that holds most of it.
    pub what: String,
    pub bytes: u64,
}

/// Lists the memory that operators of a plan are expected to hold. For a stage it is the same for all packings.
pub fn held_by(plan: &Arc<dyn ExecutionPlan>) -> Vec<MemoryNeed> {
    let mut needs = Vec::new();
    collect(plan, &mut needs);
    needs
}

/// Sums up the memory that the coordinator is expected to hold for `plan`, named after its largest part.
pub fn coordinator_need(plan: &Arc<dyn ExecutionPlan>) -> MemoryNeed {
    sum(held_by(plan))
}

/// Sums up the bytes that the coordinator is expected to hold for `plan` in operators that cannot spill: the sides of joins that are held. What
/// sorts and aggregates hold beyond their bounds, they write to files.
pub fn unspillable_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let children = plan.children();
    let held = children.first().filter(|_| is_join(plan)).map_or(0, |held| output_bytes(held));
    children.into_iter().fold(held, |sum, child| sum.saturating_add(unspillable_bytes(child)))
}

fn is_join(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<HashJoinExec>() || plan.is::<CrossJoinExec>() || plan.is::<NestedLoopJoinExec>()
}

/// Sums up the memory that the heaviest fragment of a stage is expected to hold. Its plan's operators hold `held`.
pub fn fragment_need(stage: &Stage, held: &[MemoryNeed]) -> MemoryNeed {
    let fragments = 0..stage.fragments.len();
    let weight = |fragment: usize| match stage.is_over_parts() {
        true => stage.load.fragments.get(fragment).map_or(0, |load| load.weight_bytes),
        false => stage.fragment_weight_bytes(fragment),
    };
    let heaviest = fragments.map(weight).max().unwrap_or_default();
    let unit = stage.units.iter().map(|unit| unit.weight_bytes).max().unwrap_or_default();
    let lanes = stage.fragments.iter().map(|fragment| fragment.lanes.len()).max().unwrap_or_default() as u64;
    let mut needs =
        vec![MemoryNeed { what: "decoding row groups".to_owned(), bytes: (lanes * unit).min(heaviest) * EXPANSION }];
    // A join holds rows that the fragment does not scan.
    let held_max = heaviest * EXPANSION + stage.broadcasts.iter().flatten().sum::<u64>();
    needs.extend(held.iter().map(|need| MemoryNeed { what: need.what.clone(), bytes: need.bytes.min(held_max) }));
    sum(needs)
}

fn sum(needs: Vec<MemoryNeed>) -> MemoryNeed {
    let bytes = needs.iter().map(|need| need.bytes).sum();
    let largest = needs.into_iter().max_by_key(|need| need.bytes);
    MemoryNeed { what: largest.map_or_else(|| "nothing held".to_owned(), |need| need.what), bytes }
}

fn collect(plan: &Arc<dyn ExecutionPlan>, needs: &mut Vec<MemoryNeed>) {
    let children = plan.children();
    let is_sort = plan.is::<SortExec>() && plan.fetch().is_none();
    let held: Option<&Arc<dyn ExecutionPlan>> = if is_join(plan) || is_sort {
        children.first().copied()
    } else if plan.is::<AggregateExec>() {
        // An aggregate holds its groups, not its input: as many as it is expected to put out.
        Some(plan)
    } else {
        None
    };
    if let Some(held) = held {
        needs.push(MemoryNeed { what: plan.name().to_owned(), bytes: output_bytes(held) });
    }
    for child in children {
        collect(child, needs);
    }
}

fn output_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    expected_bytes(plan).unwrap_or_default()
}

/// Returns the bytes in memory that a plan is expected to put out in all. None where no statistics tell.
pub fn expected_bytes(plan: &Arc<dyn ExecutionPlan>) -> Option<u64> {
    Sizes::default().bytes(plan)
}

pub(in crate::planner) fn row_bytes(schema: &Schema) -> usize {
    let width = |data_type: &DataType| data_type.primitive_width().unwrap_or(VARIABLE_WIDTH_BYTES);
    schema.fields().iter().map(|field| width(field.data_type())).sum()
}
