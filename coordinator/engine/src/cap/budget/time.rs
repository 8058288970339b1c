//! Time of budgets: UTC's, of which a jump ahead is believed only once it has lasted.
//!
//! A wrong clock would begin a window too early, and no clock that goes back ends it. So a jump has to last. One that a suspended
//! machine makes lasts, too.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// Longest way by which the clock may be set ahead at once.
const STEP_MAX: TimeDelta = TimeDelta::minutes(5);

/// Time after which a jump ahead is believed.
const JUMP_LASTS: Duration = Duration::from_secs(10 * 60);

/// Last moment that was believed.
#[derive(Debug)]
pub(super) struct Time {
    wall: DateTime<Utc>,
    steady: Instant,
    /// Beginning of a jump that is not believed yet.
    jumped: Option<Instant>,
}

impl Time {
    pub(super) fn new(wall: DateTime<Utc>, steady: Instant) -> Self {
        Self { wall, steady, jumped: None }
    }

    /// Returns the time that holds, by looks at both clocks.
    pub(super) fn look(&mut self, wall: DateTime<Utc>, steady: Instant) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(steady.saturating_duration_since(self.steady)).unwrap_or(TimeDelta::MAX);
        let expected = self.wall.checked_add_signed(passed).unwrap_or(DateTime::<Utc>::MAX_UTC);
        if wall <= expected.checked_add_signed(STEP_MAX).unwrap_or(DateTime::<Utc>::MAX_UTC) {
            *self = Self::new(wall, steady);
            return wall;
        }
        let jumped = *self.jumped.get_or_insert_with(|| {
            tracing::error!(from = %expected, to = %wall, "the clock has jumped ahead; budgets follow it if it stays there");
            steady
        });
        if steady.saturating_duration_since(jumped) < JUMP_LASTS {
            return expected;
        }
        tracing::warn!(from = %expected, to = %wall, "budgets follow the clock that has jumped ahead");
        *self = Self::new(wall, steady);
        wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_ahead_is_believed_once_it_has_lasted() {
        let (noon, steady) = ("2026-11-29T12:00:00Z".parse::<DateTime<Utc>>().expect("a moment"), Instant::now());
        let mut time = Time::new(noon, steady);
        let minutes = |minutes: i64| noon + TimeDelta::minutes(minutes);
        let june = "2027-06-01T00:00:00Z".parse::<DateTime<Utc>>().expect("a moment");
        for (wall, at_minutes, expect) in [
            (minutes(1), 1, minutes(1)),
            // NTP sets it a little, and back.
            (minutes(6), 2, minutes(6)),
            (minutes(3), 3, minutes(3)),
            (june, 4, minutes(4)),
            (june, 13, minutes(13)),
            // It was wrong, and is right again.
            (minutes(14), 14, minutes(14)),
            (june, 20, minutes(20)),
            (june, 29, minutes(29)),
            (june, 30, june),
            (june + TimeDelta::minutes(1), 31, june + TimeDelta::minutes(1)),
            (minutes(32), 32, minutes(32)),
        ] {
            let seen = time.look(wall, steady + Duration::from_secs(at_minutes * 60));
            assert_eq!(seen, expect, "{at_minutes}");
        }
    }
}
