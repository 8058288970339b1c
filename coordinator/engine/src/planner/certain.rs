//! What a planned query is sure to cost, whatever the rows are: for a cap, which refuses it before it runs.

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use gust_protocol::plan::scans;

use super::{PlannedQuery, Stage};

/// Work that is done whatever the rows are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Certain {
    pub fragments: u64,
    /// Files that functions read.
    pub files: u64,
}

/// A limit or a join may end a query before most of it has begun.
pub fn certain(planned: &PlannedQuery) -> Certain {
    let stages = planned.stages();
    if may_end_early(&planned.plan) {
        return Certain { fragments: stages.len().min(1) as u64, files: 0 };
    }
    Certain {
        fragments: stages.iter().map(|stage| stage.fragments.len() as u64).sum(),
        files: stages.iter().filter(|stage| reads_every_file(stage)).map(|stage| stage.units.len() as u64).sum(),
    }
}

fn may_end_early(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut may = false;
    let walked = plan.apply(|node| {
        may |= node.fetch().is_some() || is_join(node);
        Ok(TreeNodeRecursion::Continue)
    });
    may || walked.is_err()
}

fn is_join(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<SymmetricHashJoinExec>()
        || node.is::<PiecewiseMergeJoinExec>()
}

/// Without a predicate no statistics spare a file, but rows without columns are counted in footers, which a function may know.
fn reads_every_file(stage: &Stage) -> bool {
    scans(&stage.plan).iter().all(|scan| {
        let source = scan.file_source();
        source.filter().is_none() && source.projection().is_some_and(|columns| !columns.column_indices().is_empty())
    })
}
