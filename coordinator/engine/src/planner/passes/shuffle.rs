//! Pass 4: exchanges by hash are marked whose both sides are functions: rows of equal keys meet in one function of another stage.
//!
//! ```text
//!  final aggregate                final aggregate          one stage of functions, each with some of the partitions
//!    └─► exchange by hash   ─►      └─► ShuffleExec        rows in the exchange, by partition
//!          └─► fragment                   └─► exchange by hash ─► fragment     another stage; the exchange says how its rows are parted
//! ```
//!
//! An operator over marks needs no rows but those of its own partition, as DataFusion planned it: the marks below one stage have one number of partitions, and
//! each fragment has the same partitions of all of them. The stage ends below an operator that asks nothing of its partitions.

use std::fmt::Formatter;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr, PlanProperties,
    replace_children_if_necessary,
};

use super::broadcast::{BroadcastExec, Joins, broadcasts, may_be_fragment};
use super::cut::{is_fragment, is_partition_local};
use crate::config::ShufflePlace;
use crate::planner::loads::memory::expected_bytes;

/// Rule of the exchanges between functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shuffles {
    pub place: ShufflePlace,
    /// Partitions of every exchange. None where they are chosen.
    pub partitions: Option<usize>,
}

impl Shuffles {
    /// Rule by which there are none.
    pub const NONE: Self = Self { place: ShufflePlace::Local, partitions: None };
}

/// Rules of the operators that functions do beside scans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageRules {
    pub joins: Joins,
    pub shuffles: Shuffles,
}

impl StageRules {
    /// Rules by which functions only scan.
    pub const SCANS: Self = Self { joins: Joins::LOCAL, shuffles: Shuffles::NONE };
}

/// Rule that has both sides of joins parted by their keys, before exchanges are put under joins. Joins stay as they are that functions do with copies of a
/// build side, and those that need one place: `NOT IN` over NULLs, and joins without an equality.
#[derive(Debug)]
pub struct PartitionJoins(pub StageRules);

