//! Bounds of an attempt's work, and their price: pure functions of the tariff.

use std::time::Duration;

use fragment_fn::hedging::{HEDGES_AT_START, READS_PER_HEDGE};
use gust_protocol::exchange::writes_of;

use super::{Cap, TIME_MIN};
use crate::attempt::{GRACE, billed_max};
use crate::cost::{Basis, Item, Quantities, Tariff};
use crate::money::Money;

/// GETs of a scan unit besides its columns: footer, the part that the guess of the footer's size missed, page index,
/// dictionaries.
const READS_PER_UNIT: u64 = 4;
/// Bytes below which column chunks are rarely, so that hardly any request of a row group brings less.
const CHUNK_BYTES_MIN: u64 = 64 << 10;
/// Divisor of a scan's bytes: a result is taken to be at most half as large as the columns that were read.
const RESULT_BYTES_DIVISOR: u64 = 2;

/// Upper bounds of an attempt's storage requests and of its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AttemptWork {
    /// GETs by the function.
    pub reads: u64,
    /// PUTs by the function.
    pub writes: u64,
    /// Bytes of an answer that carries its rows.
    pub answer_bytes: u64,
}

impl AttemptWork {
    /// Bounds the work of a fragment that reads `weight_bytes` of the projected columns in `units` scan units. Gaps of at most
    /// `bridge_bytes` are read along.
    pub fn of_fragment(units: usize, weight_bytes: u64, answer_bytes: u64, bridge_bytes: u64) -> Self {
        // The stage's plan may lie in the exchange, too.
        let of_plan = 1;
        // Reads closer than `bridge_bytes` are one GET, and column chunks are rarely smaller.
        let bytes_each = bridge_bytes.max(CHUNK_BYTES_MIN);
        let reads = of_plan + units as u64 * READS_PER_UNIT + weight_bytes.div_ceil(bytes_each);
        let hedges = HEDGES_AT_START + reads / READS_PER_HEDGE;
        Self { reads: reads + hedges, writes: writes_of(weight_bytes.div_ceil(RESULT_BYTES_DIVISOR)), answer_bytes }
    }
}

/// Returns the least that a query can cost: an invocation and a billed millisecond per fragment, and a GET per file.
pub fn lower_bound(fragments: u64, files: u64, tariff: &Tariff) -> Money {
    let memory_mb = tariff.memory_mb;
    let mut least = Quantities::default();
    least.add(Item::Compute { memory_mb }, Basis::Bounded, u128::from(memory_mb) * 1_000 * u128::from(fragments));
    least.add(Item::Invocations, Basis::Bounded, fragments);
    least.add(Item::TableReads, Basis::Bounded, files);
    least.cost(tariff)
}

impl Cap {
    /// Returns the time that an attempt can run for an amount; None if that is less than [`TIME_MIN`].
    pub(super) fn affordable(&self, amount: Money, work: &AttemptWork) -> Option<Duration> {
        let mut requests = self.requests(work);
        requests.add(Item::Invocations, Basis::Bounded, 1_u128);
        let left = u128::from(amount.saturating_sub(requests.cost(&self.tariff)).nano_dollars());
        let memory_mb = self.tariff.memory_mb;
        let second = Item::Compute { memory_mb }.cost(u128::from(memory_mb) * 1_000_000, &self.tariff)?;
        // A second rounded up, and a millisecond that has begun.
        let milliseconds = left * 1_000 / (u128::from(second.nano_dollars()) + 1);
        let time = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        time.checked_sub(GRACE + Duration::from_millis(1)).filter(|time| *time >= TIME_MIN)
    }

    /// Returns the most that an attempt with `time` until its deadline can cost.
    pub(super) fn worst_case(&self, time: Duration, work: &AttemptWork) -> Quantities {
        let memory_mb = self.tariff.memory_mb;
        let billed_ms = billed_max(time).as_micros().div_ceil(1_000);
        let mut worst_case = self.requests(work);
        worst_case.add(Item::Compute { memory_mb }, Basis::Bounded, u128::from(memory_mb) * billed_ms * 1_000);
        worst_case.add(Item::Invocations, Basis::Bounded, 1_u128);
        worst_case
    }

    pub(super) fn requests(&self, work: &AttemptWork) -> Quantities {
        let mut requests = Quantities::default();
        requests.add(Item::TableReads, Basis::Bounded, work.reads);
        requests.add(Item::ExchangeWrites, Basis::Bounded, work.writes);
        self.add_transfer(&mut requests, work.answer_bytes);
        requests
    }

    pub(super) fn add_transfer(&self, to: &mut Quantities, bytes: u64) {
        if self.tariff.coordinator_outside == Some(true) {
            to.add(Item::DataTransfer, Basis::Bounded, bytes);
        }
    }
}
