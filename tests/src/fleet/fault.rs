//! Faults of a simulated attempt, and the plan that they are drawn from.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The function ends half-way. Its result may have been written whole.
    Crash,
    /// The function is killed while it writes, and leaves half an object.
    Kill,
    /// The function never answers, and the platform stops it.
    Hang,
    /// The function gives up by itself at its deadline.
    TimeOut,
    Panic,
    /// The platform starts nothing for some seconds.
    ThrottleStorm,
    /// The function has a small share of its network.
    SlowPipe,
    /// Storage asks to slow down.
    SlowDown,
    /// Storage closes the connection.
    Reset,
    /// The work was done, but the answer is lost on its way.
    LostAnswer,
    /// The result is shorter than its answer promises.
    TruncatedResult,
    /// The result's bytes are those of another fragment.
    SwappedResult,
    /// The request is delivered twice. The second run writes something else under the same name, at once or later.
    DuplicateDelivery,
    /// The attempt is given up, runs on, and writes something else when nobody expects it any more.
    LateZombieWrite,
    /// Rows of another function are deleted before they are read.
    LostInput,
    /// Half of such rows is gone.
    TornInput,
    /// Such rows are those of another function.
    SwappedInput,
}

impl Fault {
    pub const ALL: [Self; 17] = [
        Self::Crash,
        Self::Kill,
        Self::Hang,
        Self::TimeOut,
        Self::Panic,
        Self::ThrottleStorm,
        Self::SlowPipe,
        Self::SlowDown,
        Self::Reset,
        Self::LostAnswer,
        Self::TruncatedResult,
        Self::SwappedResult,
        Self::DuplicateDelivery,
        Self::LateZombieWrite,
        Self::LostInput,
        Self::TornInput,
        Self::SwappedInput,
    ];

    /// Returns true for a fault of rows that a function reads of others.
    pub(super) fn is_of_input(self) -> bool {
        matches!(self, Self::LostInput | Self::TornInput | Self::SwappedInput)
    }

    /// Returns true for a fault after which no result is taken, whatever the function has done.
    pub(super) fn ends_attempt(self) -> bool {
        let by_platform =
            matches!(self, Self::Crash | Self::Kill | Self::Hang | Self::LostAnswer | Self::LateZombieWrite);
        by_platform || matches!(self, Self::TimeOut | Self::Panic | Self::SlowDown | Self::Reset)
    }
}

/// Chances of the faults, and the times at which the platform starts nothing.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    /// Chance of an attempt to suffer each fault, together at most 1. A throttle storm is no attempt's own and has none.
    pub chances: Vec<(Fault, f64)>,
    /// Begin and length of each throttle storm, from the world's start.
    pub storms: Vec<(Duration, Duration)>,
    /// Share of its network that a slow pipe keeps.
    pub slow_pipe_share: f64,
}

impl Default for FaultPlan {
    /// Returns a plan without faults.
    fn default() -> Self {
        Self { chances: Vec::new(), storms: Vec::new(), slow_pipe_share: 0.1 }
    }
}

impl FaultPlan {
    /// Draws a plan. Some faults have a chance, often a small one; up to two storms come. One plan in twenty has no fault.
    pub fn random(random: &mut SmallRng) -> Self {
        let mut plan = Self::default();
        if random.random_bool(0.05) {
            return plan;
        }
        let severity = if random.random_bool(0.1) { 0.9 } else { random.random_range(0.02..0.35) };
        let kinds: Vec<Fault> =
            Fault::ALL.into_iter().filter(|fault| *fault != Fault::ThrottleStorm && random.random_bool(0.4)).collect();
        let share = severity / kinds.len().max(1) as f64;
        plan.chances = kinds.into_iter().map(|fault| (fault, share)).collect();
        for _ in 0..random.random_range(0..3) {
            let begins = Duration::from_millis(random.random_range(0..20_000));
            let lasts = Duration::from_millis(random.random_range(500..20_000));
            plan.storms.push((begins, lasts));
        }
        plan
    }

    /// Draws the fault of an attempt.
    pub(super) fn draw(&self, random: &mut SmallRng) -> Option<Fault> {
        let mut at: f64 = random.random();
        for (fault, chance) in &self.chances {
            if at < *chance {
                return Some(*fault);
            }
            at -= chance;
        }
        None
    }

    pub(super) fn is_storm(&self, since: Instant) -> bool {
        let at = since.elapsed();
        self.storms.iter().any(|(begins, lasts)| (*begins..*begins + *lasts).contains(&at))
    }
}
