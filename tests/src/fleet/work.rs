//! Work of a simulated attempt: its reads, its core's time, and the rows that it sends.

use std::time::Duration;

use gust_protocol::exchange::writes_of;
use gust_protocol::{Input, InvokeRequest, Requests, Usage};
use rand::rngs::SmallRng;

use super::parts::object_slices;
use super::pipe::Burst;
use super::platform::Platform;

/// Work of an attempt.
pub(super) struct Work<'a> {
    pub(super) platform: &'a Platform,
    pub(super) request: &'a InvokeRequest,
    /// Bytes of an object of rows for functions, where it has a size by the answer. None where rows have their own size, which takes no time.
    pub(super) sent: Option<u64>,
    /// Share of the network that the attempt has.
    pub(super) pipe_share: f64,
}

impl Work<'_> {
    /// Returns the time that the work takes, and its requests to storage.
    pub(super) fn done(self, burst: &mut Burst, random: &mut SmallRng) -> (Duration, Usage) {
        let Self { platform, request, sent, pipe_share } = self;
        let Platform { pipe, reads_in_flight, read_bytes, cores, core_bytes_per_second, .. } = platform;
        let (mut bytes, mut gets) = (0, 0);
        for length in scanned(request) {
            bytes += length;
            gets += platform.footer_reads + length.div_ceil(*read_bytes);
        }
        for slice in object_slices(request) {
            (bytes, gets) = (bytes + slice.bytes, gets + 1);
        }
        let in_flight = (*reads_in_flight).min(u32::try_from(gets).unwrap_or(u32::MAX));
        let mut reads = Reads { platform, hedges_left: 1 + gets / 200, hedged: 0 };
        // Footers are read before columns. Only the first wave of reads waits for its bytes; later ones wait meanwhile.
        let footers = if request.fragment.parts.is_empty() { platform.footer_reads.min(1) } else { 0 };
        let mut first_byte: Duration = (0..footers).map(|_| reads.slowest(1, random)).sum();
        first_byte += reads.slowest(in_flight, random);
        let waves = gets.div_ceil(u64::from(in_flight.max(1)));
        let waiting: Duration = (1..waves).map(|_| reads.slowest(1, random)).sum();
        let gets = gets + reads.hedged;
        let reading = burst.carry(pipe, bytes as f64, pipe_share).max(waiting);
        let computing = Duration::from_secs_f64(bytes as f64 / (cores * core_bytes_per_second));
        // Rows for functions are written when all of them are there. The begin, the parts together, and the end wait for the store.
        let sending = burst.carry(pipe, sent.unwrap_or_default() as f64, pipe_share);
        let writing = platform.write_ms.draw_ms(random);
        let puts = sent.map_or_else(|| u64::from(request.fragment.limits.inline_bytes_max == 0), writes_of);
        let requests = Requests { get: gets, put: puts, ..Requests::default() };
        let usage = Usage { requests, bytes_read: bytes, bytes_written: sent.unwrap_or(puts), ..Usage::default() };
        (first_byte + reading.max(computing) + sending + writing.mul_f64(puts.min(3) as f64), usage)
    }
}

/// Returns the bytes that a request names in storage.
pub(super) fn bytes_read(request: &InvokeRequest) -> u64 {
    let of_others: u64 = object_slices(request).iter().map(|slice| slice.bytes).sum();
    scanned(request).sum::<u64>() + of_others
}

/// Lists the bytes of each file, or part of a file, that a request names.
fn scanned(request: &InvokeRequest) -> impl Iterator<Item = u64> {
    let lanes = request.fragment.inputs.iter().flat_map(|(_, Input::Scan(scan))| &scan.lanes);
    lanes.flatten().map(|unit| unit.range.map_or(unit.file.size_bytes, |(start, end)| end - start))
}

/// Reads of an attempt, some of which may be sent twice.
struct Reads<'a> {
    platform: &'a Platform,
    hedges_left: u64,
    hedged: u64,
}

impl Reads<'_> {
    /// Returns the time until the last of `count` reads has its first byte.
    fn slowest(&mut self, count: u32, random: &mut SmallRng) -> Duration {
        let slowest = self.platform.read_ms.slowest_ms(count, random);
        let Some(after) = self.platform.hedged_after_ms.map(|ms| Duration::from_secs_f64(ms / 1000.0)) else {
            return slowest;
        };
        if slowest <= after || self.hedges_left == 0 {
            return slowest;
        }
        (self.hedges_left, self.hedged) = (self.hedges_left - 1, self.hedged + 1);
        slowest.min(after + self.platform.read_ms.draw_ms(random))
    }
}
