//! Ends a statement: cleans its part of the exchange, counts its reads, and closes its event log.

use std::time::Duration;

use fragment_fn::ahead::AheadAccount;
use futures::future::{BoxFuture, join_all};
use tracing::Instrument;

use super::{RunningStatement, Session};
use crate::events::{AttemptOutcome, EventLog, QueryEvent, StampedEvent};
use crate::model::load::OwnUsage;
use crate::scheduler::QueryAttempts;
use crate::session::engine::CLEANING_MAX;

/// Longest wait for the end of a run that was dropped. An operator may compute for longer without a pause.
const ACCOUNT_MAX: Duration = Duration::from_millis(100);

/// Objects that a query's attempts leave in the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leftovers {
    /// True if attempts or published plans, deletes and rows wrote objects, or may have written some.
    exist: bool,
    /// True if an attempt still runs, and may write more.
    may_grow: bool,
}

impl Leftovers {
    /// Reads a query's events. An attempt that was cancelled may still run.
    fn of(events: &[StampedEvent]) -> Self {
        let (mut started, mut ended, mut wrote_nothing, mut published) = (0, 0, 0, false);
        for stamped in events {
            match &stamped.event {
                QueryEvent::PlanPublished { .. }
                | QueryEvent::DeletesPublished { .. }
                | QueryEvent::RowsBroadcast { inline: false, .. } => published = true,
                QueryEvent::AttemptStarted { .. } => started += 1,
                QueryEvent::AttemptEnded { outcome: AttemptOutcome::Cancelled, .. } => {}
                QueryEvent::AttemptEnded { outcome, .. } => {
                    ended += 1;
                    let nothing = matches!(outcome, AttemptOutcome::Done { usage, .. } if usage.bytes_written == 0);
                    wrote_nothing += usize::from(nothing);
                }
                _ => {}
            }
        }
        Self { exist: published || wrote_nothing < started, may_grow: ended < started }
    }
}

impl RunningStatement {
    /// Cleans up and closes the event log. Call it for a statement that succeeded, failed or was given up.
    ///
    /// Attempts that still run may write later. Their objects are removed when the last attempt has ended, or when the
    /// engine is closed.
    pub fn finish(self) -> BoxFuture<'static, EventLog> {
        Box::pin(async move {
            let span = self.events.span().clone();
            self.end().instrument(span).await
        })
    }

    async fn end(mut self) -> EventLog {
        self.unconfirmed = None;
        self.stream = None;
        if self.work.as_ref().is_some_and(|work| work.keeps_objects()) {
            // Another coordinator may read what is in the exchange. The one that ends the journal removes it.
            self.attempts.clear();
            self.session.engine.has_settled(&self.id);
        }
        let attempts: Vec<QueryAttempts> = self.attempts.drain(..).map(|closed| closed.0.clone()).collect();
        if !attempts.is_empty() {
            let leftovers = Leftovers::of(&self.events.snapshot());
            clean(self.session.clone(), self.id.clone(), attempts, leftovers).await;
        }
        let reads = own_reads(&self.session, &self.ahead).await;
        self.events.push(reads);
        // Rows of a query that is analyzed are never the statement's.
        let rows = if self.analyzing.is_some() { 0 } else { self.rows };
        self.events.push(QueryEvent::Finished { rows });
        self.events
    }
}

/// Counts the reads of a statement until now. Its run is over.
pub(super) async fn own_reads(session: &Session, ahead: &AheadAccount) -> QueryEvent {
    completed(ahead).await;
    let OwnUsage { all: mut usage, billed } = session.stores.own_usage();
    usage.ahead = ahead.usage();
    usage.late = ahead.late();
    usage.spans.waited_us = ahead.waited_us();
    QueryEvent::CoordinatorRead { usage, billed }
}

/// Waits until the account of what was read ahead is complete, for at most [`ACCOUNT_MAX`]. A run that was dropped ends in
/// its own time.
async fn completed(account: &AheadAccount) {
    if tokio::time::timeout(ACCOUNT_MAX, account.complete()).await.is_err() {
        tracing::debug!("the account of what was read ahead is not complete");
    }
}

/// Removes the objects of the attempts now, and again when the last attempt has ended.
async fn clean(session: Session, id: String, attempts: Vec<QueryAttempts>, leftovers: Leftovers) {
    let engine = session.engine.clone();
    let exchange = engine.exchange();
    // The engine's stores serve if the query's cannot be opened.
    let exchange = exchange.through(&session.stores).unwrap_or_else(|_| exchange.clone());
    if leftovers.exist {
        let (engine, query, exchange) = (engine.clone(), id.clone(), exchange.clone());
        let cleaning = session.engine.workers.run(async move { engine.clean(&query, &exchange).await });
        if tokio::time::timeout(CLEANING_MAX, cleaning).await.is_err() {
            tracing::warn!(query = id, "the exchange was not cleaned: every thread is busy");
        }
    }
    if !leftovers.may_grow {
        engine.has_settled(&id);
        return;
    }
    let workers = engine.workers.clone();
    let later = async move {
        join_all(attempts.iter().map(QueryAttempts::all_ended)).await;
        engine.clean(&id, &exchange).await;
        engine.has_settled(&id);
    };
    workers.handle().spawn(later.in_current_span());
}
