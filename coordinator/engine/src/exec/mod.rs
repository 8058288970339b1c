//! Leaf of a coordinator plan: its rows come from a stage's fragments on functions.

use std::fmt::Formatter;
use std::sync::{Arc, Mutex};

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, Partitioning};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet, RecordOutput};
use datafusion::physical_plan::sorts::streaming_merge::StreamingMergeBuilder;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::stream::{EmptyRecordBatchStream, RecordBatchStreamAdapter};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use futures::{StreamExt, TryFutureExt, TryStreamExt};

mod answers;
mod broadcast;
mod digest;
mod keys;
mod publish;
mod query;
mod result_memory;
mod run;
mod shuffle;

pub use query::QueryContext;

use crate::exchange::KeptParts;
use crate::planner::graph::RowsOrder;
use crate::planner::passes::broadcast::{broadcasts, with_broadcasts};
use crate::planner::passes::shuffle::{shuffles, with_shuffles};
use crate::planner::{BroadcastExec, Stage};
use crate::scheduler::{AttemptNumbers, ExpectedFragments};
use answers::PartitionAnswers;
use broadcast::{Joining, JoiningPlace, JoiningRun};
use run::StageRun;
use shuffle::fragments_most;

/// Runs a stage's fragments on functions and yields their rows.
///
/// Output partition `p` of `n` gets fragments `p`, `p + n`, `p + 2n`, … in the order in which they finish. If each fragment's rows are
/// sorted, the partition merges them, or has one fragment after the other where these have ranges. All fragments start with the first partition that is executed. Dropping every
/// stream cancels the fragments that have not finished.
///
/// A stage with joins has their build sides as children. They are gathered first, and all fragments get their rows
/// ([`broadcast`]). A stage over exchanges has the stages as children that leave rows for it, which are run to their end first ([`shuffle`]).
///
/// A [`QueryContext`] is needed as a session extension.
#[derive(Debug)]
pub struct RemoteFragmentExec {
    stage: Arc<Stage>,
    /// Subtree in whose place it stands, with marks over the build sides that it gets.
    subtree: Arc<dyn ExecutionPlan>,
    /// Build sides, in the order of the marks.
    builds: Vec<Arc<dyn ExecutionPlan>>,
    /// Stages that leave rows for it in the exchange, in the order of the marks.
    producers: Vec<Arc<dyn ExecutionPlan>>,
    properties: Arc<PlanProperties>,
    /// Expected statistics of the stage's output. Nothing is exact, because operators above may still combine rows.
    statistics: Arc<Statistics>,
    latest_run: Mutex<LatestRun>,
    /// Latest run, where it begins with build sides.
    latest_joining: Mutex<Option<Arc<JoiningRun>>>,
    /// Attempt numbers over all runs, so that the attempts of one run differ from those of another.
    numbers: AttemptNumbers,
    /// Those of the stage that may take its place, by its build sides.
    stand_in_numbers: AttemptNumbers,
    /// Fragments that the query's cap counts on for it, over all runs.
    expected: ExpectedFragments,
    /// Objects in which its functions leave the rows for a client. None where the rows come here.
    kept: Option<KeptParts>,
    metrics: ExecutionPlanMetricsSet,
}

/// Makes the rows of one partition from answers.
struct PartitionRows {
    schema: SchemaRef,
    /// Order in which the partition merges its fragments. None where it has one after the other.
    order: Option<LexOrdering>,
    /// True if it has them in their own order.
    in_order: bool,
    /// Objects of rows that stay in the exchange.
    kept: Option<KeptParts>,
    metrics: BaselineMetrics,
    query: Arc<QueryContext>,
    context: Arc<TaskContext>,
}

/// Merge of sorted streams, for each fragment of its pieces and for a partition of its fragments.
#[derive(Clone)]
struct Merge {
    order: LexOrdering,
    schema: SchemaRef,
    batch_size: usize,
    pool: Arc<dyn MemoryPool>,
}

impl Merge {
    fn merged(
        &self,
        mut streams: Vec<SendableRecordBatchStream>,
        metrics: BaselineMetrics,
    ) -> Result<SendableRecordBatchStream> {
        // DataFusion refuses a merge of no streams, and a merge of one is a detour.
        if streams.len() < 2 {
            return Ok(streams
                .pop()
                .unwrap_or_else(|| Box::pin(EmptyRecordBatchStream::new(Arc::clone(&self.schema)))));
        }
        let reservation = MemoryConsumer::new("remote fragment merge").register(&self.pool);
        StreamingMergeBuilder::new()
            .with_streams(streams)
            .with_schema(Arc::clone(&self.schema))
            .with_expressions(&self.order)
            .with_metrics(metrics)
            .with_batch_size(self.batch_size)
            .with_reservation(reservation)
            .build()
    }
}

