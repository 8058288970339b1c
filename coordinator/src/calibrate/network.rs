//! A function's network, computed from the times of reads. Pure.
//!
//! Three kinds of network are told apart. The first has the same rate all the time. The second has a short burst, which comes
//! back while the function waits for first bytes. The third has a long burst, as functions on Lambda do, which ends after
//! some hundreds of megabytes.

use std::time::Duration;

/// Bytes after which a long burst is over: a new function on Lambda has 300 MiB (arXiv 2501.07771).
const BURST_OVER_BYTES: f64 = (320 << 20) as f64;
/// Longest search for the end of a long burst. Runs that go on longer have none.
const LOOKED_FOR: Duration = Duration::from_secs(10);
/// Most runs of that search. Tables of 5 MiB and more reach the end of a burst before.
const RUNS_MAX: usize = 64;
/// Factor between the first run and a run after a burst. Both this and [`SLOWER_WAITS`] have to be exceeded.
const SLOWER: f64 = 1.5;
/// Difference between the first run and a run after a burst, in first bytes.
const SLOWER_WAITS: f64 = 4.0;
/// Share of a piece below which a short burst is noise.
const NOISE: f64 = 0.05;
/// Least ratio of a short burst to the bytes that the pipe carries during a first byte. A steady pipe whose reads wait for
/// first bytes looks like a burst of exactly those bytes.
const BURST_WAITS: f64 = 1.4;
/// Least time of anything, in seconds: clocks and noise.
const SECONDS_MIN: f64 = 1e-5;

/// Seconds of reads without an attempt's overhead. One first byte is a part of the overhead.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadTimes {
    /// Seconds of reading all pieces, run after run.
    pub whole: Vec<f64>,
    /// Seconds of reading one piece, afterwards.
    pub piece: f64,
    pub piece_bytes: f64,
    pub pieces: usize,
    /// Seconds until a first byte, for which each piece waits.
    pub latency: f64,
}

/// Finding of runs in a row about a long burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LongBurst {
    Unknown,
    None,
    /// The last run came after the burst, or saw its end.
    Over,
}

/// Rates into one function, in bytes a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FunctionPipe {
    /// Rate while a long burst lasts. Without one it equals `then`.
    pub first: f64,
    pub then: f64,
    /// Bytes of a short burst.
    pub burst_bytes: f64,
}

impl ReadTimes {
    pub fn whole_bytes(&self) -> f64 {
        self.piece_bytes * self.pieces as f64
    }

    /// Looks for a long burst in the runs, each of which waits for `turns` first bytes one after the other.
    pub fn long_burst(&self, turns: f64, passed: Duration) -> LongBurst {
        let (Some(first), Some(last)) = (self.whole.first(), self.whole.last()) else { return LongBurst::Unknown };
        let waits = self.latency * (turns - 1.0);
        let (first, last) = (measurable(first - waits), measurable(last - waits));
        if last > SLOWER * first && last - first > SLOWER_WAITS * self.latency {
            return LongBurst::Over;
        }
        let runs = self.whole.len();
        let is_read = self.whole_bytes() * runs as f64 > BURST_OVER_BYTES;
        let enough = runs > 2 && (is_read || passed > LOOKED_FOR || runs >= RUNS_MAX);
        if enough { LongBurst::None } else { LongBurst::Unknown }
    }

