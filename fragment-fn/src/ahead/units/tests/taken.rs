//! Pieces that readers find, leave behind, or wait for, and their accounts.

use super::*;

#[test]
fn a_file_that_was_left_is_forgotten() {
    const FILES: u32 = 500;
    let layouts: Vec<_> = (0..FILES).map(|_| plain(4)).collect();
    let lanes = Lanes::Shared { streams: 2, queue: (0..FILES).collect() };
    let mut units = Units::new(layouts.len(), lanes, all(), BOUNDS);
    layouts.iter().enumerate().for_each(|(file, layout)| units.add(file as u32, layout));
    let asked = drain(&mut units, &layouts);
    assert_eq!(asked.len(), 4 * FILES as usize);
    for file in 0..FILES {
        units.opened(file as usize % 2, file);
        // The last row group is left out, and its answer comes late.
        for group in 0..3 {
            take(&mut units, file, 1000 * group..1000 * group + 10);
        }
    }
    let late = asked.last().expect("a piece").id;
    asked.iter().filter(|wanted| wanted.id != late).for_each(|wanted| units.came(wanted.id));
    // Two files are open.
    assert!(units.pieces_kept() <= 2 * 3 * 4, "{} are kept", units.pieces_kept());
    units.failed(asked[0].id);
    let usage = units.usage();
    assert_eq!((usage.taken_bytes, usage.missed_bytes), (u64::from(FILES) * 30, 0), "{usage:?}");
    assert_eq!(usage.unused_pruned_bytes, u64::from(FILES - 2) * 10, "{usage:?}");
    // A reader that comes back asks again.
    assert_eq!(take(&mut units, 0, 0..10).found, [Found::Missing]);
    let usage = units.usage();
    assert_eq!((usage.again_bytes, usage.missed_bytes), (10, 10), "{usage:?}");
}

#[test]
fn a_reader_may_be_faster() {
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
    let footer = units.next().expect("a footer");
    assert!(units.ask(&footer));
    // Before the footer came ahead.
    assert_eq!(take(&mut units, 0, 0..10).found, [Found::Missing]);
    units.add(0, &plain(3));
    let next = units.next().expect("the second row group");
    assert_eq!(next, Next::Piece(Wanted { id: PieceId(1), file: 0, range: 1000..1010 }));
    // Between choice and request.
    assert_eq!(take(&mut units, 0, 1000..1010).found, [Found::Missing]);
    assert!(!units.ask(&next));
    let third = drain(&mut units, &[]);
    assert_eq!(groups(&third), [(0, 2)]);
    let taken = units.take(0, &[2004..2010, 2000..2004]);
    assert_eq!(taken.found, [Found::Piece(PieceId(2), 4..10), Found::Piece(PieceId(2), 0..4)]);
    assert_eq!(taken.released, [PieceId(2)]);
    assert_eq!(units.usage().missed_bytes, 20);
    // The plan reads the scan once more.
    assert_eq!(take(&mut units, 0, 2000..2010).found, [Found::Missing]);
    assert_eq!(units.usage().again_bytes, 10);
}

#[test]
fn a_stream_that_goes_on_has_left_what_lies_before() {
    let layouts = [plain(3), plain(1)];
    let mut units = Units::new(2, Lanes::Own(vec![vec![0, 1]]), all(), BOUNDS);
    let ids: Vec<_> = drain(&mut units, &layouts).iter().map(|wanted| wanted.id).collect();
    assert!(units.opened(0, 0).is_empty());
    assert_eq!(take(&mut units, 0, 1000..1010).released, [ids[1], ids[0]]);
    assert_eq!(units.opened(0, 1), [ids[2]]);
    assert_eq!(units.open_files(), [1]);
    assert_eq!((units.usage().taken_bytes, units.usage().unused_pruned_bytes), (10, 20));
    // A reader that replaces one of the same file changes nothing.
    assert!(units.opened(0, 1).is_empty());
    assert_eq!(units.close(End::Cancelled), [ids[3]]);
    assert_eq!(units.usage().unused_cancelled_bytes, 10);
    assert_eq!(units.next(), None);
}

