//! A fragment and its attempts, until it has a result.

use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use datafusion::common::DataFusionError;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use gust_protocol::{AccessTable, FragmentId, FragmentResponse, FragmentResult, InvokeRequest};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::failure::{FailureCause, FragmentFailure};
use super::limiter::SlotRequest;
use super::retry::{Remedy, failure_delays, throttle_delays};
use super::{AttemptNumbers, Query, StageAttempts};
use crate::attempt::{Invocation, InvokeError, InvokeErrorKind, WAITED_HINT};
use crate::cap::{AttemptRequest, AttemptWork, OverCap};
use crate::events::AttemptCause;
use launch::{Admitted, EndedAttempt};

mod launch;

/// Attempts that may start beside a slow one. Each starts when the newest attempt is slow, too.
const SPECULATIVE_MAX: u32 = 2;

/// Time before the query's deadline at which a permanent failure is told, so that it comes before the deadline's own error.
const TELLING_TIME: Duration = Duration::from_secs(1);

/// Parts of a request that differ from attempt to attempt.
#[derive(Debug, Clone, Copy)]
pub struct AttemptStamp {
    pub attempt: u32,
    pub deadline_unix_ms: u64,
}

type MakeAccess = Box<dyn Fn() -> BoxFuture<'static, Result<AccessTable, DataFusionError>> + Send + Sync>;
type MakeRequest = Box<dyn Fn(AttemptStamp, AccessTable) -> InvokeRequest + Send + Sync>;

/// Makers of the requests of a fragment's attempts.
pub struct AttemptRequests {
    /// Makes the access table of an attempt that has its slot, and begins at once. Credentials that are lent may end while a fragment
    /// stands in line.
    pub access: MakeAccess,
    pub request: MakeRequest,
}

/// Bounds of each attempt at a fragment.
#[derive(Debug, Clone, Copy)]
pub struct FragmentNeeds {
    /// Bytes that a running attempt holds on the coordinator.
    pub bytes: u64,
    pub work: AttemptWork,
}

/// Result of a fragment, and the number of the attempt that it came from.
#[derive(Debug)]
pub struct AttemptResult {
    pub result: FragmentResult,
    pub attempt: u32,
}

/// A fragment, and the state that its attempts share.
pub struct FragmentAttempts {
    stage: StageAttempts,
    id: FragmentId,
    needs: FragmentNeeds,
    requests: Arc<AttemptRequests>,
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
    last_failure: Option<AttemptFailure>,
    /// Failure that no other attempt can help, while others still run. It is the fragment's unless one of them succeeds soon.
    permanent_failure: Option<AttemptFailure>,
}

/// Failure of an attempt.
struct AttemptFailure {
    cause: FailureCause,
    /// End of the attempt's stderr.
    log_tail: String,
}

impl AttemptFailure {
    /// Makes a failure without an attempt's stderr.
    fn new(cause: FailureCause) -> Self {
        Self { cause, log_tail: String::new() }
    }
}

impl std::fmt::Debug for FragmentAttempts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FragmentAttempts").field("id", &self.id).field("failed", &self.failed).finish_non_exhaustive()
    }
}

/// Next attempt's reason, and its wait for admission.
struct PendingAttempt {
    cause: AttemptCause,
    admission: BoxFuture<'static, Admission>,
}

/// Step after an attempt that failed.
enum NextTry {
    /// Another attempt, after a pause.
    After(Duration),
    /// Attempts that are under way may still succeed.
    WaitForOthers,
    Never(GaveUp),
}

/// Reason why a fragment is not tried again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GaveUp {
    /// The fragment has no attempts left, it would fail again, or its query's time or money is spent.
    NothingHelps,
    /// The query has no retries left.
    RetriesUsedUp,
}

enum Admission {
    Granted(Admitted),
    /// The query's deadline came first.
    TooLate,
    /// The query's money does not suffice.
    OverCap(OverCap),
    /// There are no credentials for its stores.
    NoAccess(DataFusionError),
}

impl FragmentAttempts {
    pub(super) fn new(
        stage: StageAttempts,
        id: FragmentId,
        numbers: AttemptNumbers,
        needs: FragmentNeeds,
        requests: AttemptRequests,
        seed: u64,
    ) -> Self {
        Self {
            stage,
            id,
            needs,
            requests: Arc::new(requests),
            numbers,
            since: Instant::now(),
            launched: 0,
            failed: 0,
            timed_out: 0,
            delays: failure_delays(seed),
            throttle_delays: throttle_delays(!seed),
            last_failure: None,
            permanent_failure: None,
        }
    }

    pub fn id(&self) -> &FragmentId {
        &self.id
    }

