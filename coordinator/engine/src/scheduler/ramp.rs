//! Rate at which a platform starts environments, as a token bucket. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::model::EnvironmentRamp;

/// Idle time after which environments are counted as gone. Lambda keeps them for minutes and promises nothing.
const IDLE_MAX: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Ramp {
    rate: EnvironmentRamp,
    /// Environments that may be started now.
    tokens: f64,
    at: Option<Instant>,
    /// Environments that are taken to be up.
    started: usize,
}

impl Ramp {
    pub(super) fn new(rate: EnvironmentRamp) -> Self {
        Self { rate, tokens: f64::from(rate.functions * rate.burst), at: None, started: 0 }
    }

    /// Returns true if there are environments for `in_flight` attempts, one of which is about to start.
    pub(super) fn take(&mut self, in_flight: usize, now: Instant) -> bool {
        self.refill(in_flight, now);
        if in_flight <= self.started {
            return true;
        }
        let may_start = self.tokens >= 1.0;
        if may_start {
            self.tokens -= 1.0;
            self.started += 1;
        }
        may_start
    }

    /// Returns the time at which [`Self::take`] could succeed; None if it would succeed now.
    pub(super) fn next_at(&self, in_flight: usize, now: Instant) -> Option<Instant> {
        let missing = 1.0 - self.tokens;
        let waits = in_flight > self.started && missing > 0.0;
        // The time is rounded up to tokio's milliseconds, so that the token is there.
        waits.then(|| now + Duration::from_secs_f64(missing / self.per_second()) + Duration::from_millis(1))
    }

    fn refill(&mut self, in_flight: usize, now: Instant) {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.at = Some(now);
        let full = f64::from(self.rate.functions * self.rate.burst);
        self.tokens = (self.tokens + since.as_secs_f64() * self.per_second()).min(full);
        if since >= IDLE_MAX {
            self.started = in_flight.saturating_sub(1);
        }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.rate.functions) * self.rate.per_second
    }
}
