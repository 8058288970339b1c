//! Rules around DataFusion's own: plans that DataFusion 55.2 runs wrongly are corrected, or refused when they are planned or run.
//!
//! - **Nested-loop joins** read their left side into memory. Where that does not fit, they run their left side again, from the start,
//!   into a file. The second run of a scan finds the queue of files that its partitions share already drained, so that rows vanish without
//!   a word. A stage would run on functions once more. Rows on the left without a match (LEFT, SEMI, ANTI and MARK joins) come
//!   once for each partition of the right side. See apache/datafusion 22641, 24676 and 24764. Here the left side is put under an
//!   operator that runs once and then says that memory does not suffice.
//! - **Piecewise merge joins**, which a setting turns on, lose rows with NULL and rows of small batches (24335, 24297, 24348).
//! - **Sort-merge joins** (FULL, with a filter) fail over columns without NULL: they show their filter rows that have no partner.
//!   Here the filter's columns may be NULL.
//! - **Sort-merge joins** (SEMI, ANTI, MARK) panic where a NaN is the last key of a batch, and do not know some types (25133; 25134
//!   corrects it for floats, not for times with a zone). Here such keys are compared by their bytes.
//!
//! Tests in `tests/tests/memory.rs` fail when one of them can go. Recursive queries reset their plan before each
//! turn, and with it the operator that runs once.

use std::fmt::Formatter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use arrow::datatypes::{DataType, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, JoinType, Result};
use datafusion::execution::memory_pool::MemoryLimit;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{PhysicalExprRef, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::statistics::ChildStats;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, replace_children_if_necessary,
};
use futures::TryStreamExt;
use gust_protocol::functions::{RowKey, scalar_named};
use humansize::{BINARY, format_size};

use crate::error::QueryError;
use crate::planner::forwarding::over_one_input;

/// First rule of all: DataFusion's rules after it see to the order and the partitions of a join's keys.
#[derive(Debug)]
pub struct ComparableKeys;