    pub fn pipe(&self, burst: LongBurst, turns: f64) -> FunctionPipe {
        let waits = self.latency * (turns - 1.0);
        let rate = |seconds: f64| self.whole_bytes() / measurable(seconds - waits);
        let last = self.whole.last().copied().unwrap_or(f64::NAN);
        if burst == LongBurst::Over {
            let first = self.whole.first().copied().unwrap_or(f64::NAN);
            return FunctionPipe { first: rate(first), then: rate(last), burst_bytes: 0.0 };
        }
        let mut sorted = self.whole.clone();
        sorted.sort_by(f64::total_cmp);
        let whole = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
        let steady = |then: f64| FunctionPipe { first: then, then, burst_bytes: 0.0 };
        let bytes = self.whole_bytes() - self.piece_bytes;
        // A short burst comes back in each pause, so that only the bytes take time. It shows in the piece.
        let then = bytes / measurable(whole - self.piece);
        let burst_bytes = self.piece_bytes - then * self.piece;
        if whole - self.piece > SECONDS_MIN
            && burst_bytes > (BURST_WAITS * then * self.latency).max(NOISE * self.piece_bytes)
        {
            return FunctionPipe { first: then, then, burst_bytes };
        }
        let slope = whole - self.piece - waits;
        if slope > SECONDS_MIN { steady(bytes / slope) } else { steady(rate(whole)) }
    }
}

/// Raises seconds that no clock can measure to the least that one can.
pub(super) fn measurable(seconds: f64) -> f64 {
    seconds.max(SECONDS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;
    const LATENCY: f64 = 0.03;
    const TURNS: f64 = 4.0;

    /// Reads pieces of 16 MB until a long burst is known or excluded, and then computes as the calibration does.
    fn found(seconds: impl Fn(f64, f64) -> f64) -> FunctionPipe {
        let mut times = ReadTimes { piece_bytes: 16.0 * MB, pieces: 4, latency: LATENCY, ..ReadTimes::default() };
        let (mut read, mut passed, mut burst) = (0.0, 0.0, LongBurst::Unknown);
        while burst == LongBurst::Unknown {
            times.whole.push(seconds(read, 64.0 * MB));
            read += 64.0 * MB;
            passed += times.whole.last().copied().expect("a run");
            burst = times.long_burst(TURNS, Duration::from_secs_f64(passed));
            assert!(times.whole.len() < 20, "{times:?}");
        }
        times.whole.push(seconds(read, 64.0 * MB));
        times.piece = seconds(read + 64.0 * MB, 16.0 * MB);
        times.pipe(burst, TURNS)
    }

    /// Returns the waits for first bytes after the first, one for each 16 MB.
    fn waits(bytes: f64) -> f64 {
        LATENCY * (bytes / 16.0 / MB - 1.0)
    }

    #[track_caller]
    fn check(found: FunctionPipe, first: f64, then: f64, burst_bytes: f64) {
        let near = |found: f64, expect: f64| (found - expect).abs() <= 0.02 * expect;
        let all = near(found.first, first) && near(found.then, then) && near(found.burst_bytes, burst_bytes);
        assert!(all, "{found:?} is not about {first} {then} {burst_bytes}");
    }

    #[test]
    fn a_steady_pipe_is_found() {
        for rate in [5.0 * MB, 75.0 * MB, 600.0 * MB, 5000.0 * MB] {
            check(found(|_, bytes| waits(bytes) + bytes / rate), rate, rate, 0.0);
        }
    }

    #[test]
    fn a_short_burst_is_found() {
        check(found(|_, bytes| (bytes - 4.0 * MB) / (50.0 * MB)), 50.0 * MB, 50.0 * MB, 4.0 * MB);
    }

    #[test]
    fn a_long_burst_is_found() {
        for burst in [150.0 * MB, 310.0 * MB] {
            let seconds = |read: f64, bytes: f64| {
                let quick = (burst - read).clamp(0.0, bytes);
                waits(bytes) + quick / (1200.0 * MB) + (bytes - quick) / (75.0 * MB)
            };
            check(found(seconds), 1200.0 * MB, 75.0 * MB, 0.0);
        }
    }

    #[test]
    fn a_noisy_disk_gives_a_steady_pipe() {
        // A disk's noise makes one piece seem slower than all of them.
        let times = ReadTimes { whole: vec![0.01; 6], piece: 0.012, piece_bytes: 16.0 * MB, pieces: 4, latency: 1e-4 };
        check(times.pipe(LongBurst::None, TURNS), 64.0 * MB / 0.0097, 64.0 * MB / 0.0097, 0.0);
    }
}
