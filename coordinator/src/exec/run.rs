//! A running stage: its fragments' tasks, and the answers on their way to the operators above.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use gust_protocol::exchange::ExchangeError;
use gust_protocol::version::{PROTOCOL_VERSION, fingerprint};
use gust_protocol::{
    AccessTable, Fragment, FragmentId, FragmentResult, InvokeRequest, ObjectRef, Output, PlanRef, StagePlan, exchange,
};
use object_store::ObjectStoreExt;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::query::{Exchange, QueryContext};
use crate::event::QueryEvent;
use crate::planner::Stage;
use crate::planner::stage::EXCHANGE;
use crate::scheduler::{FragmentAttempts, FragmentFailure, StageAttempts};

/// The tasks of a stage; they are aborted when the last partition's answers are dropped.
#[derive(Debug)]
pub(super) struct StageRun {
    _tasks: JoinSet<()>,
}

/// A fragment's result and the attempt that it came from.
type Answer = std::result::Result<Answered, FragmentFailure>;

struct Answered {
    result: FragmentResult,
    attempt: u32,
    /// Where another result comes from if this one cannot be read.
    attempts: FragmentAttempts,
}

/// The answers of one output partition: a receiver for each of its fragments.
#[derive(Debug)]
pub(super) struct Answers {
    /// One channel a fragment where rows are merged, one for all where they are not.
    channels: Vec<mpsc::Receiver<Answer>>,
    run: Arc<StageRun>,
}

impl StageRun {
    /// Hands every fragment to the scheduler. Fragment `i` belongs to partition `i % partitions`; `run` counts from 0.
    pub(super) fn start(
        stage: &Arc<Stage>,
        query: &Arc<QueryContext>,
        partitions: usize,
        run: u32,
    ) -> Result<Vec<Option<Answers>>> {
        let fragments = stage.fragments.len();
        let bytes_planned = stage.weight_bytes();
        query.attempts.events().push(QueryEvent::StageStarted {
            stage: stage.index,
            fragments: fragments as u32,
            bytes_planned,
        });
        let output = Output::Gather { access: EXCHANGE, prefix: query.exchange.prefix.clone() };
        let plan = Arc::new(TravellingPlan {
            stage_plan: Arc::new(stage.stage_plan(output, query.options.clone())?),
            published: OnceCell::new(),
        });
        let expected = (0..fragments).map(|index| query.model.fragment_time(stage.fragment_weight_bytes(index)));
        let attempts = query.attempts.stage(expected.collect());
        let mut tasks = JoinSet::new();
        let mut channels: Vec<Vec<mpsc::Receiver<Answer>>> = (0..partitions).map(|_| Vec::new()).collect();
        let per_partition = fragments.div_ceil(partitions.max(1)).max(1);
        let shared: Vec<_> = (0..partitions).map(|_| mpsc::channel(per_partition)).collect();
        let (senders, receivers): (Vec<_>, Vec<_>) = shared.into_iter().unzip();
        for index in 0..fragments {
            let sender = if stage.sorted {
                let (sender, receiver) = mpsc::channel(1);
                channels[index % partitions].push(receiver);
                sender
            } else {
                senders[index % partitions].clone()
            };
            let (stage, query, plan, attempts) =
                (Arc::clone(stage), Arc::clone(query), Arc::clone(&plan), attempts.clone());
            tasks.spawn(async move {
                let answer = run_fragment(&stage, &query, &plan, &attempts, (index, run)).await;
                // Nobody listens any more where a LIMIT was reached.
                let _ = sender.send(answer).await;
            });
        }
        if !stage.sorted {
            channels = receivers.into_iter().map(|receiver| vec![receiver]).collect();
        }
        let run = Arc::new(StageRun { _tasks: tasks });
        Ok(channels.into_iter().map(|channels| Some(Answers { channels, run: Arc::clone(&run) })).collect())
    }
}

/// Encoded plans up to this length travel with every fragment; longer ones once, through the exchange.
///
/// Most are a few KB. Far below a request's 6 MB, for every fragment sends it again.
const PLAN_INLINE_BYTES_MAX: usize = 256 << 10;

/// A stage's plan on its way to the functions.
#[derive(Debug)]
struct TravellingPlan {
    stage_plan: Arc<StagePlan>,
    published: OnceCell<Arc<StagePlan>>,
}

impl TravellingPlan {
    /// The plan as requests carry it. The first fragment to ask writes a large one into the exchange.
    async fn published(
        &self,
        query: &QueryContext,
        id: &FragmentId,
    ) -> std::result::Result<&Arc<StagePlan>, FragmentFailure> {
        let plan = match &self.stage_plan.plan {
            PlanRef::Inline(plan) if plan.0.len() > PLAN_INLINE_BYTES_MAX => &plan.0,
            _ => return Ok(&self.stage_plan),
        };
        let publish = || async {
            let Exchange { prefix, store, .. } = &query.exchange;
            let path = exchange::plan_path(prefix, &id.query, id.stage);
            // Before it is written, so that it is not forgotten if the query ends meanwhile.
            query.attempts.events().push(QueryEvent::PlanPublished { stage: id.stage, bytes: plan.len() as u64 });
            store
                .put(&path, plan.clone().into())
                .await
                .map_err(|error| FragmentFailure::unpublished(id, &path, &error))?;
            let object = ObjectRef {
                access: EXCHANGE,
                path: path.to_string(),
                size_bytes: plan.len() as u64,
                etag: None,
                footer_bytes: None,
            };
            let plan = PlanRef::Object { object, crc32: crc32fast::hash(plan) };
            Ok(Arc::new(StagePlan { plan, ..StagePlan::clone(&self.stage_plan) }))
        };
        self.published.get_or_try_init(publish).await
    }
}

