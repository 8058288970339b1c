//! Deleted rows of a file on their way to its reader: the Parquet decoder skips runs of them. Where short runs are many, it skips the
//! long ones alone, and the others are dropped from the rows that it has decoded.
//!
//! A short run costs the decoder more than the rows that it spares: a scan with a vector of 1 % random rows took 1.5 times as long
//! with a run for each (`lab deletes`).

use std::ops::Range;

use arrow::array::{BooleanArray, BooleanBufferBuilder};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringTreemap;

/// Fewest deleted rows in a run that the decoder skips, where others are dropped after it.
const SKIPPED_ROWS_MIN: u64 = 1024;

/// Rows of a file for each short run of deleted ones, below which these are dropped after the decoder.
const ROWS_PER_RUN_MIN: u64 = 512;

/// Runs of deleted rows in a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// Those of at least [`SKIPPED_ROWS_MIN`] rows.
    long: usize,
    short: usize,
}

impl Runs {
    pub(super) fn of(deleted: &RoaringTreemap) -> Self {
        let mut found = Self::default();
        for run in runs(deleted) {
            let is_long = run.end - run.start >= SKIPPED_ROWS_MIN;
            *(if is_long { &mut found.long } else { &mut found.short }) += 1;
        }
        found
    }

    /// Returns true where the decoder had better not skip short runs, in a file of `rows` rows.
    pub(super) fn are_scattered(self, rows: u64) -> bool {
        (self.short as u64).saturating_mul(ROWS_PER_RUN_MIN) > rows
    }

    /// Returns the fewest rows of a run that the decoder skips, and the memory that their selection takes.
    pub(super) fn skipped(self, are_scattered: bool) -> Skipped {
        let (run_rows_min, runs) = match are_scattered {
            true => (SKIPPED_ROWS_MIN, self.long),
            false => (1, self.long + self.short),
        };
        Skipped { run_rows_min, bytes: (2 * runs + 1) * size_of::<RowSelector>(), is_any: runs > 0 }
    }
}

/// Runs of deleted rows that the decoder skips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) run_rows_min: u64,
    /// Memory of their selection.
    pub(super) bytes: usize,
    pub(super) is_any: bool,
}

/// Lists the runs of deleted rows, ascending. Two are never neighbours.
fn runs(deleted: &RoaringTreemap) -> impl Iterator<Item = Range<u64>> {
    let pieces = deleted.bitmaps().flat_map(|(high, bitmap)| {
        let (high, mut rows) = (u64::from(high) << 32, bitmap.iter());
        std::iter::from_fn(move || rows.next_range()).map(move |run| {
            let (first, last) = run.into_inner();
            high + u64::from(first)..high + u64::from(last) + 1
        })
    });
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let mut run = pieces.next()?;
        while let Some(next) = pieces.next_if(|next| next.start == run.end) {
            run.end = next.end;
        }
        Some(run)
    })
}

/// Selects the rows of a file that are in no run of at least `run_rows_min` deleted rows. No position is `rows` or above.
pub(super) fn selection(deleted: &RoaringTreemap, rows: u64, run_rows_min: u64) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0;
    for run in runs(deleted).filter(|run| run.end - run.start >= run_rows_min) {
        if run.start > next {
            selectors.push(RowSelector::select((run.start - next) as usize));
        }
        selectors.push(RowSelector::skip((run.end - run.start) as usize));
        next = run.end;
    }
    if rows > next {
        selectors.push(RowSelector::select((rows - next) as usize));
    }
    selectors.into()
}

/// Tells which of the rows with these numbers are left. None where all are.
pub(super) fn left(deleted: &RoaringTreemap, numbers: &[i64]) -> Option<BooleanArray> {
    let is_deleted = |number: i64| u64::try_from(number).is_ok_and(|number| deleted.contains(number));
    let first = numbers.first().and_then(|first| u64::try_from(*first).ok())?;
    let mut kept = BooleanBufferBuilder::new(numbers.len());
    kept.append_n(numbers.len(), true);
    let mut all = true;
    if numbers.iter().zip(first as i64..).all(|(number, next)| *number == next) {
        for row in within(deleted, first..first + numbers.len() as u64) {
            kept.set_bit((row - first) as usize, false);
            all = false;
        }
    } else {
        for (row, _) in numbers.iter().enumerate().filter(|(_, number)| is_deleted(**number)) {
            kept.set_bit(row, false);
            all = false;
        }
    }
    (!all).then(|| BooleanArray::new(kept.finish(), None))
}

