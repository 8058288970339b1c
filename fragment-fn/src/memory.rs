//! Bounded memory of one attempt, with its high-water mark.
//!
//! ```text
//!  a sort that has something: may grow ─────────────────┼── not: this is left to merges ──┤
//!                                                        an eighth of the pool, at most a quarter of what the sort has
//! ```
//!
//! A sort of DataFusion 55.2 that is refused memory merges its batches and holds the merged rows, until it is refused again. Then it writes them and goes on. Its merge has a piece
//! of each batch, of the session's batch size, and takes one more when a piece ends. It cannot spill, so that the sort fails if the merge is refused. A fair pool lets one sort alone
//! take everything, and several their shares of the memory that merges do not have yet: merged rows then leave the merge nothing. Bytes that a sort sets aside
//! (`sort_spill_reservation_bytes`) do not help, because it gives them back before it merges.
//!
//! A sort counts each batch twice. If all batches have two pieces, second pieces are a quarter of that. When merged rows fill the rest, at most half of these are still to come.

use std::fmt::{Display, Formatter};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

use crate::ahead::{GivesBack, READ_AHEAD};

/// Beginning of the name of a sort's consumer. Its merge has another name.
const SORT: &str = "ExternalSorter[";

/// Part of the pool that a sort leaves to merges.
const ROOM_DIVISOR: usize = 8;

/// Part of what a sort has that it leaves to them at most: where others have nearly all memory, it need not spill each batch by itself.
const HELD_DIVISOR: usize = 4;

/// [`FairSpillPool`] that remembers the largest reservation. Before it refuses an operator, reading ahead gives back memory. A sort leaves some to merges.
#[derive(Debug)]
pub(crate) struct PeakPool {
    inner: FairSpillPool,
    bytes_max: usize,
    peak: AtomicUsize,
    giver: Mutex<Option<Weak<dyn GivesBack>>>,
}

impl PeakPool {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        let inner = FairSpillPool::new(bytes_max);
        Arc::new(Self { inner, bytes_max, peak: AtomicUsize::new(0), giver: Mutex::default() })
    }

    /// Makes `giver` give back memory before an operator is refused.
    pub(crate) fn yields(&self, giver: Weak<dyn GivesBack>) {
        *self.giver.lock().expect("no holder panics") = Some(giver);
    }

    /// Returns true unless a sort would take what merges may need. A sort that has nothing yet could not spill.
    fn leaves_room(&self, reservation: &MemoryReservation, additional: usize) -> bool {
        let held = reservation.size();
        if held == 0 || !reservation.consumer().name().starts_with(SORT) {
            return true;
        }
        let room = (self.bytes_max / ROOM_DIVISOR).min((held + additional) / HELD_DIVISOR);
        self.inner.reserved() + additional + room <= self.bytes_max
    }

    fn grow_within(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        if self.leaves_room(reservation, additional) {
            return self.inner.try_grow(reservation, additional);
        }
        let (name, held) = (reservation.consumer().name(), reservation.size());
        Err(DataFusionError::ResourcesExhausted(format!(
            "{name} has {held} bytes and wants {additional} more, which are left to merges: {}",
            self.inner,
        )))
    }

    /// Asks for memory back. False where there is none to be had.
    fn has_given_back(&self, reservation: &MemoryReservation, bytes: usize) -> bool {
        // Reading ahead takes no memory from bytes that were read ahead before.
        if reservation.consumer().name() == READ_AHEAD {
            return false;
        }
        let giver = self.giver.lock().expect("no holder panics").as_ref().and_then(Weak::upgrade);
        giver.is_some_and(|giver| giver.give_back(bytes) > 0)
    }

    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak.load(Relaxed) as u64
    }

    fn note(&self) {
        self.peak.fetch_max(self.inner.reserved(), Relaxed);
    }
}

impl Display for PeakPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "peak({})", self.inner)
    }
}

