//! Rules for another attempt after a failure: its remedy, its pause and its number. Pure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use gust_protocol::FragmentErrorKind;

use super::failure::FailureCause;
use crate::attempt::InvokeErrorKind;

/// Bounds on retries.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Failed attempts after which a fragment is given up. Two kinds do not count: throttled attempts, and attempts that
    /// fail while another one at the fragment still runs.
    pub attempts_max: u32,
    /// Retries that a query has from the start. The budget bounds a query whose every fragment fails: it is not tried
    /// four times over.
    pub budget_base: f64,
    pub budget_per_fragment: f64,
    /// Least time of a first attempt. It gets `time_factor` times its fragment's expected time if that is more. Each
    /// attempt that runs out of time doubles the time for the next. The last attempt gets all the time that the query
    /// has left.
    pub time_min: Duration,
    pub time_factor: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 4,
            budget_base: 10.0,
            budget_per_fragment: 0.2,
            time_min: Duration::from_secs(30),
            time_factor: 10.0,
        }
    }
}

/// Remedy that can help after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The scheduler can do nothing.
    None,
    Again,
    /// Nothing was started and nothing was wrong. Wait and ask once more.
    AgainLater,
    /// The attempt's own time was too short, or the function hangs.
    AgainLonger,
}

impl Remedy {
    /// Picks the remedy for a failure. `cut_short` is true if the attempt had less time than its query.
    pub(super) fn of(cause: &FailureCause, cut_short: bool) -> Self {
        match cause {
            FailureCause::Invoke(error) if error.kind == InvokeErrorKind::Throttled => Self::AgainLater,
            FailureCause::Invoke(error) if error.kind == InvokeErrorKind::TimedOut && cut_short => Self::AgainLonger,
            FailureCause::Fragment(error) if error.kind == FragmentErrorKind::DeadlineExceeded && cut_short => {
                Self::AgainLonger
            }
            FailureCause::Invoke(error) if error.kind.is_retryable() => Self::Again,
            FailureCause::Fragment(error) if error.kind.is_retryable() => Self::Again,
            // Another attempt writes another object.
            FailureCause::Result(_) => Self::Again,
            FailureCause::Invoke(_)
            | FailureCause::Fragment(_)
            | FailureCause::Preparation(_)
            | FailureCause::Access(_)
            | FailureCause::Cap(_) => Self::None,
        }
    }
}

impl RetryPolicy {
    /// Returns the time for an attempt after `timed_out` ones that ran out of theirs; None gives it all that is left.
    pub(super) fn time(&self, expected: Duration, failed: u32, timed_out: u32) -> Option<Duration> {
        if failed + 1 >= self.attempts_max {
            return None;
        }
        let first = self.time_min.max(expected.mul_f64(self.time_factor));
        Some(first.saturating_mul(1 << timed_out.min(16)))
    }
}

/// Returns the pauses after failures: 50 to 100 ms, then twice that each time, at most 4 s.
pub(super) fn failure_delays(seed: u64) -> ExponentialBackoff {
    delays(Duration::from_millis(50), seed)
}

/// Returns the pauses after throttles. They begin at 200 ms, because a request costs more than a wait.
pub(super) fn throttle_delays(seed: u64) -> ExponentialBackoff {
    delays(Duration::from_millis(200), seed)
}

fn delays(first_min: Duration, seed: u64) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(first_min)
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .with_jitter_seed(seed)
        .without_max_times()
        .build()
}

/// Retries that a query has left.
#[derive(Debug)]
pub(super) struct RetryBudget {
    left: f64,
}

impl RetryBudget {
    pub(super) fn new(policy: &RetryPolicy) -> Self {
        Self { left: policy.budget_base }
    }

    pub(super) fn add_fragments(&mut self, policy: &RetryPolicy, fragments: usize) {
        self.left += policy.budget_per_fragment * fragments as f64;
    }

    /// Takes one retry, if there is one.
    pub(super) fn take(&mut self) -> bool {
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use gust_protocol::FragmentError;

    use super::*;
    use crate::attempt::InvokeError;

    #[test]
    fn the_first_retry_waits_at_most_100_ms() {
        let first: Vec<Duration> = (0..100).filter_map(|seed| failure_delays(seed).next()).collect();
        assert!(first.iter().all(|delay| (50..=100).contains(&delay.as_millis())), "{first:?}");
    }

    #[test]
    fn seeds_give_different_pauses() {
        let first: Vec<Duration> = (0..100).filter_map(|seed| failure_delays(seed).next()).collect();
        assert!(first.iter().any(|delay| *delay != first[0]));
        let all: Vec<Duration> = failure_delays(1).take(20).collect();
        assert!(all.iter().all(|delay| *delay <= Duration::from_secs(4)), "{all:?}");
        assert_eq!(all, failure_delays(1).take(20).collect::<Vec<_>>(), "one seed, one history");
    }

    #[test]
    fn each_failure_has_its_remedy() {
        #[track_caller]
        fn check(cause: FailureCause, cut_short: bool, expect: Remedy) {
            assert_eq!(Remedy::of(&cause, cut_short), expect, "{cause}");
        }
        let invoke = |kind| FailureCause::Invoke(InvokeError::new(kind, "x"));
        let fragment = |kind| FailureCause::Fragment(FragmentError::new(kind, "x"));
        check(invoke(InvokeErrorKind::Throttled), true, Remedy::AgainLater);
        check(invoke(InvokeErrorKind::Crashed), false, Remedy::Again);
        check(invoke(InvokeErrorKind::TimedOut), true, Remedy::AgainLonger);
        check(invoke(InvokeErrorKind::TimedOut), false, Remedy::None);
        check(invoke(InvokeErrorKind::NotDeployed), true, Remedy::None);
        check(fragment(FragmentErrorKind::StorageThrottled), false, Remedy::Again);
        check(fragment(FragmentErrorKind::DeadlineExceeded), true, Remedy::AgainLonger);
        check(fragment(FragmentErrorKind::Execution), true, Remedy::None);
        check(FailureCause::Result("torn".into()), true, Remedy::Again);
    }

    #[test]
    fn time_doubles_and_the_last_attempt_has_all_of_it() {
        let policy = RetryPolicy::default();
        let (short, long) = (Duration::from_millis(5), Duration::from_secs(9));
        assert_eq!(policy.time(short, 0, 0), Some(Duration::from_secs(30)));
        assert_eq!(policy.time(long, 0, 0), Some(Duration::from_secs(90)));
        assert_eq!(policy.time(short, 2, 2), Some(Duration::from_secs(120)));
        assert_eq!(policy.time(short, 3, 0), None);
    }

    #[test]
    fn a_retry_budget_is_base_plus_a_fifth_of_the_fragments() {
        let policy = RetryPolicy::default();
        let mut budget = RetryBudget::new(&policy);
        budget.add_fragments(&policy, 10);
        assert_eq!((0..100).filter(|_| budget.take()).count(), 12);
    }
}
