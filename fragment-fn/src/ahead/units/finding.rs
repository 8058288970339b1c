//! Search for a range that a reader asks for, among the pieces of a file.

use std::ops::Range;

use super::file::{FileState, PieceState, UnitState};
use super::{PieceId, Units, length};

/// Place of a range that a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Found {
    /// Part of a piece, in bytes from the piece's beginning.
    Piece(PieceId, Range<usize>),
    /// Nowhere: the reader sends it itself.
    Missing,
    /// Parts in their order, of which some lie in pieces.
    Parts(Vec<FoundPart>),
}

/// Part of a range that a reader asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct FoundPart {
    pub(in super::super) range: Range<u64>,
    /// Place in a piece; None where it is nowhere.
    pub(in super::super) piece: Option<(PieceId, Range<usize>)>,
}

impl Found {
    /// Lists the parts of `range`, of which this was found.
    pub(in super::super) fn into_parts(self, range: &Range<u64>) -> Vec<FoundPart> {
        let whole = |piece| vec![FoundPart { range: range.clone(), piece }];
        match self {
            Self::Piece(id, slice) => whole(Some((id, slice))),
            Self::Missing => whole(None),
            Self::Parts(parts) => parts,
        }
    }
}

impl Units {
    /// Finds one range, and the position of its unit, which a reader begins by that. What lies in pieces is not asked for again, also
    /// where it is only a part of the range.
    pub(super) fn find(&mut self, file: u32, range: &Range<u64>) -> (Found, Option<usize>) {
        let units = &mut self.files[file as usize];
        match units.state {
            FileState::Unknown | FileState::FooterAsked => units.early.push(range.clone()),
            FileState::Forgotten => self.usage.again_bytes += length(range),
            FileState::Known | FileState::Left => {}
        }
        let mut last = None;
        // From the end of the range on.
        let (mut parts, mut end) = (Vec::new(), range.end);
        for place in units.touching(range) {
            last = last.max(Some(place.unit));
            let is_filtered = units.is_filtered(place.unit);
            let unit = &mut units.units[place.unit];
            if is_filtered && unit.waits() {
                self.verdict.read();
            }
            match unit.state {
                UnitState::Behind => {
                    self.window.begun_on_demand(unit);
                    unit.state = UnitState::Begun;
                }
                UnitState::Planned => {
                    self.planned -= 1;
                    self.window.begun_on_demand(unit);
                    unit.state = UnitState::Begun;
                }
                UnitState::Asked => {
                    self.window.begun(unit);
                    unit.state = UnitState::Begun;
                }
                UnitState::Begun | UnitState::Gone => {}
            }
            let piece = &mut unit.pieces[place.piece];
            let common = piece.range.start.max(range.start)..piece.range.end.min(end);
            match piece.state {
                PieceState::Planned => piece.state = PieceState::OnDemand,
                PieceState::Asked if !common.is_empty() => {
                    piece.take(&common);
                    let from = (common.start - piece.range.start) as usize;
                    let slice = from..from + length(&common) as usize;
                    if common == *range {
                        return (Found::Piece(piece.id, slice), last);
                    }
                    if common.end < end {
                        parts.push(FoundPart { range: common.end..end, piece: None });
                    }
                    end = common.start;
                    parts.push(FoundPart { range: common, piece: Some((piece.id, slice)) });
                }
                PieceState::Taken => self.usage.again_bytes += length(&common),
                PieceState::Asked | PieceState::OnDemand => {}
            }
        }
        if parts.is_empty() {
            return (Found::Missing, last);
        }
        if range.start < end {
            parts.push(FoundPart { range: range.start..end, piece: None });
        }
        parts.reverse();
        (Found::Parts(parts), last)
    }
}
