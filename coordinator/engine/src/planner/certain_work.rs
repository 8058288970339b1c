//! The work that a planned query is sure to take, whatever the rows are. A cap refuses a query by it before it runs.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use gust_protocol::plan::scans;

use super::{PlannedQuery, Stage};

/// Least work of a query, whatever the rows are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CertainWork {
    pub fragments: u64,
    /// Files that functions are sure to read.
    pub files: u64,
}

/// Counts the work that is certain. A limit or a join may end a query before most of it has begun.
pub fn certain_work(planned: &PlannedQuery) -> CertainWork {
    let stages = planned.stages();
    if may_end_early(&planned.plan) {
        return CertainWork { fragments: stages.len().min(1) as u64, files: 0 };
    }
    let files = |stage: &Stage| stage.units.len() as u64;
    let unsure = left_out_by_copies(stages);
    // A stage over exchanges may have nothing to read, and then has no fragments.
    let scanning = || stages.iter().filter(|stage| !stage.is_over_parts() && !unsure.contains(&stage.index));
    CertainWork {
        fragments: scanning().map(|stage| stage.fragments.len() as u64).sum(),
        files: scanning().filter(|stage| reads_every_file(stage)).map(|stage| files(stage)).sum(),
    }
}

/// Lists the stages that do not run where another takes the place of one that reads their rows: those below the last exchange.
fn left_out_by_copies(stages: &[Arc<Stage>]) -> Vec<u32> {
    let waiting = stages.iter().filter(|stage| stage.copies.is_some());
    let mut found: Vec<u32> = waiting.filter_map(|stage| stage.shuffle.producers.last().copied()).collect();
    // Producers come before the stages that read their rows.
    for stage in stages.iter().rev() {
        if found.contains(&stage.index) {
            found.extend(&stage.shuffle.producers);
        }
    }
    found
}

fn may_end_early(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut may = false;
    let walked = plan.apply(|node| {
        may |= node.fetch().is_some() || is_join(node);
        Ok(TreeNodeRecursion::Continue)
    });
    may || walked.is_err()
}

pub(super) fn is_join(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<SymmetricHashJoinExec>()
        || node.is::<PiecewiseMergeJoinExec>()
}

/// Returns true if a stage is sure to read each of its files. Without a predicate no statistics spare a file. Rows without columns are counted in
/// footers, which a function may know. A join without build rows reads nothing, and an aligned join only its build side.
fn reads_every_file(stage: &Stage) -> bool {
    stage.broadcasts.is_empty()
        && stage.aligned.is_none()
        && !scans(&stage.plan).is_empty()
        && scans(&stage.plan).iter().all(|scan| {
            let source = scan.file_source();
            source.filter().is_none() && source.projection().is_some_and(|columns| !columns.column_indices().is_empty())
        })
}
