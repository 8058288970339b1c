//! A network pipe as a token bucket. Pure: the clock is an argument.

use std::time::Duration;

use serde::Deserialize;

/// Network of one client.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipe {
    /// Burst that is there once and never comes back.
    pub burst_once_bytes: f64,
    /// Burst that fills up again while the pipe is idle.
    pub burst_bytes: f64,
    /// Rate within a burst.
    pub line_bytes_per_second: f64,
    /// Rate without a burst, which is also the rate at which a burst fills up.
    pub refill_bytes_per_second: f64,
}

impl Pipe {
    /// Returns the same pipe for data that is `scale` times smaller.
    pub fn scaled(self, scale: f64) -> Self {
        Self {
            burst_once_bytes: self.burst_once_bytes / scale,
            burst_bytes: self.burst_bytes / scale,
            line_bytes_per_second: self.line_bytes_per_second / scale,
            refill_bytes_per_second: self.refill_bytes_per_second / scale,
        }
    }
}

/// Pipe in use. Requests pass one after the other, in the order in which they come.
#[derive(Debug, Clone)]
pub struct Bucket {
    pipe: Pipe,
    /// Tokens of the burst. They are negative while bytes that wait for the refill are on their way.
    tokens: f64,
    /// Second at which `tokens` was counted.
    at: f64,
    /// Second at which the pipe is free again.
    free_at: f64,
}

impl Bucket {
    /// Returns a full bucket. Times count from any fixed moment.
    pub fn new(pipe: Pipe) -> Self {
        Self { pipe, tokens: pipe.burst_once_bytes + pipe.burst_bytes, at: 0.0, free_at: 0.0 }
    }

    /// Lets `bytes` through as soon as the pipe can. Returns the time at which the last of them has passed.
    pub fn pass(&mut self, now: Duration, bytes: u64) -> Duration {
        let bytes = bytes as f64;
        let begin = now.as_secs_f64().max(self.free_at);
        self.refill(begin);
        self.tokens -= bytes;
        let refilled = (-self.tokens).max(0.0) / self.pipe.refill_bytes_per_second;
        self.free_at = begin + refilled.max(bytes / self.pipe.line_bytes_per_second);
        Duration::from_secs_f64(self.free_at)
    }

    fn refill(&mut self, now: f64) {
        // The rest of the burst that comes once lies above the brim, and stays.
        let brim = self.pipe.burst_bytes.max(self.tokens);
        self.tokens = (self.tokens + (now - self.at).max(0.0) * self.pipe.refill_bytes_per_second).min(brim);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Returns the bucket of a Lambda function, as published.
    fn lambda() -> Bucket {
        let mib = MIB as f64;
        Bucket::new(Pipe {
            burst_once_bytes: 150.0 * mib,
            burst_bytes: 150.0 * mib,
            line_bytes_per_second: 1228.8 * mib,
            refill_bytes_per_second: 75.0 * mib,
        })
    }

    /// Passes `bytes` in pieces from `now` on and returns the seconds that it took.
    fn seconds(bucket: &mut Bucket, now: f64, bytes: u64) -> f64 {
        let now = Duration::from_secs_f64(now);
        let last = (0..bytes / MIB).map(|_| bucket.pass(now, MIB)).last().unwrap();
        (last - now).as_secs_f64()
    }

    #[track_caller]
    fn close(measured: f64, expect: f64) {
        assert!((measured - expect).abs() <= 0.01 * expect, "{measured} is not about {expect}");
    }

    #[test]
    fn a_burst_runs_at_line_rate_and_then_at_the_refill_rate() {
        let mut bucket = lambda();
        // Once the 150 MiB that never come back are gone, another 9.2 MiB flow in.
        close(seconds(&mut bucket, 0.0, 300 * MIB), 300.0 / 1228.8);
        close(seconds(&mut bucket, 0.25, 750 * MIB), (750.0 - 9.2) / 75.0);
    }

    #[test]
    fn half_of_the_burst_comes_back() {
        let mut bucket = lambda();
        let spent = seconds(&mut bucket, 0.0, 1000 * MIB);
        // A long rest fills up 150 MiB and no more.
        let again = spent + 1000.0;
        close(seconds(&mut bucket, again, 150 * MIB), 150.0 / 1228.8);
        let more = seconds(&mut bucket, again + 150.0 / 1228.8, 75 * MIB);
        close(more, (75.0 - 150.0 / 1228.8 * 75.0) / 75.0);
        // A short rest fills up as much as flows in.
        let short = again + 10.0;
        close(seconds(&mut bucket, short, 75 * MIB), 75.0 / 1228.8);
    }

    #[test]
    fn a_scaled_pipe_carries_scaled_bytes_in_the_same_time() {
        let mut whole = lambda();
        let mut small = Bucket::new(whole.pipe.scaled(64.0));
        let now = Duration::from_secs(1);
        assert_eq!(whole.pass(now, 6400 * MIB), small.pass(now, 100 * MIB));
    }
}
