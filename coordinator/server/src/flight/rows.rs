//! Rows of a statement as a stream of Flight's messages. A client that drops the stream cancels the statement.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::utils::batches_to_flight_data;
use datafusion::common::ScalarValue;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::session::RunningStatement;
use gust_output::StreamError;
use gust_protocol::with_hint_line;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

use super::status::{of_error, of_failure, of_flight, of_full};
use crate::admission::Permit;
use crate::door::Door;
use crate::http::dollars;
use crate::plain::{PlainColumns, plain_schema};
use crate::run::{Asked, Done, Failure, Sink, dismissed, gone, of_output, panicked, run_with, spawn};
use crate::spool::Spool;
use crate::tokens::Principal;

/// Batches between the query and the client. A client that reads slowly holds the query up.
const BATCHES_QUEUED_MAX: usize = 2;

/// Bytes of a part of a batch, about.
const SLICE_BYTES: usize = 1 << 20;

pub(super) type Messages = std::pin::Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;

/// Part of a statement. The last one is an end or a failure.
enum Part {
    Started(Begun),
    Rows(RecordBatch),
    End(Done),
    Failed(Failure),
}

/// Facts that are known before the first row.
struct Begun {
    id: String,
    schema: SchemaRef,
    is_silent: bool,
}

struct Batches {
    parts: mpsc::Sender<Part>,
    /// Longest time in which a client reads nothing.
    stalled_max: Duration,
}

impl Sink for Batches {
    async fn take(&mut self, running: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
        let columns = PlainColumns::new(running.schema());
        // A client that has gone is heard of by `unwanted`.
        let begun = Begun { id: running.id().to_owned(), schema: columns.schema(), is_silent: running.is_silent() };
        drop(self.parts.send(Part::Started(begun)).await);
        let mut rows = 0;
        while let Some(batch) = running.next().await.map_err(StreamError::Query)? {
            rows += batch.num_rows() as u64;
            for batch in slices(&columns.conform(&batch)?) {
                // A client that reads nothing must outlive neither its patience nor the statement's time-out.
                let (stalled, deadline) = (Instant::now() + self.stalled_max, Instant::from(running.deadline()));
                let sent = tokio::time::timeout_at(stalled.min(deadline), self.parts.send(Part::Rows(batch))).await;
                if sent.is_err() {
                    let late = if deadline <= stalled { running.timed_out() } else { nobody_reads(self.stalled_max) };
                    return Err(StreamError::Query(late));
                }
            }
        }
        Ok(rows)
    }

    fn unwanted(&self) -> BoxFuture<'static, ()> {
        let parts = self.parts.clone();
        async move { parts.closed().await }.boxed()
    }
}

/// Cuts a batch, so that a client's time counts for parts that a slow one can read in it.
fn slices(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let bytes = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or_default();
    let (rows, bytes) = (batch.num_rows(), batch.columns().iter().map(bytes).sum::<usize>().max(1));
    let rows_max = (rows * SLICE_BYTES / bytes).max(1);
    (0..rows).step_by(rows_max).map(move |first| batch.slice(first, rows_max.min(rows - first)))
}

fn nobody_reads(stalled_max: Duration) -> QueryError {
    let message = format!("the client took no rows for {} s", stalled_max.as_secs());
    QueryError::new(ErrorKind::Interrupted, message)
}

/// Waits for the turn of statements, and starts them in a task of their own. They are cancelled when the receiver is dropped.
///
/// They hold their place among the results until their last part was taken, or its time has passed.
async fn start(
    door: &Arc<Door>,
    asked: Asked,
    values: Vec<ScalarValue>,
    place: Option<Permit>,
) -> Result<mpsc::Receiver<Part>, Status> {
    let asked = asked.admitted(door.base());
    let user = asked.principal.user.as_deref();
    let waiting = door.admission.queue(user.unwrap_or_default()).map_err(|full| of_full(&full))?;
    let permit = tokio::select! {
        permit = waiting.turn() => permit,
        () = door.dismissed(&asked.principal) => return Err(of_error(&dismissed())),
    };
    let (parts, receiver) = mpsc::channel(BATCHES_QUEUED_MAX);
    let of_task = Arc::clone(door);
    spawn(door, async move {
        let mut batches = Batches { parts, stalled_max: of_task.stalled_max };
        let ended = Box::pin(run_with(&of_task, asked, values, &mut batches)).await;
        // The next query may begin before this client has read its last rows.
        drop(permit);
        let last = batches.parts.send(ended.map_or_else(Part::Failed, Part::End));
        // A client that reads no more has not got all rows, and is told so if it ever does.
        drop(tokio::time::timeout(of_task.stalled_max, last).await);
        drop(place);
    });
    Ok(receiver)
}

/// Runs statements, and returns the messages of the last one's rows.
pub(super) async fn messages(door: &Arc<Door>, asked: Asked, values: Vec<ScalarValue>) -> Result<Messages, Status> {
    let place = door.results.take(asked.principal.user.as_deref().unwrap_or_default()).ok_or_else(busy)?;
    encoded(start(door, asked, values, Some(place)).await?).await
}

