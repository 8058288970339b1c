//! Choice of what is asked for next: in the order in which the scan's streams will come to it.

use super::super::consumption::Consumption;
use super::file::{FileState, PieceState, UnitState};
use super::{Lanes, Next, Units, Wanted};

impl Units {
    /// Returns the next thing to ask for, which is not asked for by that: call [`Self::ask`] when it is sent.
    pub(in super::super) fn next(&mut self) -> Option<Next> {
        if self.is_closed || self.window.reading.consumption == Consumption::OnDemand {
            return None;
        }
        let candidates = self.candidates();
        while let Some(file) = self.footers.get(self.footers_begun) {
            if self.files[*file as usize].state == FileState::Unknown {
                if self.window.wants_footer(candidates.len() + self.footers_in_flight, self.planned) {
                    return Some(Next::Footer(*file));
                }
                break;
            }
            self.footers_begun += 1;
        }
        let file = self.first_of(candidates)?;
        let units = &self.files[file as usize];
        let pieces = &units.units[units.front].pieces;
        let piece = pieces.iter().find(|piece| piece.state == PieceState::Planned)?;
        Some(Next::Piece(Wanted { id: piece.id, file, range: piece.range.clone() }))
    }

    /// Chooses the file whose next unit is read first.
    fn first_of(&mut self, candidates: Vec<u32>) -> Option<u32> {
        let mut best: Option<(u64, u32)> = None;
        for file in candidates {
            let units = &mut self.files[file as usize];
            let time = *units.begins.get_or_insert(self.clock) + units.front as u64;
            let unit = &units.units[units.front];
            let is_begun = unit.state != UnitState::Planned;
            if (is_begun || self.window.allows(unit.bytes())) && best.is_none_or(|(least, _)| time < least) {
                best = Some((time, file));
            }
        }
        let (time, file) = best?;
        // A file that takes an exhausted one's place begins after it.
        self.clock = self.clock.max(time + 1);
        Some(file)
    }

    /// Lists files with planned pieces that streams will have open at the same time.
    fn candidates(&mut self) -> Vec<u32> {
        let slots_each = match &self.lanes {
            Lanes::Shared { streams, .. } => *streams,
            Lanes::Own(_) => 1,
        };
        let mut candidates = Vec::new();
        for (queue, front) in self.lanes.queues().into_iter().zip(&mut self.fronts) {
            let mut slots = slots_each;
            let mut is_front = true;
            for file in &queue[*front..] {
                let units = &mut self.files[*file as usize];
                if slots == 0 || units.state == FileState::Unknown {
                    break;
                }
                if units.advance() {
                    candidates.push(*file);
                    slots -= 1;
                    is_front = false;
                } else if units.state == FileState::FooterAsked {
                    // A late footer holds nothing up where all is read.
                    slots -= usize::from(!self.window.is_whole());
                    is_front = false;
                } else if is_front {
                    *front += 1;
                }
            }
        }
        candidates
    }
}
