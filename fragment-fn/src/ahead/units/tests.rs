use std::collections::{BTreeSet, HashMap};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::super::consumption::{Begins, Consumption};
use super::super::layout::UnitLayout;
use super::*;

const BOUNDS: PieceBounds = PieceBounds { bridge_bytes: 10, piece_bytes_max: 100, unit_bytes_max: 400 };

fn reading(consumption: Consumption, begins: Begins) -> Reading {
    Reading { consumption, begins, rank: 0 }
}

fn all() -> Reading {
    reading(Consumption::All, Begins::AtOnce)
}

/// Makes a layout with one range of ten bytes and a hundred rows in each row group.
fn plain(units: usize) -> FileLayout {
    let unit = |row_group: usize| {
        let start = 1000 * row_group as u64;
        UnitLayout { row_group, rows: 100, ranges: std::iter::once(start..start + 10).collect() }
    };
    FileLayout { units: (0..units).map(unit).collect(), ..FileLayout::default() }
}

/// Asks for whatever is next until nothing is. All of it comes at once. Returns the pieces.
fn drain(units: &mut Units, layouts: &[FileLayout]) -> Vec<Wanted> {
    let mut asked = Vec::new();
    while let Some(next) = units.next() {
        assert!(units.ask(&next), "nobody was faster");
        match next {
            Next::Footer(file) => units.add(file, &layouts[file as usize]),
            Next::Piece(wanted) => {
                units.came(wanted.id);
                asked.push(wanted);
            }
        }
    }
    asked
}

/// Lets a reader ask for one range.
fn take(units: &mut Units, file: u32, range: Range<u64>) -> Taken {
    units.take(file, std::slice::from_ref(&range))
}

fn groups(asked: &[Wanted]) -> Vec<(u32, u64)> {
    asked.iter().map(|wanted| (wanted.file, wanted.range.start / 1000)).collect()
}

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
fn a_range_lies_in_one_piece() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let unit = random_unit(&mut random, seed as usize, &mut 0);
        let bounds = PieceBounds { unit_bytes_max: u64::MAX, ..BOUNDS };
        let mut units = Units::new(1, Lanes::Own(vec![vec![0]]), all(), bounds);
        units.add(0, &FileLayout { units: vec![unit.clone()], ..FileLayout::default() });
        let asked = drain(&mut units, &[]);
        assert!(asked.is_sorted_by(|a, b| a.range.end <= b.range.start), "seed {seed}: {asked:?}");
        for range in &unit.ranges {
            let inside = |wanted: &&Wanted| wanted.range.start <= range.start && range.end <= wanted.range.end;
            assert_eq!(asked.iter().filter(inside).count(), 1, "seed {seed}: {range:?} in {asked:?}");
        }
        for wanted in &asked {
            let longest = unit.ranges.iter().map(length).max().unwrap_or_default();
            assert!(length(&wanted.range) <= longest.max(BOUNDS.piece_bytes_max), "seed {seed}: {wanted:?}");
        }
        let wanted: u64 = unit.ranges.iter().map(length).sum();
        assert_eq!(units.usage().bytes - units.usage().gap_bytes, wanted, "seed {seed}");
        let taken = units.take(0, &unit.ranges);
        assert!(!taken.found.contains(&Found::Missing), "seed {seed}");
        assert_eq!(taken.released.len(), asked.len(), "seed {seed}");
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
    // Of two row groups with a gap in them, the first comes and the second does not.
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

fn random_unit(random: &mut SmallRng, row_group: usize, at: &mut u64) -> UnitLayout {
    let range = |_| {
        *at += random.random_range(0..25);
        let start = *at;
        *at += random.random_range(1..70);
        start..*at
    };
    UnitLayout { row_group, rows: 10, ranges: (0..row_group % 5 + 1).map(range).collect() }
}

