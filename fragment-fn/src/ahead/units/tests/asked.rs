//! Order, window and plan of what is asked for.

use super::*;

#[test]
fn units_follow_the_queue() {
    let shared = |streams, queue: &[u32]| Lanes::Shared { streams, queue: queue.to_vec() };
    for (lanes, sizes, expect) in [
        (shared(1, &[0, 1]), vec![2, 2], vec![(0, 0), (0, 1), (1, 0), (1, 1)]),
        (shared(1, &[1, 0]), vec![1, 2], vec![(1, 0), (1, 1), (0, 0)]),
        (shared(2, &[0, 1, 2]), vec![3, 1, 2], vec![(0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (2, 1)]),
        (shared(4, &[0, 1]), vec![2, 2], vec![(0, 0), (1, 0), (0, 1), (1, 1)]),
        (Lanes::Own(vec![vec![0, 2], vec![1]]), vec![1, 3, 2], vec![(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]),
        (shared(2, &[0, 1, 2]), vec![0, 0, 1], vec![(2, 0)]),
    ] {
        let layouts: Vec<_> = sizes.iter().map(|size| plain(*size)).collect();
        let mut units = Units::new(layouts.len(), lanes.clone(), all(), BOUNDS);
        // All footers are known before, so that only the order of data counts.
        layouts.iter().enumerate().for_each(|(file, layout)| units.add(file as u32, layout));
        assert_eq!(groups(&drain(&mut units, &layouts)), expect, "{lanes:?}");
    }
}

#[test]
fn a_late_footer_holds_nothing_up_where_all_is_read() {
    for (consumption, expect) in [(Consumption::All, vec![(1, 0), (2, 0)]), (Consumption::Growing, vec![])] {
        let lanes = Lanes::Shared { streams: 1, queue: vec![0, 1, 2] };
        let mut units = Units::new(3, lanes, reading(consumption, Begins::AtOnce), BOUNDS);
        assert_eq!(units.next(), Some(Next::Footer(0)));
        assert!(units.ask(&Next::Footer(0)));
        let mut asked = Vec::new();
        while let Some(next) = units.next() {
            assert!(units.ask(&next));
            match next {
                Next::Footer(file) => units.add(file, &plain(1)),
                Next::Piece(wanted) => asked.push(wanted),
            }
        }
        assert_eq!(groups(&asked), expect);
        units.add(0, &plain(1));
        assert_eq!(groups(&drain(&mut units, &[])), [(0, 0)], "{consumption:?}");
    }
}

#[test]
fn a_window_follows_the_reading() {
    // Row groups of 100 rows and ten bytes that are asked for at first, and after two of them were begun, with two streams.
    use Consumption::{All, Growing, OnDemand, Rows};
    for (consumption, begins, bytes_max, first, then) in [
        (All, Begins::AtOnce, 400, 40, 40),
        (All, Begins::WhenPolled, 400, 4, 40),
        (All, Begins::WhenPolled, 1600, 10, 40),
        (Growing, Begins::AtOnce, 400, 2, 6),
        (Growing, Begins::WhenPolled, 400, 2, 6),
        (Rows(10), Begins::AtOnce, 400, 2, 2),
        (Rows(200), Begins::AtOnce, 400, 2, 2),
        (Rows(300), Begins::AtOnce, 400, 2, 3),
        (Rows(5000), Begins::AtOnce, 400, 2, 4),
        (OnDemand, Begins::AtOnce, 400, 0, 0),
    ] {
        let layouts: Vec<_> = (0..10).map(|_| plain(4)).collect();
        let lanes = Lanes::Shared { streams: 2, queue: (0..10).collect() };
        let bounds = PieceBounds { unit_bytes_max: bytes_max, ..BOUNDS };
        let mut units = Units::new(10, lanes, reading(consumption, begins), bounds);
        let mut asked = drain(&mut units, &layouts);
        assert_eq!(asked.len(), first, "{consumption:?} {begins:?} {bytes_max} at first");
        for file in 0..2 {
            assert!(units.opened(file as usize, file).is_empty());
            take(&mut units, file, 0..10);
        }
        asked.extend(drain(&mut units, &layouts));
        assert_eq!(asked.len(), then, "{consumption:?} {begins:?} after two");
    }
}

/// Row groups that were given back leave room for others.
#[test]
fn a_first_window_is_of_small_row_groups_and_counts_what_it_holds() {
    let bounds = PieceBounds { unit_bytes_max: 1600, ..BOUNDS };
    let window = |sizes: &[u64]| {
        let units = sizes.iter().enumerate().map(|(at, bytes)| {
            let start = at as u64 * 10_000;
            UnitLayout { row_group: at, rows: 100, ranges: std::iter::once(start..start + bytes).collect() }
        });
        let mut window =
            Units::new(1, Lanes::Own(vec![vec![0]]), reading(Consumption::All, Begins::WhenPolled), bounds);
        window.add(0, &FileLayout { units: units.collect(), ..FileLayout::default() });
        window
    };
    // A hundred bytes, or 32 row groups, or two whatever their size.
    for (sizes, first, then) in [
        (vec![10; 40], 10, 10),
        (vec![1; 40], 32, 8),
        (vec![300; 40], 2, 2),
        ([vec![10; 5], vec![300; 5]].concat(), 5, 2),
    ] {
        let mut units = window(&sizes);
        let asked = drain(&mut units, &[]);
        assert_eq!(asked.len(), first, "{sizes:?}");
        let bytes: u64 = asked.iter().map(|wanted| length(&wanted.range)).sum();
        assert_eq!(units.give_back(bytes).len(), first, "{sizes:?}");
        assert_eq!(drain(&mut units, &[]).len(), then, "{sizes:?} after {bytes} bytes were given back");
    }
}

#[test]
fn given_back_units_are_never_asked_twice() {
    let layouts = [plain(4)];
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
    let ids: Vec<_> = drain(&mut units, &layouts).iter().map(|wanted| wanted.id).collect();
    take(&mut units, 0, 0..5);
    assert_eq!(units.give_back(11), [ids[3], ids[2]]);
    // A unit that a reader has begun is not given back.
    assert_eq!(units.give_back(100), [ids[1]]);
    assert!(units.give_back(100).is_empty());
    assert_eq!(units.next(), None);
    assert_eq!(take(&mut units, 0, 3000..3010).found, [Found::Missing]);
    assert_eq!(units.usage().unused_given_back_bytes, 30);
}

#[test]
fn failed_and_pruned_units_are_left_to_readers() {
    let layouts = [plain(3)];
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
    units.add(0, &layouts[0]);
    let first = units.next().expect("a row group");
    assert!(units.ask(&first));
    units.failed(PieceId(0));
    assert!(units.reprune(&|_, row_group| row_group != 1, true).is_empty());
    let asked = drain(&mut units, &layouts);
    assert_eq!(groups(&asked), [(0, 2)]);
    assert_eq!(units.reprune(&|_, _| false, false), []);
    assert_eq!(units.reprune(&|_, _| false, true), [asked[0].id]);
    assert_eq!(units.take(0, &[0..10, 1000..1010, 2000..2010]).found, [Found::Missing, Found::Missing, Found::Missing]);
    let usage = units.usage();
    assert_eq!((usage.aborted_bytes, usage.unused_pruned_bytes, usage.missed_bytes), (10, 10, 30));
}

#[test]
fn a_row_group_that_is_too_large_is_read_on_demand() {
    let large = UnitLayout { row_group: 0, rows: 1, ranges: vec![0..300, 320..421] };
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
    units.add(0, &FileLayout { units: vec![large], ..FileLayout::default() });
    assert_eq!(units.next(), None);
    assert_eq!(take(&mut units, 0, 0..300).found, [Found::Missing]);
}

#[test]
fn row_groups_that_were_not_asked_for_get_the_pages_that_a_filter_leaves() {
    let whole = |row_group: usize| {
        let at = 1000 * row_group as u64;
        UnitLayout { row_group, rows: 10, ranges: vec![at..at + 30, at + 40..at + 90] }
    };
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
    units.add(0, &FileLayout { units: (0..3).map(whole).collect(), ..FileLayout::default() });
    let first = units.next().expect("a piece");
    assert!(units.ask(&first));
    let page = |row_group: usize| {
        let at = 1000 * row_group as u64;
        UnitLayout { ranges: std::iter::once(at + 50..at + 60).collect(), ..whole(row_group) }
    };
    units.replan(0, &FileLayout { units: vec![page(0), page(2)], ..FileLayout::default() });
    let asked: Vec<_> = drain(&mut units, &[]).into_iter().map(|wanted| wanted.range).collect();
    // The first row group was asked for before, and the filter says nothing of the second one.
    assert_eq!(asked, [1000..1090, 2050..2060]);
    let Next::Piece(first) = first else { panic!("{first:?} is no piece") };
    assert_eq!(take(&mut units, 0, 50..60).found, [Found::Piece(first.id, 50..60)]);
    assert!(matches!(*take(&mut units, 0, 2050..2060).found, [Found::Piece(_, _)]));
    assert_eq!(units.usage().missed_bytes, 0);
}
