//! Circuit breaker of an invoker: it tells if functions are worth asking.
//!
//! ```text
//!           three failures in a row                delay has passed
//!  closed ─────────────────────────► open ─────────────────────────► half open
//!    ▲                                ▲                                 │
//!    └──── a function answered ───────┼──── the probe failed ───────────┤ one query probes
//!                                     └──────── (delay doubles)         ▼
//! ```
//!
//! The breaker advises `auto`, and forbids nothing. A query with an explicit target always runs, and its outcome
//! counts. A fragment's own failure is an answer, because a function gave it; only a version mismatch is a failure. A
//! throttle is neither an answer nor a failure.

use std::sync::Mutex;
use std::time::Duration;

use gust_protocol::{FragmentErrorKind, FragmentResponse};
use tokio::time::Instant;

use crate::attempt::{Invocation, InvokeErrorKind};

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 3;
/// First and longest wait before a probe.
const DELAY_MIN: Duration = Duration::from_secs(15);
const DELAY_MAX: Duration = Duration::from_secs(300);
/// Time after which a probe without an end is forgotten.
const PROBE_MAX: Duration = Duration::from_secs(60);

/// Breaker of an invoker, fed by the outcomes of its attempts.
#[derive(Debug)]
pub struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    failures: u32,
    open: Option<OpenSince>,
    probing_since: Option<Instant>,
    last_failure: String,
}

/// Time for which a breaker is open.
#[derive(Debug, Clone, Copy)]
struct OpenSince {
    since: Instant,
    delay: Duration,
}

/// State of a breaker, for people and for `auto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Good,
    /// The next query may try.
    HalfOpen {
        last_failure: String,
    },
    /// Functions are not to be asked for this long.
    Open {
        probe_in: Duration,
        last_failure: String,
    },
}

impl Health {
    /// Returns true if `auto` should count on functions.
    pub fn allows(&self) -> bool {
        !matches!(self, Self::Open { .. })
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Good => f.write_str("healthy"),
            Self::HalfOpen { last_failure } => write!(f, "half open: {last_failure}"),
            Self::Open { probe_in, last_failure } => {
                write!(f, "failing, next probe in {} s: {last_failure}", probe_in.as_secs().max(1))
            }
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        let state = State { failures: 0, open: None, probing_since: None, last_failure: String::new() };
        Self { state: Mutex::new(state) }
    }
}

impl Breaker {
    pub fn health(&self) -> Health {
        let state = self.state.lock().expect("no holder panics");
        let Some(OpenSince { since, delay }) = state.open else { return Health::Good };
        let now = Instant::now();
        let last_failure = state.last_failure.clone();
        let probe_at = match state.probing_since {
            Some(probing) => probing + PROBE_MAX,
            None => since + delay,
        };
        match probe_at.saturating_duration_since(now) {
            Duration::ZERO => Health::HalfOpen { last_failure },
            probe_in => Health::Open { probe_in, last_failure },
        }
    }

    /// Notes the start of an attempt. It is the probe if the breaker is half open.
    pub(crate) fn started(&self) {
        if matches!(self.health(), Health::HalfOpen { .. }) {
            self.state.lock().expect("no holder panics").probing_since = Some(Instant::now());
        }
    }

    /// Notes the outcome of an attempt.
    pub fn note(&self, invocation: &Invocation) {
        match &invocation.outcome {
            Ok(FragmentResponse { outcome: Err(error), .. }) if error.kind == FragmentErrorKind::VersionMismatch => {
                self.failed(error.message.clone());
            }
            Ok(_) => self.answered(),
            Err(error) => match error.kind {
                InvokeErrorKind::InitFailed
                | InvokeErrorKind::Unavailable
                | InvokeErrorKind::AccessDenied
                | InvokeErrorKind::NotDeployed
                | InvokeErrorKind::Protocol => self.failed(error.message.clone()),
                // A function ran, or could have. The cause is the fragment or the load.
                InvokeErrorKind::Crashed
                | InvokeErrorKind::OutOfMemory
                | InvokeErrorKind::RequestTooLarge
                | InvokeErrorKind::ResponseTooLarge
                | InvokeErrorKind::TimedOut
                | InvokeErrorKind::Throttled
                | InvokeErrorKind::Stopped => {}
            },
        }
    }

    /// Notes that the functions could not be asked.
    pub fn failed(&self, message: String) {
        let mut state = self.state.lock().expect("no holder panics");
        state.failures += 1;
        state.last_failure = message;
        let was_probe = state.probing_since.take().is_some();
        let delay = match state.open {
            Some(OpenSince { delay, .. }) if was_probe => (delay * 2).min(DELAY_MAX),
            None if state.failures >= FAILURES_MAX => DELAY_MIN,
            _ => return,
        };
        state.open = Some(OpenSince { since: Instant::now(), delay });
    }

    fn answered(&self) {
        let mut state = self.state.lock().expect("no holder panics");
        (state.failures, state.open, state.probing_since) = (0, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.started();
            breaker.failed("no such function".to_owned());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_open_it_and_an_answer_closes_it() {
        let breaker = Breaker::default();
        fail(&breaker, 2);
        breaker.answered();
        fail(&breaker, 2);
        assert_eq!(breaker.health(), Health::Good);
        fail(&breaker, 1);
        assert!(!breaker.health().allows());
        assert_eq!(breaker.health().to_string(), "failing, next probe in 15 s: no such function");
        tokio::time::advance(DELAY_MIN).await;
        assert!(breaker.health().allows());
        assert_eq!(breaker.health().to_string(), "half open: no such function");
        breaker.started();
        breaker.answered();
        assert_eq!(breaker.health(), Health::Good);
    }

    #[tokio::test(start_paused = true)]
    async fn one_query_probes_and_a_failed_probe_doubles_the_wait() {
        let breaker = Breaker::default();
        fail(&breaker, 3);
        tokio::time::advance(DELAY_MIN).await;
        breaker.started();
        assert!(!breaker.health().allows(), "one probe at a time");
        breaker.failed("still not there".to_owned());
        tokio::time::advance(DELAY_MIN).await;
        assert!(!breaker.health().allows(), "twice the first wait");
        tokio::time::advance(DELAY_MIN).await;
        assert!(breaker.health().allows());
        breaker.started();
        tokio::time::advance(PROBE_MAX).await;
        assert!(breaker.health().allows(), "a probe that never ends is forgotten");
        for _ in 0..10 {
            breaker.started();
            breaker.failed("gone".to_owned());
            tokio::time::advance(DELAY_MAX).await;
            assert!(breaker.health().allows(), "the wait is bounded");
        }
    }
}
