//! Row groups of one file, and the pieces that each is asked for in.

use std::ops::Range;

use super::super::layout::{FileLayout, UnitLayout};
use super::{PieceBounds, PieceId, length};

/// Number in place of a row group's: the Bloom filters of a file.
pub(super) const FILTERS: usize = usize::MAX;

#[derive(Debug, Default)]
pub(super) struct FileUnits {
    pub(super) state: FileState,
    pub(super) units: Vec<Unit>,
    /// Position of the first unit that may have a planned piece.
    pub(super) front: usize,
    /// Time at which a stream will begin the file.
    pub(super) begins: Option<u64>,
    /// Pieces in the order of their ranges.
    pub(super) by_range: Vec<Place>,
    /// Ranges that readers asked for before the units were known.
    pub(super) early: Vec<Range<u64>>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum FileState {
    /// Nobody has asked for its footer ahead.
    #[default]
    Unknown,
    FooterAsked,
    Known,
    /// Nothing more of it is asked for ahead.
    Left,
    /// It is left, and all partitions have read what they will read of it.
    Forgotten,
}

/// Position of a piece in its file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) unit: usize,
    pub(super) piece: usize,
}

#[derive(Debug)]
pub(super) struct Unit {
    pub(super) row_group: usize,
    pub(super) rows: u64,
    pub(super) state: UnitState,
    pub(super) pieces: Vec<Piece>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnitState {
    /// Bloom filters may rule it out: it is not asked for ahead.
    Behind,
    Planned,
    /// At least one piece was asked for.
    Asked,
    /// A reader has asked for part of it.
    Begun,
    /// No reader is expected any more, or it reads on demand.
    Gone,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) id: PieceId,
    pub(super) range: Range<u64>,
    /// Bytes of the range that readers will ask for: all but gaps.
    pub(super) wanted_bytes: u64,
    /// Parts of the range that they have not asked for yet, in their order.
    pub(super) wanted: Vec<Range<u64>>,
    pub(super) taken_bytes: u64,
    /// True once its body has come.
    pub(super) has_come: bool,
    pub(super) state: PieceState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceState {
    Planned,
    Asked,
    Taken,
    OnDemand,
}

impl FileUnits {
    pub(super) fn left() -> Self {
        Self { state: FileState::Left, ..Self::default() }
    }

    pub(super) fn forgotten() -> Self {
        Self { state: FileState::Forgotten, ..Self::default() }
    }

    /// Plans the file's pieces. `trusts_filters` keeps row groups behind the file's Bloom filters. `id` makes a new name for each piece.
    pub(super) fn known(
        layout: &FileLayout,
        bounds: PieceBounds,
        trusts_filters: bool,
        mut id: impl FnMut(Place) -> PieceId,
    ) -> Self {
        let filters = (!layout.filters.is_empty()).then(|| UnitLayout {
            row_group: FILTERS,
            rows: 0,
            ranges: layout.filters.clone(),
        });
        let mut units = Vec::with_capacity(layout.units.len() + 1);
        for (unit, of) in filters.iter().chain(&layout.units).enumerate() {
            let mut planned = Unit::new(of, bounds);
            let is_behind = trusts_filters && filters.is_some() && of.row_group != FILTERS;
            if is_behind && planned.state == UnitState::Planned {
                planned.state = UnitState::Behind;
            }
            for (piece, of) in planned.pieces.iter_mut().enumerate() {
                of.id = id(Place { unit, piece });
            }
            units.push(planned);
        }
        let mut known = Self { state: FileState::Known, units, ..Self::default() };
        known.sort_pieces();
        known
    }

    /// Puts its pieces into the order of their ranges.
    pub(super) fn sort_pieces(&mut self) {
        let places = |(unit, of): (usize, &Unit)| (0..of.pieces.len()).map(move |piece| Place { unit, piece });
        self.by_range = self.units.iter().enumerate().flat_map(places).collect();
        self.by_range.sort_by_key(|place| start(&self.units, *place));
    }

    /// Goes on to the first unit with a planned piece. Returns false where there is none.
    pub(super) fn advance(&mut self) -> bool {
        let is_planned = |piece: &Piece| piece.state == PieceState::Planned;
        let is_over = |unit: &Unit| unit.state == UnitState::Behind || !unit.pieces.iter().any(is_planned);
        while self.units.get(self.front).is_some_and(is_over) {
            self.front += 1;
        }
        self.front < self.units.len()
    }