#[test]
fn what_nobody_takes_is_counted_by_its_reason() {
    // The first of two row groups with a gap in them comes, and the second does not.
    use Consumption::{All, Growing, Rows};
    for (consumption, begins, end, pruned, limit, cancelled) in [
        (All, Begins::AtOnce, End::Finished, 20, 0, 0),
        (All, Begins::WhenPolled, End::Finished, 0, 20, 0),
        (Rows(1_000), Begins::AtOnce, End::Finished, 0, 20, 0),
        (Growing, Begins::AtOnce, End::Finished, 0, 20, 0),
        (All, Begins::AtOnce, End::Cancelled, 0, 0, 20),
        (Rows(1_000), Begins::AtOnce, End::Cancelled, 0, 0, 20),
    ] {
        let unit = |row_group: usize| {
            let start = 1000 * row_group as u64;
            UnitLayout { row_group, rows: 100, ranges: vec![start..start + 10, start + 15..start + 25] }
        };
        let layout = FileLayout { units: (0..2).map(unit).collect(), ..FileLayout::default() };
        let lanes = Lanes::Shared { streams: 2, queue: vec![0] };
        let mut units = Units::new(1, lanes, reading(consumption, begins), BOUNDS);
        units.add(0, &layout);
        let mut asked = Vec::new();
        while let Some(next) = units.next() {
            assert!(units.ask(&next));
            asked.push(next);
        }
        let [Next::Piece(first), Next::Piece(_)] = &asked[..] else { panic!("{asked:?}") };
        units.came(first.id);
        assert_eq!(units.usage().gap_bytes, 10);
        assert_eq!(units.close(end).len(), 2);
        let expect = AheadUsage {
            requests: 2,
            bytes: 50,
            gap_bytes: 5,
            aborted_bytes: 25,
            unused_pruned_bytes: pruned,
            unused_limit_bytes: limit,
            unused_cancelled_bytes: cancelled,
            ..AheadUsage::default()
        };
        assert_eq!(units.usage(), expect, "{consumption:?} {begins:?} {end:?}");
    }
}

#[test]
fn a_range_that_a_piece_covers_in_part_is_read_in_part() {
    // Pages were predicted, and the whole chunk is read.
    let pages = UnitLayout { row_group: 0, rows: 1, ranges: vec![1020..1040, 1060..1080] };
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), PieceBounds { bridge_bytes: 0, ..BOUNDS });
    units.add(0, &FileLayout { units: vec![pages], ..FileLayout::default() });
    let asked = drain(&mut units, &[]);
    assert_eq!(asked.len(), 2);
    let part = |range: Range<u64>, piece: Option<(usize, Range<usize>)>| FoundPart {
        range,
        piece: piece.map(|(of, slice)| (asked[of].id, slice)),
    };
    let taken = take(&mut units, 0, 1000..1070);
    let expect = [
        part(1000..1020, None),
        part(1020..1040, Some((0, 0..20))),
        part(1040..1060, None),
        part(1060..1070, Some((1, 0..10))),
    ];
    assert_eq!(taken.found, [Found::Parts(expect.to_vec())]);
    assert_eq!(taken.released, [asked[0].id]);
    assert_eq!(take(&mut units, 0, 1070..1080).found, [Found::Piece(asked[1].id, 10..20)]);
    let usage = units.usage();
    assert_eq!((usage.taken_bytes, usage.missed_bytes, usage.again_bytes), (40, 40, 0));
}

/// Bytes of a gap that a reader asks for are no bytes that were wanted.
#[test]
fn a_piece_is_kept_until_all_that_is_wanted_of_it_was_taken() {
    let pages = UnitLayout { row_group: 0, rows: 1, ranges: vec![1000..1010, 1020..1030] };
    let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
    units.add(0, &FileLayout { units: vec![pages], ..FileLayout::default() });
    let asked = drain(&mut units, &[]);
    assert_eq!(asked.len(), 1);
    let mut found = |range: Range<u64>| {
        let taken = take(&mut units, 0, range.clone());
        let slice = (range.start - 1000) as usize..(range.end - 1000) as usize;
        assert_eq!(taken.found, [Found::Piece(asked[0].id, slice)]);
        taken.released
    };
    for part in [1000..1020, 1025..1030] {
        assert_eq!(found(part), []);
    }
    assert_eq!(found(1020..1025), [asked[0].id]);
    assert_eq!((units.usage().missed_bytes, units.usage().again_bytes), (0, 0));
}

#[test]
fn a_reader_that_waits_for_a_failed_piece_has_taken_nothing() {
    for is_whole in [true, false] {
        let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), BOUNDS);
        let unit = UnitLayout { row_group: 0, rows: 10, ranges: vec![0..10, 10..30] };
        units.add(0, &FileLayout { units: vec![unit], ..FileLayout::default() });
        let next = units.next().expect("a piece");
        assert!(units.ask(&next));
        let Next::Piece(wanted) = next else { panic!("{next:?}") };
        let all = [0..10, 10..30];
        let ranges = if is_whole { &all[..] } else { &all[..1] };
        assert!(!units.take(0, ranges).found.contains(&Found::Missing));
        units.failed(wanted.id);
        units.missed(ranges.iter().map(length).sum());
        units.close(End::Finished);
        let usage = units.take_usage();
        let missed = if is_whole { 30 } else { 10 };
        assert_eq!((usage.bytes, usage.taken_bytes, usage.aborted_bytes, usage.missed_bytes), (30, 0, 30, missed));
        assert_eq!(units.take_usage(), AheadUsage::default(), "it is handed over once");
    }
}