impl PhysicalOptimizerRule for PartitionJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let StageRules { joins, shuffles } = self.0;
        if shuffles.place == ShufflePlace::Local {
            return Ok(plan);
        }
        plan.transform_up(|node| match node.downcast_ref::<HashJoinExec>() {
            Some(join) if is_parted(join, joins) => {
                Ok(Transformed::yes(join.builder().with_partition_mode(PartitionMode::Partitioned).build_exec()?))
            }
            _ => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "partition_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns true for a join of two sides that may be parted by its keys.
fn is_parted(join: &HashJoinExec, joins: Joins) -> bool {
    let is_broadcast = may_be_fragment(join.right()) && joins.takes(join);
    *join.partition_mode() == PartitionMode::CollectLeft && !join.null_aware && !join.on().is_empty() && !is_broadcast
}

/// Marks the exchanges between functions.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub fn shuffled(plan: &Arc<dyn ExecutionPlan>, shuffles: Shuffles) -> Result<Arc<dyn ExecutionPlan>> {
    if shuffles.place == ShufflePlace::Local {
        return Ok(Arc::clone(plan));
    }
    match keyed(plan)? {
        Some(keyed) => Ok(keyed),
        None => below(plan),
    }
}

/// Marks what lies below an operator that stays on the coordinator.
fn below(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    // These operators take rows from any partition. Others may want those of a key in one, which fragments do not keep together.
    let takes_any = plan.is::<CoalescePartitionsExec>()
        || plan.is::<SortPreservingMergeExec>()
        || plan.is::<RepartitionExec>()
        || plan.is::<UnionExec>();
    let mut children = Vec::new();
    for child in plan.children() {
        let stage = if takes_any { keyed(child)? } else { None };
        children.push(match stage {
            Some(stage) => stage,
            None => below(child)?,
        });
    }
    match children.is_empty() {
        true => Ok(Arc::clone(plan)),
        false => replace_children_if_necessary(Arc::clone(plan), children),
    }
}

/// Returns a plan with its marks, if all of it can be one stage over exchanges.
fn keyed(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(exchange) = plan.downcast_ref::<RepartitionExec>() {
        // An exchange that keeps an order merges, and the plan above relies on it.
        let keeps_order = exchange.preserve_order() || plan.output_ordering().is_some();
        let is_hash = matches!(exchange.partitioning(), Partitioning::Hash(..));
        if !is_hash || keeps_order || plan.schema().fields().iter().any(|field| shares_values(field.data_type())) {
            return Ok(None);
        }
        let Some(input) = producer(exchange.input())? else { return Ok(None) };
        let exchange = replace_children_if_necessary(Arc::clone(plan), vec![input])?;
        return Ok(Some(Arc::new(ShuffleExec::new(exchange))));
    }
    if !is_key_local(plan) {
        return Ok(None);
    }
    let mut children = Vec::new();
    for child in plan.children() {
        match keyed(child)? {
            Some(child) => children.push(child),
            None => return Ok(None),
        }
    }
    replace_children_if_necessary(Arc::clone(plan), children).map(Some)
}

/// Returns true if the rows of one partition share values of a column with the rows of all others. Each partition would have all values.
fn shares_values(data_type: &DataType) -> bool {
    fn is_shared(data_type: &DataType) -> bool {
        matches!(data_type, DataType::Utf8View | DataType::BinaryView) || shares_values(data_type)
    }
    match data_type {
        DataType::Dictionary(..) => true,
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => is_shared(field.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| is_shared(field.data_type())),
        DataType::Union(..) | DataType::RunEndEncoded(..) => true,
        _ => false,
    }
}

/// Returns the plan of functions that send rows to others, with its own marks. A build side that may turn out to be too large for functions leaves the rows
/// to the coordinator.
fn producer(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    match is_fragment(plan) && broadcasts(plan).is_empty() {
        true => Ok(Some(Arc::clone(plan))),
        false => keyed(plan),
    }
}

/// Returns true if an operator computes each partition of its inputs without the others, where rows of equal keys are in one partition.
fn is_key_local(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(join) = plan.downcast_ref::<HashJoinExec>() {
        return *join.partition_mode() == PartitionMode::Partitioned && !join.null_aware;
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let groups = aggregate.group_expr();
        return match aggregate.mode() {
            // A grouping set without keys has a row of its own, also over no rows: somebody has to make it.
            AggregateMode::Partial => {
                groups.is_empty() || groups.groups().iter().all(|nulls| nulls.iter().any(|is_null| !is_null))
            }
            AggregateMode::FinalPartitioned => !groups.is_empty(),
            // A grouping set may have no keys, and then has one row over all partitions.
            AggregateMode::SinglePartitioned => !groups.is_empty() && groups.is_single(),
            _ => false,
        };
    }
    if let Some(window) = plan.downcast_ref::<WindowAggExec>() {
        return !window.partition_keys().is_empty();
    }
    if let Some(window) = plan.downcast_ref::<BoundedWindowAggExec>() {
        return !window.partition_keys().is_empty();
    }
    plan.is::<SortMergeJoinExec>() || is_partition_local(plan)
}

/// Returns true if all leaves of a plan are marks, and every operator above them is local to a key's partition.
pub(super) fn is_keyed(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let children = plan.children();
    plan.is::<ShuffleExec>() || (!children.is_empty() && is_key_local(plan) && children.into_iter().all(is_keyed))
}

/// Returns true if a plan over files gives the same rows whenever it runs. A limit takes the rows that come first.
pub(super) fn is_determinate(plan: &Arc<dyn ExecutionPlan>) -> bool {
    let mut is_volatile = false;
    let visited = plan.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        is_volatile |= expr.exists(|part| Ok(part.is_volatile_node()))?;
        Ok(TreeNodeRecursion::Continue)
    });
    let limited = plan.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.limit_options().is_some());
    visited.is_ok()
        && !is_volatile
        && !limited
        && plan.fetch().is_none()
        && !plan.is::<LocalLimitExec>()
        && plan.children().into_iter().all(is_determinate)
}

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

/// An exchange by hash between functions. It gives its input's rows, so that a marked plan still runs on one node.
#[derive(Debug, Clone)]
pub struct ShuffleExec {
    /// The exchange, over the plan of its producers; or the leaf that runs them.
    input: Arc<dyn ExecutionPlan>,
    /// Keys by which rows are parted.
    keys: String,
    /// Bytes in memory that its rows are expected to have. None where no statistics tell.
    bytes: Option<u64>,
}

impl ShuffleExec {
    /// Makes the mark over an exchange by hash.
    pub fn new(exchange: Arc<dyn ExecutionPlan>) -> Self {
        let keys = match exchange.output_partitioning() {
            Partitioning::Hash(keys, _) => keys.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        let bytes = exchange.children().first().and_then(|input| expected_bytes(input));
        Self { input: exchange, keys, bytes }
    }

    pub fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }

    /// Returns the keys by which rows are parted, for EXPLAIN.
    pub fn keys(&self) -> &str {
        &self.keys
    }

    /// Returns the bytes in memory that its rows are expected to have. None where no statistics tell.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
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
    fn name(&self) -> &'static str {
        "ShuffleExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().ok_or_else(|| DataFusionError::Internal("a mark has no input".to_owned()))?;
        Ok(Arc::new(self.over(input)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        inputs.first().cloned().ok_or_else(|| DataFusionError::Internal("a mark has no input".to_owned()))
    }
}
