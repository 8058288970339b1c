//! Order and state of what one scan reads ahead, without I/O and without a clock.
//!
//! ```text
//!  footer ─► layout ─► add ─► Planned ─ next, ask ─► Asked ─ take ─► Taken
//!                                │                     │
//!                                └──── take: missing ──┴─ failed, given back, pruned ─► OnDemand
//! ```
//!
//! A row group is a unit, and so are the Bloom filters of a file. One GET of a unit is a piece. Only a `Planned` piece may be asked for ahead, and it stops being one in
//! the step in which a reader asks for it. So no range is sent twice, unless it failed or was given back.
//!
//! Row groups behind Bloom filters are read on demand, until readers have shown that the filters rule hardly any of them out.
//!
//! Streams open files in a known order and read a file's row groups one after the other. A stream that goes on has left
//! what lies before: the engine has pruned it in the meantime.
//!
//! Non-goals: it holds no bytes, and never waits.

mod choice;
mod file;
mod filters;
mod finding;
mod lanes;
mod replan;
#[cfg(test)]
mod tests;
mod window;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use gust_protocol::AheadUsage;

use super::consumption::Reading;
use super::layout::FileLayout;
use file::{FILTERS, FileState, FileUnits, Piece, PieceState, Place, Unit, UnitState};
use filters::Verdict;
pub(super) use finding::{Found, FoundPart};
pub(super) use lanes::Lanes;
use window::{FIRST_SHARE, Window};

/// Name of one speculative GET of a scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PieceId(usize);

/// Bounds of single requests, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct PieceBounds {
    /// Largest gap between ranges of one request.
    pub(super) bridge_bytes: u64,
    /// Size beyond which a row group's request is split, between two of its ranges.
    pub(super) piece_bytes_max: u64,
    /// Size beyond which a row group is read on demand only.
    pub(super) unit_bytes_max: u64,
}

/// Next thing to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Footer of the file with this number.
    Footer(u32),
    Piece(Wanted),
}

/// Speculative GET that may be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) id: PieceId,
    /// Number of the file.
    pub(super) file: u32,
    pub(super) range: Range<u64>,
}

/// Answer to a reader.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// One for each range, in their order.
    pub(super) found: Vec<Found>,
    /// Pieces that nobody will ask for again. Some may be in `found`: drop them after their bodies were cloned.
    pub(super) released: Vec<PieceId>,
}

/// Files, row groups and pieces of one scan.
#[derive(Debug)]
pub(super) struct Units {
    files: Vec<FileUnits>,
    lanes: Lanes,
    /// Position in each lane, or in the shared queue, before which no file has anything left to ask for.
    fronts: Vec<usize>,
    /// Files in the order in which their footers are asked for.
    footers: Vec<u32>,
    footers_begun: usize,
    footers_in_flight: usize,
    /// File and place of each piece, by its id, until all partitions have left its file.
    places: HashMap<PieceId, (u32, Place)>,
    pieces_begun: usize,
    /// Pieces in the order in which they were asked for.
    asked: Vec<PieceId>,
    /// File that each partition opened last.
    open: BTreeMap<usize, u32>,
    window: Window,
    verdict: Verdict,
    /// Number of units that nothing has happened to.
    planned: usize,
    /// Time after the unit that was chosen last, in units that one stream reads.
    clock: u64,
    bounds: PieceBounds,
    usage: AheadUsage,
    is_closed: bool,
}

/// Reason why a scan is read no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The plan has read what it wanted.
    Finished,
    /// The query failed, or was given up.
    Cancelled,
}

/// Reason why bytes that were asked for are not taken.
#[derive(Debug, Clone, Copy)]
enum Why {
    /// The engine skipped their pages, row groups or files.
    Pruned,
    /// The plan wanted no more rows.
    Limit,
    Cancelled,
    GivenBack,
}

fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// Counts what nobody has taken of a piece.
fn count_unused(usage: &mut AheadUsage, why: Why, piece: &Piece) {
    if !piece.has_come {
        count_aborted(usage, piece);
        return;
    }
    let bytes: u64 = piece.wanted.iter().map(length).sum();
    match why {
        Why::Pruned => usage.unused_pruned_bytes += bytes,
        Why::Limit => usage.unused_limit_bytes += bytes,
        Why::Cancelled => usage.unused_cancelled_bytes += bytes,
        Why::GivenBack => usage.unused_given_back_bytes += bytes,
    }
}

