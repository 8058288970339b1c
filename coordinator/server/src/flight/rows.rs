//! Rows of a statement as a stream of Flight's messages. A client that drops the stream cancels the statement.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
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
use crate::door::Door;
use crate::http::dollars;
use crate::plain::{PlainColumns, plain_schema};
use crate::run::{Asked, Done, Failure, Sink, dismissed, run_with, spawn};

/// Batches between the query and the client. A client that reads slowly holds the query up.
const BATCHES_QUEUED_MAX: usize = 2;

pub(super) type Messages = std::pin::Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;

/// Part of a statement. The last one is an end or a failure.
enum Part {
    Started { schema: SchemaRef, is_silent: bool },
    Rows(RecordBatch),
    End(Done),
    Failed(Failure),
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
        let (schema, is_silent) = (columns.schema(), running.is_silent());
        drop(self.parts.send(Part::Started { schema, is_silent }).await);
        let mut rows = 0;
        while let Some(batch) = running.next().await.map_err(StreamError::Query)? {
            rows += batch.num_rows() as u64;
            let batch = columns.conform(&batch)?;
            // A client that reads nothing must outlive neither its patience nor the statement's time-out.
            let (stalled, deadline) = (Instant::now() + self.stalled_max, Instant::from(running.deadline()));
            let sent = tokio::time::timeout_at(stalled.min(deadline), self.parts.send(Part::Rows(batch))).await;
            if sent.is_err() {
                let late = if deadline <= stalled { running.timed_out() } else { nobody_reads(self.stalled_max) };
                return Err(StreamError::Query(late));
            }
        }
        Ok(rows)
    }

    fn unwanted(&self) -> BoxFuture<'static, ()> {
        let parts = self.parts.clone();
        async move { parts.closed().await }.boxed()
    }
}

fn nobody_reads(stalled_max: Duration) -> QueryError {
    let message = format!("the client took no rows for {} s", stalled_max.as_secs());
    QueryError::new(ErrorKind::Interrupted, message)
}

/// Waits for the turn of statements, and starts them in a task of their own. They are cancelled when the receiver is dropped.
async fn start(door: &Arc<Door>, asked: Asked, values: Vec<ScalarValue>) -> Result<mpsc::Receiver<Part>, Status> {
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
    });
    Ok(receiver)
}

/// Runs statements, and returns the messages of the last one's rows. The last message has no rows, and the id and the dollars.
pub(super) async fn messages(door: &Arc<Door>, asked: Asked, values: Vec<ScalarValue>) -> Result<Messages, Status> {
    let place = door.results.queue(asked.principal.user.as_deref().unwrap_or_default());
    let place = place.ok().and_then(|waiting| waiting.turn().now_or_never()).ok_or_else(busy)?;
    let mut parts = start(door, asked, values).await?;
    let schema = match parts.recv().await {
        Some(Part::Started { schema, .. }) => schema,
        Some(Part::Failed(failure)) => return Err(of_failure(failure)),
        Some(Part::Rows(_) | Part::End(_)) | None => return Err(lost()),
    };
    let done = Arc::new(Mutex::new(None));
    let told = Arc::clone(&done);
    // The place is given back when the stream is dropped.
    let batches = stream::unfold(Some((parts, place)), move |parts| {
        let told = Arc::clone(&told);
        async move {
            let (mut parts, place) = parts?;
            match parts.recv().await {
                Some(Part::Rows(batch)) => Some((Ok(batch), Some((parts, place)))),
                Some(Part::End(done)) => {
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
                    None
                }
                Some(Part::Failed(failure)) => Some((Err(FlightError::from(of_failure(failure))), None)),
                Some(Part::Started { .. }) | None => Some((Err(FlightError::from(lost())), None)),
            }
        }
    });
    let encoded = FlightDataEncoderBuilder::new().with_schema(Arc::clone(&schema)).build(batches.fuse());
    let last = stream::once(async move {
        let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
        last(&schema, &done.ok_or_else(lost)?)
    });
    Ok(encoded.map_err(Status::from).chain(last).boxed())
}

/// Runs statements of which the last one has no rows. A query is cancelled.
pub(super) async fn update(door: &Arc<Door>, asked: Asked, values: Vec<ScalarValue>) -> Result<(), Status> {
    let mut parts = start(door, asked, values).await?;
    loop {
        match parts.recv().await {
            Some(Part::Started { is_silent: false, .. } | Part::Rows(_)) => {
                let message = "the statement has rows, and an update shows none";
                return Err(Status::invalid_argument(with_hint_line(message, Some("send it as a query"))));
            }
            Some(Part::Started { .. }) => {}
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
    let about = json!({ "query_id": done.id, "cost": dollars(&done.report), "report": done.report });
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