impl MemoryPool for PeakPool {
    fn name(&self) -> &str {
        "peak"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.inner.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.inner.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
        self.note();
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut grown = self.grow_within(reservation, additional);
        // An operator that can spill has an even share of the memory, which rises by less than what is given back.
        while grown.is_err() && self.has_given_back(reservation, additional) {
            grown = self.grow_within(reservation, additional);
        }
        grown?;
        self.note();
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.inner.memory_limit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holder of reservations, of which it frees one whenever it is asked.
    struct Shelf(Mutex<Vec<MemoryReservation>>);

    impl GivesBack for Shelf {
        fn give_back(&self, _bytes: usize) -> usize {
            let last = self.0.lock().expect("no holder panics").pop();
            last.map_or(0, |last| last.free())
        }
    }

    #[test]
    fn memory_of_reading_ahead_is_given_back_before_an_operator_is_refused() {
        let peak = PeakPool::new(1000);
        let pool: Arc<dyn MemoryPool> = Arc::clone(&peak) as _;
        let ahead = MemoryConsumer::new(READ_AHEAD).register(&pool);
        ahead.try_grow(600).expect("room");
        let more = ahead.new_empty();
        let shelf = Arc::new(Shelf(Mutex::new(vec![ahead])));
        let giver: Weak<Shelf> = Arc::downgrade(&shelf);
        peak.yields(giver);
        more.try_grow(500).expect_err("it takes nothing from itself");
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&pool);
        join.try_grow(400).expect("room");
        assert_eq!(pool.reserved(), 1000);
        join.try_grow(400).expect("it is given back");
        assert_eq!(pool.reserved(), 800);
        join.try_grow(400).expect_err("nothing more is held");
        assert_eq!(peak.peak_bytes(), 1000);
    }

    #[test]
    fn a_sort_leaves_memory_to_merges() {
        let pool: Arc<dyn MemoryPool> = PeakPool::new(8_000);
        let sort = MemoryConsumer::new("ExternalSorter[0]").with_can_spill(true).register(&pool);
        let merge = MemoryConsumer::new("ExternalSorterMerge[0]").register(&pool);
        sort.try_grow(6_000).expect("it has nothing yet");
        sort.try_grow(1_000).expect("an eighth is left");
        sort.try_grow(1).expect_err("it is left to merges");
        merge.try_grow(1_000).expect("a merge takes it");
        sort.free();
        sort.try_grow(7_000).expect("it has nothing, and cannot spill");
        // A quarter of what it has is left where others have nearly all: 80 of 320.
        sort.free();
        merge.try_resize(7_600).expect("room");
        sort.try_grow(200).expect("room");
        sort.try_grow(120).expect("80 are left");
        sort.try_grow(1).expect_err("they are left to merges");
    }

    #[test]
    fn others_than_sorts_may_take_all() {
        let pool: Arc<dyn MemoryPool> = PeakPool::new(8_000);
        let groups = MemoryConsumer::new("GroupedHashAggregateStream[0]").with_can_spill(true).register(&pool);
        groups.try_grow(4_000).expect("room");
        groups.try_grow(4_000).expect("all of it");
    }

    #[test]
    fn memory_is_given_back_until_an_even_share_suffices() {
        let peak = PeakPool::new(1000);
        let pool: Arc<dyn MemoryPool> = Arc::clone(&peak) as _;
        let ahead = MemoryConsumer::new(READ_AHEAD).register(&pool);
        let pieces = (0..4).map(|_| {
            let piece = ahead.new_empty();
            piece.try_grow(100).expect("room");
            piece
        });
        let shelf = Arc::new(Shelf(Mutex::new(pieces.collect())));
        let giver: Weak<Shelf> = Arc::downgrade(&shelf);
        peak.yields(giver);
        let sort = |name: &str| MemoryConsumer::new(name).with_can_spill(true).register(&pool);
        let (first, second) = (sort("ExternalSorter[0]"), sort("ExternalSorter[1]"));
        first.try_grow(300).expect("its share of 600");
        first.try_grow(100).expect("200 are given back, for its share of 800");
        assert_eq!(pool.reserved(), 600);
        second.try_grow(501).expect_err("more than its share of all");
        assert_eq!(pool.reserved(), 400);
    }
}