async fn run_fragment(
    stage: &Stage,
    query: &QueryContext,
    plan: &TravellingPlan,
    attempts: &StageAttempts,
    (index, run): (usize, u32),
) -> Answer {
    let id = FragmentId { query: query.id.clone(), stage: stage.index, index: index as u32 };
    let inputs = stage.inputs(index).map_err(|error| FragmentFailure::unplannable(id.clone(), &error))?;
    let plan = Arc::clone(plan.published(query, &id).await?);
    let limits = query.fragment_limits(stage.fragments.len());
    let plan_bytes = match &plan.plan {
        PlanRef::Inline(plan) => plan.0.len() as u64,
        PlanRef::Object { .. } => 0,
    };
    let bytes = limits.inline_bytes_max + plan_bytes;
    let fragment = Fragment { id: id.clone(), inputs, limits };
    let stores = [&stage.access, &query.exchange.access];
    let access = AccessTable(stores.map(|access| query.credentials.apply(access)).to_vec());
    let request = move |attempt, deadline_unix_ms| InvokeRequest {
        version: PROTOCOL_VERSION,
        fingerprint: fingerprint().to_owned(),
        fragment: fragment.clone(),
        attempt,
        deadline_unix_ms,
        access: access.clone(),
        stage: StagePlan::clone(&plan),
    };
    let mut attempts = attempts.fragment(id, run, bytes, request);
    let (result, attempt) = attempts.result().await?;
    Ok(Answered { result, attempt, attempts })
}

impl Answers {
    /// All rows of the partition, a fragment's as soon as it has finished.
    pub(super) fn in_any_order(
        self,
        query: &Arc<QueryContext>,
        schema: &SchemaRef,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let streams = self.channels.into_iter().map(|channel| rows(channel, Arc::clone(&self.run), query, schema));
        stream::iter(streams.collect::<Vec<_>>()).flatten().boxed()
    }

    /// The rows of each fragment of the partition by itself.
    pub(super) fn each_fragment(self, query: &Arc<QueryContext>, schema: &SchemaRef) -> Vec<SendableRecordBatchStream> {
        let stream = |channel| {
            let rows = rows(channel, Arc::clone(&self.run), query, schema);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(schema), rows)) as SendableRecordBatchStream
        };
        self.channels.into_iter().map(stream).collect()
    }
}

/// Adopts each answer that a channel brings: reads it, checks it, and yields its rows. Holds the stage's tasks alive.
fn rows(
    channel: mpsc::Receiver<Answer>,
    run: Arc<StageRun>,
    query: &Arc<QueryContext>,
    schema: &SchemaRef,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (query, schema) = (Arc::clone(query), Arc::clone(schema));
    let answers = stream::unfold((channel, run), |(mut channel, run)| async move {
        channel.recv().await.map(|answer| (answer, (channel, run)))
    });
    answers
        .then(move |answer| adopt(answer, Arc::clone(&query), Arc::clone(&schema)))
        .map_ok(|batches| stream::iter(batches.into_iter().map(Ok)))
        .try_flatten()
        .boxed()
}

/// Reads the one result of a fragment that is used. What is torn, swapped or gone is refused, and the fragment runs again.
async fn adopt(answer: Answer, query: Arc<QueryContext>, schema: SchemaRef) -> Result<Vec<RecordBatch>> {
    let external = |error: Box<dyn std::error::Error + Send + Sync>| DataFusionError::External(error);
    let Answered { mut result, mut attempt, mut attempts } = answer.map_err(|failure| external(Box::new(failure)))?;
    let (batches, part, inline, read) = loop {
        let reading = Instant::now();
        let part = *result.part();
        let inline = matches!(result, FragmentResult::Inline { .. });
        match exchange::read(attempts.id(), result, &schema, query.exchange.store.as_ref()).await {
            Ok(batches) => break (batches, part, inline, reading.elapsed()),
            // What a function is would not change.
            Err(error @ (ExchangeError::Arrow(_) | ExchangeError::Schema { .. })) => {
                return Err(external(Box::new(error)));
            }
            Err(error) => {
                let again = attempts.refuse(error.to_string()).await;
                (result, attempt) = again.map_err(|failure| external(Box::new(failure)))?;
            }
        }
    };
    query.attempts.events().push(QueryEvent::FragmentAdopted {
        id: attempts.id().clone(),
        attempt,
        rows: part.rows,
        result_bytes: part.bytes,
        inline,
        read,
    });
    batches.into_iter().map(|batch| under(&schema, &batch)).collect()
}

/// The batch under the stage's own field names and metadata.
fn under(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?)
}
