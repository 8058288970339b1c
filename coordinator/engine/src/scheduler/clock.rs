//! Wall time that moves with tokio's clock, so that deadlines also hold under paused time.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A moment of tokio's clock, tied to one of the wall's.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: SystemTime,
    at: Instant,
}

impl Clock {
    /// Starts with the wall's present time.
    pub fn start() -> Self {
        Self::starting_at(SystemTime::now())
    }

    /// Starts as if it were `wall` now.
    pub fn starting_at(wall: SystemTime) -> Self {
        Self { wall, at: Instant::now() }
    }

    /// Returns the milliseconds since the Unix epoch at a moment that is not before this clock's start.
    pub fn unix_ms(&self, moment: Instant) -> u64 {
        let wall = self.wall + moment.saturating_duration_since(self.at);
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the moment at which it is `unix_ms`.
    pub fn moment(&self, unix_ms: u64) -> Instant {
        self.at + std::time::Duration::from_millis(unix_ms.saturating_sub(self.unix_ms(self.at)))
    }
}