impl PhysicalOptimizerRule for ComparableKeys {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let config = Arc::new(config.clone());
        plan.transform_up(|node| match node.downcast_ref::<SortMergeJoinExec>() {
            Some(join) => with_comparable_keys(join, &config)
                .map(|corrected| corrected.map_or_else(|| Transformed::no(node), Transformed::yes)),
            None => Ok(Transformed::no(node)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "comparable_keys"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Makes the join over its keys' bytes. None where it compares them well.
fn with_comparable_keys(
    join: &SortMergeJoinExec,
    config: &Arc<ConfigOptions>,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    use JoinType::{Full, Inner, Left, Right};
    let schema = join.left().schema();
    let is_odd = |key: &PhysicalExprRef| Ok::<_, DataFusionError>(!is_compared(&key.data_type(&schema)?));
    let odd = join.on().iter().map(|(left, _)| is_odd(left)).collect::<Result<Vec<_>>>()?;
    let (true, false, Some(function)) =
        (odd.contains(&true), matches!(join.join_type(), Inner | Left | Right | Full), scalar_named(RowKey::NAME))
    else {
        return Ok(None);
    };
    let of = |key: &PhysicalExprRef, side: &Arc<dyn ExecutionPlan>| {
        let call = ScalarFunctionExpr::try_new(
            Arc::clone(function),
            vec![Arc::clone(key)],
            &side.schema(),
            Arc::clone(config),
        )?;
        Ok::<PhysicalExprRef, DataFusionError>(Arc::new(call))
    };
    let on = join.on().iter().zip(odd).map(|((left, right), odd)| match odd {
        true => Ok((of(left, join.left())?, of(right, join.right())?)),
        false => Ok((Arc::clone(left), Arc::clone(right))),
    });
    let (left, right, filter) = (Arc::clone(join.left()), Arc::clone(join.right()), join.filter().clone());
    let (on, sorted) = (on.collect::<Result<Vec<_>>>()?, join.sort_options().to_vec());
    let corrected =
        SortMergeJoinExec::try_new(left, right, on, filter, join.join_type(), sorted, join.null_equality())?;
    Ok(Some(Arc::new(corrected)))
}

/// Returns true if DataFusion's comparison of two rows knows the type, and has an order of all its values.
fn is_compared(key: &DataType) -> bool {
    use DataType::{Boolean, Date32, Date64, Decimal128, Timestamp};
    key.is_integer()
        || key.is_string()
        || matches!(key, Boolean | Date32 | Date64 | Decimal128(..) | Timestamp(_, None))
}

/// Last rule of all.
#[derive(Debug)]
pub struct RefuseUnsound;

impl PhysicalOptimizerRule for RefuseUnsound {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if node.is::<PiecewiseMergeJoinExec>() {
                return Err(QueryError::sql("piecewise merge joins lose rows in DataFusion 55.2")
                    .with_hint("RESET datafusion.optimizer.enable_piecewise_merge_join")
                    .into());
            }
            if let Some(join) = node.downcast_ref::<SortMergeJoinExec>() {
                return with_nullable_filter(join)
                    .map(|corrected| corrected.map_or_else(|| Transformed::no(node), Transformed::yes));
            }
            if !node.is::<NestedLoopJoinExec>() || node.children()[0].is::<OnceExec>() {
                return Ok(Transformed::no(node));
            }
            let (left, right) = (Arc::clone(node.children()[0]), Arc::clone(node.children()[1]));
            let children = vec![Arc::new(OnceExec::new(left)) as Arc<dyn ExecutionPlan>, right];
            Ok(Transformed::yes(replace_children_if_necessary(node, children)?))
        })
        .data()
    }

    fn name(&self) -> &str {
        "refuse_unsound"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Makes the join with a filter that may see NULL in every column. None where it may already, or there is no filter.
fn with_nullable_filter(join: &SortMergeJoinExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(filter) =
        join.filter().as_ref().filter(|filter| !filter.schema().fields().iter().all(|f| f.is_nullable()))
    else {
        return Ok(None);
    };
    let fields = filter.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let filter = JoinFilter::new(Arc::clone(filter.expression()), filter.column_indices().to_vec(), schema);
    let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
    let (on, sorted) = (join.on().to_vec(), join.sort_options().to_vec());
    let corrected =
        SortMergeJoinExec::try_new(left, right, on, Some(filter), join.join_type(), sorted, join.null_equality())?;
    Ok(Some(Arc::new(corrected)))
}

/// Operator that hands on its input's rows. A second run of a partition is refused, for it would only come because the first did not fit.
#[derive(Debug)]
pub struct OnceExec {
    input: Arc<dyn ExecutionPlan>,
    /// Number of runs of each partition.
    runs: Vec<AtomicUsize>,
    /// Bytes of the rows that were handed on.
    bytes: Arc<AtomicU64>,
}

impl OnceExec {
    pub fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        Self { input, runs: (0..partitions).map(|_| AtomicUsize::new(0)).collect(), bytes: Arc::default() }
    }

    fn refusal(&self, context: &TaskContext) -> DataFusionError {
        let size = |bytes: u64| format_size(bytes, BINARY);
        let of = match context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => format!(" of {} allowed", size(bytes as u64)),
            MemoryLimit::Infinite | MemoryLimit::Unknown => String::new(),
        };
        DataFusionError::ResourcesExhausted(format!(
            "the left side of a nested-loop join, which is held as a whole, does not fit: memory{of} was full when {} of it had been \
             read",
            size(self.bytes.load(Relaxed))
        ))
    }
}

impl DisplayAs for OnceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnceExec")
    }
}

impl ExecutionPlan for OnceExec {
    over_one_input!(input, |_, input| Self::new(input));

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    /// Makes it anew: a recursive query's next turn may run it once more.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(Arc::clone(&self.input))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if self.runs.get(partition).is_some_and(|runs| runs.fetch_add(1, Relaxed) > 0) {
            return Err(self.refusal(&context));
        }
        let bytes = Arc::clone(&self.bytes);
        let counted = self.input.execute(partition, context)?.inspect_ok(move |batch| {
            bytes.fetch_add(batch.get_array_memory_size() as u64, Relaxed);
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), counted)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }
}
