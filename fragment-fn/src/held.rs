//! Memory of rows that an operator holds without asking the pool for it: a window over whole partitions keeps all rows of its input, and copies them into one batch
//! (DataFusion 55.2, `WindowAggExec`). The platform would kill the function; so an error names the operator.
//!
//! ```text
//!  WindowAggExec          HeldRowsExec (keeps): the rows of a lane count until the window's stream of it has ended, or is dropped
//!    └─► sort       ─►      └─► WindowAggExec
//!                                 └─► HeldRowsExec (counts): each batch counts in the pool, at the end once more
//!                                       └─► sort
//! ```
//!
//! The window lets go its input before it copies the rows, so that the stream above it has to keep their memory.
//!
//! A plan runs once at a time: both operators share the memory of a lane by its number, and so does a copy of the plan with other children. A function decodes a plan for each
//! fragment, and runs it once.
//!
//! Non-goals: `BoundedWindowAggExec`, which holds the rows that its frames need, and the columns that a window adds.

use std::collections::BTreeMap;
use std::fmt::Formatter;
use std::sync::{Arc, Mutex, OnceLock};

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
use futures::stream::try_unfold;
use futures::{StreamExt, TryStreamExt};

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
        let lanes = Arc::<HeldLanes>::default();
        let held = |input, part| -> Arc<dyn ExecutionPlan> {
            Arc::new(HeldRowsExec { input, part, lanes: Arc::clone(&lanes) })
        };
        let inputs = node.children().into_iter().map(|input| held(Arc::clone(input), HeldPart::Counts)).collect();
        Ok(Transformed::yes(held(replace_children_if_necessary(node, inputs)?, HeldPart::Keeps)))
    };
    plan.transform_up(counted).data()
}

/// Operator below or above one that holds its rows.
#[derive(Debug)]
struct HeldRowsExec {
    input: Arc<dyn ExecutionPlan>,
    part: HeldPart,
    /// Memory of the rows, which both operators share.
    lanes: Arc<HeldLanes>,
}

#[derive(Debug, Clone, Copy)]
enum HeldPart {
    /// It is the input, and counts the rows.
    Counts,
    /// It stands above, and keeps their memory.
    Keeps,
}

/// Memory of the rows of each lane, from its begin below the window to that above it.
#[derive(Debug, Default)]
struct HeldLanes {
    consumer: OnceLock<MemoryReservation>,
    begun: Mutex<BTreeMap<usize, Arc<MemoryReservation>>>,
}

impl HeldLanes {
    fn begin(&self, lane: usize, context: &TaskContext) -> Arc<MemoryReservation> {
        let register = || MemoryConsumer::new("WindowAggExec").register(context.memory_pool());
        let held = Arc::new(self.consumer.get_or_init(register).new_empty());
        self.begun.lock().expect("no holder panics").insert(lane, Arc::clone(&held));
        held
    }

    fn take(&self, lane: usize) -> Option<Arc<MemoryReservation>> {
        self.begun.lock().expect("no holder panics").remove(&lane)
    }
}

/// Rows of one lane on their way into the operator.
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
        Ok(Arc::new(Self { input, part: self.part, lanes: Arc::clone(&self.lanes) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = match self.part {
            HeldPart::Counts => {
                let held = self.lanes.begin(partition, &context);
                let rows = HeldRows { rows: self.input.execute(partition, context)?, held, bytes: 0 };
                let next = |mut rows: HeldRows| async move {
                    Ok::<_, DataFusionError>(rows.next().await?.map(|batch| (batch, rows)))
                };
                try_unfold(rows, next).boxed()
            }
            HeldPart::Keeps => {
                let rows = self.input.execute(partition, context)?;
                let kept = (rows, self.lanes.take(partition));
                // Both are dropped with the last row.
                let next = |(mut rows, held): (SendableRecordBatchStream, _)| async move {
                    Ok::<_, DataFusionError>(rows.try_next().await?.map(|batch| (batch, (rows, held))))
                };
                try_unfold(kept, next).boxed()
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::execute_stream;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// Makes the plan of a query over `numbers`, 100,000 rows of eight bytes, in one partition.
    async fn planned(sql: &str, pool: Arc<GreedyMemoryPool>) -> Result<(Arc<dyn ExecutionPlan>, Arc<TaskContext>)> {
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
        let context = SessionContext::new_with_config_rt(SessionConfig::new().with_target_partitions(1), runtime);
        let sql = sql.replace("numbers", "(SELECT value AS v FROM generate_series(1, 100000))");
        let plan = context.sql(&sql).await?.create_physical_plan().await?;
        Ok((with_held_rows(plan)?, context.task_ctx()))
    }

    /// Runs a window, with so much memory.
    async fn windowed(memory_bytes: usize) -> Result<Vec<RecordBatch>> {
        let sql = "SELECT count(*), min(s), max(s) FROM (SELECT v, sum(v) OVER () AS s FROM numbers)";
        let (plan, context) = planned(sql, Arc::new(GreedyMemoryPool::new(memory_bytes))).await?;
        execute_stream(plan, context)?.try_collect().await
    }

    #[tokio::test]
    async fn rows_of_a_window_count_in_the_pool() {
        let rows = windowed(64 << 20).await.expect("it fits");
        let value = |column: usize| rows[0].column(column).as_primitive::<arrow::datatypes::Int64Type>().value(0);
        assert_eq!([value(0), value(1), value(2)], [100_000, 5_000_050_000, 5_000_050_000]);
        let error = windowed(1 << 20).await.expect_err("it does not fit");
        assert!(error.to_string().contains("WindowAggExec"), "{error}");
    }

    #[tokio::test]
    async fn rows_are_let_go_when_their_window_has_ended_or_is_dropped() {
        for is_dropped in [false, true] {
            let pool = Arc::new(GreedyMemoryPool::new(64 << 20));
            let sql = "SELECT v, sum(v) OVER () AS s FROM numbers";
            let (plan, context) = planned(sql, Arc::clone(&pool)).await.expect("a plan");
            let mut rows = plan.execute(0, context).expect("one partition");
            assert!(rows.try_next().await.expect("rows").is_some());
            // The rows and their copy.
            assert!(pool.reserved() >= 2 * 8 * 100_000, "{}", pool.reserved());
            match is_dropped {
                true => drop(rows),
                false => while rows.try_next().await.expect("rows").is_some() {},
            }
            assert_eq!(pool.reserved(), 0, "{is_dropped}: the plan is still there: {plan:?}");
        }
    }
}
