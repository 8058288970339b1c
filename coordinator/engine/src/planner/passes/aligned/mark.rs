//! Mark of a scan whose files are parted like those of the scans that it is joined with.

use std::fmt::Formatter;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::statistics::ChildStats;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};

use crate::planner::forwarding::{over_one_input, rows_of_input, without_input};
use crate::tables::facts::PartField;

/// An exchange by hash over one scan that functions do without: each has all files of some values of the partition fields, of all scans under one join, so
/// that equal keys meet as they would behind the exchange. It gives the exchange's rows, so that a marked plan still runs on one node.
#[derive(Debug, Clone)]
pub struct AlignedExec {
    exchange: Arc<dyn ExecutionPlan>,
    /// Fields by which the files are parted, in the order of the other scans' fields.
    fields: Arc<[PartField]>,
    /// Words for the fields and their values, the same for all scans under one join.
    told: Arc<str>,
}

impl AlignedExec {
    /// Makes the mark over an exchange.
    pub(super) fn new(exchange: Arc<dyn ExecutionPlan>, fields: Arc<[PartField]>, told: Arc<str>) -> Self {
        Self { exchange, fields, told }
    }

    /// Returns the fields by which the files are parted.
    pub fn fields(&self) -> &Arc<[PartField]> {
        &self.fields
    }

    /// Returns words for the fields and their values.
    pub fn told(&self) -> &Arc<str> {
        &self.told
    }

    /// Returns the scan with the operators above it, below the exchange.
    fn rows(&self) -> Result<Arc<dyn ExecutionPlan>> {
        match self.exchange.children()[..] {
            [rows] => Ok(Arc::clone(rows)),
            _ => Err(without_input()),
        }
    }
}

/// Lists the marks of a fragment, in the order of its scans.
pub fn aligned_scans(fragment: &Arc<dyn ExecutionPlan>) -> Vec<AlignedExec> {
    let mut found = Vec::new();
    let visited = fragment.apply(|node| {
        let Some(mark) = node.downcast_ref::<AlignedExec>() else { return Ok(TreeNodeRecursion::Continue) };
        found.push(mark.clone());
        Ok(TreeNodeRecursion::Jump)
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
    found
}

/// Makes the plan without marks and their exchanges, for functions, which get the files of whole partitions. On one node it would lose rows.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub fn without_marks(fragment: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let bare = |node: Arc<dyn ExecutionPlan>| match node.downcast_ref::<AlignedExec>() {
        Some(mark) => Ok(Transformed::new(mark.rows()?, true, TreeNodeRecursion::Jump)),
        None => Ok(Transformed::no(node)),
    };
    Arc::clone(fragment).transform_down(bare).data()
}

impl DisplayAs for AlignedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedExec: {}", self.told)
    }
}

impl ExecutionPlan for AlignedExec {
    over_one_input!(exchange, |mark, exchange| Self { exchange, ..mark.clone() });
    rows_of_input!(exchange);

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }
}
