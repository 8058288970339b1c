//! Knowledge of one client about its store: time to the first byte, rates of bodies, refusals.
//!
//! ```text
//!  hedging     ─► first bytes, bodies ─┐           ┌─► hedging: time that a body may take
//!                                      ├─► Pace ───┤
//!  HTTP client ─► 503 and 429 ─────────┘           └─► reading ahead: bytes under way that keep the pipe full; fewer
//!                                                      requests for a while
//! ```
//!
//! All views of a client share it. It listens: it sends no request and holds none up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

mod http;
mod refused;

pub(crate) use http::watched;

/// Time to the first byte before one was seen: the median published for S3 (arXiv 2501.07771).
const FIRST_BYTE: Duration = Duration::from_millis(27);
/// Weight of the latest first byte. The mean follows a change within ten reads.
const FIRST_BYTE_WEIGHT: f64 = 1.0 / 8.0;
/// Weight of a first byte that is later than the least one. The least time follows a slower network within a hundred reads, and
/// hardly follows the answers that wait behind this client's own bodies.
const LATER_WEIGHT: f64 = 1.0 / 64.0;
/// Multiple of the least time to a first byte in which most answers come: 95 % of S3's within 74 ms, and none before 15
/// (arXiv 2501.07771).
const DEPTH_MULTIPLE: f64 = 4.0;
/// Weight of the latest rate. The mean follows the end of a burst within a few bodies, and hardly follows one odd body.
const RATE_WEIGHT: f64 = 1.0 / 5.0;
/// Shortest body from which a rate is learnt, in bytes. Shorter bodies tell more about latency than about the pipe.
const BODY_BYTES_MIN: u64 = 64 << 10;
/// Bytes of all bodies from which their common rate is learnt.
const WINDOW_BYTES_MIN: u64 = 1 << 20;
/// Share of a rate that counts as the same.
const AS_FAST: f64 = 0.9;
/// Shortest time from which a rate is learnt.
const TIME_MIN: Duration = Duration::from_millis(1);

/// Times and refusals that one client of a store has seen.
#[derive(Debug)]
pub struct Pace {
    seen: Mutex<Seen>,
    slow_downs: AtomicU64,
}

#[derive(Debug)]
struct Seen {
    first_byte_seconds: f64,
    /// About the least time to a first byte. None until one was seen.
    least_seconds: Option<f64>,
    /// Rate of one body, in bytes a second, while it is received.
    body_rate: Option<f64>,
    /// Rate of all bodies together, in bytes a second, while any is received.
    common_rate: Option<f64>,
    fullest: Option<Fullest>,
    /// Bodies whose next bytes are waited for.
    receiving: usize,
    /// Bytes of all bodies since the common rate was learnt last.
    window_bytes: u64,
    /// Time since then in which a body was received.
    window: Duration,
    /// Seconds in that time that bodies were received, added up over the bodies.
    window_body_seconds: f64,
    /// End of the time that the window has counted.
    counted_until: Instant,
}

/// Pipe at its fullest.
#[derive(Debug, Clone, Copy)]
struct Fullest {
    /// Rate of all bodies together, in bytes a second.
    rate: f64,
    /// Bodies at a time that had this rate.
    bodies: f64,
}

impl Fullest {
    /// Follows the latest rate of so many bodies, unless that is lower only because there were fewer.
    fn follow(self, rate: f64, bodies: f64) -> Self {
        let is_each_as_fast = rate / bodies >= AS_FAST * self.rate / self.bodies;
        if rate < self.rate && bodies < self.bodies && is_each_as_fast {
            return self;
        }
        Self { rate: mean(Some(self.rate), rate), bodies: mean(Some(self.bodies), bodies) }
    }
}

impl Seen {
    /// Counts the time until now.
    fn advance(&mut self) {
        let now = Instant::now();
        if self.receiving > 0 {
            let passed = now - self.counted_until;
            self.window += passed;
            self.window_body_seconds += passed.as_secs_f64() * self.receiving as f64;
        }
        self.counted_until = now;
    }

    /// Returns the seconds in which so many bytes of each body come that is received now.
    fn shared_seconds(&self, bytes: f64) -> f64 {
        // A body that comes alone shows how slow it is, and not how much the pipe carries.
        let common_rate = self.common_rate.filter(|_| self.receiving > 1);
        common_rate.map_or(0.0, |rate| bytes * self.receiving as f64 / rate)
    }

    fn add(&mut self, bytes: u64) {
        self.window_bytes += bytes;
        if self.window_bytes >= WINDOW_BYTES_MIN && self.window >= TIME_MIN {
            let seconds = self.window.as_secs_f64();
            let (latest, bodies) = (self.window_bytes as f64 / seconds, self.window_body_seconds / seconds);
            self.common_rate = Some(mean(self.common_rate, latest));
            let fullest = self.fullest.unwrap_or(Fullest { rate: latest, bodies });
            self.fullest = Some(fullest.follow(latest, bodies));
            (self.window_bytes, self.window, self.window_body_seconds) = (0, Duration::ZERO, 0.0);
        }
    }
}