/// Scan whose streams and requests happen in a random order.
struct Simulation {
    random: SmallRng,
    units: Units,
    layouts: Vec<FileLayout>,
    lanes: Lanes,
    /// Position of each stream's next file in its queue, and of the next row group in the file.
    streams: Vec<Stream>,
    shared_next: usize,
    held: HashMap<PieceId, Wanted>,
    footers: Vec<u32>,
    /// Ranges that were sent, by file.
    sent: Vec<(u32, Range<u64>)>,
    /// Row groups of which something was sent twice for a reason.
    excused: BTreeSet<(u32, usize)>,
}

#[derive(Default, Clone)]
struct Stream {
    next: usize,
    file: Option<u32>,
    row_group: usize,
    is_done: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let files = random.random_range(1..9);
        let layouts: Vec<FileLayout> = (0..files)
            .map(|_| {
                let mut at = 0;
                let units = random.random_range(0..6);
                FileLayout {
                    units: (0..units).map(|group| random_unit(&mut random, group, &mut at)).collect(),
                    ..FileLayout::default()
                }
            })
            .collect();
        let streams = random.random_range(1..5);
        let lanes = if random.random_bool(0.5) {
            Lanes::Shared { streams, queue: (0..files).collect() }
        } else {
            let mut lanes = vec![Vec::new(); streams];
            (0..files).for_each(|file| lanes[random.random_range(0..streams)].push(file));
            Lanes::Own(lanes)
        };
        let consumption = [Consumption::All, Consumption::Growing, Consumption::Rows(25)][random.random_range(0..3)];
        let begins = [Begins::AtOnce, Begins::WhenPolled][random.random_range(0..2)];
        let units = Units::new(files as usize, lanes.clone(), reading(consumption, begins), BOUNDS);
        Self {
            random,
            units,
            layouts,
            streams: vec![Stream::default(); streams],
            lanes,
            shared_next: 0,
            held: HashMap::new(),
            footers: Vec::new(),
            sent: Vec::new(),
            excused: BTreeSet::new(),
        }
    }

    fn drop_pieces(&mut self, ids: &[PieceId]) {
        for id in ids {
            assert!(self.held.remove(id).is_some(), "{id:?} is dropped twice");
        }
    }

    fn excuse(&mut self, ids: &[PieceId]) {
        for id in ids {
            let Wanted { file, range, .. } = &self.held[id];
            let units = self.layouts[*file as usize].units.iter();
            let touched =
                units.filter(|unit| unit.ranges.iter().any(|own| own.start < range.end && range.start < own.end));
            self.excused.extend(touched.map(|unit| (*file, unit.row_group)));
        }
    }

    fn pump(&mut self) {
        while let Some(next) = self.units.next() {
            if self.random.random_bool(0.3) {
                break;
            }
            assert!(self.units.ask(&next));
            match next {
                Next::Footer(file) => self.footers.push(file),
                Next::Piece(wanted) => {
                    self.sent.push((wanted.file, wanted.range.clone()));
                    if self.random.random_bool(0.5) {
                        self.units.came(wanted.id);
                    }
                    assert!(self.held.insert(wanted.id, wanted).is_none(), "a piece is asked for twice");
                }
            }
        }
    }

    fn footer(&mut self) {
        if self.footers.is_empty() {
            return;
        }
        let file = self.footers.swap_remove(self.random.random_range(0..self.footers.len()));
        match self.random.random_bool(0.9) {
            true => self.units.add(file, &self.layouts[file as usize]),
            false => self.units.leave(file),
        }
    }

    /// Lets one stream open a file, or read of a row group.
    fn step(&mut self) {
        let partition = self.random.random_range(0..self.streams.len());
        let mut stream = self.streams[partition].clone();
        match stream.file {
            Some(file) if stream.row_group < self.layouts[file as usize].units.len() => {
                let unit = self.layouts[file as usize].units[stream.row_group].clone();
                stream.row_group += 1;
                // The engine may prune it.
                if self.random.random_bool(0.8) {
                    self.read(file, &unit);
                }
            }
            _ => {
                let next = match &self.lanes {
                    Lanes::Shared { queue, .. } => queue.get(self.shared_next),
                    Lanes::Own(lanes) => lanes[partition].get(stream.next),
                };
                let next = next.copied();
                self.shared_next += 1;
                stream = Stream { next: stream.next + 1, file: next, row_group: 0, is_done: next.is_none() };
                if let Some(file) = next {
                    let dropped = self.units.opened(partition, file);
                    self.drop_pieces(&dropped);
                }
            }
        }
        self.streams[partition] = stream;
    }

    /// Reads a row group: as a whole, or some of its columns after the others, or pages.
    fn read(&mut self, file: u32, unit: &UnitLayout) {
        let mut ranges = unit.ranges.clone();
        if self.random.random_bool(0.3) {
            let halves = |range: Range<u64>| {
                let middle = range.start.midpoint(range.end);
                [range.start..middle, middle..range.end]
            };
            ranges = ranges.into_iter().flat_map(halves).filter(|range| !range.is_empty()).collect();
        }
        let late = if self.random.random_bool(0.3) { ranges.split_off(ranges.len() / 2) } else { Vec::new() };
        for phase in [ranges, late] {
            let taken = self.units.take(file, &phase);
            for (range, found) in phase.iter().zip(&taken.found) {
                let mut at = range.start;
                for FoundPart { range, piece } in found.clone().into_parts(range) {
                    assert_eq!(range.start, std::mem::replace(&mut at, range.end), "parts in their order");
                    match piece {
                        None => self.sent.push((file, range)),
                        Some((id, part)) => {
                            let held = &self.held[&id];
                            assert_eq!(held.file, file);
                            let start = held.range.start + part.start as u64;
                            assert_eq!(start..held.range.start + part.end as u64, range);
                            assert!(range.end <= held.range.end);
                        }
                    }
                }
                assert_eq!(at, range.end);
            }
            self.drop_pieces(&taken.released);
            if self.random.random_bool(0.3) {
                self.pump();
            }
        }
    }

    fn disturb(&mut self) {
        let dropped = match self.random.random_range(0..3) {
            0 => {
                let pruned = self.random.random_range(0..6);
                self.units.reprune(&|_, row_group| row_group != pruned, true)
            }
            1 => {
                let bytes = self.random.random_range(0..200);
                self.units.give_back(bytes)
            }
            _ => {
                let Some(id) = self.held.keys().min().copied() else { return };
                self.units.failed(id);
                vec![id]
            }
        };
        self.excuse(&dropped);
        self.drop_pieces(&dropped);
    }

    fn run(&mut self) {
        while self.streams.iter().any(|stream| !stream.is_done) {
            match self.random.random_range(0..20) {
                0..6 => self.pump(),
                6..10 => self.footer(),
                10..19 => self.step(),
                _ => self.disturb(),
            }
        }
        let dropped = self.units.close(End::Finished);
        self.drop_pieces(&dropped);
    }
}

#[test]
fn whatever_happens_no_range_is_sent_twice() {
    let (mut ahead, mut missed) = (0, 0);
    for seed in 0..2000 {
        let mut scan = Simulation::new(seed);
        scan.run();
        assert!(scan.held.is_empty(), "seed {seed}: something is left");
        for (file, layout) in scan.layouts.iter().enumerate() {
            let file = file as u32;
            let units = layout.units.iter().filter(|unit| !scan.excused.contains(&(file, unit.row_group)));
            for range in units.flat_map(|unit| &unit.ranges) {
                let middle = range.start.midpoint(range.end);
                let times = scan.sent.iter().filter(|(of, sent)| *of == file && sent.contains(&middle)).count();
                assert!(times <= 1, "seed {seed}: file {file}, {range:?} was sent {times} times");
            }
        }
        let usage = scan.units.usage();
        let fates = usage.gap_bytes + usage.taken_bytes + usage.unused_bytes() + usage.aborted_bytes;
        assert_eq!(usage.bytes, fates, "seed {seed}");
        ahead += usage.taken_bytes;
        missed += usage.missed_bytes;
    }
    assert!(ahead > missed / 4 && missed > 0, "{ahead} bytes were taken, {missed} were missed");
}

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
