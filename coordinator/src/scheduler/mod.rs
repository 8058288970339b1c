//! Runs a stage's fragments through an invoker: bounded in flight, retried where that can help, adopted exactly once.
//!
//! Every attempt is booked as an event BEFORE it is invoked. A fragment's answer is adopted from one attempt only; what other
//! attempts wrote is never read. Non-goals so far: speculation, fairness between queries.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder, ExponentialBuilder};
use gust_protocol::{
    Fragment, FragmentError, FragmentErrorKind, FragmentId, FragmentResponse, FragmentResult, InvokeRequest,
};
use object_store::path::Path;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::event::{AttemptOutcome, EventLog, QueryEvent};
use crate::invoker::{Billing, Invocation, InvokeError, InvokeErrorKind, Invoker};

/// Attempts at one fragment, the first included.
pub const ATTEMPTS_MAX: u32 = 4;

/// Bounds and destination of all attempts of a process.
#[derive(Debug, Clone)]
pub struct Scheduler {
    invoker: Arc<dyn Invoker>,
    slots: Arc<Semaphore>,
}

/// Why a fragment has no result.
#[derive(Debug, Clone, thiserror::Error)]
#[error("fragment {id} failed after {attempts} attempt{}: {cause}{}", if *attempts == 1 { "" } else { "s" }, tail(log_tail))]
pub struct FragmentFailure {
    pub id: FragmentId,
    pub attempts: u32,
    pub cause: FailureCause,
    /// The end of the last attempt's stderr, where the platform failed.
    pub log_tail: String,
}

impl FragmentFailure {
    /// A fragment whose request could not even be made.
    pub fn unplannable(id: FragmentId, error: &datafusion::common::DataFusionError) -> Self {
        let cause = FailureCause::Fragment(FragmentError::new(FragmentErrorKind::MalformedRequest, error.to_string()));
        Self { id, attempts: 0, cause, log_tail: String::new() }
    }

    /// A fragment whose stage's plan could not be written into the exchange.
    pub fn unpublished(id: &FragmentId, path: &Path, error: &object_store::Error) -> Self {
        let message = format!("cannot write the plan to `{path}` in the exchange: {error}");
        let cause = FailureCause::Fragment(FragmentError::new(FragmentErrorKind::Storage, message));
        Self { id: id.clone(), attempts: 0, cause, log_tail: String::new() }
    }
}

fn tail(log_tail: &str) -> String {
    let log_tail = log_tail.trim_end();
    if log_tail.is_empty() { String::new() } else { format!("\nits last words:\n{log_tail}") }
}

/// The last attempt's failure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FailureCause {
    #[error("{0}")]
    Fragment(FragmentError),
    #[error("{0}")]
    Invoke(InvokeError),
}

impl FailureCause {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Fragment(error) => error.kind.is_retryable(),
            Self::Invoke(error) => error.kind.is_retryable(),
        }
    }
}

/// What one query lends its attempts.
#[derive(Debug, Clone)]
pub struct AttemptContext {
    pub events: EventLog,
    pub deadline: SystemTime,
}

impl Scheduler {
    /// At most `in_flight_max` attempts at once.
    pub fn new(invoker: Arc<dyn Invoker>, in_flight_max: usize) -> Self {
        Self { invoker, slots: Arc::new(Semaphore::new(in_flight_max.max(1))) }
    }

