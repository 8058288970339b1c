//! Memory of what is read ahead. It is reserved before a request is sent, and given back when an operator needs it.

use std::sync::Arc;

use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};

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
}

/// Reserved memory, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Hold {
    reservation: MemoryReservation,
}

impl AheadMemory {
    pub(super) fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        // It cannot spill: pools would keep a share free for it.
        Self { none: MemoryConsumer::new(READ_AHEAD).register(pool) }
    }

    /// Reserves `bytes`. None where the pool has no room.
    pub(super) fn try_hold(&self, bytes: u64) -> Option<Hold> {
        let reservation = self.none.new_empty();
        let bytes = usize::try_from(bytes).ok()?;
        reservation.try_grow(bytes).ok()?;
        Some(Hold { reservation })
    }
}

impl Hold {
    pub(super) fn bytes(&self) -> usize {
        self.reservation.size()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn memory_is_held_until_it_is_dropped() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let memory = AheadMemory::new(&pool);
        let first = memory.try_hold(60).expect("room");
        assert!(memory.try_hold(41).is_none());
        let second = memory.try_hold(40).expect("room");
        drop(first);
        assert_eq!(pool.reserved(), 40);
        drop((second, memory));
        assert_eq!(pool.reserved(), 0);
    }
}
