//! Faults of requests, drawn from a seed: the same request has the same fault in every run. Pure.

use rand::Rng;
use rand::rngs::StdRng;
use serde::Deserialize;

/// Fault of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StorageFault {
    /// 503 SlowDown, by chance or because the prefix was asked too often.
    SlowDown,
    /// 500 InternalError.
    InternalError,
    /// The connection is reset before the answer.
    Reset,
    /// The connection is reset within the body.
    ResetInBody,
    /// The body is shorter than the range that the answer names. The answer's length is that of the short body.
    Truncated,
}

/// Shares of all requests that have each fault: each is 0 to 1, together at most 1. The last two befall reads only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    pub slow_down: f64,
    pub internal_error: f64,
    pub reset: f64,
    pub reset_in_body: f64,
    pub truncated: f64,
}

/// Requests of one client for objects whose keys have a part in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Befallen {
    pub identity: String,
    pub key: String,
}

impl Befallen {
    pub(super) fn has(&self, identity: &str, key: &str) -> bool {
        self.identity == identity && key.contains(&self.key)
    }
}

impl Faults {
    pub(super) fn draw(&self, rng: &mut StdRng) -> Option<StorageFault> {
        let shares = [
            (self.slow_down, StorageFault::SlowDown),
            (self.internal_error, StorageFault::InternalError),
            (self.reset, StorageFault::Reset),
            (self.reset_in_body, StorageFault::ResetInBody),
            (self.truncated, StorageFault::Truncated),
        ];
        let mut drawn: f64 = rng.random();
        for (share, fault) in shares {
            if drawn < share {
                return Some(fault);
            }
            drawn -= share;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn faults_are_drawn_by_their_shares() {
        let faults =
            Faults { slow_down: 0.01, internal_error: 0.02, reset: 0.03, reset_in_body: 0.04, truncated: 0.05 };
        let mut rng = StdRng::seed_from_u64(7);
        let drawn: Vec<_> = (0..100_000).filter_map(|_| faults.draw(&mut rng)).collect();
        for (fault, share) in [
            (StorageFault::SlowDown, 0.01),
            (StorageFault::InternalError, 0.02),
            (StorageFault::Reset, 0.03),
            (StorageFault::ResetInBody, 0.04),
            (StorageFault::Truncated, 0.05),
        ] {
            let count = drawn.iter().filter(|drawn| **drawn == fault).count() as f64;
            assert!((count / 100_000.0 / share - 1.0).abs() < 0.1, "{fault:?}: {count} of 100,000");
        }
        assert_eq!((0..1000).filter_map(|_| Faults::default().draw(&mut rng)).count(), 0);
    }
}
