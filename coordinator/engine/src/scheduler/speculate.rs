//! Rules for a second attempt at a slow fragment. The first attempt to succeed wins, and the other is waste.
//!
//! The normal time is settled once, when most of the stage is done. It has two parts: the median time, and the median
//! ratio of the fragments' times to their expected times. A fragment that takes a multiple of both is slow. The time
//! that a stage may spend on second attempts is bounded.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::model::attempts::EXTRA_SHARE_MAX;

/// Rules for running a fragment twice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpeculationPolicy {
    /// Share of a stage's fragments that must be done before any other is called slow.
    pub done_share: f64,
    /// Multiple of its normal time after which a fragment is slow.
    pub slower_than: f64,
    /// Least time beyond its normal time after which a fragment is slow.
    pub later_than: Duration,
    /// Share of the stage's time that second attempts may take, summed over its fragments. One is always allowed.
    pub extra_share_max: f64,
}

impl SpeculationPolicy {
    /// Rules for functions with a machine, and so a network, of their own.
    pub const ELSEWHERE: Self = Self {
        done_share: 0.75,
        slower_than: 1.5,
        later_than: Duration::from_millis(50),
        extra_share_max: EXTRA_SHARE_MAX,
    };

    /// Rules for functions that share this machine's cores. A second attempt takes from the first, so only a fragment
    /// that hangs is worth one.
    pub const SAME_MACHINE: Self = Self { slower_than: 3.0, later_than: Duration::from_secs(2), ..Self::ELSEWHERE };

    /// Rules without second attempts.
    pub const NEVER: Self = Self { done_share: f64::INFINITY, ..Self::ELSEWHERE };
}

/// Progress of a stage's fragments.
#[derive(Debug)]
pub(super) struct StageProgress {
    policy: SpeculationPolicy,
    /// Seconds expected of each fragment.
    expected: Vec<f64>,
    state: Mutex<State>,
    /// Signal that the normal time is known. It wakes waiting tasks in the order in which they came: one seed, one
    /// history.
    normal_known: Notify,
}

#[derive(Debug, Default)]
struct State {
    done: Vec<DoneFragment>,
    /// Normal time; None until most fragments are done.
    normal: Option<Normal>,
    second_attempts: usize,
    second_seconds: f64,
}

#[derive(Debug, Clone, Copy)]
struct DoneFragment {
    seconds: f64,
    /// Ratio of the seconds to the expected ones.
    ratio: f64,
}

/// Normal time of a stage's fragments.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Normal {
    /// Median seconds of a fragment.
    seconds: f64,
    /// Median ratio of seconds to expected seconds.
    ratio: f64,
}

impl StageProgress {
    pub(super) fn new(policy: SpeculationPolicy, expected: &[Duration]) -> Self {
        // An expected time of zero would break the ratios.
        let expected = expected.iter().map(|expected| expected.as_secs_f64().max(0.001)).collect();
        Self { policy, expected, state: Mutex::default(), normal_known: Notify::new() }
    }

    /// Notes the result of a fragment, from an attempt that took `took`.
    pub(super) fn done(&self, index: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        let mut state = self.state.lock().expect("no holder panics");
        state.done.push(DoneFragment { seconds, ratio: seconds / self.expected(index) });
        if state.done.len() >= self.done_min() && state.normal.is_none() {
            let normal = Normal {
                seconds: median(state.done.iter().map(|done| done.seconds)),
                ratio: median(state.done.iter().map(|done| done.ratio)),
            };
            state.normal = Some(normal);
            self.normal_known.notify_waiters();
        }
    }

    /// Returns the seconds expected of a fragment. One that was not expected is a piece of another, and not longer than these.
    fn expected(&self, index: usize) -> f64 {
        let longest = || self.expected.iter().copied().fold(0.001, f64::max);
        self.expected.get(index).copied().unwrap_or_else(longest)
    }

    /// Returns the number of fragments that must be done, at least one. A single fragment has no other to compare with.
    fn done_min(&self) -> usize {
        let done_min = self.policy.done_share * self.expected.len() as f64;
        (done_min as usize).max(1)
    }