    /// Runs until an attempt has a result, none can have one, or the future is dropped.
    pub async fn result(&mut self) -> Result<AttemptResult, FragmentFailure> {
        let first = if self.launched == 0 { AttemptCause::First } else { AttemptCause::Retry };
        let mut waiting = self.wait(first, Duration::ZERO);
        let mut running = FuturesUnordered::new();
        let (mut newest_since, mut speculative) = (None, 0);
        let mut others_until = None;
        let progress = Arc::clone(&self.stage.progress);
        let index = self.id.index as usize;
        loop {
            let may_speculate = waiting.is_none() && speculative < SPECULATIVE_MAX && self.permanent_failure.is_none();
            let slow = async {
                match newest_since {
                    Some(since) if may_speculate => progress.slow(index, since).await,
                    _ => std::future::pending().await,
                }
            };
            let granted = async {
                match &mut waiting {
                    Some(waiting) => (&mut waiting.admission).await,
                    None => std::future::pending().await,
                }
            };
            let others_too_late = async {
                match others_until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(ended) = running.next() => {
                    let EndedAttempt { number, cut_short, took, invocation } = ended;
                    let cause = match self.settle(invocation, number) {
                        Ok(result) => {
                            self.permanent_failure = None;
                            progress.done(index, took);
                            self.query().cap.iter().for_each(|cap| cap.fragment_done());
                            return Ok(AttemptResult { result, attempt: number });
                        }
                        Err(cause) => cause,
                    };
                    let remedy = Remedy::of(&cause, cut_short && Instant::now() < self.query().deadline);
                    if remedy == Remedy::None {
                        // Attempts that run may still succeed. One that only waits would cost more and fail, too.
                        waiting = None;
                        others_until.get_or_insert_with(|| self.others_until());
                    }
                    match self.next_try(remedy, !running.is_empty() || waiting.is_some()) {
                        NextTry::After(pause) => {
                            waiting = self.wait(AttemptCause::Retry, pause);
                            (newest_since, speculative) = (None, 0);
                        }
                        NextTry::WaitForOthers => {}
                        NextTry::Never(why) => return Err(self.failure(why)),
                    }
                }
                admission = granted => {
                    let cause = waiting.take().map_or(AttemptCause::Retry, |waiting| waiting.cause);
                    match admission {
                        Admission::Granted(admitted) => {
                            let number = self.numbers.next(self.id.index);
                            let number = number.and_then(|number| number.checked_add(self.query().first_attempt));
                            let Some(number) = number else {
                                let reason = "there is no number left for another attempt".to_owned();
                                self.last_failure = Some(AttemptFailure::new(FailureCause::Result(reason)));
                                return Err(self.failure(GaveUp::NothingHelps));
                            };
                            newest_since = Some(Instant::now());
                            running.push(self.launch(number, admitted, cause));
                        }
                        Admission::OverCap(over) => return Err(self.over_cap(over)),
                        Admission::NoAccess(error) => {
                            self.last_failure = Some(AttemptFailure::new(FailureCause::Access(Arc::new(error))));
                            if running.is_empty() {
                                return Err(self.failure(GaveUp::NothingHelps));
                            }
                        }
                        Admission::TooLate if running.is_empty() => return Err(self.failure(GaveUp::NothingHelps)),
                        Admission::TooLate => {}
                    }
                }
                () = slow => {
                    speculative += 1;
                    waiting = self.wait(AttemptCause::Speculative, Duration::ZERO);
                }
                () = others_too_late => return Err(self.failure(GaveUp::NothingHelps)),
            }
        }
    }

    /// Takes the result of an attempt that an earlier coordinator made.
    pub(crate) fn adopt(&mut self, inherited: AttemptResult) -> AttemptResult {
        self.query().cap.iter().for_each(|cap| cap.fragment_done());
        inherited
    }

    /// Refuses a result that could not be read as promised. The attempt counts as failed, and another is made.
    pub async fn refuse(&mut self, reason: String) -> Result<AttemptResult, FragmentFailure> {
        self.undo(reason);
        match self.next_try(Remedy::Again, false) {
            NextTry::After(pause) => tokio::time::sleep(pause).await,
            NextTry::WaitForOthers => {}
            NextTry::Never(why) => return Err(self.failure(why)),
        }
        self.result().await
    }

    /// Makes another attempt for a result that was right and is lost. It counts as failed, but is none of the query's retries: all results of a query may be
    /// lost at once.
    pub async fn restore(&mut self, reason: String) -> Result<AttemptResult, FragmentFailure> {
        self.undo(reason);
        self.failed += 1;
        if self.failed >= self.query().scheduler.retry.attempts_max {
            return Err(self.failure(GaveUp::NothingHelps));
        }
        self.result().await
    }

    fn undo(&mut self, reason: String) {
        self.last_failure = Some(AttemptFailure::new(FailureCause::Result(reason)));
        self.query().cap.iter().for_each(|cap| cap.fragment_undone());
    }

    fn query(&self) -> &Arc<Query> {
        &self.stage.query
    }

