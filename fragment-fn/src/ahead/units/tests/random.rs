//! Random row groups, and scans whose streams and requests happen in a random order.

use std::collections::{BTreeSet, HashMap};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

fn random_unit(random: &mut SmallRng, row_group: usize, at: &mut u64) -> UnitLayout {
    let range = |_| {
        *at += random.random_range(0..25);
        let start = *at;
        *at += random.random_range(1..70);
        start..*at
    };
    UnitLayout { row_group, rows: 10, ranges: (0..row_group % 5 + 1).map(range).collect() }
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