    /// Returns when a fragment whose attempt has run since `since` should get a second one, perhaps never.
    pub(super) async fn slow(&self, index: usize, since: Instant) {
        let normal = self.normal().await;
        tokio::time::sleep_until(since + self.slow_by(index, normal)).await;
        if !self.may_spend(self.usual_seconds(index, normal), normal) {
            std::future::pending().await
        }
    }

    /// Returns the time after which an attempt at a fragment is slow; None until the normal time is known.
    pub(super) fn slow_after(&self, index: usize) -> Option<Duration> {
        let normal = self.state.lock().expect("no holder panics").normal;
        normal.map(|normal| self.slow_by(index, normal))
    }

    fn slow_by(&self, index: usize, normal: Normal) -> Duration {
        let usual = self.usual_seconds(index, normal);
        Duration::from_secs_f64((usual * self.policy.slower_than).max(usual + self.policy.later_than.as_secs_f64()))
    }

    /// Waits until the normal time is known.
    async fn normal(&self) -> Normal {
        loop {
            let mut known = std::pin::pin!(self.normal_known.notified());
            // The task listens before it looks, so that it misses nothing in between.
            known.as_mut().enable();
            if let Some(normal) = self.state.lock().expect("no holder panics").normal {
                return normal;
            }
            known.await;
        }
    }

    fn usual_seconds(&self, index: usize, normal: Normal) -> f64 {
        normal.seconds.max(normal.ratio * self.expected(index))
    }

    fn may_spend(&self, seconds: f64, normal: Normal) -> bool {
        let whole: f64 = self.expected.iter().map(|expected| expected * normal.ratio).sum();
        let mut state = self.state.lock().expect("no holder panics");
        let fits = state.second_seconds + seconds <= whole * self.policy.extra_share_max;
        let allowed = fits || state.second_attempts == 0;
        if allowed {
            state.second_attempts += 1;
            state.second_seconds += seconds;
        }
        allowed
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn progress(expected: &[Duration]) -> StageProgress {
        StageProgress::new(SpeculationPolicy::ELSEWHERE, expected)
    }

    /// Returns the seconds after which a fragment that began now is called slow; None within an hour.
    async fn slow_after(progress: &StageProgress, index: usize) -> Option<f64> {
        let since = Instant::now();
        let slow = tokio::time::timeout(Duration::from_secs(3600), progress.slow(index, since)).await;
        slow.ok().map(|()| (since.elapsed().as_secs_f64() * 10.0).round() / 10.0)
    }

    #[tokio::test(start_paused = true)]
    async fn slow_is_a_multiple_of_the_median_once_most_are_done() {
        let progress = progress(&[SECOND; 8]);
        for index in 0..5 {
            progress.done(index, 2 * SECOND);
        }
        assert_eq!(slow_after(&progress, 7).await, None, "five of eight are not most");
        progress.done(5, 2 * SECOND);
        assert_eq!(slow_after(&progress, 7).await, Some(3.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_heavy_fragment_is_given_its_time() {
        let mut expected = [SECOND; 8];
        expected[7] = 10 * SECOND;
        let progress = progress(&expected);
        for index in 0..6 {
            progress.done(index, 2 * SECOND);
        }
        assert_eq!(slow_after(&progress, 7).await, Some(30.0), "expected ten, and all take twice that");
    }

    #[tokio::test(start_paused = true)]
    async fn second_attempts_take_a_twentieth_of_a_stages_time() {
        let few = progress(&[SECOND; 4]);
        let many = progress(&[SECOND; 100]);
        for (progress, done, allowed) in [(few, 3, 1), (many, 75, 5)] {
            for index in 0..done {
                progress.done(index, SECOND);
            }
            let mut second_attempts = 0;
            while slow_after(&progress, done).await.is_some() {
                second_attempts += 1;
            }
            assert_eq!(second_attempts, allowed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_fragment_alone_is_never_slow() {
        assert_eq!(slow_after(&progress(&[SECOND]), 0).await, None);
        let never = StageProgress::new(SpeculationPolicy::NEVER, &[SECOND; 8]);
        (0..7).for_each(|index| never.done(index, SECOND));
        assert_eq!(slow_after(&never, 7).await, None);
    }
}
