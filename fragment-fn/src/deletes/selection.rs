//! Deleted rows of a file as the Parquet reader's selection of those that are left.

use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use roaring::RoaringTreemap;

/// Selects the rows of a file that are not deleted. No position is `rows` or above.
pub(super) fn selection(deleted: &RoaringTreemap, rows: u64) -> RowSelection {
    let mut selectors: Vec<RowSelector> = Vec::new();
    let mut next = 0;
    for position in deleted {
        if position > next {
            selectors.push(RowSelector::select((position - next) as usize));
        }
        match selectors.last_mut() {
            Some(last) if last.skip => last.row_count += 1,
            _ => selectors.push(RowSelector::skip(1)),
        }
        next = position + 1;
    }
    if rows > next {
        selectors.push(RowSelector::select((rows - next) as usize));
    }
    selectors.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(deleted: &[u64], rows: u64, expect: &str) {
        let selection = selection(&deleted.iter().copied().collect(), rows);
        let told = |run: &RowSelector| format!("{}{}", if run.skip { "-" } else { "+" }, run.row_count);
        assert_eq!(selection.iter().map(told).collect::<Vec<_>>().join(" "), expect);
        assert_eq!(selection.row_count() + selection.skipped_row_count(), rows as usize);
    }

    #[test]
    fn runs_cover_the_file() {
        check(&[], 3, "+3");
        check(&[0], 3, "-1 +2");
        check(&[2], 3, "+2 -1");
        check(&[1, 2, 3, 7], 10, "+1 -3 +3 -1 +2");
        check(&[0, 1, 2], 3, "-3");
        check(&[], 0, "");
        check(&[5_000_000_000], 5_000_000_002, "+5000000000 -1 +1");
    }
}