fn mean(rate: Option<f64>, latest: f64) -> f64 {
    rate.map_or(latest, |rate| (1.0 - RATE_WEIGHT) * rate + RATE_WEIGHT * latest)
}

impl Default for Pace {
    fn default() -> Self {
        let seen = Seen {
            first_byte_seconds: FIRST_BYTE.as_secs_f64(),
            least_seconds: None,
            body_rate: None,
            common_rate: None,
            fullest: None,
            receiving: 0,
            window_bytes: 0,
            window: Duration::ZERO,
            window_body_seconds: 0.0,
            counted_until: Instant::now(),
        };
        Self { seen: Mutex::new(seen), slow_downs: AtomicU64::new(0) }
    }
}

impl Pace {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder panics")
    }

    /// Returns the mean time from a request to its answer.
    pub fn first_byte(&self) -> Duration {
        Duration::from_secs_f64(self.seen().first_byte_seconds)
    }

    /// Returns the rate of all bodies together, over the time in which any was received. None until it was seen.
    pub fn bytes_per_second(&self) -> Option<f64> {
        self.seen().common_rate
    }

    /// Returns the bytes under way that keep the pipe full: its rate at its fullest, for the time in which most answers come. More of them
    /// would wait for each other. None until latency and rate were seen.
    pub(crate) fn depth_bytes(&self) -> Option<u64> {
        let seen = self.seen();
        // A conversion of floats saturates.
        Some((DEPTH_MULTIPLE * seen.least_seconds? * seen.fullest?.rate) as u64)
    }

    /// Returns the answers that refused a request because too many came: 503 and 429. The HTTP client may have sent these
    /// requests again by itself.
    pub fn slow_downs(&self) -> u64 {
        self.slow_downs.load(Relaxed)
    }

    /// Returns the time that a body takes by the client's own bodies, in the pipe that it shares with those that are received
    /// now. One body comes at most at `rate_max`, in bytes a second. None until a body has come whole.
    pub(crate) fn body_time(&self, bytes: u64, rate_max: f64) -> Option<Duration> {
        let seen = self.seen();
        let bytes = bytes as f64;
        let alone = bytes / seen.body_rate?.min(rate_max);
        Some(Duration::from_secs_f64(alone.max(seen.shared_seconds(bytes))))
    }

    /// Returns the time in which so many bytes of each body come that is received now, one after the other. Zero for one body alone, and
    /// until their common rate was seen.
    pub(crate) fn round_time(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(self.seen().shared_seconds(bytes as f64))
    }

    pub(crate) fn note_first_byte(&self, took: Duration) {
        let mut seen = self.seen();
        let took = took.as_secs_f64();
        seen.first_byte_seconds += FIRST_BYTE_WEIGHT * (took - seen.first_byte_seconds);
        let least = seen.least_seconds.unwrap_or(took);
        seen.least_seconds = Some(if took < least { took } else { least + LATER_WEIGHT * (took - least) });
    }

    /// Notes a body that has come whole. `took` is the time in which somebody waited for its bytes.
    pub(crate) fn note_body(&self, bytes: u64, took: Duration) {
        if bytes >= BODY_BYTES_MIN && took >= TIME_MIN {
            let mut seen = self.seen();
            seen.body_rate = Some(mean(seen.body_rate, bytes as f64 / took.as_secs_f64()));
        }
    }

    /// Notes that the next bytes of a body are waited for, until the guard is dropped.
    pub(crate) fn receive(self: &Arc<Self>) -> Receiving {
        let mut seen = self.seen();
        seen.advance();
        seen.receiving += 1;
        Receiving { pace: Arc::clone(self), bytes: 0 }
    }

    pub(crate) fn note_slow_down(&self) {
        self.slow_downs.fetch_add(1, Relaxed);
    }
}

/// Wait for the next bytes of a body.
#[derive(Debug)]
pub(crate) struct Receiving {
    pace: Arc<Pace>,
    bytes: u64,
}