/// Counts a piece whose body has not come. Its gaps were not read.
fn count_aborted(usage: &mut AheadUsage, piece: &Piece) {
    let bytes = length(&piece.range);
    usage.gap_bytes -= bytes - piece.wanted_bytes;
    usage.aborted_bytes += bytes.saturating_sub(piece.taken_bytes);
}

impl Units {
    /// Plans nothing yet. Files have numbers below `files`.
    pub(super) fn new(files: usize, lanes: Lanes, reading: Reading, bounds: PieceBounds) -> Self {
        Self {
            files: (0..files).map(|_| FileUnits::default()).collect(),
            fronts: vec![0; lanes.queues().len()],
            footers: lanes.in_turn(),
            footers_begun: 0,
            footers_in_flight: 0,
            places: HashMap::new(),
            pieces_begun: 0,
            asked: Vec::new(),
            open: BTreeMap::new(),
            window: Window::new(reading, lanes.streams(), bounds.unit_bytes_max / FIRST_SHARE),
            verdict: Verdict::default(),
            planned: 0,
            clock: 0,
            lanes,
            bounds,
            usage: AheadUsage::default(),
            is_closed: false,
        }
    }

    /// Marks what is sent now. False where a reader has asked for it in the meantime: then it must not be sent.
    #[must_use]
    pub(super) fn ask(&mut self, next: &Next) -> bool {
        match next {
            _ if self.is_closed => false,
            Next::Footer(file) => {
                let units = &mut self.files[*file as usize];
                if units.state != FileState::Unknown {
                    return false;
                }
                units.state = FileState::FooterAsked;
                self.footers_in_flight += 1;
                true
            }
            Next::Piece(wanted) => self.ask_piece(wanted.id),
        }
    }

    fn ask_piece(&mut self, id: PieceId) -> bool {
        let Some((file, place)) = self.places.get(&id).copied() else { return false };
        let unit = &mut self.files[file as usize].units[place.unit];
        let piece = &mut unit.pieces[place.piece];
        if piece.state != PieceState::Planned {
            return false;
        }
        piece.state = PieceState::Asked;
        let bytes = length(&piece.range);
        self.usage.requests += 1;
        self.usage.bytes += bytes;
        self.usage.gap_bytes += bytes - piece.wanted_bytes;
        self.asked.push(id);
        if unit.state == UnitState::Planned {
            unit.state = UnitState::Asked;
            self.planned -= 1;
            self.window.asked(unit);
        }
        true
    }

    /// Adds what will be read of a file, after its footer came.
    pub(super) fn add(&mut self, file: u32, layout: &FileLayout) {
        if !self.footer_came(file) || self.is_closed {
            return;
        }
        let (places, begun) = (&mut self.places, &mut self.pieces_begun);
        let known = FileUnits::known(layout, self.bounds, !self.verdict.is_idle(), |place| {
            let id = PieceId(*begun);
            *begun += 1;
            places.insert(id, (file, place));
            id
        });
        self.planned += known.units.iter().filter(|unit| unit.state == UnitState::Planned).count();
        let early = std::mem::replace(&mut self.files[file as usize], known).early;
        // A reader was faster than the footer ahead.
        let last = early.iter().filter_map(|range| self.find(file, range).1).max();
        self.pass(file, last);
    }

    /// Leaves a file to its readers: its ranges cannot be predicted, or its footer could not be read.
    pub(super) fn leave(&mut self, file: u32) {
        if self.footer_came(file) {
            self.files[file as usize] = FileUnits::left();
        }
    }

    /// Notes that a footer is not in flight any more. False where its units are known, or not wanted.
    fn footer_came(&mut self, file: u32) -> bool {
        let state = self.files[file as usize].state;
        if state == FileState::FooterAsked {
            self.footers_in_flight -= 1;
        }
        matches!(state, FileState::Unknown | FileState::FooterAsked)
    }

    /// Notes that the stream of a partition opens a file: it has read what it will read of its last file. Returns pieces to drop.
    pub(super) fn opened(&mut self, partition: usize, file: u32) -> Vec<PieceId> {
        self.window.polled();
        let mut dropped = Vec::new();
        let last = self.open.insert(partition, file);
        if let Some(last) = last.filter(|last| self.open.values().all(|open| open != last)) {
            self.go_past(last, usize::MAX, &mut dropped);
            self.leave(last);
            self.forget(last);
        }
        self.release();
        dropped
    }

