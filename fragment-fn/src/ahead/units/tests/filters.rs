//! Row groups behind Bloom filters.

use std::collections::BTreeSet;

use super::*;

#[test]
fn row_groups_behind_bloom_filters_are_read_on_demand() {
    let layout = FileLayout { filters: vec![5000..5010, 5012..5020], ..plain(3) };
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
    units.add(0, &layout);
    let asked = drain(&mut units, &[]);
    assert_eq!((asked.len(), asked[0].range.clone()), (1, 5000..5020));
    // A filter of a join knows no Bloom filters.
    assert!(units.reprune(&|_, _| false, true).is_empty());
    let taken = units.take(0, &layout.filters);
    assert_eq!(taken.released, [asked[0].id]);
    assert_eq!(take(&mut units, 0, 1000..1010).found, [Found::Missing]);
    let usage = units.usage();
    assert_eq!((usage.taken_bytes, usage.missed_bytes, usage.gap_bytes, usage.unused_bytes()), (18, 10, 2, 0));
}

/// Readers read some row groups of files, each with three, behind Bloom filters. What is asked for ahead afterwards?
#[test]
fn row_groups_behind_idle_bloom_filters_are_read_ahead() {
    // Pairs of a file and a row group that readers read; files whose row groups are read ahead in the end.
    for (read, expect) in [
        (&[(0, 0)][..], &[][..]),
        (&[(0, 0), (0, 1)], &[0, 1, 2, 3]),
        // One was left out: eight have to be read.
        (&[(0, 1), (0, 2), (1, 0)], &[]),
        (&[(0, 2), (1, 2), (2, 2)], &[]),
        (&[(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)], &[3]),
    ] {
        let layout = FileLayout { filters: vec![5000..5010, 5012..5020], ..plain(3) };
        let mut units = Units::new(4, Lanes::Own(vec![vec![0, 1, 2, 3]]), all(), BOUNDS);
        (0..4).for_each(|file| units.add(file, &layout));
        let filters = drain(&mut units, &[]);
        assert!(filters.iter().all(|wanted| wanted.range == (5000..5020)), "{filters:?}");
        let mut at = None;
        let mut ahead = Vec::new();
        for (file, group) in read {
            if at.replace(*file) != Some(*file) {
                units.opened(0, *file);
                units.take(*file, &layout.filters);
            }
            take(&mut units, *file, group * 1000..group * 1000 + 10);
            ahead.extend(drain(&mut units, &[]));
        }
        let files: BTreeSet<u64> = ahead.iter().map(|wanted| u64::from(wanted.file)).collect();
        assert_eq!(files, expect.iter().copied().collect(), "{read:?}");
        let ranges: BTreeSet<_> = ahead.iter().map(|wanted| (wanted.file, wanted.range.start)).collect();
        assert_eq!(ranges.len(), ahead.len(), "{read:?}: none is asked for twice");
    }
}