/// Lists the deleted rows within a range.
fn within(deleted: &RoaringTreemap, rows: Range<u64>) -> impl Iterator<Item = u64> {
    deleted.bitmaps().flat_map(move |(high, bitmap)| {
        let high = u64::from(high) << 32;
        let first = u32::try_from(rows.start.saturating_sub(high)).ok();
        let last = rows.end.checked_sub(high + 1).map(|last| u32::try_from(last).unwrap_or(u32::MAX));
        let range = first.zip(last).map(|(first, last)| first..=last);
        range.into_iter().flat_map(|range| bitmap.range(range)).map(move |row| high + u64::from(row))
    })
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[track_caller]
    fn check(deleted: &[(u64, u64)], rows: u64, run_rows_min: u64, expect: &str) {
        let deleted: RoaringTreemap = deleted.iter().flat_map(|(start, end)| *start..*end).collect();
        let selection = selection(&deleted, rows, run_rows_min);
        let told = |run: &RowSelector| format!("{}{}", if run.skip { "-" } else { "+" }, run.row_count);
        assert_eq!(selection.iter().map(told).collect::<Vec<_>>().join(" "), expect);
        assert_eq!(selection.row_count() + selection.skipped_row_count(), rows as usize);
    }

    #[test]
    fn runs_cover_the_file() {
        check(&[], 3, 1, "+3");
        check(&[(0, 1)], 3, 1, "-1 +2");
        check(&[(2, 3)], 3, 1, "+2 -1");
        check(&[(1, 4), (7, 8)], 10, 1, "+1 -3 +3 -1 +2");
        check(&[(1, 4), (7, 8)], 10, 2, "+1 -3 +6");
        check(&[(1, 4), (7, 8)], 10, 4, "+10");
        check(&[(0, 3)], 3, 3, "-3");
        check(&[], 0, 1, "");
        // Across the containers and the bitmaps of a vector.
        check(&[(65_000, 140_000)], 140_001, 1, "+65000 -75000 +1");
        let high = 1_u64 << 32;
        check(&[(high - 2, high + 3)], high + 4, 1, "+4294967294 -5 +1");
        check(&[(5_000_000_000, 5_000_000_001)], 5_000_000_002, 1, "+5000000000 -1 +1");
    }

    #[test]
    fn runs_are_long_or_short() {
        let deleted = [0..SKIPPED_ROWS_MIN, 5_000..5_001, 10_000..10_000 + SKIPPED_ROWS_MIN - 1, 60_000..80_000];
        let deleted: RoaringTreemap = deleted.into_iter().flatten().collect();
        assert_eq!(Runs::of(&deleted), Runs { long: 2, short: 2 });
        assert_eq!(Runs::of(&RoaringTreemap::new()), Runs::default());
        let runs = Runs { long: 2, short: 10 };
        assert!(runs.are_scattered(10 * ROWS_PER_RUN_MIN - 1) && !runs.are_scattered(10 * ROWS_PER_RUN_MIN));
        let bytes = size_of::<RowSelector>();
        let skipped = |run_rows_min, bytes, is_any| Skipped { run_rows_min, bytes, is_any };
        assert_eq!(runs.skipped(true), skipped(SKIPPED_ROWS_MIN, 5 * bytes, true));
        assert_eq!(runs.skipped(false), skipped(1, 25 * bytes, true));
        assert_eq!(Runs { long: 0, short: 9 }.skipped(true), skipped(SKIPPED_ROWS_MIN, bytes, false));
    }

    #[test]
    fn rows_are_left_by_their_numbers() {
        let mut random = StdRng::seed_from_u64(3);
        let high = 1_u64 << 32;
        for _ in 0..500 {
            let base = [0, 65_000, high - 20, high, 3 * high - 10][random.random_range(0..5)];
            let deleted: RoaringTreemap = (base..base + 60).filter(|_| random.random_bool(0.3)).collect();
            let (from, to) = (random.random_range(0..60), random.random_range(0..60));
            let mut numbers: Vec<i64> = (base + from..base + to.max(from)).map(|number| number as i64).collect();
            match random.random_range(0..3) {
                0 => numbers.retain(|_| random.random()),
                1 => numbers.reverse(),
                _ => {}
            }
            let expect: Vec<bool> = numbers.iter().map(|number| !deleted.contains(*number as u64)).collect();
            let found = left(&deleted, &numbers);
            let found = found.map(|kept| kept.values().iter().collect::<Vec<_>>());
            let all = expect.iter().all(|kept| *kept);
            assert_eq!(found, (!all).then_some(expect), "{numbers:?} {deleted:?}");
        }
    }
}