    /// Forgets the pieces of a file that all partitions have left: a scan may have very many files.
    fn forget(&mut self, file: u32) {
        let units = &mut self.files[file as usize];
        if units.state == FileState::Known {
            let pieces =
                std::mem::replace(units, FileUnits::forgotten()).units.into_iter().flat_map(|unit| unit.pieces);
            pieces.for_each(|piece| _ = self.places.remove(&piece.id));
            if self.asked.len() > 2 * self.places.len() {
                self.asked.retain(|id| self.places.contains_key(id));
            }
        }
    }

    /// Finds ranges that a reader asks for. What is missing is not asked for ahead any more.
    pub(super) fn take(&mut self, file: u32, ranges: &[Range<u64>]) -> Taken {
        let mut taken = Taken::default();
        let mut last = None;
        for range in ranges {
            let (found, unit) = self.find(file, range);
            for FoundPart { range, piece } in found.clone().into_parts(range) {
                match piece {
                    Some((id, _)) => {
                        self.usage.taken_bytes += length(&range);
                        if self.piece(id).is_some_and(|piece| piece.state == PieceState::Taken) {
                            taken.released.push(id);
                        }
                    }
                    None => self.usage.missed_bytes += length(&range),
                }
            }
            last = last.max(unit);
            taken.found.push(found);
        }
        taken.released.extend(self.pass(file, last));
        self.release();
        taken
    }

    /// Leaves the units of a file before the one that a reader reads. Returns pieces to drop.
    fn pass(&mut self, file: u32, reader_at: Option<usize>) -> Vec<PieceId> {
        let mut dropped = Vec::new();
        self.go_past(file, reader_at.unwrap_or_default(), &mut dropped);
        dropped
    }

    /// Drops the units of a file before `position`, which readers have left out.
    fn go_past(&mut self, file: u32, position: usize, dropped: &mut Vec<PieceId>) {
        let units = &self.files[file as usize];
        let is_left_out = |(at, unit): &(usize, &Unit)| units.is_filtered(*at) && unit.waits();
        self.verdict.left_out(units.units.iter().enumerate().take(position).filter(is_left_out).count());
        self.drop_units(file, 0..position, Why::Pruned, dropped);
    }

    /// Plans row groups behind Bloom filters that have turned out to be idle.
    fn release(&mut self) {
        if self.verdict.turns_idle() {
            self.planned += self.files.iter_mut().map(FileUnits::release).sum::<usize>();
            self.fronts.fill(0);
        }
    }

    /// Notes that the body of a piece has come.
    pub(super) fn came(&mut self, id: PieceId) {
        if let Some((file, place)) = self.places.get(&id) {
            self.files[*file as usize].units[place.unit].pieces[place.piece].has_come = true;
        }
    }

    /// Notes that a piece could not be read. Readers send its ranges themselves, also those who wait for it.
    pub(super) fn failed(&mut self, id: PieceId) {
        let Some((file, place)) = self.places.get(&id).copied() else { return };
        let unit = &mut self.files[file as usize].units[place.unit];
        let piece = &mut unit.pieces[place.piece];
        if self.is_closed || !matches!(piece.state, PieceState::Asked | PieceState::Taken) {
            return;
        }
        piece.state = PieceState::OnDemand;
        self.usage.taken_bytes -= std::mem::take(&mut piece.taken_bytes);
        count_aborted(&mut self.usage, piece);
        if unit.state == UnitState::Asked && !unit.has_more() {
            unit.state = UnitState::Gone;
            self.window.dropped(unit);
        }
    }

    /// Counts bytes that a reader asks for because their request ahead has failed.
    pub(super) fn missed(&mut self, bytes: u64) {
        self.usage.missed_bytes += bytes;
    }

    /// Lists files of which no reader has begun some row groups.
    pub(super) fn open_files(&self) -> Vec<u32> {
        let waits = |unit: &Unit| matches!(unit.state, UnitState::Planned | UnitState::Asked);
        let open = self.files.iter().enumerate().filter(|(_, file)| file.units.iter().any(waits));
        open.map(|(file, _)| file as u32).collect()
    }