    /// Runs one fragment until an attempt succeeds, none can, or the future is dropped.
    ///
    /// Attempts are numbered from `first_attempt`. `request` builds the request of an attempt from its number and deadline (milliseconds since the Unix epoch).
    pub async fn run(
        &self,
        context: &AttemptContext,
        fragment: &Fragment,
        first_attempt: u32,
        request: impl Fn(u32, u64) -> InvokeRequest,
    ) -> Result<(FragmentResult, u32), FragmentFailure> {
        let deadline_unix_ms = unix_ms(context.deadline);
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(2))
            .with_jitter()
            .with_max_times(ATTEMPTS_MAX as usize - 1)
            .build();
        let mut attempt = first_attempt;
        loop {
            let span = tracing::debug_span!("attempt", fragment = %fragment.id, attempt);
            let request = request(attempt, deadline_unix_ms);
            let invocation = self.attempt(context, fragment, attempt, request).instrument(span).await;
            let failure = match settle(invocation, &fragment.id, attempt) {
                Ok(result) => return Ok((result, attempt)),
                Err(failure) => failure,
            };
            attempt += 1;
            let delay = if failure.cause.is_retryable() { delays.next() } else { None };
            let Some(delay) = delay else {
                return Err(FragmentFailure { attempts: attempt - first_attempt, ..failure });
            };
            tokio::time::sleep(delay).await;
        }
    }

    /// One attempt, booked before it starts and settled when it ends or is dropped.
    async fn attempt(
        &self,
        context: &AttemptContext,
        fragment: &Fragment,
        attempt: u32,
        request: InvokeRequest,
    ) -> Invocation {
        let Ok(_slot) = self.slots.acquire().await else {
            return stopped("the scheduler has been shut down");
        };
        let mut booking = Booking::open(context, fragment.id.clone(), attempt);
        let invocation = self.invoker.invoke(request).await;
        booking.close(&invocation);
        invocation
    }
}

fn stopped(message: &str) -> Invocation {
    let outcome = Err(InvokeError::new(InvokeErrorKind::Stopped, message));
    Invocation { outcome, billing: Billing::Bounded { at_most: Duration::ZERO }, cold: None, log_tail: String::new() }
}

/// Checks that an answer belongs to the question.
fn settle(invocation: Invocation, id: &FragmentId, attempt: u32) -> Result<FragmentResult, FragmentFailure> {
    let failure =
        |cause| FragmentFailure { id: id.clone(), attempts: attempt + 1, cause, log_tail: invocation.log_tail.clone() };
    let response: FragmentResponse = invocation.outcome.map_err(|error| failure(FailureCause::Invoke(error)))?;
    let result = response.outcome.map_err(|error| failure(FailureCause::Fragment(error)))?;
    if response.id != *id || response.attempt != attempt {
        let message = format!("the answer belongs to attempt {} of fragment {}", response.attempt, response.id);
        return Err(failure(FailureCause::Invoke(InvokeError::new(InvokeErrorKind::Protocol, message))));
    }
    Ok(result)
}

/// An attempt's line in the event log: opened before the invocation, closed by its outcome or by being dropped.
struct Booking {
    events: EventLog,
    id: FragmentId,
    attempt: u32,
    started: Instant,
    deadline: SystemTime,
    open: bool,
}

impl Booking {
    fn open(context: &AttemptContext, id: FragmentId, attempt: u32) -> Self {
        context.events.push(QueryEvent::AttemptStarted { id: id.clone(), attempt });
        Self {
            events: context.events.clone(),
            id,
            attempt,
            started: Instant::now(),
            deadline: context.deadline,
            open: true,
        }
    }

    fn close(&mut self, invocation: &Invocation) {
        let outcome = match &invocation.outcome {
            Ok(FragmentResponse { outcome: Ok(_), usage, .. }) => {
                AttemptOutcome::Done { usage: *usage, cold: invocation.cold }
            }
            Ok(FragmentResponse { outcome: Err(error), usage, .. }) => {
                AttemptOutcome::FragmentFailed { kind: error.kind, message: error.message.clone(), usage: *usage }
            }
            Err(error) => AttemptOutcome::InvokeFailed {
                kind: error.kind,
                message: error.message.clone(),
                log_tail: invocation.log_tail.clone(),
            },
        };
        self.end(outcome, invocation.billing);
    }

    fn end(&mut self, outcome: AttemptOutcome, billing: Billing) {
        self.open = false;
        let (id, attempt, wall) = (self.id.clone(), self.attempt, self.started.elapsed());
        self.events.push(QueryEvent::AttemptEnded { id, attempt, outcome, billing, wall });
    }
}

impl Drop for Booking {
    /// A dropped attempt may go on until its deadline, and is booked as if it did.
    fn drop(&mut self) {
        if self.open {
            let at_most = self.deadline.duration_since(SystemTime::now()).unwrap_or_default() + self.started.elapsed();
            self.end(AttemptOutcome::Cancelled, Billing::Bounded { at_most });
        }
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
