//! A fragment and its attempts, until it has a result.

use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use gust_protocol::{FragmentErrorKind, FragmentId, FragmentResponse, FragmentResult, InvokeRequest};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::failure::{FailureCause, FragmentFailure};
use super::limiter::Slot;
use super::retry::{Remedy, failure_delays, throttle_delays};
use super::{AttemptNumbers, Query, StageAttempts};
use crate::attempt::{Billing, Invocation, InvokeError, InvokeErrorKind, WAITED_HINT};
use crate::cap::{AttemptRequest, AttemptWork, OverCap, Reservation};
use crate::events::AttemptCause;

/// Time after an attempt's deadline until which its answer is awaited. Invokers answer within the deadline and a
/// second's grace.
const ANSWER_LATE_MAX: Duration = Duration::from_secs(2);

/// Attempts that may start beside a slow one. Each starts when the newest attempt is slow, too.
const SPECULATIVE_MAX: u32 = 2;

type MakeRequest = Box<dyn Fn(u32, u64) -> InvokeRequest + Send + Sync>;

/// A fragment, and the state that its attempts share.
pub struct FragmentAttempts {
    stage: StageAttempts,
    id: FragmentId,
    bytes: u64,
    work: AttemptWork,
    request: MakeRequest,
    numbers: AttemptNumbers,
    /// Start of the fragment, before its first attempt.
    since: Instant,
    launched: u32,
    /// Failed attempts that count towards [`super::RetryPolicy::attempts_max`].
    failed: u32,
    /// Failed attempts that ran out of time.
    timed_out: u32,
    delays: ExponentialBackoff,
    throttle_delays: ExponentialBackoff,
    /// Failure of the latest attempt, and its log's end.
    last_failure: Option<(FailureCause, String)>,
}

impl std::fmt::Debug for FragmentAttempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FragmentAttempts").field("id", &self.id).field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// An attempt that has ended.
struct EndedAttempt {
    number: u32,
    /// True if the attempt had less time than its query.
    cut_short: bool,
    took: Duration,
    invocation: Invocation,
}

/// Next attempt's reason, and its wait for admission.
struct PendingAttempt {
    cause: AttemptCause,
    turn: BoxFuture<'static, Admission>,
}

/// Step after an attempt that failed.
enum NextTry {
    /// Another attempt, after a pause.
    After(Duration),
    /// Attempts that are under way may still succeed.
    Others,
    Never(GaveUp),
}

/// Reason why a fragment is not tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GaveUp {
    /// The fragment has no attempts left, it would fail again, or its query's time or money is spent.
    NothingHelps,
    /// The query has no retries left.
    BudgetSpent,
}

enum Admission {
    Granted(Slot, Option<Reservation>),
    /// The query's deadline came first.
    TooLate,
    /// The query's money does not suffice.
    TooDear(OverCap),
}

impl FragmentAttempts {
    pub(super) fn new(
        stage: StageAttempts,
        id: FragmentId,
        numbers: AttemptNumbers,
        (bytes, work): (u64, AttemptWork),
        request: MakeRequest,
        seed: u64,
    ) -> Self {
        Self {
            stage,
            id,
            bytes,
            work,
            request,
            numbers,
            since: Instant::now(),
            launched: 0,
            failed: 0,
            timed_out: 0,
            delays: failure_delays(seed),
            throttle_delays: throttle_delays(!seed),
            last_failure: None,
        }
    }

    pub fn id(&self) -> &FragmentId {
        &self.id
    }

