//! Answers of a stage's fragments on their way to the operators above: results are read, checked, and read again where they are not what they should be.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use gust_protocol::exchange::{ExchangeError, ResultRows};
use gust_protocol::{FragmentResult, StreamSummary, exchange};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Instrument;

use super::Merge;
use super::query::QueryContext;
use super::result_memory::{ResultMemory, ResultReservation};
use super::run::{FragmentAnswer, StageRun, inline_bytes, refused};
use crate::events::QueryEvent;
use crate::exchange::{KeptPart, KeptParts};
use crate::scheduler::AttemptResult;

/// Results that are read in order at the same time, of which one goes up.
const IN_ORDER_AT_ONCE: usize = 2;

/// Answers of one output partition.
#[derive(Debug)]
pub(super) struct PartitionAnswers {
    /// Channels of the answers: one per fragment, in their order, if rows are sorted, else one for all fragments.
    pub(super) channels: Vec<mpsc::Receiver<Result<FragmentAnswer>>>,
    pub(super) run: Arc<StageRun>,
    pub(super) memory: Arc<ResultMemory>,
}

impl PartitionAnswers {
    /// Returns the answers themselves, of a stage whose rows go to other functions.
    pub(super) fn answers(self) -> BoxStream<'static, Result<FragmentAnswer>> {
        let Self { channels, run, .. } = self;
        stream::iter(channels.into_iter().map(move |channel| received_from(channel, Arc::clone(&run))))
            .flatten()
            .boxed()
    }

    /// Returns all rows of the partition, one fragment after the other in their order. The next result is read meanwhile.
    pub(super) fn in_order(
        self,
        query: &Arc<QueryContext>,
        schema: &SchemaRef,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let (memory, query, schema) = (Arc::clone(&self.memory), Arc::clone(query), Arc::clone(schema));
        let read = move |answer: Result<FragmentAnswer>| {
            let (memory, schema) = (Arc::clone(&memory), Arc::clone(&schema));
            let (span, query) = (query.attempts.events().span().clone(), Arc::clone(&query));
            let adopting = async move { Box::pin(adopt(answer?, memory, query, schema)).await };
            // A task of its own reads while rows of the result before it go up. It is aborted with the stream.
            let adopted = SpawnedTask::spawn(adopting.instrument(span));
            async move { adopted.join_unwind().await.map_err(|error| DataFusionError::External(Box::new(error)))? }
        };
        self.answers()
            .map(read)
            .buffered(IN_ORDER_AT_ONCE)
            .map_ok(|adopted| stream::iter(adopted.batches()))
            .try_flatten()
            .boxed()
    }

    /// Notes the objects of all answers, whose rows nobody reads here. Each is a batch of this schema without rows.
    pub(super) fn kept(
        self,
        query: Arc<QueryContext>,
        schema: SchemaRef,
        kept: KeptParts,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let noted = move |answer: Result<FragmentAnswer>| -> Result<RecordBatch> {
            note(&answer?, &query, &kept)?;
            Ok(RecordBatch::new_empty(Arc::clone(&schema)))
        };
        self.answers().map(noted).boxed()
    }

    /// Returns all rows of the partition, a fragment's as soon as it has finished.
    pub(super) fn in_any_order(
        self,
        query: &Arc<QueryContext>,
        schema: &SchemaRef,
    ) -> BoxStream<'static, Result<RecordBatch>> {
        let Self { channels, run, memory } = self;
        let streams = channels.into_iter().map(|channel| rows(channel, Arc::clone(&run), &memory, query, schema));
        stream::iter(streams.collect::<Vec<_>>()).flatten().boxed()
    }

    /// Returns the rows of each fragment of the partition by itself. The sorted rows of its pieces are merged.
    pub(super) fn each_fragment(
        self,
        query: &Arc<QueryContext>,
        schema: &SchemaRef,
        merge: &Merge,
    ) -> Vec<SendableRecordBatchStream> {
        let Self { channels, run, memory } = self;
        let stream = |channel| {
            let answers = received_from(channel, Arc::clone(&run));
            let (merge, memory, query, schema) =
                (merge.clone(), Arc::clone(&memory), Arc::clone(query), Arc::clone(schema));
            let own_schema = Arc::clone(&schema);
            let rows = async move {
                let pieces: Vec<FragmentAnswer> = answers.try_collect().await?;
                let rows = |piece| rows_of(piece, Arc::clone(&memory), Arc::clone(&query), Arc::clone(&schema));
                merge.merged(
                    pieces.into_iter().map(rows).collect(),
                    BaselineMetrics::new(&ExecutionPlanMetricsSet::new(), 0),
                )
            };
            let rows = rows.try_flatten_stream().boxed();
            Box::pin(RecordBatchStreamAdapter::new(own_schema, rows)) as SendableRecordBatchStream
        };
        channels.into_iter().map(stream).collect()
    }
}