    /// Returns true where the unit at this position is a row group that Bloom filters may rule out.
    pub(super) fn is_filtered(&self, position: usize) -> bool {
        position > 0 && self.units.first().is_some_and(|first| first.row_group == FILTERS)
    }

    /// Plans the row groups that wait behind Bloom filters. Returns their number.
    pub(super) fn release(&mut self) -> usize {
        let behind = self.units.iter_mut().filter(|unit| unit.state == UnitState::Behind);
        let released = behind.map(|unit| unit.state = UnitState::Planned).count();
        if released > 0 {
            self.front = 0;
        }
        released
    }

    /// Lists pieces with bytes in `range`, the last first. Pieces of a sound file do not overlap each other.
    pub(super) fn touching(&self, range: &Range<u64>) -> Vec<Place> {
        let before = self.by_range.partition_point(|place| start(&self.units, *place) < range.end);
        let touches = |place: &&Place| self.piece(**place).range.end > range.start;
        self.by_range[..before].iter().rev().take_while(touches).copied().collect()
    }

    pub(super) fn piece(&self, place: Place) -> &Piece {
        &self.units[place.unit].pieces[place.piece]
    }
}

impl Piece {
    /// Notes that a reader asks for a part of it. It is taken once nothing else of it is wanted.
    pub(super) fn take(&mut self, part: &Range<u64>) {
        self.taken_bytes += length(part);
        let rest =
            |wanted: &Range<u64>| [wanted.start..wanted.end.min(part.start), wanted.start.max(part.end)..wanted.end];
        self.wanted = self.wanted.iter().flat_map(rest).filter(|rest| !rest.is_empty()).collect();
        if self.wanted.is_empty() {
            self.state = PieceState::Taken;
        }
    }
}

fn start(units: &[Unit], place: Place) -> u64 {
    units[place.unit].pieces[place.piece].range.start
}

impl Unit {
    pub(super) fn new(layout: &UnitLayout, bounds: PieceBounds) -> Self {
        let pieces = pieces(&layout.ranges, bounds);
        let unit = Self { row_group: layout.row_group, rows: layout.rows, state: UnitState::Planned, pieces };
        match unit.bytes() {
            bytes if bytes == 0 || bytes > bounds.unit_bytes_max => Self::on_demand(layout),
            _ => unit,
        }
    }

    fn on_demand(layout: &UnitLayout) -> Self {
        Self { row_group: layout.row_group, rows: layout.rows, state: UnitState::Gone, pieces: Vec::new() }
    }

    /// Sums up the bytes of its requests.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| length(&piece.range)).sum()
    }

    /// Returns true where no reader has begun it, and one still may.
    pub(super) fn waits(&self) -> bool {
        matches!(self.state, UnitState::Behind | UnitState::Planned | UnitState::Asked)
    }

    pub(super) fn has_more(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece.state, PieceState::Planned | PieceState::Asked))
    }
}

/// Joins neighbouring ranges.
fn pieces(ranges: &[Range<u64>], bounds: PieceBounds) -> Vec<Piece> {
    let mut ranges: Vec<_> = ranges.iter().filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut pieces: Vec<Piece> = Vec::new();
    for range in ranges {
        if let Some(last) = pieces.last_mut() {
            let end = last.range.end.max(range.end);
            let is_near = range.start.saturating_sub(last.range.end) <= bounds.bridge_bytes;
            let overlaps = range.start < last.range.end;
            if overlaps || is_near && end - last.range.start <= bounds.piece_bytes_max {
                let new = range.start.max(last.range.end)..range.end;
                if !new.is_empty() {
                    last.wanted_bytes += length(&new);
                    last.wanted.push(new);
                }
                last.range.end = end;
                continue;
            }
        }
        pieces.push(Piece {
            id: PieceId::default(),
            range: range.clone(),
            wanted_bytes: length(range),
            wanted: vec![range.clone()],
            taken_bytes: 0,
            has_come: false,
            state: PieceState::Planned,
        });
    }
    pieces
}
