//! Leaf of a fragment's plan whose rows the coordinator has gathered: the build side of a join, the same for all fragments.
//!
//! ```text
//!  build side ─► rows ─► Arrow IPC stream ─► StagePlan::shared[input] ─► ExchangeExec { input } ─► HashJoinExec, build side
//! ```

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics, plan_err};
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};

use crate::exchange::ResultRows;

/// Leaf of one partition over rows that every fragment of a stage gets.
pub struct ExchangeExec {
    /// Position of its stream in [`crate::StagePlan::shared`].
    input: u32,
    properties: Arc<PlanProperties>,
    /// Expected statistics, which do not travel.
    statistics: Arc<Statistics>,
    /// Arrow IPC stream of its rows. None until the leaf is in a function.
    stream: Option<Bytes>,
}

impl ExchangeExec {
    /// Makes the leaf of a stream that will come.
    pub fn new(input: u32, schema: SchemaRef, statistics: Arc<Statistics>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { input, properties: Arc::new(properties), statistics, stream: None }
    }

    /// Returns the position of its stream in [`crate::StagePlan::shared`].
    pub fn input(&self) -> u32 {
        self.input
    }

    /// Makes the leaf with its stream among `shared`.
    pub(super) fn with_stream(&self, shared: &[Bytes]) -> Result<Self> {
        let Some(stream) = shared.get(self.input as usize) else {
            return plan_err!("the plan reads rows {}, the stage has {}", self.input, shared.len());
        };
        let leaf =
            Self { stream: Some(stream.clone()), ..Self::new(self.input, self.schema(), Arc::clone(&self.statistics)) };
        leaf.rows()?;
        Ok(leaf)
    }

    /// Opens the stream from its beginning.
    fn rows(&self) -> Result<ResultRows> {
        let Some(stream) = &self.stream else {
            return plan_err!("rows {} were read where they did not come", self.input);
        };
        let rows = ResultRows::of_stream(stream.clone()).map_err(|error| DataFusionError::External(Box::new(error)))?;
        match rows.has_types_of(&self.schema()) {
            true => Ok(rows),
            false => plan_err!("rows {} have other columns than the plan", self.input),
        }
    }
}

impl Debug for ExchangeExec {
    /// Names the stream's length, and not its rows.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let bytes = self.stream.as_ref().map(Bytes::len);
        f.debug_struct("ExchangeExec").field("input", &self.input).field("bytes", &bytes).finish_non_exhaustive()
    }
}

impl DisplayAs for ExchangeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExchangeExec: broadcast={}", self.input)
    }
}

impl ExecutionPlan for ExchangeExec {
    fn name(&self) -> &'static str {
        "ExchangeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let encoded = MemoryConsumer::new(format!("rows {}", self.input)).register(context.memory_pool());
        encoded.try_grow(self.stream.as_ref().map_or(0, Bytes::len))?;
        let schema = self.schema();
        let under = Arc::clone(&schema);
        let batches = self.rows()?.map(move |batch| {
            // The encoded bytes are held until the last batch has gone up.
            let _held = &encoded;
            let batch = batch.map_err(|error| DataFusionError::External(Box::new(error)))?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            Ok(RecordBatch::try_new_with_options(Arc::clone(&under), batch.columns().to_vec(), &options)?)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches))))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::clone(&self.statistics))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use arrow::array::{ArrayRef, Int64Array, StringViewArray};
    use datafusion::common::{JoinType, NullEquality};
    use datafusion::physical_expr::expressions::col;
    use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
    use datafusion::physical_plan::{collect, displayable};
    use datafusion::prelude::SessionContext;

    use super::*;
    use crate::exchange::encode_stream;
    use crate::plan::{Rows, decode, encode_checked};

    static ROWS: LazyLock<RecordBatch> = LazyLock::new(|| {
        let keys: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let texts: ArrayRef = Arc::new(StringViewArray::from(vec!["one", "a text of more than twelve bytes", ""]));
        RecordBatch::try_from_iter([("k", keys), ("s", texts)]).expect("equal lengths")
    });

    fn leaf(input: u32) -> Arc<dyn ExecutionPlan> {
        let schema = ROWS.schema();
        let unknown = Arc::new(Statistics::new_unknown(&schema));
        Arc::new(ExchangeExec::new(input, schema, unknown))
    }

    /// Encodes a join of two leaves, and decodes it with these streams.
    fn received(null_equality: NullEquality, shared: &[Bytes]) -> Result<Arc<dyn ExecutionPlan>> {
        let (left, right) = (leaf(0), leaf(1));
        let on = vec![(col("k", &left.schema())?, col("k", &right.schema())?)];
        let mode = PartitionMode::CollectLeft;
        let join = HashJoinExec::try_new(
            left,
            right,
            on,
            None,
            &JoinType::Inner,
            Some(vec![1, 3]),
            mode,
            null_equality,
            false,
        )?;
        let sent = encode_checked(&(Arc::new(join) as _)).map_err(DataFusionError::Plan)?;
        let rows = Rows { shared, ..Rows::default() };
        decode(&sent, &SessionContext::new().task_ctx(), rows, &mut |_, scan| Ok(scan.clone()))
    }

    fn stream(rows: &RecordBatch) -> Bytes {
        encode_stream(&rows.schema(), std::slice::from_ref(rows)).expect("plain types").1
    }

    #[tokio::test]
    async fn a_join_of_rows_that_came_along_arrives_and_runs() {
        let shared = [stream(&ROWS), stream(&ROWS.slice(1, 2))];
        for (null_equality, expect) in [(NullEquality::NullEqualsNothing, 1), (NullEquality::NullEqualsNull, 2)] {
            let plan = received(null_equality, &shared).expect("it travels");
            let rows = collect(Arc::clone(&plan), SessionContext::new().task_ctx()).await.expect("rows");
            assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), expect);
            let text = displayable(plan.as_ref()).indent(false).to_string();
            assert!(text.contains("ExchangeExec: broadcast=1"), "{text}");
        }
    }

    #[tokio::test]
    async fn nothing_else_is_taken_for_the_rows() {
        let check = |shared: &[Bytes], expect: &str| {
            let error = received(NullEquality::NullEqualsNothing, shared).expect_err(expect).to_string();
            assert!(error.contains(expect), "{error}");
        };
        let whole = stream(&ROWS);
        check(&[], "reads rows 0, the stage has 0");
        check(std::slice::from_ref(&whole), "reads rows 1, the stage has 1");
        check(&[whole.clone(), stream(&ROWS.project(&[0]).expect("a column"))], "other columns than the plan");
        check(&[whole.clone(), Bytes::from_static(b"rows")], "arrow");
        let empty = stream(&ROWS.slice(0, 0));
        assert!(received(NullEquality::NullEqualsNothing, &[whole, empty]).is_ok());
        // A leaf without its rows is not run by mistake.
        let run = collect(leaf(0), SessionContext::new().task_ctx()).await.expect_err("no rows");
        assert!(run.to_string().contains("did not come"), "{run}");
    }
}