    /// Drops the row groups that no reader has begun and for which `keep(file, row_group)` is false. Returns pieces to drop.
    /// Those that were asked for stay unless `drops_asked`: a reader may have opened their file under an earlier filter.
    pub(super) fn reprune(&mut self, keep: &dyn Fn(u32, usize) -> bool, drops_asked: bool) -> Vec<PieceId> {
        let mut dropped = Vec::new();
        for file in self.open_files() {
            for position in 0..self.files[file as usize].units.len() {
                let unit = &self.files[file as usize].units[position];
                let may_drop = unit.state == UnitState::Planned || drops_asked && unit.state == UnitState::Asked;
                if may_drop && unit.row_group != FILTERS && !keep(file, unit.row_group) {
                    self.drop_units(file, position..position + 1, Why::Pruned, &mut dropped);
                }
            }
        }
        dropped
    }

    /// Gives back at least so many bytes, if it can, of row groups that no reader has begun: those asked for last go first.
    /// They are read on demand only from now on. Returns pieces to drop.
    pub(super) fn give_back(&mut self, bytes: u64) -> Vec<PieceId> {
        let mut dropped = Vec::new();
        let mut freed = 0;
        let mut asked = std::mem::take(&mut self.asked);
        for id in asked.iter().rev() {
            if freed >= bytes {
                break;
            }
            let Some((file, place)) = self.places.get(id).copied() else { continue };
            if self.files[file as usize].units[place.unit].state == UnitState::Asked {
                let before = dropped.len();
                self.drop_units(file, place.unit..place.unit + 1, Why::GivenBack, &mut dropped);
                freed += dropped[before..].iter().filter_map(|id| Some(length(&self.piece(*id)?.range))).sum::<u64>();
            }
        }
        asked.retain(|id| self.piece(*id).is_some_and(|piece| piece.state == PieceState::Asked));
        self.asked = asked;
        dropped
    }

    /// Hands over what was counted since the last call.
    pub(super) fn take_usage(&mut self) -> AheadUsage {
        std::mem::take(&mut self.usage)
    }

    #[cfg(test)]
    pub(super) fn usage(&self) -> AheadUsage {
        self.usage
    }

    /// Ends reading ahead. Returns pieces to drop; nothing is next any more.
    pub(super) fn close(&mut self, end: End) -> Vec<PieceId> {
        self.is_closed = true;
        let why = match end {
            End::Cancelled => Why::Cancelled,
            // The engine has skipped what it did not read.
            End::Finished if self.window.is_whole() => Why::Pruned,
            End::Finished => Why::Limit,
        };
        let mut dropped = Vec::new();
        for file in 0..self.files.len() {
            self.drop_units(file as u32, 0..usize::MAX, why, &mut dropped);
        }
        dropped
    }

    /// Returns a piece of a file that some partition has not left yet.
    fn piece(&self, id: PieceId) -> Option<&Piece> {
        let (file, place) = self.places.get(&id)?;
        Some(self.files[*file as usize].piece(*place))
    }

    #[cfg(test)]
    pub(super) fn pieces_kept(&self) -> usize {
        self.places.len() + self.asked.len() + self.files.iter().map(|file| file.units.len()).sum::<usize>()
    }

    /// Leaves units to demand, and adds those of their pieces that were asked for to `dropped`.
    fn drop_units(&mut self, file: u32, range: Range<usize>, why: Why, dropped: &mut Vec<PieceId>) {
        let units = &mut self.files[file as usize].units;
        let end = range.end.min(units.len());
        for unit in &mut units[range.start.min(end)..end] {
            match std::mem::replace(&mut unit.state, UnitState::Gone) {
                UnitState::Planned => self.planned -= 1,
                UnitState::Asked => self.window.dropped(unit),
                UnitState::Behind | UnitState::Begun | UnitState::Gone => {}
            }
            for piece in &mut unit.pieces {
                match std::mem::replace(&mut piece.state, PieceState::OnDemand) {
                    PieceState::Asked => {
                        count_unused(&mut self.usage, why, piece);
                        dropped.push(piece.id);
                    }
                    PieceState::Taken => piece.state = PieceState::Taken,
                    PieceState::Planned | PieceState::OnDemand => {}
                }
            }
        }
    }
}
