//! Row groups of small files, whose requests and readers are called by hand.

mod asked;
mod filters;
mod random;
mod taken;

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
