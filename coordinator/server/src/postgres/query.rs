//! A statement on its way: a task runs it, and its batches wait here for the client.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use gust_engine::error::{ErrorKind, QueryError};
use gust_engine::report::Report;
use gust_engine::session::{Recorder, RunningStatement, Session, Statement};
use gust_output::{OutputError, StreamError};
use tokio::sync::mpsc;

use crate::admission::Permit;
use crate::door::Door;
use crate::run::{Done, Failure, Sink, carry_out, spawn};
use crate::tokens::Principal;

/// Batches between the query and the client. A client that reads slowly holds the query up.
const BATCHES_QUEUED_MAX: usize = 2;

/// SQLSTATE code of PostgreSQL for a server that takes no more queries.
const TOO_MANY: &str = "53300";

/// Part of a statement. The last one is its end.
#[derive(Debug)]
pub(super) enum Part {
    Started { schema: SchemaRef, is_silent: bool },
    Rows(RecordBatch),
    Ended(Result<Box<Report>, QueryError>),
}

/// Statement that runs. It is cancelled when it is dropped.
#[derive(Debug)]
pub(super) struct Query {
    parts: mpsc::Receiver<Part>,
    permit: Arc<Mutex<Option<Permit>>>,
}

impl Query {
    /// Waits for a statement's turn, and starts it in a task of its own.
    ///
    /// # Errors
    /// Too many statements wait already.
    pub(super) async fn start(
        door: &Arc<Door>,
        principal: &Principal,
        session: &Session,
        statement: Statement,
    ) -> Result<Self, QueryError> {
        let permit = Arc::new(Mutex::new(Some(turn(door, principal).await?)));
        let (sender, parts) = mpsc::channel(BATCHES_QUEUED_MAX);
        let recorder = Recorder::new(session.clone());
        let (of_task, held) = (Arc::clone(door), Arc::clone(&permit));
        spawn(door, async move {
            let mut batches = Batches(sender);
            let ended = carry_out(&of_task, &recorder, statement, &mut batches).await;
            // The next query may begin before this client has read its last rows.
            release(&held);
            let ended = match ended {
                Ok(Done { report, .. }) => Ok(report),
                Err(Failure { error, .. }) => Err(error),
            };
            // Nobody reads it where the client has gone.
            drop(batches.0.send(Part::Ended(ended)).await);
        });
        Ok(Self { parts, permit })
    }

    /// Returns the next part.
    pub(super) async fn next(&mut self) -> Part {
        let fault = || QueryError::new(ErrorKind::Data, "the statement ended without an answer").with_sqlstate("XX000");
        self.parts.recv().await.unwrap_or_else(|| Part::Ended(Err(fault())))
    }

    /// Gives the right to run up, while the client does something else. The query is held up once its batches wait.
    pub(super) fn suspend(&self) {
        release(&self.permit);
    }

    /// Waits for the right to run again.
    ///
    /// # Errors
    /// Too many statements wait already.
    pub(super) async fn resume(&self, door: &Door, principal: &Principal) -> Result<(), QueryError> {
        if self.parts.is_closed() {
            return Ok(());
        }
        let permit = turn(door, principal).await?;
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        Ok(())
    }
}

fn release(permit: &Mutex<Option<Permit>>) {
    permit.lock().unwrap_or_else(PoisonError::into_inner).take();
}

async fn turn(door: &Door, principal: &Principal) -> Result<Permit, QueryError> {
    let queued = door.admission.queue(principal.user.as_deref().unwrap_or_default());
    let full = |why: crate::admission::Full| {
        QueryError::new(ErrorKind::Resources, why.to_string()).with_sqlstate(TOO_MANY).with_hint("try again later")
    };
    Ok(queued.map_err(full)?.turn().await)
}

/// Sink whose rows wait for the client as they are.
struct Batches(mpsc::Sender<Part>);

impl Batches {
    async fn send(&self, part: Part) -> Result<(), StreamError<QueryError>> {
        self.0.send(part).await.map_err(|_| OutputError::ReaderGone.into())
    }

    async fn send_all(&self, running: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
        let mut rows = 0;
        while let Some(batch) = running.next().await.map_err(StreamError::Query)? {
            rows += batch.num_rows() as u64;
            self.send(Part::Rows(batch)).await?;
        }
        Ok(rows)
    }
}

impl Sink for Batches {
    async fn take(&mut self, running: &mut RunningStatement) -> Result<u64, StreamError<QueryError>> {
        let (schema, is_silent) = (running.schema().clone(), running.is_silent());
        self.send(Part::Started { schema, is_silent }).await?;
        // A client that does not read must not outlive the statement's time-out either.
        let sent = tokio::time::timeout_at(running.deadline().into(), self.send_all(running)).await;
        sent.unwrap_or_else(|_| Err(StreamError::Query(running.timed_out())))
    }

    fn unwanted(&self) -> BoxFuture<'static, ()> {
        let parts = self.0.clone();
        async move { parts.closed().await }.boxed()
    }
}
