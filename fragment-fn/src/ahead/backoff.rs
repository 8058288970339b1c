//! Restraint of a query that reads ahead, after it has given memory back.

use std::time::{Duration, Instant};

/// Time without new requests after memory was given back, so that the operator is the first to get it.
const PAUSE: Duration = Duration::from_millis(50);

/// Most halvings in a row. They leave about a piece, and the way back from them takes half a second.
const HALVINGS_MAX: u32 = 10;

/// Bound on the bytes that a query may hold at a time.
///
/// It halves when memory is given back, at most once a [`PAUSE`]. It doubles again with each pause that follows the first
/// and in which nothing is given back.
#[derive(Debug)]
pub(super) struct Backoff {
    /// Bound while no operator needs the memory.
    whole_bytes_max: u64,
    /// Halvings at the time of the last gift.
    halvings: u32,
    /// Time of the last gift that halved the bound.
    gave: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(whole_bytes_max: u64) -> Self {
        Self { whole_bytes_max, halvings: 0, gave: None }
    }

    /// Returns true while nothing is to be sent.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.gave.is_some_and(|gave| now.saturating_duration_since(gave) < PAUSE)
    }

    pub(super) fn bytes_max(&self, now: Instant) -> u64 {
        self.whole_bytes_max >> self.halvings(now)
    }

    /// Notes that memory is given back.
    pub(super) fn gave(&mut self, now: Instant) {
        if !self.is_paused(now) {
            self.halvings = (self.halvings(now) + 1).min(HALVINGS_MAX);
            self.gave = Some(now);
        }
    }

    fn halvings(&self, now: Instant) -> u32 {
        let since = self.gave.map_or(Duration::MAX, |gave| now.saturating_duration_since(gave));
        let doublings = (since.as_millis() / PAUSE.as_millis()).saturating_sub(1);
        self.halvings.saturating_sub(u32::try_from(doublings).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_halves_once_a_pause_and_grows_back() {
        let start = Instant::now();
        let mut backoff = Backoff::new(1 << 20);
        // Times in milliseconds, and whether memory is given back then.
        for (ms, gives, is_paused, halvings) in [
            (0, false, false, 0),
            (10, true, true, 1),
            (30, true, true, 1),
            (59, false, true, 1),
            (60, false, false, 1),
            (109, false, false, 1),
            (110, false, false, 0),
            (120, true, true, 1),
            (170, true, true, 2),
            (230, true, true, 3),
            (330, false, false, 2),
            (380, true, true, 2),
            (10_000, false, false, 0),
        ] {
            let now = start + Duration::from_millis(ms);
            if gives {
                backoff.gave(now);
            }
            let found = (backoff.is_paused(now), backoff.bytes_max(now));
            assert_eq!(found, (is_paused, (1_u64 << 20) >> halvings), "after {ms} ms");
        }
    }

    #[test]
    fn a_bound_is_never_lost() {
        let start = Instant::now();
        let mut backoff = Backoff::new(1 << 20);
        for turn in 0..100 {
            backoff.gave(start + PAUSE * turn);
        }
        let last = start + PAUSE * 99;
        assert_eq!(backoff.bytes_max(last), (1 << 20) >> HALVINGS_MAX);
        assert_eq!(backoff.bytes_max(last + PAUSE * (HALVINGS_MAX + 1)), 1 << 20);
    }
}