impl PartitionRows {
    fn of_functions(self, answers: PartitionAnswers) -> Result<SendableRecordBatchStream> {
        let Self { schema, order, in_order, kept, metrics, query, context } = self;
        if let Some(kept) = kept {
            let rows = answers.kept(query, Arc::clone(&schema), kept);
            return Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)));
        }
        if let Some(order) = order {
            let batch_size = context.session_config().batch_size();
            let pool = Arc::clone(context.memory_pool());
            let merge = Merge { order, schema: Arc::clone(&schema), batch_size, pool };
            let streams = answers.each_fragment(&query, &schema, &merge);
            return merge.merged(streams, metrics);
        }
        let rows = match in_order {
            true => answers.in_order(&query, &schema),
            false => answers.in_any_order(&query, &schema),
        };
        let counted = rows.inspect_ok(move |batch| {
            batch.record_output(&metrics);
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, counted.boxed())))
    }
}

/// Makes the properties of the leaf. Rows of a stage over exchanges, or over aligned scans, come from any fragment to any partition, whatever their keys
/// are.
fn properties(stage: &Stage, subtree: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
    let properties = subtree.properties();
    match stage.is_over_parts() || stage.aligned.is_some() {
        true => {
            let partitions = Partitioning::UnknownPartitioning(properties.output_partitioning().partition_count());
            Arc::new(PlanProperties::clone(properties).with_partitioning(partitions))
        }
        false => Arc::clone(properties),
    }
}

fn no_partition(partition: usize) -> DataFusionError {
    DataFusionError::Internal(format!("a stage has no partition {partition}, or it was run twice"))
}

/// Answers of each partition in the latest run of the stage, taken once. An operator that spills, or a recursive query,
/// may run its input again.
type LatestRun = Vec<Option<PartitionAnswers>>;

impl RemoteFragmentExec {
    /// Makes the leaf that takes the place of `subtree` in the coordinator's plan.
    pub fn new(stage: Arc<Stage>, subtree: &Arc<dyn ExecutionPlan>) -> Self {
        // A stage over exchanges may have more fragments than planned.
        let more = if stage.is_over_parts() { fragments_most(&stage) } else { 0 };
        let numbers = AttemptNumbers::new(stage.fragments.len().max(more));
        let expected = ExpectedFragments::new(stage.fragments.len());
        Self::numbered(stage, subtree, numbers, expected)
    }

