//! New ranges for row groups that nothing has happened to, after a filter has changed: it leaves out pages, too.

use super::super::layout::FileLayout;
use super::file::{FILTERS, Place, Unit, UnitState};
use super::{PieceId, Units};

impl Units {
    /// Plans the row groups of a file anew that were not asked for. `layout` is that of the filter as it is now.
    pub(in super::super) fn replan(&mut self, file: u32, layout: &FileLayout) {
        let units = &mut self.files[file as usize];
        let mut is_new = false;
        for (position, unit) in units.units.iter_mut().enumerate() {
            if unit.state != UnitState::Planned || unit.row_group == FILTERS {
                continue;
            }
            let Some(of) = layout.units.iter().find(|of| of.row_group == unit.row_group) else { continue };
            let mut planned = Unit::new(of, self.bounds);
            let is_same =
                planned.pieces.iter().map(|piece| &piece.range).eq(unit.pieces.iter().map(|piece| &piece.range));
            if planned.state != UnitState::Planned || is_same {
                continue;
            }
            unit.pieces.iter().for_each(|piece| _ = self.places.remove(&piece.id));
            for (piece, new) in planned.pieces.iter_mut().enumerate() {
                new.id = PieceId(self.pieces_begun);
                self.pieces_begun += 1;
                self.places.insert(new.id, (file, Place { unit: position, piece }));
            }
            *unit = planned;
            is_new = true;
        }
        if is_new {
            units.sort_pieces();
        }
    }
}
