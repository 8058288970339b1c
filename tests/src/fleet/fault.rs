//! What can befall an attempt.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The function ends half-way; its result may have been written whole.
    Crash,
    /// It is killed while it writes: half an object stays.
    Kill,
    /// It never answers, and the platform stops it.
    Hang,
    /// It gives up by itself at its deadline.
    TimeOut,
    Panic,
    /// For some seconds the platform starts nothing.
    ThrottleStorm,
    /// A small share of the network.
    SlowPipe,
    /// Storage asks to slow down.
    SlowDown,
    /// Storage closes the connection.
    Reset,
    /// The answer is lost on its way; the work was done.
    LostAnswer,
    /// The result is shorter than promised.
    TruncatedResult,
    /// Another result lies where this one should.
    SwappedResult,
    /// The request is delivered twice; the second run writes something else under the same name, sooner or later.
    DuplicateDelivery,
    /// The attempt is given up, runs on, and writes something else when nobody expects it any more.
    LateZombieWrite,
}

impl Fault {
    pub const ALL: [Self; 14] = [
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
    ];
}

/// How likely each fault is, and when nothing is started at all.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    /// Chance of an attempt to suffer it. Together at most 1; a throttle storm is no attempt's own.
    pub chances: Vec<(Fault, f64)>,
    /// Begin and length of throttle storms, from the world's start.
    pub storms: Vec<(Duration, Duration)>,
    /// What is left of a slow pipe.
    pub slow_pipe_share: f64,
}

impl Default for FaultPlan {
    /// No faults.
    fn default() -> Self {
        Self { chances: Vec::new(), storms: Vec::new(), slow_pipe_share: 0.1 }
    }
}

impl FaultPlan {
    /// Some faults, some often, some storms; sometimes nothing at all.
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

    /// What an attempt suffers.
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
