//! Number of row groups that may be ahead of what readers have begun, by the plan's reading of the scan.

use super::super::consumption::{Begins, Consumption, Reading};
use super::file::Unit;

/// Row groups a stream that are read of a scan that may never be polled, whatever their size.
const FIRST_UNITS: u64 = 2;

/// Small row groups that are read of it: so a small probe side comes in the same round trip as its build side.
const FIRST_UNITS_MAX: u64 = 32;

/// Part of the bytes ahead that these small row groups may have. One 16th is 8 MiB by default: the key columns of TPC-H's smaller tables
/// at scale factor 1.
pub(super) const FIRST_SHARE: u64 = 16;

/// Row groups a stream that are ahead at most where it is unknown how much will be read.
const GROWN_UNITS: u64 = 8;

#[derive(Debug)]
pub(super) struct Window {
    pub(super) reading: Reading,
    streams: u64,
    /// Bytes that [`FIRST_UNITS_MAX`] row groups may have.
    first_bytes_max: u64,
    /// Row groups that were asked for and that no reader has begun, and their bytes.
    ahead: u64,
    ahead_bytes: u64,
    /// Row groups that were asked for or begun, and their rows.
    claimed: u64,
    claimed_rows: u64,
    /// Row groups that readers have begun.
    begun: u64,
}

impl Window {
    pub(super) fn new(reading: Reading, streams: usize, first_bytes_max: u64) -> Self {
        Self {
            reading,
            streams: streams.max(1) as u64,
            first_bytes_max,
            ahead: 0,
            ahead_bytes: 0,
            claimed: 0,
            claimed_rows: 0,
            begun: 0,
        }
    }

    /// Returns true where all that is known may be asked for.
    pub(super) fn is_whole(&self) -> bool {
        self.reading.consumption == Consumption::All && self.reading.begins == Begins::AtOnce
    }

    /// Returns true where one more row group, of so many bytes, may be asked for.
    pub(super) fn allows(&self, next_bytes: u64) -> bool {
        let each = |units: u64| self.ahead < self.streams.saturating_mul(units);
        let is_small = self.ahead < FIRST_UNITS_MAX && self.ahead_bytes + next_bytes <= self.first_bytes_max;
        if self.reading.begins == Begins::WhenPolled && !each(FIRST_UNITS) && !is_small {
            return false;
        }
        match self.reading.consumption {
            Consumption::All => true,
            Consumption::Rows(rows) => each(1) && (self.claimed < self.streams || self.claimed_rows < rows),
            // Doubles in each round trip in which all of it is taken.
            Consumption::Growing => each((1 + self.begun / self.streams).min(GROWN_UNITS)),
            Consumption::OnDemand => false,
        }
    }

    /// Returns true where one more footer is wanted: of `files` something can be asked for, or their footers are under way,
    /// and nothing has happened to `planned` row groups.
    pub(super) fn wants_footer(&self, files: usize, planned: usize) -> bool {
        let streams = self.streams as usize;
        (self.allows(0) && files < streams) || (self.is_whole() && planned < streams)
    }

    pub(super) fn polled(&mut self) {
        self.reading.begins = Begins::AtOnce;
    }

    pub(super) fn asked(&mut self, unit: &Unit) {
        self.ahead += 1;
        self.ahead_bytes += unit.bytes();
        self.claim(unit);
    }

    pub(super) fn begun(&mut self, unit: &Unit) {
        self.ahead -= 1;
        self.ahead_bytes -= unit.bytes();
        self.begun += 1;
    }

    pub(super) fn begun_on_demand(&mut self, unit: &Unit) {
        self.claim(unit);
        self.begun += 1;
    }

    /// Notes that a row group that was asked for will not be read ahead after all.
    pub(super) fn dropped(&mut self, unit: &Unit) {
        self.ahead -= 1;
        self.ahead_bytes -= unit.bytes();
        self.claimed -= 1;
        self.claimed_rows = self.claimed_rows.saturating_sub(unit.rows);
    }

    fn claim(&mut self, unit: &Unit) {
        self.claimed += 1;
        self.claimed_rows = self.claimed_rows.saturating_add(unit.rows);
    }
}