impl Receiving {
    /// Notes bytes that have come.
    pub(crate) fn came(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut seen = self.pace.seen();
        seen.advance();
        seen.receiving -= 1;
        seen.add(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const MIB: u64 = 1 << 20;

    async fn receive(pace: &Arc<Pace>, bytes: u64, takes_ms: u64) {
        let mut receiving = pace.receive();
        sleep(Duration::from_millis(takes_ms)).await;
        receiving.came(bytes);
    }

    async fn stream(pace: &Arc<Pace>, bytes: u64, takes_ms: u64) {
        for _ in 0..16 {
            receive(pace, bytes / 16, takes_ms / 16).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_common_rate_is_over_the_time_in_which_bodies_come() {
        let pace = Arc::<Pace>::default();
        assert_eq!(pace.bytes_per_second(), None);
        futures::future::join_all((0..4).map(|_| receive(&pace, MIB / 8, 10))).await;
        assert_eq!(pace.bytes_per_second(), None, "half a MiB tells little");
        sleep(Duration::from_secs(60)).await;
        futures::future::join_all((0..4).map(|_| receive(&pace, MIB / 8, 10))).await;
        assert_eq!(pace.bytes_per_second(), Some(MIB as f64 / 0.02));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_ends() {
        let pace = Arc::<Pace>::default();
        let waited = tokio::time::timeout(Duration::from_millis(10), receive(&pace, MIB, 1_000)).await;
        assert!(waited.is_err());
        sleep(Duration::from_secs(60)).await;
        receive(&pace, MIB, 10).await;
        assert_eq!(pace.bytes_per_second(), Some(MIB as f64 / 0.02));
        assert_eq!(pace.seen().receiving, 0);
    }

    #[test]
    fn first_bytes_are_followed() {
        let pace = Pace::default();
        assert_eq!(pace.first_byte(), FIRST_BYTE);
        pace.note_first_byte(Duration::from_millis(107));
        assert_eq!(pace.first_byte(), Duration::from_millis(37));
        (0..50).for_each(|_| pace.note_first_byte(Duration::from_millis(2)));
        assert!(pace.first_byte() < Duration::from_millis(3), "{:?}", pace.first_byte());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_pipe_has_its_rate_for_the_time_of_most_answers_under_way() {
        let pace = Arc::<Pace>::default();
        pace.note_first_byte(Duration::from_millis(20));
        assert_eq!(pace.depth_bytes(), None, "no rate was seen");
        receive(&pace, MIB, 100).await;
        let depth = |latency_ms: f64| Some((DEPTH_MULTIPLE * latency_ms / 1e3 * MIB as f64 / 0.1) as u64);
        assert_eq!(pace.depth_bytes(), depth(20.0));
        // Answers behind the client's own bodies do not count as latency, and a nearer store does at once.
        (0..3).for_each(|_| pace.note_first_byte(Duration::from_secs(1)));
        assert!(pace.depth_bytes() < depth(70.0), "{:?}", pace.depth_bytes());
        pace.note_first_byte(Duration::from_millis(5));
        assert_eq!(pace.depth_bytes(), depth(5.0));
        // A pipe whose burst has ended.
        for _ in 0..20 {
            receive(&pace, MIB, 1_000).await;
        }
        assert!(pace.depth_bytes() < Some(depth(5.0).unwrap_or_default() / 8), "{:?}", pace.depth_bytes());
        // A slower network is followed.
        (0..500).for_each(|_| pace.note_first_byte(Duration::from_millis(100)));
        let seen = pace.seen().least_seconds;
        assert!(seen.is_some_and(|seen| (0.09..0.101).contains(&seen)), "{seen:?}");
    }

    /// A depth that is learnt from the bodies which it allows does not become smaller by itself.
    #[tokio::test(start_paused = true)]
    async fn a_store_that_limits_each_body_has_its_depth_kept() {
        // Bodies of 8 MiB, each at 90 MB/s: four times the latency of them is less than one of them, or about one.
        for (latency_us, share) in [(15_000, 0.625), (22_800, 0.95)] {
            let pace = Arc::<Pace>::default();
            pace.note_first_byte(Duration::from_micros(latency_us));
            let bodies_of = |depth: u64| (depth / (8 * MIB)).max(1);
            let mut depths = vec![64 * 8 * MIB];
            for _ in 0..20 {
                let bodies = bodies_of(depths[depths.len() - 1]);
                futures::future::join_all((0..bodies).map(|_| stream(&pace, 8 * MIB, 96))).await;
                depths.push(pace.depth_bytes().unwrap_or_default());
            }
            // The second time still begins with bytes of the first.
            assert!(depths[3..].iter().all(|depth| bodies_of(*depth) == bodies_of(depths[2])), "{share}: {depths:?}");
            let part = depths[2] as f64 / depths[0] as f64;
            assert!((0.9 * share..1.05 * share).contains(&part), "{share}: {depths:?}");
            // The pipe itself becomes slower, so that each body is slower, too.
            for _ in 0..20 {
                let bodies = bodies_of(depths[depths.len() - 1]);
                futures::future::join_all((0..bodies).map(|_| stream(&pace, 8 * MIB, 96 * bodies))).await;
                depths.push(pace.depth_bytes().unwrap_or_default());
            }
            assert!(depths[depths.len() - 1] < depths[2] / 8, "{share}: {depths:?}");
        }
    }

    /// A body is expected at its likes' rate, and at its part of the pipe where that is less.
    #[tokio::test(start_paused = true)]
    async fn a_body_takes_its_part_of_the_pipe() {
        let pace = Arc::<Pace>::default();
        let times = |receiving: usize| {
            let _held: Vec<_> = (0..receiving).map(|_| pace.receive()).collect();
            pace.body_time(MIB, 150e6).map(|time| time.as_millis())
        };
        assert_eq!(times(1), None, "no body has come");
        receive(&pace, MIB, 20).await;
        pace.note_body(MIB, Duration::from_millis(20));
        assert_eq!([1, 2, 8].map(times), [Some(20), Some(40), Some(160)]);
        pace.note_body(1_000, Duration::from_secs(1));
        assert_eq!(times(1), Some(20), "a short body tells nothing");
        for _ in 0..10 {
            receive(&pace, MIB, 1_000).await;
        }
        assert_eq!(times(1), Some(20), "a slow body does not excuse itself");
    }
}