/// Returns the messages of rows that are kept. They hold their place among the results as others do.
pub(super) async fn kept(
    door: &Arc<Door>,
    principal: &Principal,
    done: Done,
    spool: Option<Spool>,
) -> Result<Messages, Status> {
    let place = door.results.take(principal.user.as_deref().unwrap_or_default()).ok_or_else(busy)?;
    let schema = spool.as_ref().map_or_else(|| Arc::new(Schema::empty()), |spool| Arc::clone(spool.schema()));
    let begun = Begun { id: done.id.clone(), schema, is_silent: done.is_silent };
    let (parts, receiver) = mpsc::channel(BATCHES_QUEUED_MAX);
    let (of_task, principal, unwanted) = (Arc::clone(door), principal.clone(), parts.clone());
    spawn(door, async move {
        let last = tokio::select! {
            sent = read(&parts, begun, spool, of_task.stalled_max) => sent.map_or_else(|error| Part::Failed(error.into()), |()| Part::End(done)),
            gone = gone(&of_task, &principal, async move { unwanted.closed().await }.boxed()) => Part::Failed(gone.into()),
        };
        drop(tokio::time::timeout(of_task.stalled_max, parts.send(last)).await);
        drop(place);
    });
    encoded(receiver).await
}

/// Sends kept rows, a page in memory at a time.
async fn read(
    parts: &mpsc::Sender<Part>,
    begun: Begun,
    spool: Option<Spool>,
    stalled_max: Duration,
) -> Result<(), QueryError> {
    let send = |part| tokio::time::timeout(stalled_max, parts.send(part));
    // A client that has gone is heard of by its channel.
    drop(send(Part::Started(begun)).await);
    let Some(spool) = spool else { return Ok(()) };
    for page in 0..spool.pages() {
        let of_page = spool.clone();
        let batches = tokio::task::spawn_blocking(move || of_page.page_batches(page).collect::<Result<Vec<_>, _>>());
        let batches = batches.await.map_err(|_| panicked())?.map_err(of_output)?;
        for batch in batches.iter().flat_map(slices) {
            if send(Part::Rows(batch)).await.is_err() {
                return Err(nobody_reads(stalled_max));
            }
        }
    }
    Ok(())
}

/// Encodes the parts of a statement, once it has begun to have rows. The first message has the id. The last one has no rows, and the id and
/// the dollars.
async fn encoded(mut parts: mpsc::Receiver<Part>) -> Result<Messages, Status> {
    let Begun { id, schema, is_silent } = match parts.recv().await {
        Some(Part::Started(begun)) => begun,
        Some(Part::Failed(failure)) => return Err(of_failure(failure)),
        Some(Part::Rows(_) | Part::End(_)) | None => return Err(lost()),
    };
    let done = Arc::new(Mutex::new(None));
    let told = Arc::clone(&done);
    let batches = stream::unfold(Some(parts), move |parts| {
        let told = Arc::clone(&told);
        async move {
            let mut parts = parts?;
            match parts.recv().await {
                Some(Part::Rows(batch)) => Some((Ok(batch), Some(parts))),
                Some(Part::End(done)) => {
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
                    None
                }
                Some(Part::Failed(failure)) => Some((Err(FlightError::from(of_failure(failure))), None)),
                Some(Part::Started(_)) | None => Some((Err(FlightError::from(lost())), None)),
            }
        }
    });
    let about = json!({ "query_id": id, "is_silent": is_silent }).to_string();
    let encoder = FlightDataEncoderBuilder::new().with_schema(Arc::clone(&schema)).with_metadata(about.into());
    let encoded = encoder.build(batches.fuse());
    let last = stream::once(async move {
        let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
        last(&schema, &done.ok_or_else(lost)?)
    });
    Ok(encoded.map_err(Status::from).chain(last).boxed())
}

/// Runs statements of which the last one has no rows. A query is cancelled.
pub(super) async fn update(door: &Arc<Door>, asked: Asked, values: Vec<ScalarValue>) -> Result<(), Status> {
    let mut parts = start(door, asked, values, None).await?;
    loop {
        match parts.recv().await {
            Some(Part::Started(Begun { is_silent: false, .. }) | Part::Rows(_)) => {
                let message = "the statement has rows, and an update shows none";
                return Err(Status::invalid_argument(with_hint_line(message, Some("send it as a query"))));
            }
            Some(Part::Started(_)) => {}
            Some(Part::End(_)) => return Ok(()),
            Some(Part::Failed(failure)) => return Err(of_failure(failure)),
            None => return Err(lost()),
        }
    }
}

fn lost() -> Status {
    Status::internal("the statement ended without an answer")
}

/// Makes the last message. Clients want a batch, which has no rows.
fn last(schema: &SchemaRef, done: &Done) -> Result<FlightData, Status> {
    // The encoder of messages makes none of a batch without rows.
    let empty = batches_to_flight_data(schema, vec![RecordBatch::new_empty(Arc::clone(schema))]).map_err(of_flight)?;
    let message = empty.into_iter().last().ok_or_else(lost)?;
    let about = json!({
        "query_id": done.id,
        "cost": dollars(&done.report),
        "report": done.report,
        "report_text": done.report.to_string(),
    });
    Ok(message.with_app_metadata(about.to_string()))
}

/// Returns the columns as the encoder of messages tells them: a client compares them with those of a FlightInfo.
pub(super) fn told(schema: &Schema) -> Result<SchemaRef, Status> {
    let rows = RecordBatch::new_empty(plain_schema(schema));
    let first = known(rows).next().now_or_never().flatten().ok_or_else(lost)??;
    Schema::try_from(&first).map(Arc::new).map_err(of_flight)
}

fn busy() -> Status {
    of_error(&QueryError::new(ErrorKind::Resources, "too many results wait for their readers").with_sqlstate("53300"))
}

/// Returns the messages of rows that are there already.
pub(super) fn known(batch: RecordBatch) -> Messages {
    let encoder = FlightDataEncoderBuilder::new().with_schema(batch.schema());
    encoder.build(stream::iter([Ok(batch)])).map_err(Status::from).boxed()
}