    /// Stands in line after a pause: for money if that is limited, then for a slot, and then for credentials. Returns None for a speculative
    /// attempt that cannot be paid for at once.
    fn wait(&self, cause: AttemptCause, pause: Duration) -> Option<PendingAttempt> {
        let (query, requests) = (Arc::clone(self.query()), Arc::clone(&self.requests));
        let slot =
            SlotRequest { query: query.number, bytes: self.needs.bytes, is_urgent: cause != AttemptCause::First };
        let money = self.request_for_money();
        let paid = match (&query.cap, cause) {
            (Some(cap), AttemptCause::Speculative) => Some(cap.reserve_at_once(&money)?),
            _ => None,
        };
        let admission = async move {
            let admission = async {
                tokio::time::sleep(pause).await;
                let reservation = match (&query.cap, paid) {
                    (Some(cap), None) => match cap.reserve(money).await {
                        Ok(reservation) => Some(reservation),
                        Err(over) => return Admission::OverCap(over),
                    },
                    (_, paid) => paid,
                };
                let slot = query.scheduler.limiter.acquire(slot).await;
                match (requests.access)().await {
                    Ok(access) => Admission::Granted(Admitted { slot, reservation, access }),
                    Err(error) => Admission::NoAccess(error),
                }
            };
            timeout_at(query.deadline, admission).await.unwrap_or(Admission::TooLate)
        };
        Some(PendingAttempt { cause, admission: admission.boxed() })
    }

    /// Returns the request for the next attempt's money.
    fn request_for_money(&self) -> AttemptRequest {
        let left = self.query().deadline.saturating_duration_since(Instant::now());
        let time_max = self.time().map_or(left, |time| time.min(left));
        AttemptRequest { work: self.needs.work, expected: self.expected(), time_max, timed_out: self.timed_out }
    }

    fn expected(&self) -> Duration {
        self.stage.expected.get(self.id.index as usize).copied().unwrap_or_default()
    }

    /// Returns the moment until which a fragment that has failed permanently by now waits for its other attempts: an attempt that began now
    /// would be slow then.
    fn others_until(&self) -> Instant {
        let Self { stage: StageAttempts { progress, .. }, id, .. } = self;
        // Others run only once the normal time is known.
        let slow = progress.slow_after(id.index as usize).unwrap_or_default();
        let now = Instant::now();
        self.query().deadline.checked_sub(TELLING_TIME).map_or(now, |told| told.min(now + slow))
    }

    /// Returns the time for the next attempt; None gives it all that the query has left.
    fn time(&self) -> Option<Duration> {
        self.query().scheduler.retry.time(self.expected(), self.failed, self.timed_out)
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
        self.last_failure = Some(AttemptFailure { cause: cause.clone(), log_tail: invocation.log_tail });
        Err(cause)
    }

    /// Decides the step after a failure. `others` is true if other attempts run or wait beside it.
    fn next_try(&mut self, remedy: Remedy, others: bool) -> NextTry {
        match remedy {
            Remedy::None if self.permanent_failure.is_none() => self.permanent_failure = self.last_failure.take(),
            Remedy::AgainLonger => self.timed_out += 1,
            Remedy::None | Remedy::Again | Remedy::AgainLater => {}
        }
        if others {
            return NextTry::WaitForOthers;
        }
        if self.permanent_failure.is_some() {
            return NextTry::Never(GaveUp::NothingHelps);
        }
        if remedy == Remedy::AgainLater {
            return NextTry::After(self.throttle_delays.next().unwrap_or_default());
        }
        self.failed += 1;
        if self.failed >= self.query().scheduler.retry.attempts_max {
            return NextTry::Never(GaveUp::NothingHelps);
        }
        if !self.query().retry_budget.lock().expect("no holder panics").take() {
            return NextTry::Never(GaveUp::RetriesUsedUp);
        }
        NextTry::After(self.delays.next().unwrap_or_default())
    }

    fn over_cap(&mut self, over: OverCap) -> FragmentFailure {
        self.last_failure = Some(AttemptFailure::new(FailureCause::Cap(over)));
        self.failure(GaveUp::NothingHelps)
    }

    fn failure(&mut self, why: GaveUp) -> FragmentFailure {
        let failure = self.permanent_failure.take().or_else(|| self.last_failure.take());
        let AttemptFailure { cause, log_tail } = failure.unwrap_or_else(|| {
            let message = format!("fragment {} waited for a free function until its query's deadline", self.id);
            let error = InvokeError::new(InvokeErrorKind::TimedOut, message).with_hint(Some(WAITED_HINT));
            AttemptFailure::new(FailureCause::Invoke(error))
        });
        let (attempts, elapsed) = (self.launched, self.since.elapsed());
        FragmentFailure {
            id: self.id.clone(),
            attempts,
            elapsed,
            cause,
            retries_used_up: why == GaveUp::RetriesUsedUp,
            log_tail,
        }
    }
}
