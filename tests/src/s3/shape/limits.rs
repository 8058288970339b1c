//! Requests a second that a prefix takes before it answers 503 SlowDown. Pure: the clock is an argument.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use crate::s3::Operation;

/// Rates for each prefix. A prefix is everything of a key up to its last slash.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLimits {
    pub reads_per_second: f64,
    pub writes_per_second: f64,
    /// Requests that may come at once after a rest.
    pub burst: f64,
}

/// Direction of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    Read,
    Write,
}

/// Requests that a prefix still takes, counted at `at_seconds`.
#[derive(Debug)]
struct Tokens {
    count: f64,
    at_seconds: f64,
}

/// Limits in use.
#[derive(Debug)]
pub(super) struct Limiter {
    limits: RequestLimits,
    prefixes: HashMap<(String, Direction), Tokens>,
}

impl Limiter {
    pub(super) fn new(limits: RequestLimits) -> Self {
        Self { limits, prefixes: HashMap::new() }
    }

    /// Returns whether the prefix takes this request now. A refused request takes no token.
    pub(super) fn takes(&mut self, now: Duration, operation: Operation, key: &str) -> bool {
        let (direction, rate) = match operation {
            Operation::Get | Operation::Head | Operation::List => (Direction::Read, self.limits.reads_per_second),
            _ => (Direction::Write, self.limits.writes_per_second),
        };
        let prefix = key.rsplit_once('/').map_or("", |(prefix, _)| prefix);
        let now = now.as_secs_f64();
        let full = Tokens { count: self.limits.burst, at_seconds: now };
        let tokens = self.prefixes.entry((prefix.to_owned(), direction)).or_insert(full);
        tokens.count = (tokens.count + (now - tokens.at_seconds).max(0.0) * rate).min(self.limits.burst);
        tokens.at_seconds = now;
        let takes = tokens.count >= 1.0;
        if takes {
            tokens.count -= 1.0;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_prefix_and_kind_has_a_rate_of_its_own() {
        let limits = RequestLimits { reads_per_second: 100.0, writes_per_second: 10.0, burst: 5.0 };
        let mut limiter = Limiter::new(limits);
        let mut taken = |from: u64, to: u64, operation, key| {
            (from..to).filter(|ms| limiter.takes(Duration::from_millis(*ms), operation, key)).count()
        };
        // One request a millisecond comes for a second: the burst is taken, and the tokens that flow in.
        assert_eq!(taken(0, 1000, Operation::Get, "t/a"), 104);
        assert_eq!(taken(0, 1000, Operation::Put, "t/b"), 14);
        assert_eq!(taken(0, 1000, Operation::Get, "other/a"), 104);
        assert_eq!(taken(0, 10, Operation::Get, "t/deeper/a"), 5);
        assert_eq!(taken(999, 1004, Operation::List, "t/"), 1, "a list is a read of its prefix");
    }
}