    /// Runs until an attempt has a result, none can have one, or the future is dropped. Returns the result and its
    /// attempt's number.
    pub async fn result(&mut self) -> Result<(FragmentResult, u32), FragmentFailure> {
        let first = if self.launched == 0 { AttemptCause::First } else { AttemptCause::Retry };
        let mut waiting = self.wait(first, Duration::ZERO);
        let mut running = FuturesUnordered::new();
        let (mut newest_since, mut speculative) = (None, 0);
        let progress = Arc::clone(&self.stage.progress);
        let index = self.id.index as usize;
        loop {
            let may_speculate = waiting.is_none() && speculative < SPECULATIVE_MAX;
            let slow = async {
                match newest_since {
                    Some(since) if may_speculate => progress.slow(index, since).await,
                    _ => std::future::pending().await,
                }
            };
            let granted = async {
                match &mut waiting {
                    Some(waiting) => (&mut waiting.turn).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = running.next() => {
                    let EndedAttempt { number, cut_short, took, invocation } = ended;
                    let cause = match self.settle(invocation, number) {
                        Ok(result) => {
                            progress.done(index, took);
                            self.query().cap.iter().for_each(|cap| cap.fragment_done());
                            return Ok((result, number));
                        }
                        Err(cause) => cause,
                    };
                    let remedy = Remedy::of(&cause, cut_short && Instant::now() < self.query().deadline);
                    match self.next_try(remedy, !running.is_empty() || waiting.is_some()) {
                        NextTry::After(pause) => {
                            waiting = self.wait(AttemptCause::Retry, pause);
                            (newest_since, speculative) = (None, 0);
                        }
                        NextTry::Others => {}
                        NextTry::Never(why) => return Err(self.failure(why)),
                    }
                }
                turn = granted => {
                    let cause = waiting.take().map_or(AttemptCause::Retry, |waiting| waiting.cause);
                    match turn {
                        Admission::Granted(slot, reservation) => {
                            let Some(number) = self.numbers.next(self.id.index) else {
                                self.last_failure = Some((FailureCause::Result("there is no number left for another attempt".to_owned()), String::new()));
                                return Err(self.failure(GaveUp::NothingHelps));
                            };
                            newest_since = Some(Instant::now());
                            running.push(self.launch(number, (slot, reservation), cause));
                        }
                        Admission::TooDear(over) => return Err(self.too_dear(over)),
                        Admission::TooLate if running.is_empty() => return Err(self.failure(GaveUp::NothingHelps)),
                        Admission::TooLate => {}
                    }
                }
                () = slow => {
                    speculative += 1;
                    waiting = self.wait(AttemptCause::Speculative, Duration::ZERO);
                }
            }
        }
    }

    /// Refuses a result that could not be read as promised. The attempt counts as failed, and another is made.
    pub async fn refuse(&mut self, reason: String) -> Result<(FragmentResult, u32), FragmentFailure> {
        self.last_failure = Some((FailureCause::Result(reason), String::new()));
        self.query().cap.iter().for_each(|cap| cap.fragment_undone());
        match self.next_try(Remedy::Again, false) {
            NextTry::After(pause) => tokio::time::sleep(pause).await,
            NextTry::Others => {}
            NextTry::Never(why) => return Err(self.failure(why)),
        }
        self.result().await
    }

    fn query(&self) -> &Arc<Query> {
        &self.stage.query
    }

    /// Stands in line after a pause: for money if that is limited, and then for a slot. Returns None for a speculative
    /// attempt that cannot be paid for at once.
    fn wait(&self, cause: AttemptCause, pause: Duration) -> Option<PendingAttempt> {
        let query = Arc::clone(self.query());
        let bytes = self.bytes;
        let ask = self.ask();
        let paid = match (&query.cap, cause) {
            (Some(cap), AttemptCause::Speculative) => Some(cap.reserve_at_once(&ask)?),
            _ => None,
        };
        let turn = async move {
            let turn = async {
                tokio::time::sleep(pause).await;
                let reservation = match (&query.cap, paid) {
                    (Some(cap), None) => match cap.reserve(ask).await {
                        Ok(reservation) => Some(reservation),
                        Err(over) => return Admission::TooDear(over),
                    },
                    (_, paid) => paid,
                };
                let slot = query.scheduler.limiter.acquire(query.number, bytes, cause != AttemptCause::First).await;
                Admission::Granted(slot, reservation)
            };
            timeout_at(query.deadline, turn).await.unwrap_or(Admission::TooLate)
        };
        Some(PendingAttempt { cause, turn: turn.boxed() })
    }

    /// Returns the request for the next attempt's money.
    fn ask(&self) -> AttemptRequest {
        let left = self.query().deadline.saturating_duration_since(Instant::now());
        let time_max = self.time().map_or(left, |time| time.min(left));
        AttemptRequest { work: self.work, expected: self.expected(), time_max, timed_out: self.timed_out }
    }

    fn expected(&self) -> Duration {
        self.stage.expected.get(self.id.index as usize).copied().unwrap_or_default()
    }

    /// Returns the time for the next attempt; None gives it all that the query has left.
    fn time(&self) -> Option<Duration> {
        self.query().scheduler.retry.time(self.expected(), self.failed, self.timed_out)
    }

    /// Books an attempt and starts it.
    fn launch(
        &mut self,
        number: u32,
        (slot, paid): (Slot, Option<Reservation>),
        cause: AttemptCause,
    ) -> BoxFuture<'static, EndedAttempt> {
        let (query, id) = (Arc::clone(self.query()), self.id.clone());
        self.launched += 1;
        let started = Instant::now();
        let paid_time = paid.as_ref().map(Reservation::time);
        let time = [self.time(), paid_time].into_iter().flatten().min();
        let deadline = time.map_or(query.deadline, |time| query.deadline.min(started + time));
        let cut_short = deadline < query.deadline;
        let request = (self.request)(number, query.clock.unix_ms(deadline));
        query.ledger.open(&id, number, cause, deadline);
        let paid = paid.map(Reservation::begun);
        query.scheduler.health.started();
        let (reply, answer) = oneshot::channel();
        let span = tracing::debug_span!("attempt", fragment = %id, number);
        let attempt = run(Arc::clone(&query), (slot, paid), id.clone(), number, request, reply);
        query.running.spawn(attempt.instrument(span));
        async move {
            let invocation = match timeout_at(deadline + ANSWER_LATE_MAX, answer).await {
                Ok(Ok(invocation)) => invocation,
                Ok(Err(_)) => lost(InvokeErrorKind::Unavailable, format!("fragment {id} was lost by its invoker")),
                Err(_) => lost(InvokeErrorKind::TimedOut, format!("fragment {id} was not answered by its deadline")),
            };
            EndedAttempt { number, cut_short, took: started.elapsed(), invocation }
        }
        .boxed()
    }

