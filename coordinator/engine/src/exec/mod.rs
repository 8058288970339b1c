//! Leaf of a coordinator plan: its rows come from a stage's fragments on functions.

use std::fmt::Formatter;
use std::sync::{Arc, Mutex};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use futures::{StreamExt, TryStreamExt};

mod digest;
mod publish;
mod query;
mod result_memory;
mod run;

pub use query::QueryContext;

use crate::planner::Stage;
use crate::scheduler::AttemptNumbers;
use run::{PartitionAnswers, StageRun};

/// Runs a stage's fragments on functions and yields their rows.
///
/// Output partition `p` of `n` gets fragments `p`, `p + n`, `p + 2n`, … in the order in which they finish. If the stage
/// is sorted, the partition merges them. All fragments start with the first partition that is executed. Dropping every
/// stream cancels the fragments that have not finished.
///
/// A [`QueryContext`] is needed as a session extension.
#[derive(Debug)]
pub struct RemoteFragmentExec {
    stage: Arc<Stage>,
    properties: Arc<PlanProperties>,
    /// Expected statistics of the stage's output. Nothing is exact, because operators above may still combine rows.
    statistics: Arc<Statistics>,
    latest_run: Mutex<LatestRun>,
    /// Attempt numbers over all runs, so that the attempts of one run differ from those of another.
    numbers: AttemptNumbers,
    metrics: ExecutionPlanMetricsSet,
}

/// Answers of each partition in the latest run of the stage, taken once. An operator that spills, or a recursive query,
/// may run its input again.
type LatestRun = Vec<Option<PartitionAnswers>>;

impl RemoteFragmentExec {
    /// Makes the leaf that takes the place of `subtree` in the coordinator's plan.
    pub fn new(stage: Arc<Stage>, subtree: &Arc<dyn ExecutionPlan>) -> Self {
        let statistics = StatisticsContext::new().compute(subtree.as_ref(), &StatisticsArgs::new());
        let statistics = statistics.map(|statistics| Arc::unwrap_or_clone(statistics).to_inexact());
        Self {
            numbers: AttemptNumbers::new(stage.fragments.len()),
            stage,
            properties: Arc::clone(subtree.properties()),
            statistics: Arc::new(statistics.unwrap_or_else(|_| Statistics::new_unknown(&subtree.schema()))),
            latest_run: Mutex::default(),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// Makes the leaf as a plan node, the form that the planner asks for.
    pub fn leaf(stage: Arc<Stage>, subtree: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self::new(stage, subtree))
    }

    pub fn stage(&self) -> &Arc<Stage> {
        &self.stage
    }

    fn partitions(&self) -> usize {
        self.properties.output_partitioning().partition_count()
    }

    /// Returns a partition's answers. The first call starts the stage, and a second call for the same partition starts
    /// it anew.
    fn answers(&self, partition: usize, query: &Arc<QueryContext>, context: &TaskContext) -> Result<PartitionAnswers> {
        let mut latest_run = self.latest_run.lock().expect("no holder panics");
        if latest_run.get(partition).is_none_or(Option::is_none) {
            *latest_run = StageRun::start(&self.stage, query, self.partitions(), &self.numbers, context)?;
        }
        let taken = latest_run.get_mut(partition).and_then(Option::take);
        taken.ok_or_else(|| {
            DataFusionError::Internal(format!("stage {} has no partition {partition}", self.stage.index))
        })
    }
}

fn query_context(context: &TaskContext) -> Result<Arc<QueryContext>> {
    context
        .session_config()
        .get_extension::<QueryContext>()
        .ok_or_else(|| DataFusionError::Internal("a plan with remote fragments was run outside a query".to_owned()))
}

impl DisplayAs for RemoteFragmentExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        let fragments = self.stage.fragments.len();
        write!(f, "RemoteFragmentExec: stage={}, fragments={fragments}", self.stage.index)?;
        if let Some(order) = self.properties.output_ordering().filter(|_| self.stage.sorted) {
            write!(f, ", merged=[{order}]")?;
        }
        Ok(())
    }
}

impl ExecutionPlan for RemoteFragmentExec {
    fn name(&self) -> &str {
        "RemoteFragmentExec"
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

    /// Makes a leaf that starts the stage anew: a recursive query runs its plan again. Attempts go on being counted.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self {
            stage: Arc::clone(&self.stage),
            properties: Arc::clone(&self.properties),
            statistics: Arc::clone(&self.statistics),
            latest_run: Mutex::default(),
            numbers: self.numbers.clone(),
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let query = query_context(&context)?;
        let answers = self.answers(partition, &query, &context)?;
        let schema = self.schema();
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let order = self.properties.output_ordering().filter(|_| self.stage.sorted);
        if let Some(order) = order {
            let mut streams = answers.each_fragment(&query, &schema);
            // DataFusion refuses a merge of no streams, and a merge of one is a detour.
            if streams.len() < 2 {
                return Ok(streams.pop().unwrap_or_else(|| Box::pin(EmptyRecordBatchStream::new(schema))));
            }
            let reservation = datafusion::execution::memory_pool::MemoryConsumer::new("remote fragment merge")
                .register(context.memory_pool());
            return StreamingMergeBuilder::new()
                .with_streams(streams)
                .with_schema(schema)
                .with_expressions(order)
                .with_metrics(metrics)
                .with_batch_size(context.session_config().batch_size())
                .with_reservation(reservation)
                .build();
        }
        let counted = answers.in_any_order(&query, &schema).inspect_ok(move |batch| {
            batch.record_output(&metrics);
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted.boxed())))
    }

    fn statistics_from_inputs(&self, _: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        match args.partition() {
            None => Ok(Arc::clone(&self.statistics)),
            Some(_) => Ok(Arc::new(Statistics::new_unknown(&self.schema()))),
        }
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
