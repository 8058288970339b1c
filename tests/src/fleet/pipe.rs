//! A function's network: a steady rate, and a burst. One part of the burst comes once, the other is refilled.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

/// Parameters of one environment's network.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipe {
    /// Burst that is spent once in an environment's life.
    pub once_bytes: f64,
    /// Burst that is refilled at the steady rate while it is not used.
    pub refilled_bytes: f64,
    pub burst_bytes_per_second: f64,
    pub bytes_per_second: f64,
}

/// Remaining burst of one environment. The part that comes once is spent first: a bucket that is fuller at its start than
/// it will ever be again (Skyrise, arXiv 2501.07771).
#[derive(Debug, Clone, Copy)]
pub(super) struct Burst {
    once: f64,
    refilled: f64,
    at: Instant,
}

impl Burst {
    pub(super) fn full(pipe: &Pipe) -> Self {
        Self { once: pipe.once_bytes, refilled: pipe.refilled_bytes, at: Instant::now() }
    }

    /// Returns the time that `bytes` take at `share` of the pipe, from the end of what it carries now. Nothing else may use the pipe meanwhile.
    pub(super) fn carry(&mut self, pipe: &Pipe, bytes: f64, share: f64) -> Duration {
        let idle = self.at.elapsed().as_secs_f64();
        self.refilled = (self.refilled + idle * pipe.bytes_per_second).min(pipe.refilled_bytes);
        let (fast, steady) = (pipe.burst_bytes_per_second, pipe.bytes_per_second);
        let from_once = bytes.min(self.once);
        self.once -= from_once;
        // The other part is refilled also while it is drawn on.
        let from_refilled = (bytes - from_once).min(self.refilled * fast / (fast - steady).max(1.0));
        self.refilled -= from_refilled * (fast - steady) / fast;
        let quick = from_once + from_refilled;
        let seconds = quick / fast + (bytes - quick) / steady;
        let taken = Duration::from_secs_f64(seconds / share);
        self.at = self.at.max(Instant::now()) + taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1 << 20) as f64;
    const PIPE: Pipe = Pipe {
        once_bytes: 150.0 * MIB,
        refilled_bytes: 150.0 * MIB,
        burst_bytes_per_second: 1200.0 * MIB,
        bytes_per_second: 75.0 * MIB,
    };

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_spent_and_half_of_it_comes_back() {
        let mut burst = Burst::full(&PIPE);
        let mut carry = |mib: f64, share: f64, expect: f64, what: &str| {
            let seconds = burst.carry(&PIPE, mib * MIB, share).as_secs_f64();
            assert!((seconds - expect).abs() < 1e-6, "{what}: {seconds} s, not {expect} s");
        };
        carry(300.0, 1.0, 0.25, "a new environment");
        // The second 150 MiB are refilled at 75 MiB/s meanwhile, and carry 160 MiB. The last 65 take 75 MiB/s.
        carry(75.0, 1.0, 10.0 / 1200.0 + 65.0 / 75.0, "the end of the burst, and then steadily");
        tokio::time::advance(Duration::from_secs(10)).await;
        carry(150.0, 1.0, 0.125, "half of it has come back");
        // The refilled half carries 160 MiB quickly, of which 10 are left. The last 140 take 75 MiB/s.
        carry(150.0, 1.0, 2.0 - 0.125, "the end of that half");
        tokio::time::advance(Duration::from_secs(10)).await;
        carry(75.0, 0.1, 0.625, "a slow pipe");
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_does_not_bring_the_first_part_back() {
        let mut burst = Burst::full(&PIPE);
        burst.carry(&PIPE, 150.0 * MIB, 1.0);
        tokio::time::advance(Duration::from_secs(100)).await;
        // A warm environment has 150 MiB, which carry 160 with their refill.
        let seconds = burst.carry(&PIPE, 235.0 * MIB, 1.0).as_secs_f64();
        assert!((seconds - (160.0 / 1200.0 + 1.0)).abs() < 1e-6, "{seconds} s");
    }
}
