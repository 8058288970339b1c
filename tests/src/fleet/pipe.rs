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

/// Remaining burst of one environment.
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

    /// Returns the time that `bytes` take from now on, at `share` of the pipe. Nothing else may use the pipe meanwhile.
    pub(super) fn carry(&mut self, pipe: &Pipe, bytes: f64, share: f64) -> Duration {
        let idle = self.at.elapsed().as_secs_f64();
        self.refilled = (self.refilled + idle * pipe.bytes_per_second).min(pipe.refilled_bytes);
        let (fast, steady) = (pipe.burst_bytes_per_second, pipe.bytes_per_second);
        // The burst is refilled also while it is drawn on.
        let saved = self.once + self.refilled;
        let quick = bytes.min(saved * fast / (fast - steady).max(1.0));
        let seconds = quick / fast + (bytes - quick) / steady;
        let drawn = quick * (fast - steady) / fast;
        let from_refilled = drawn.min(self.refilled);
        self.refilled -= from_refilled;
        self.once = (self.once - (drawn - from_refilled)).max(0.0);
        let taken = Duration::from_secs_f64(seconds / share);
        self.at = Instant::now() + taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = (1 << 20) as f64;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_spent_and_half_of_it_comes_back() {
        let pipe = Pipe {
            once_bytes: 150.0 * MIB,
            refilled_bytes: 150.0 * MIB,
            burst_bytes_per_second: 1200.0 * MIB,
            bytes_per_second: 75.0 * MIB,
        };
        let mut burst = Burst::full(&pipe);
        let mut carry = |mib: f64, share: f64, expect: f64, what: &str| {
            let seconds = burst.carry(&pipe, mib * MIB, share).as_secs_f64();
            assert!((seconds - expect).abs() < 1e-6, "{what}: {seconds} s, not {expect} s");
        };
        carry(300.0, 1.0, 0.25, "a new environment");
        // A bucket of 300 MiB, refilled at 75 MiB/s meanwhile, lasts 300 / 1125 s and carries 320 MiB. The last 55 take 75 MiB/s.
        carry(75.0, 1.0, 1.0 - 0.25, "the end of the burst, and then steadily");
        tokio::time::advance(Duration::from_secs(10)).await;
        carry(150.0, 1.0, 0.125, "half of it has come back");
        // The refilled half carries 160 MiB quickly, of which 10 are left. The last 140 take 75 MiB/s.
        carry(150.0, 1.0, 2.0 - 0.125, "the end of that half");
        tokio::time::advance(Duration::from_secs(10)).await;
        carry(75.0, 0.1, 0.625, "a slow pipe");
    }
}
