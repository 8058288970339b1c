//! One attempt at a fragment: it is booked, runs as a task of its own, and its answer is awaited.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use gust_protocol::{AccessTable, FragmentErrorKind, FragmentId, FragmentResponse, InvokeRequest};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::{AttemptStamp, FragmentAttempts};
use crate::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind};
use crate::cap::Reservation;
use crate::events::AttemptCause;
use crate::scheduler::Query;
use crate::scheduler::limiter::Slot;

/// Time after an attempt's deadline until which its answer is awaited. Invokers answer within the deadline and a
/// second's grace.
const ANSWER_LATE_MAX: Duration = Duration::from_secs(2);

/// Right to start one attempt.
pub(super) struct Admitted {
    pub(super) slot: Slot,
    /// Money for the attempt, if the query has a cap.
    pub(super) reservation: Option<Reservation>,
    pub(super) access: AccessTable,
}

/// An attempt that has ended.
pub(super) struct EndedAttempt {
    pub(super) number: u32,
    /// True if the attempt had less time than its query.
    pub(super) cut_short: bool,
    pub(super) took: Duration,
    pub(super) invocation: Invocation,
}

impl FragmentAttempts {
    /// Books an attempt and starts it.
    pub(super) fn launch(
        &mut self,
        number: u32,
        Admitted { slot, reservation, access }: Admitted,
        cause: AttemptCause,
    ) -> BoxFuture<'static, EndedAttempt> {
        let (query, id) = (Arc::clone(self.query()), self.id.clone());
        self.launched += 1;
        let started = Instant::now();
        let paid_time = reservation.as_ref().map(Reservation::time);
        let time = [self.time(), paid_time].into_iter().flatten().min();
        let deadline = time.map_or(query.deadline, |time| query.deadline.min(started + time));
        let cut_short = deadline < query.deadline;
        let stamp = AttemptStamp { attempt: number, deadline_unix_ms: query.clock.unix_ms(deadline) };
        let request = (self.requests.request)(stamp, access);
        query.ledger.open(&id, number, cause, deadline);
        let reservation = reservation.map(Reservation::begun);
        query.scheduler.breaker.started();
        let (reply, answer) = oneshot::channel();
        let span = tracing::debug_span!("attempt", fragment = %id, number);
        let attempt = run(Arc::clone(&query), slot, reservation, id.clone(), number, request, reply);
        query.running.spawn(attempt.instrument(span));
        async move {
            let invocation = match timeout_at(deadline + ANSWER_LATE_MAX, answer).await {
                Ok(Ok(invocation)) => invocation,
                Ok(Err(_)) => {
                    without_answer(InvokeErrorKind::Unavailable, format!("fragment {id} was lost by its invoker"))
                }
                Err(_) => {
                    without_answer(InvokeErrorKind::TimedOut, format!("fragment {id} was not answered by its deadline"))
                }
            };
            EndedAttempt { number, cut_short, took: started.elapsed(), invocation }
        }
        .boxed()
    }
}

/// Runs the attempt itself. It goes on even if nothing waits for it.
async fn run(
    query: Arc<Query>,
    slot: Slot,
    reservation: Option<Reservation>,
    id: FragmentId,
    number: u32,
    request: InvokeRequest,
    reply: oneshot::Sender<Invocation>,
) {
    let scheduler = &query.scheduler;
    let invocation = scheduler.invoker.invoke(request).await;
    match &invocation.outcome {
        Ok(FragmentResponse { outcome: Ok(_), .. }) => scheduler.limiter.succeeded(),
        Ok(FragmentResponse { outcome: Err(error), .. }) if error.kind == FragmentErrorKind::StorageThrottled => {
            scheduler.limiter.throttled();
        }
        Err(error) if error.kind == InvokeErrorKind::Throttled => scheduler.limiter.throttled(),
        _ => {}
    }
    scheduler.breaker.note(&invocation);
    query.ledger.close(&id, number, &invocation);
    if let Some(reservation) = reservation {
        reservation.settle(&invocation);
    }
    drop(slot);
    // The receiver is gone if another attempt was faster or the query is over.
    let _ = reply.send(invocation);
}

/// Describes an attempt that was not heard of. It stays open in the ledger.
fn without_answer(kind: InvokeErrorKind, message: String) -> Invocation {
    let outcome = Err(InvokeError::new(kind, message));
    Invocation { outcome, billing: Billing::Bounded { at_most: Duration::ZERO }, cold: None, log_tail: String::new() }
}