/// Adopts each answer of a channel: reads it, checks it, and yields its rows. The stream keeps the stage's tasks alive.
fn rows(
    channel: mpsc::Receiver<Result<FragmentAnswer>>,
    run: Arc<StageRun>,
    memory: &Arc<ResultMemory>,
    query: &Arc<QueryContext>,
    schema: &SchemaRef,
) -> BoxStream<'static, Result<RecordBatch>> {
    let (memory, query, schema) = (Arc::clone(memory), Arc::clone(query), Arc::clone(schema));
    received_from(channel, run)
        .and_then(move |answer| adopt(answer, Arc::clone(&memory), Arc::clone(&query), Arc::clone(&schema)))
        .map_ok(|adopted| stream::iter(adopted.batches()))
        .try_flatten()
        .boxed()
}

/// Adopts one answer, and yields its rows.
fn rows_of(
    answer: FragmentAnswer,
    memory: Arc<ResultMemory>,
    query: Arc<QueryContext>,
    schema: SchemaRef,
) -> SendableRecordBatchStream {
    let adopted = stream::once(adopt(answer, memory, query, Arc::clone(&schema)));
    let rows = adopted.map_ok(|adopted| stream::iter(adopted.batches())).try_flatten().boxed();
    Box::pin(RecordBatchStreamAdapter::new(schema, rows))
}

/// Returns the answers of a channel. The stream keeps the stage's tasks alive.
fn received_from(
    channel: mpsc::Receiver<Result<FragmentAnswer>>,
    run: Arc<StageRun>,
) -> BoxStream<'static, Result<FragmentAnswer>> {
    let answers = stream::unfold((channel, run), |(mut channel, run)| async move {
        channel.recv().await.map(|answer| (answer, (channel, run)))
    });
    answers.boxed()
}

/// Rows of the result that counts for a fragment.
struct Adopted {
    rows: ResultRows,
    schema: SchemaRef,
    /// Memory of the encoded bytes. The next operator counts a batch that has gone up.
    reservation: ResultReservation,
}

impl Adopted {
    fn batches(self) -> impl Iterator<Item = Result<RecordBatch>> {
        let Self { rows, schema, reservation } = self;
        rows.map(move |batch| {
            // The reservation is held until the last batch has gone up.
            let _held = &reservation;
            with_schema(&schema, &batch.map_err(|error| DataFusionError::External(Box::new(error)))?)
        })
    }
}

/// Result that could be read, with its facts for the report.
struct ReadResult {
    rows: ResultRows,
    part: StreamSummary,
    /// True if the rows came with the answer itself.
    inline: bool,
    read: Duration,
}

/// Reads the one result of a fragment that is used. A result that is torn, swapped or gone is refused, and the fragment
/// runs again.
async fn adopt(
    answer: FragmentAnswer,
    memory: Arc<ResultMemory>,
    query: Arc<QueryContext>,
    schema: SchemaRef,
) -> Result<Adopted> {
    let FragmentAnswer { adopted, mut attempts, inline: mut reservation, received } = answer;
    let AttemptResult { mut result, mut attempt } = adopted;
    let ReadResult { rows, part, inline, read } = loop {
        let reading = Instant::now();
        let part = *result.part();
        let inline = matches!(result, FragmentResult::Inline { .. });
        if !inline {
            reservation = memory.hold(usize::try_from(part.bytes).unwrap_or(usize::MAX))?;
            query.attempts.pay_for_read(part.bytes).await.map_err(|over| DataFusionError::External(Box::new(over)))?;
        }
        match exchange::read(attempts.id(), result, &schema, query.exchange.store.as_ref()).await {
            Ok(rows) => break ReadResult { rows, part, inline, read: reading.elapsed() },
            // Another attempt of the same function would bring the same error.
            Err(error @ (ExchangeError::Arrow(_) | ExchangeError::Schema { .. })) => {
                return Err(DataFusionError::External(Box::new(error)));
            }
            Err(error) => {
                drop(reservation);
                let again = refused(&mut attempts, error.to_string(), received.as_deref(), &query).await?;
                AttemptResult { result, attempt } = again;
                reservation = memory.hold(inline_bytes(&result))?;
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
    Ok(Adopted { rows, schema, reservation })
}

/// Notes the object of a fragment's result, which a client reads.
fn note(answer: &FragmentAnswer, query: &QueryContext, kept: &KeptParts) -> Result<()> {
    let FragmentAnswer { adopted: AttemptResult { result, attempt }, attempts, .. } = answer;
    let part = KeptPart::of(result);
    let part = part.ok_or_else(|| DataFusionError::Internal(format!("{} has left no object", attempts.id())))?;
    query.attempts.events().push(QueryEvent::FragmentAdopted {
        id: attempts.id().clone(),
        attempt: *attempt,
        rows: part.rows,
        result_bytes: part.bytes,
        inline: false,
        read: Duration::ZERO,
    });
    let mut kept = kept.lock().expect("no holder panics");
    // Nobody would read the rows of the object where rows are returned, too.
    let parts = kept.as_mut();
    let parts = parts.ok_or_else(|| DataFusionError::Internal(format!("{} has left an object", attempts.id())))?;
    parts.push(part);
    Ok(())
}

/// Puts the batch under the stage's own field names and metadata.
pub(super) fn with_schema(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?)
}
