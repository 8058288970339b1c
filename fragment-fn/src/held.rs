//! Memory of rows that an operator holds without asking the pool for it: a window over whole partitions keeps all rows of its input, and copies them into one batch
//! (DataFusion 55.2, `WindowAggExec`). The platform would kill the function; so an error names the operator.
//!
//! ```text
//!  WindowAggExec                WindowAggExec
//!    └─► sort            ─►       └─► HeldRowsExec: each batch counts in the pool until the plan is dropped, at the end once more
//!                                       └─► sort
//! ```
//!
//! Non-goals: `BoundedWindowAggExec`, which holds the rows that its frames need, and the columns that a window adds.

use std::fmt::Formatter;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::WindowAggExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties, replace_children_if_necessary,
};
use futures::TryStreamExt;
use futures::stream::try_unfold;

/// Returns the bytes that a batch's own rows have in memory. Batches may share buffers, all of which count for nested columns.
pub fn own_bytes(batch: &RecordBatch) -> usize {
    let of_column = |column: &Arc<dyn Array>| {
        if column.data_type().is_nested() {
            return column.get_array_memory_size();
        }
        let own = column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
        own + match column.data_type() {
            DataType::Utf8View => column.as_string_view().total_buffer_bytes_used(),
            DataType::BinaryView => column.as_binary_view().total_buffer_bytes_used(),
            _ => 0,
        }
    };
    batch.columns().iter().map(of_column).sum()
}

/// Has the rows counted that the operators of a plan hold.
///
/// # Errors
/// DataFusion's, of an operator that cannot be rebuilt.
pub(crate) fn with_held_rows(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let counted = |node: Arc<dyn ExecutionPlan>| {
        if !node.is::<WindowAggExec>() {
            return Ok(Transformed::no(node));
        }
        let counted = |input: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
            Arc::new(HeldRowsExec { input: Arc::clone(input), held: OnceLock::new() })
        };
        let inputs: Vec<_> = node.children().into_iter().map(counted).collect();
        Ok(Transformed::yes(replace_children_if_necessary(node, inputs)?))
    };
    plan.transform_up(counted).data()
}

/// Input of an operator that holds its rows.
#[derive(Debug)]
struct HeldRowsExec {
    input: Arc<dyn ExecutionPlan>,
    /// Memory of the rows of all partitions.
    held: OnceLock<Arc<MemoryReservation>>,
}

/// Rows of one partition on their way.
struct HeldRows {
    rows: SendableRecordBatchStream,
    held: Arc<MemoryReservation>,
    /// Bytes of the rows that have gone up.
    bytes: usize,
}

impl HeldRows {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Some(batch) = self.rows.try_next().await? else {
            self.held.try_grow(self.bytes)?;
            return Ok(None);
        };
        let bytes = own_bytes(&batch);
        self.held.try_grow(bytes)?;
        self.bytes += bytes;
        Ok(Some(batch))
    }
}

impl DisplayAs for HeldRowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "HeldRowsExec")
    }
}

impl ExecutionPlan for HeldRowsExec {
    fn name(&self) -> &'static str {
        "HeldRowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = inputs.pop().ok_or_else(|| DataFusionError::Internal("held rows have no input".to_owned()))?;
        Ok(Arc::new(Self { input, held: OnceLock::new() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let register = || Arc::new(MemoryConsumer::new("WindowAggExec").register(context.memory_pool()));
        let held = Arc::clone(self.held.get_or_init(register));
        let rows = HeldRows { rows: self.input.execute(partition, Arc::clone(&context))?, held, bytes: 0 };
        let rows = try_unfold(rows, |mut rows| async move { Ok(rows.next().await?.map(|batch| (batch, rows))) });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::execute_stream;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// Runs a window over 100,000 rows of eight bytes, with so much memory.
    async fn windowed(memory_bytes: usize) -> Result<Vec<RecordBatch>> {
        let pool = Arc::new(GreedyMemoryPool::new(memory_bytes));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
        let context = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), runtime);
        let sql = "SELECT count(*), min(s), max(s) FROM (SELECT v, sum(v) OVER () AS s FROM \
                   (SELECT value AS v FROM generate_series(1, 100000)))";
        let plan = context.sql(sql).await?.create_physical_plan().await?;
        execute_stream(with_held_rows(plan)?, context.task_ctx())?.try_collect().await
    }

    #[tokio::test]
    async fn rows_of_a_window_count_in_the_pool() {
        let rows = windowed(64 << 20).await.expect("it fits");
        let value = |column: usize| rows[0].column(column).as_primitive::<arrow::datatypes::Int64Type>().value(0);
        assert_eq!([value(0), value(1), value(2)], [100_000, 5_000_050_000, 5_000_050_000]);
        let error = windowed(1 << 20).await.expect_err("it does not fit");
        assert!(error.to_string().contains("WindowAggExec"), "{error}");
    }
}
