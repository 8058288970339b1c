//! Worth of a scan's Bloom filters, by what its readers did with the row groups behind them.

/// Row groups that readers have to read before filters count as idle.
const READ_MIN: u64 = 2;

/// Row groups that are read for each one that is left out, where filters are idle. One in nine would be read ahead for nothing.
const READ_FOR_EACH_LEFT_OUT: u64 = 8;

#[derive(Debug, Default)]
pub(super) struct Verdict {
    read: u64,
    left_out: u64,
    was_idle: bool,
}

impl Verdict {
    /// Notes that a reader reads a row group behind a filter.
    pub(super) fn read(&mut self) {
        self.read += 1;
    }

    /// Notes that readers went past so many row groups behind filters.
    pub(super) fn left_out(&mut self, row_groups: usize) {
        self.left_out += row_groups as u64;
    }

    /// Returns true where filters rule out hardly any row group.
    pub(super) fn is_idle(&self) -> bool {
        self.read >= READ_MIN && self.read >= self.left_out.saturating_mul(READ_FOR_EACH_LEFT_OUT)
    }

    /// Returns true once each time that filters turn out to be idle.
    pub(super) fn turns_idle(&mut self) -> bool {
        let is_idle = self.is_idle();
        let was_idle = std::mem::replace(&mut self.was_idle, is_idle);
        is_idle && !was_idle
    }
}