    /// Makes the leaf of a stage that may have run before, with these numbers.
    fn numbered(
        stage: Arc<Stage>,
        subtree: &Arc<dyn ExecutionPlan>,
        numbers: AttemptNumbers,
        expected: ExpectedFragments,
    ) -> Self {
        let statistics = StatisticsContext::new().compute(subtree.as_ref(), &StatisticsArgs::new());
        let statistics = statistics.map(|statistics| Arc::unwrap_or_clone(statistics).to_inexact());
        let stand_in_fragments = stage.stand_ins().map(|stand_in| stand_in.fragments.len());
        Self {
            numbers,
            expected,
            stand_in_numbers: AttemptNumbers::new(stand_in_fragments.max().unwrap_or(0)),
            builds: broadcasts(subtree).iter().map(|mark| Arc::clone(mark.input())).collect(),
            producers: shuffles(subtree).iter().map(|mark| Arc::clone(mark.input())).collect(),
            properties: properties(&stage, subtree),
            subtree: Arc::clone(subtree),
            stage,
            statistics: Arc::new(statistics.unwrap_or_else(|_| Statistics::new_unknown(&subtree.schema()))),
            latest_run: Mutex::default(),
            latest_joining: Mutex::default(),
            kept: None,
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

    /// Returns the leaf whose functions leave all rows in the exchange for a client. Its streams have a batch without rows for each object,
    /// which `kept` has then. Where build sides turn out to be too large for functions, `kept` has nothing any more, and the streams have the rows.
    pub fn keeping(&self, kept: KeptParts) -> Arc<dyn ExecutionPlan> {
        Arc::new(Self { stage: Arc::new(self.stage.keeping_rows()), kept: Some(kept), ..self.anew() })
    }

    /// Tells if its rows are those of its fragments, in any order.
    pub fn is_gathered(&self) -> bool {
        self.stage.order == RowsOrder::Any && self.stage.shuffle.partitions.is_none()
    }

    fn partitions(&self) -> usize {
        self.properties.output_partitioning().partition_count()
    }

    /// Returns a partition's answers. The first call starts the stage, and a second call for the same partition starts
    /// it anew.
    fn answers(&self, partition: usize, query: &Arc<QueryContext>, context: &TaskContext) -> Result<PartitionAnswers> {
        let mut latest_run = self.latest_run.lock().expect("no holder panics");
        if latest_run.get(partition).is_none_or(Option::is_none) {
            *latest_run =
                StageRun::start(&self.stage, query, self.partitions(), &self.numbers, context, Vec::new(), None)?;
        }
        latest_run.get_mut(partition).and_then(Option::take).ok_or_else(|| no_partition(partition))
    }

    /// Returns the run that a partition takes its rows from. The first call starts it, and a second call for the same
    /// partition starts it anew.
    fn joining(&self, partition: usize, rows: &PartitionRows) -> Result<Arc<JoiningRun>> {
        let mut latest = self.latest_joining.lock().expect("no holder panics");
        match &*latest {
            Some(run) if run.take(partition) => Ok(Arc::clone(run)),
            _ => {
                let joining = self.joining_in(&rows.query, &rows.context);
                let run = Arc::new(JoiningRun::start(joining, &self.builds, self.producers.clone())?);
                run.take(partition);
                *latest = Some(Arc::clone(&run));
                Ok(run)
            }
        }
    }

    /// Makes the start of the stage in a query.
    fn joining_in(&self, query: &Arc<QueryContext>, context: &Arc<TaskContext>) -> Joining {
        Joining {
            stage: Arc::clone(&self.stage),
            subtree: Arc::clone(&self.subtree),
            partitions: self.partitions(),
            numbers: self.numbers.clone(),
            stand_in_numbers: self.stand_in_numbers.clone(),
            expected: self.expected.clone(),
            query: Arc::clone(query),
            context: Arc::clone(context),
        }
    }

    /// Makes the same leaf before its first run.
    fn anew(&self) -> Self {
        Self {
            stage: Arc::clone(&self.stage),
            subtree: Arc::clone(&self.subtree),
            builds: self.builds.clone(),
            producers: self.producers.clone(),
            properties: Arc::clone(&self.properties),
            statistics: Arc::clone(&self.statistics),
            latest_run: Mutex::default(),
            latest_joining: Mutex::default(),
            numbers: self.numbers.clone(),
            stand_in_numbers: self.stand_in_numbers.clone(),
            expected: self.expected.clone(),
            kept: self.kept.clone(),
            metrics: ExecutionPlanMetricsSet::new(),
        }
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
        if let Some(order) = self.properties.output_ordering() {
            match self.stage.order {
                RowsOrder::Merged => write!(f, ", merged=[{order}]")?,
                RowsOrder::InOrder => write!(f, ", in order=[{order}]")?,
                RowsOrder::Any => {}
            }
        }
        if !self.builds.is_empty() {
            write!(f, ", broadcasts={}", self.builds.len())?;
        }
        if !self.producers.is_empty() {
            write!(f, ", shuffles={}", self.producers.len())?;
        }
        if let Some(partitions) = self.stage.shuffle.partitions {
            write!(f, ", partitions={partitions}")?;
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
        self.builds.iter().chain(&self.producers).collect()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut builds: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if builds.is_empty() {
            return Ok(self);
        }
        let missing = || DataFusionError::Internal(format!("an input of stage {} is missing", self.stage.index));
        if builds.len() != self.builds.len() + self.producers.len() {
            return Err(missing());
        }
        let producers = builds.split_off(self.builds.len());
        let over = |number: u32, mark: &BroadcastExec| {
            let build = builds.get(number as usize).ok_or_else(missing)?;
            Ok(Arc::new(mark.over(Arc::clone(build))) as Arc<dyn ExecutionPlan>)
        };
        let subtree = with_broadcasts(&self.subtree, &mut { over })?;
        let subtree = with_shuffles(&subtree, &mut |number, mark| {
            let producer = producers.get(number as usize).ok_or_else(missing)?;
            Ok(Arc::new(mark.over(Arc::clone(producer))))
        })?;
        Ok(Arc::new(Self { builds, producers, subtree, ..self.anew() }))
    }

    /// Makes a leaf that starts the stage anew: a recursive query runs its plan again. Attempts go on being counted.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.anew()))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let query = query_context(&context)?;
        let rows = PartitionRows {
            schema: self.schema(),
            order: self.properties.output_ordering().filter(|_| self.stage.order == RowsOrder::Merged).cloned(),
            in_order: self.stage.order == RowsOrder::InOrder,
            kept: self.kept.clone(),
            metrics: BaselineMetrics::new(&self.metrics, partition),
            query,
            context,
        };
        if self.stage.shuffle.partitions.is_some() {
            let stage = self.stage.index;
            return Err(DataFusionError::Internal(format!("the rows of stage {stage} go to functions, and not here")));
        }
        if self.builds.is_empty() && self.producers.is_empty() {
            let answers = self.answers(partition, &rows.query, &rows.context)?;
            return rows.of_functions(answers);
        }
        let run = self.joining(partition, &rows)?;
        let schema = Arc::clone(&rows.schema);
        let later = async move {
            match &*run.ready().await? {
                JoiningPlace::Functions(answers) => {
                    let answers = answers.lock().expect("no holder panics").get_mut(partition).and_then(Option::take);
                    rows.of_functions(answers.ok_or_else(|| no_partition(partition))?)
                }
                JoiningPlace::Here(plan) => {
                    if let Some(kept) = rows.kept {
                        *kept.lock().expect("no holder panics") = None;
                    }
                    plan.execute(partition, rows.context)
                }
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, later.try_flatten_stream().boxed())))
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