    /// Checks that an answer belongs to its request.
    fn settle(&mut self, invocation: Invocation, number: u32) -> Result<FragmentResult, FailureCause> {
        let cause = match invocation.outcome {
            Ok(FragmentResponse { outcome: Err(error), .. }) => FailureCause::Fragment(error),
            Ok(FragmentResponse { outcome: Ok(result), id, attempt, .. }) => {
                if id == self.id && attempt == number {
                    return Ok(result);
                }
                let message = format!("the answer belongs to attempt {attempt} of fragment {id}");
                FailureCause::Invoke(InvokeError::new(InvokeErrorKind::Protocol, message))
            }
            Err(error) => FailureCause::Invoke(error),
        };
        self.last_failure = Some((cause.clone(), invocation.log_tail));
        Err(cause)
    }

    /// Decides the step after a failure. `others` is true if other attempts run or wait beside it.
    fn next_try(&mut self, remedy: Remedy, others: bool) -> NextTry {
        match remedy {
            Remedy::None => return NextTry::Never(GaveUp::NothingHelps),
            Remedy::AgainLater if others => return NextTry::Others,
            Remedy::AgainLater => return NextTry::After(self.throttle_delays.next().unwrap_or_default()),
            Remedy::Again => {}
            Remedy::AgainLonger => self.timed_out += 1,
        }
        if others {
            return NextTry::Others;
        }
        self.failed += 1;
        if self.failed >= self.query().scheduler.retry.attempts_max {
            return NextTry::Never(GaveUp::NothingHelps);
        }
        if !self.query().retry_budget.lock().expect("no holder panics").take() {
            return NextTry::Never(GaveUp::BudgetSpent);
        }
        NextTry::After(self.delays.next().unwrap_or_default())
    }

    fn too_dear(&mut self, over: OverCap) -> FragmentFailure {
        self.last_failure = Some((FailureCause::Cap(over), String::new()));
        self.failure(GaveUp::NothingHelps)
    }

    fn failure(&mut self, why: GaveUp) -> FragmentFailure {
        let (cause, log_tail) = self.last_failure.take().unwrap_or_else(|| {
            let message = format!("fragment {} waited for a free function until its query's deadline", self.id);
            let error = InvokeError::new(InvokeErrorKind::TimedOut, message).with_hint(Some(WAITED_HINT));
            (FailureCause::Invoke(error), String::new())
        });
        let (attempts, elapsed) = (self.launched, self.since.elapsed());
        FragmentFailure {
            id: self.id.clone(),
            attempts,
            elapsed,
            cause,
            retries_used_up: why == GaveUp::BudgetSpent,
            log_tail,
        }
    }
}

/// Runs the attempt itself. It goes on even if nothing waits for it.
async fn run(
    query: Arc<Query>,
    (slot, paid): (Slot, Option<Reservation>),
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
    scheduler.health.note(&invocation);
    query.ledger.close(&id, number, &invocation);
    if let Some(paid) = paid {
        paid.settle(&invocation);
    }
    drop(slot);
    // The receiver is gone if another attempt was faster or the query is over.
    let _ = reply.send(invocation);
}

/// Describes an attempt that was not heard of. It stays open in the ledger.
fn lost(kind: InvokeErrorKind, message: String) -> Invocation {
    let outcome = Err(InvokeError::new(kind, message));
    Invocation { outcome, billing: Billing::Bounded { at_most: Duration::ZERO }, cold: None, log_tail: String::new() }
}
