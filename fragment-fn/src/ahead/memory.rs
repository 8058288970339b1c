//! Memory of what is read ahead. It is reserved before a request is sent, and given back when an operator needs it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

use super::usage::AheadAccount;

/// Name of the consumer in memory pools. A pool does not ask reading ahead to give back for its own sake.
pub const READ_AHEAD: &str = "read-ahead";

/// Holder of memory that others need more. A pool asks it before it refuses an operator.
pub trait GivesBack: Send + Sync {
    /// Gives back about `bytes`, if that much is held. The pool's lock is not held. Returns the bytes that were given back.
    fn give_back(&self, bytes: usize) -> usize;
}

/// Memory of one query's or attempt's read-ahead, in its pool.
#[derive(Debug)]
pub(super) struct AheadMemory {
    /// Reservation of nothing, of which holds are made.
    none: MemoryReservation,
    /// Bytes of all holds.
    held: Arc<AtomicU64>,
    account: Arc<AheadAccount>,
}

/// Reserved memory, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    reservation: MemoryReservation,
    held: Arc<AtomicU64>,
}

impl AheadMemory {
    /// Makes the memory of a query. `account` is told how much of it is held.
    pub(super) fn new(pool: &Arc<dyn MemoryPool>, account: Arc<AheadAccount>) -> Self {
        // It cannot spill: pools would keep a share free for it.
        Self { none: MemoryConsumer::new(READ_AHEAD).register(pool), held: Arc::default(), account }
    }

    /// Reserves `bytes`. None where the pool has no room.
    pub(super) fn try_hold(&self, bytes: u64) -> Option<Hold> {
        let reservation = self.none.new_empty();
        reservation.try_grow(usize::try_from(bytes).ok()?).ok()?;
        self.account.note_held(self.held.fetch_add(bytes, Relaxed) + bytes);
        Some(Hold { reservation, held: Arc::clone(&self.held) })
    }
}

impl Hold {
    pub(super) fn bytes(&self) -> usize {
        self.reservation.size()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn memory_is_held_until_it_is_dropped() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let account = Arc::<AheadAccount>::default();
        let memory = AheadMemory::new(&pool, Arc::clone(&account));
        let first = memory.try_hold(60).expect("room");
        assert!(memory.try_hold(41).is_none());
        let second = memory.try_hold(40).expect("room");
        drop(first);
        assert_eq!(pool.reserved(), 40);
        let third = memory.try_hold(1).expect("room");
        assert_eq!(account.usage().peak_bytes, 100);
        drop((second, third, memory));
        assert_eq!(pool.reserved(), 0);
    }
}
