//! Mark of an exchange between functions.

use std::fmt::Formatter;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::physical_plan::statistics::ChildStats;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, replace_children_if_necessary,
};

use super::keys_text;
use crate::planner::forwarding::{over_one_input, rows_of_input};
use crate::planner::loads::memory::expected_bytes;
use crate::planner::passes::broadcast::BroadcastExec;

/// Lists the exchanges that a stage reads, in the order that numbers them.
pub fn shuffles(fragment: &Arc<dyn ExecutionPlan>) -> Vec<Arc<ShuffleExec>> {
    let mut found = Vec::new();
    let visited = fragment.apply(|node| {
        if let Some(mark) = node.downcast_ref::<ShuffleExec>() {
            found.push(Arc::new(mark.clone()));
            return Ok(TreeNodeRecursion::Jump);
        }
        Ok(if node.is::<BroadcastExec>() { TreeNodeRecursion::Jump } else { TreeNodeRecursion::Continue })
    });
    debug_assert!(visited.is_ok(), "the visit never fails");
    found
}

/// Maker of the plan that stands in the place of an exchange, by its number.
pub type InPlaceOfShuffle<'a> = dyn FnMut(u32, &ShuffleExec) -> Result<Arc<dyn ExecutionPlan>> + 'a;

/// Replaces each exchange that a stage reads, by its number.
///
/// # Errors
/// Those of `replace`, and DataFusion's.
pub fn with_shuffles(
    fragment: &Arc<dyn ExecutionPlan>,
    replace: &mut InPlaceOfShuffle<'_>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut number = 0;
    let replaced = Arc::clone(fragment).transform_down(|node| {
        if node.is::<BroadcastExec>() {
            return Ok(Transformed::new(node, false, TreeNodeRecursion::Jump));
        }
        let Some(mark) = node.downcast_ref::<ShuffleExec>() else { return Ok(Transformed::no(node)) };
        let replaced = replace(number, mark)?;
        number += 1;
        Ok(Transformed::new(replaced, true, TreeNodeRecursion::Jump))
    });
    replaced.data()
}

/// An exchange by hash, or by ranges, between functions. It gives its input's rows, so that a marked plan still runs on one node.
#[derive(Debug, Clone)]
pub struct ShuffleExec {
    /// The exchange, over the plan of its producers; or the leaf that runs them.
    input: Arc<dyn ExecutionPlan>,
    /// Keys by which rows are parted.
    keys: String,
    /// Number of ranges by which rows are parted. None where they are parted by hash.
    ranges: Option<usize>,
    /// Bytes in memory that its rows are expected to have. None where no statistics tell.
    bytes: Option<u64>,
    /// Reason to have it, for EXPLAIN.
    reason: Arc<str>,
    /// True if its reader makes fewer objects of its rows, and nothing else.
    is_combined: bool,
}

impl ShuffleExec {
    /// Makes the mark over an exchange by hash or by ranges.
    pub fn new(exchange: Arc<dyn ExecutionPlan>) -> Self {
        let (keys, ranges) = match exchange.output_partitioning() {
            Partitioning::Hash(keys, _) => (keys_text(keys), None),
            Partitioning::Range(ranges) => (ranges.ordering().to_string(), Some(ranges.partition_count())),
            other => (other.to_string(), None),
        };
        let bytes = exchange.children().first().and_then(|input| expected_bytes(input));
        Self { input: exchange, keys, ranges, bytes, reason: "".into(), is_combined: false }
    }

    /// Makes the mark of the same exchange over a stage that combines the objects of this one.
    ///
    /// # Errors
    /// DataFusion's.
    pub(super) fn combined(self) -> Result<Self> {
        let exchange = Arc::clone(&self.input);
        let below = Self { is_combined: true, ..self };
        let mark = Self { is_combined: false, ..below.clone() };
        Ok(mark.over(replace_children_if_necessary(exchange, vec![Arc::new(below)])?))
    }

    /// Returns true if its reader makes fewer objects of its rows, and nothing else.
    pub fn is_combined(&self) -> bool {
        self.is_combined
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// Returns the keys by which rows are parted, for EXPLAIN.
    pub fn keys(&self) -> &str {
        &self.keys
    }

    /// Returns the number of ranges by which rows are parted. None where they are parted by hash.
    pub fn ranges(&self) -> Option<usize> {
        self.ranges
    }

    /// Returns the bytes in memory that its rows are expected to have. None where no statistics tell.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Returns the reason to have it, for EXPLAIN.
    pub fn reason(&self) -> &Arc<str> {
        &self.reason
    }

    /// Makes the mark with a reason.
    pub(super) fn because(&self, reason: &Arc<str>) -> Self {
        Self { reason: Arc::clone(reason), ..self.clone() }
    }

    /// Makes the mark over another plan of the same rows.
    #[must_use]
    pub fn over(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input, ..self.clone() }
    }
}

impl DisplayAs for ShuffleExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShuffleExec: keys=[{}]", self.keys)
    }
}

impl ExecutionPlan for ShuffleExec {
    over_one_input!(input, Self::over);
    rows_of_input!(input);

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }
}
