//! A function's network from how long reads take. Pure.
//!
//! Three kinds of it are told apart: as fast all the time; with a short burst, which comes back while the function waits for first
//! bytes; and with a long one, as functions on Lambda have it, which is over after some hundreds of megabytes.

use std::time::Duration;

/// After so many bytes a long burst is over: a new function on Lambda has 300 MiB (arXiv 2501.07771).
const BURST_OVER_BYTES: f64 = (320 << 20) as f64;
/// No longer is its end looked for: what takes so long is no burst.
const LOOKED_FOR: Duration = Duration::from_secs(10);
/// Runs that are slower than the first by this factor …
const SLOWER: f64 = 1.5;
/// … and by this many first bytes came after a burst.
const SLOWER_WAITS: f64 = 4.0;
/// A short burst that is less than this share of a piece is noise …
const NOISE: f64 = 0.05;
/// … and so is one that is not this many times what the pipe carries during a first byte: a steady pipe whose reads wait for first
/// bytes looks like one of exactly so much.
const BURST_WAITS: f64 = 1.4;
/// What nothing takes less than: clocks and noise.
const SECONDS_MIN: f64 = 1e-5;

/// Seconds of reads, each without an attempt's overhead, of which one first byte is a part.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    /// Of all pieces, in a row.
    pub whole: Vec<f64>,
    /// Of one piece, afterwards.
    pub piece: f64,
    pub piece_bytes: f64,
    pub pieces: usize,
    /// Of a first byte, for which each piece waits.
    pub latency: f64,
}

/// What runs in a row tell of a long burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Burst {
    Unknown,
    None,
    /// The last run came after it, or saw its end.
    Over,
}

/// Bytes a second into one function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct FunctionPipe {
    /// While a long burst lasts; else the same as `then`.
    pub first: f64,
    pub then: f64,
    /// Of a short burst.
    pub burst_bytes: f64,
}

impl Runs {
    pub fn whole_bytes(&self) -> f64 {
        self.piece_bytes * self.pieces as f64
    }

    /// After `turns` first bytes a run, one after the other.
    pub fn burst(&self, turns: f64, passed: Duration) -> Burst {
        let (Some(first), Some(last)) = (self.whole.first(), self.whole.last()) else { return Burst::Unknown };
        let waits = self.latency * (turns - 1.0);
        let (first, last) = (above(first - waits), above(last - waits));
        if last > SLOWER * first && last - first > SLOWER_WAITS * self.latency {
            return Burst::Over;
        }
        let enough = self.whole.len() > 2
            && (self.whole_bytes() * self.whole.len() as f64 > BURST_OVER_BYTES || passed > LOOKED_FOR);
        if enough { Burst::None } else { Burst::Unknown }
    }

    pub fn pipe(&self, burst: Burst, turns: f64) -> FunctionPipe {
        let waits = self.latency * (turns - 1.0);
        let rate = |seconds: f64| self.whole_bytes() / above(seconds - waits);
        let last = self.whole.last().copied().unwrap_or(f64::NAN);
        if burst == Burst::Over {
            let first = self.whole.first().copied().unwrap_or(f64::NAN);
            return FunctionPipe { first: rate(first), then: rate(last), burst_bytes: 0.0 };
        }
        let mut sorted = self.whole.clone();
        sorted.sort_by(f64::total_cmp);
        let whole = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
        let steady = |then: f64| FunctionPipe { first: then, then, burst_bytes: 0.0 };
        let bytes = self.whole_bytes() - self.piece_bytes;
        // A short burst comes back in each pause, so that only bytes take time; and it shows in the piece.
        let then = bytes / above(whole - self.piece);
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

pub(super) fn above(seconds: f64) -> f64 {
    seconds.max(SECONDS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: f64 = 1e6;
    const LATENCY: f64 = 0.03;
    const TURNS: f64 = 4.0;

    /// Reads pieces of 16 MB until something is known of a long burst, and then what the calibration does.
    fn found(seconds: impl Fn(f64, f64) -> f64) -> FunctionPipe {
        let mut runs = Runs { piece_bytes: 16.0 * MB, pieces: 4, latency: LATENCY, ..Runs::default() };
        let (mut read, mut passed, mut burst) = (0.0, 0.0, Burst::Unknown);
        while burst == Burst::Unknown {
            runs.whole.push(seconds(read, 64.0 * MB));
            read += 64.0 * MB;
            passed += runs.whole.last().copied().expect("a run");
            burst = runs.burst(TURNS, Duration::from_secs_f64(passed));
            assert!(runs.whole.len() < 20, "{runs:?}");
        }
        runs.whole.push(seconds(read, 64.0 * MB));
        runs.piece = seconds(read + 64.0 * MB, 16.0 * MB);
        runs.pipe(burst, TURNS)
    }

    /// First bytes after the first, one for each of the 16 MB.
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
    fn a_steady_pipe() {
        for rate in [5.0 * MB, 75.0 * MB, 600.0 * MB, 5000.0 * MB] {
            check(found(|_, bytes| waits(bytes) + bytes / rate), rate, rate, 0.0);
        }
    }

    #[test]
    fn a_short_burst_that_comes_back_in_pauses() {
        check(found(|_, bytes| (bytes - 4.0 * MB) / (50.0 * MB)), 50.0 * MB, 50.0 * MB, 4.0 * MB);
    }

    #[test]
    fn a_long_burst_that_ends() {
        for burst in [150.0 * MB, 310.0 * MB] {
            let seconds = |read: f64, bytes: f64| {
                let quick = (burst - read).clamp(0.0, bytes);
                waits(bytes) + quick / (1200.0 * MB) + (bytes - quick) / (75.0 * MB)
            };
            check(found(seconds), 1200.0 * MB, 75.0 * MB, 0.0);
        }
    }

    #[test]
    fn noise_makes_no_nonsense() {
        // Of a disk: a piece that seems to take longer than all.
        let runs = Runs { whole: vec![0.01; 6], piece: 0.012, piece_bytes: 16.0 * MB, pieces: 4, latency: 1e-4 };
        check(runs.pipe(Burst::None, TURNS), 64.0 * MB / 0.0097, 64.0 * MB / 0.0097, 0.0);
    }
}
