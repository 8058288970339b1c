//! Number of row groups that may be ahead of what readers have begun, by the plan's reading of the scan.

use super::super::consumption::{Begins, Consumption, Reading};

/// Row groups a stream that are read of a scan that may never be polled.
const FIRST_UNITS: u64 = 2;

/// Row groups a stream that are ahead at most where it is unknown how much will be read.
const GROWN_UNITS: u64 = 8;

#[derive(Debug)]
pub(super) struct Window {
    pub(super) reading: Reading,
    streams: u64,
    /// Row groups that were asked for and that no reader has begun.
    ahead: u64,
    /// Row groups that were asked for or begun, and their rows.
    claimed: u64,
    claimed_rows: u64,
    /// Row groups that readers have begun.
    begun: u64,
}

impl Window {
    pub(super) fn new(reading: Reading, streams: usize) -> Self {
        Self { reading, streams: streams.max(1) as u64, ahead: 0, claimed: 0, claimed_rows: 0, begun: 0 }
    }

    /// Returns true where all that is known may be asked for.
    pub(super) fn is_whole(&self) -> bool {
        self.reading.consumption == Consumption::All && self.reading.begins == Begins::AtOnce
    }

    /// Returns true where one more row group may be asked for.
    pub(super) fn allows(&self) -> bool {
        let each = |units: u64| self.ahead < self.streams.saturating_mul(units);
        if self.reading.begins == Begins::WhenPolled && !each(FIRST_UNITS) {
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
        (self.allows() && files < streams) || (self.is_whole() && planned < streams)
    }

    pub(super) fn polled(&mut self) {
        self.reading.begins = Begins::AtOnce;
    }

    pub(super) fn asked(&mut self, rows: u64) {
        self.ahead += 1;
        self.claim(rows);
    }

    pub(super) fn begun(&mut self) {
        self.ahead -= 1;
        self.begun += 1;
    }

    pub(super) fn begun_on_demand(&mut self, rows: u64) {
        self.claim(rows);
        self.begun += 1;
    }

    /// Notes that a row group that was asked for will not be read ahead after all.
    pub(super) fn dropped(&mut self, rows: u64) {
        self.ahead -= 1;
        self.claimed -= 1;
        self.claimed_rows = self.claimed_rows.saturating_sub(rows);
    }

    fn claim(&mut self, rows: u64) {
        self.claimed += 1;
        self.claimed_rows = self.claimed_rows.saturating_add(rows);
    }
}
