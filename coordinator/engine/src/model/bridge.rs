//! Gaps between ranges of a file that are read along, because a second request would cost more. Pure.
//!
//! ```text
//!  a request: its price, and its part of the latency ─┐
//!                                                     ├─► gap in bytes at which both cost the same
//!  a byte: its transfer, and its time in the pipe ────┘
//! ```
//!
//! Seconds count as the money for the machine that waits. The rate of a pipe is the steady one: bytes of gaps use up a burst.

use fragment_fn::BRIDGE_BYTES_MAX;

use super::TimeModel;
use crate::config::Prefer;
use crate::cost::{Item, Tariff};

/// Memory of a function with one core (AWS Lambda, read in November 2026), in MB.
const CORE_MB: u32 = 1_769;

/// Seconds of a reader of storage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadSeconds {
    /// Time that one more request takes, beside those that are under way.
    pub request: f64,
    /// Time that one more byte takes.
    pub byte: f64,
}

/// Prices of a reader of storage, in nano-dollars.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadPrices {
    pub request: f64,
    pub byte: f64,
    /// Price of a second of its machine.
    pub second: f64,
}

impl TimeModel {
    /// Returns the seconds of the coordinator's reads.
    pub fn read_seconds(&self) -> ReadSeconds {
        self.seconds_of_reads(self.reads_ahead, self.pipe_bytes_per_second)
    }

    /// Returns the seconds of a function's reads.
    pub fn function_read_seconds(&self) -> ReadSeconds {
        self.seconds_of_reads(self.function_reads_ahead, self.function_pipe.bytes_per_second)
    }

    fn seconds_of_reads(&self, ahead: usize, bytes_per_second: f64) -> ReadSeconds {
        // Answers of those under way come one after the other.
        ReadSeconds {
            request: self.read_latency.mean.as_secs_f64() / ahead.max(1) as f64,
            byte: bytes_per_second.recip(),
        }
    }
}

impl ReadPrices {
    /// Returns the prices of a function of the tariff's size.
    pub fn of_function(tariff: &Tariff) -> Self {
        Self {
            request: cost(Item::TableReads, 1, tariff),
            byte: 0.0,
            second: function_second(tariff.memory_mb, tariff),
        }
    }

    /// Returns the prices of the coordinator. A machine without a price counts as functions with as many cores.
    pub fn of_coordinator(tariff: &Tariff, cores: usize) -> Self {
        let memory_mb = u32::try_from(cores.max(1)).unwrap_or(u32::MAX).saturating_mul(CORE_MB);
        let second = Item::Coordinator.cost(1_000_000, tariff).map(|money| money.nano_dollars() as f64);
        let transfer =
            if tariff.coordinator_outside == Some(true) { cost(Item::DataTransfer, 1 << 20, tariff) } else { 0.0 };
        Self {
            request: cost(Item::CoordinatorReads, 1, tariff),
            byte: transfer / f64::from(1 << 20),
            second: second.unwrap_or_else(|| function_second(memory_mb, tariff)),
        }
    }
}

fn cost(item: Item, quantity: u128, tariff: &Tariff) -> f64 {
    item.cost(quantity, tariff).unwrap_or_default().nano_dollars() as f64
}

fn function_second(memory_mb: u32, tariff: &Tariff) -> f64 {
    cost(Item::Compute { memory_mb }, u128::from(memory_mb) * 1_000_000, tariff)
}

/// Returns the largest gap between two ranges, in bytes, that is read along. Where there are no prices, or seconds alone count, time decides.
pub fn bridge_bytes(seconds: ReadSeconds, prices: Option<ReadPrices>, prefer: Option<Prefer>) -> u64 {
    let (request, byte) = match prices.filter(|_| prefer != Some(Prefer::Latency)) {
        Some(prices) => (prices.request + seconds.request * prices.second, prices.byte + seconds.byte * prices.second),
        None => (seconds.request, seconds.byte),
    };
    // Bytes that cost nothing leave the bound alone. A conversion of floats saturates.
    if byte > 0.0 { ((request / byte) as u64).min(BRIDGE_BYTES_MAX) } else { BRIDGE_BYTES_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pipe;

    const KIB: u64 = 1 << 10;

    /// A function as published, with 64 reads ahead.
    fn lambda() -> TimeModel {
        TimeModel { function_reads_ahead: 64, reads_ahead: 64, ..TimeModel::lambda(2, 1.0) }
    }

    fn tariff(memory_mb: u32) -> Tariff {
        Tariff { memory_mb, ..Tariff::of_tests() }
    }

    #[test]
    fn a_gap_costs_as_much_as_a_request() {
        let model = lambda();
        let gap = |memory_mb, prefer| {
            bridge_bytes(model.function_read_seconds(), Some(ReadPrices::of_function(&tariff(memory_mb))), prefer) / KIB
        };
        // A request costs 400 nano-dollars and 0.5 ms, a second of 2 GB 33,334: as much as 12.5 ms at 75 MiB/s.
        assert_eq!(gap(2_048, None), 960);
        assert_eq!(gap(4_096, None), 499);
        assert_eq!(gap(10_240, None), 222);
        // In a small function time costs little: the bound remains.
        assert_eq!(gap(512, Some(Prefer::Cost)), 1_024);
        // Half a millisecond of 75 MiB/s.
        assert_eq!(gap(2_048, Some(Prefer::Latency)), 38);
        assert_eq!(bridge_bytes(model.function_read_seconds(), None, None) / KIB, 38);
    }

    #[test]
    fn bytes_that_leave_the_region_are_dear() {
        let model = lambda();
        let gap = |outside, hour: Option<&str>| {
            let hour = hour.map(|hour| hour.parse().expect("a price"));
            let tariff = Tariff { coordinator_outside: outside, coordinator_hour: hour, ..tariff(2_048) };
            bridge_bytes(model.read_seconds(), Some(ReadPrices::of_coordinator(&tariff, 2)), None) / KIB
        };
        assert_eq!(gap(None, None), 1_024);
        // 0.09 dollars a gigabyte: a request costs as much as four kilobytes and a half.
        assert_eq!(gap(Some(true), Some("0.1")), 4);
        // 0.1 dollars a second.
        assert_eq!(gap(Some(false), Some("360")), 147);
    }

    #[test]
    fn a_lone_read_waits_for_all_of_the_latency() {
        let model = TimeModel { function_reads_ahead: 0, function_pipe: Pipe::steady(1e6), ..lambda() };
        assert_eq!(bridge_bytes(model.function_read_seconds(), None, None), 32_000);
        let free = TimeModel { pipe_bytes_per_second: f64::INFINITY, ..lambda() };
        assert_eq!(bridge_bytes(free.read_seconds(), None, None), BRIDGE_BYTES_MAX);
    }
}
