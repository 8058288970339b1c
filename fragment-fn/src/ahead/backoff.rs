//! Restraint of a query that reads ahead: after it has given memory back, and after a store has asked for fewer requests.

use std::time::{Duration, Instant};

/// Time without new requests after memory was given back, so that the operator is the first to get it.
const MEMORY_PAUSE: Duration = Duration::from_millis(50);

/// Time in which a store's refusals halve the bound once. Those of one moment come together, and the HTTP client waits a
/// tenth of a second at least before it asks again.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// Most halvings in a row. Of memory they leave about a piece, and the way back from them takes half a second. Of requests they
/// leave one.
const HALVINGS_MAX: u32 = 10;

/// Bound on the bytes or requests that a query may have at a time.
///
/// It halves at a setback, at most once a pause. It doubles again with each pause that follows the first and in which there
/// is no setback.
#[derive(Debug)]
pub(super) struct Backoff {
    /// Bound without setbacks.
    whole: u64,
    pause: Duration,
    /// Halvings at the time of the last setback.
    halvings: u32,
    /// Time of the last setback that halved the bound.
    setback: Option<Instant>,
}

impl Backoff {
    /// Bounds bytes. A setback is that memory is given back.
    pub(super) fn of_memory(bytes_max: u64) -> Self {
        Self { whole: bytes_max, pause: MEMORY_PAUSE, halvings: 0, setback: None }
    }

    /// Bounds requests. A setback is that a store asks for fewer.
    pub(super) fn of_requests(requests_max: u32) -> Self {
        Self { whole: requests_max.into(), pause: REFUSAL_PAUSE, halvings: 0, setback: None }
    }

    /// Returns true in the pause after a setback.
    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.setback.is_some_and(|setback| now.saturating_duration_since(setback) < self.pause)
    }

    pub(super) fn bound(&self, now: Instant) -> u64 {
        self.halved(self.whole, now)
    }

    /// Returns `whole` after the setbacks.
    pub(super) fn halved(&self, whole: u64, now: Instant) -> u64 {
        whole >> self.halvings(now)
    }

    pub(super) fn note_setback(&mut self, now: Instant) {
        if !self.is_paused(now) {
            let halvings_max = self.whole.checked_ilog2().unwrap_or_default().min(HALVINGS_MAX);
            self.halvings = (self.halvings(now) + 1).min(halvings_max);
            self.setback = Some(now);
        }
    }

    fn halvings(&self, now: Instant) -> u32 {
        let since = self.setback.map_or(Duration::MAX, |setback| now.saturating_duration_since(setback));
        let doublings = (since.as_millis() / self.pause.as_millis()).saturating_sub(1);
        self.halvings.saturating_sub(u32::try_from(doublings).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_halves_once_a_pause_and_grows_back() {
        let start = Instant::now();
        let mut backoff = Backoff::of_memory(1 << 20);
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
                backoff.note_setback(now);
            }
            let found = (backoff.is_paused(now), backoff.bound(now));
            assert_eq!(found, (is_paused, (1_u64 << 20) >> halvings), "after {ms} ms");
        }
    }

    #[test]
    fn a_bound_is_never_lost() {
        let start = Instant::now();
        // The least that is left, and the pauses after which all of it is back.
        for (mut backoff, least, pauses) in [
            (Backoff::of_memory(1 << 20), 1 << 10, 11),
            (Backoff::of_requests(64), 1, 7),
            (Backoff::of_requests(5), 1, 3),
            (Backoff::of_requests(1), 1, 0),
            (Backoff::of_requests(0), 0, 0),
        ] {
            let pause = backoff.pause;
            for turn in 0..100 {
                backoff.note_setback(start + pause * turn);
            }
            let last = start + pause * 99;
            assert_eq!(backoff.bound(last), least, "{backoff:?}");
            assert_eq!(backoff.bound(last + pause * pauses), backoff.whole, "{backoff:?}");
        }
    }
}
