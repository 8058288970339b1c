//! Memory of results that have arrived and wait for the operators above.
//!
//! ```text
//!  answer ─► hold its encoded bytes ─► read, checked ─► one batch after the other goes up ─► the last one frees the share
//! ```
//!
//! Results cannot spill, and the operators that could make room for them wait for them. So a result may take memory
//! that is not free. Other operators then spill, or fail, when they next ask for memory. Results are refused only if
//! those of one stage alone would fill the whole pool.
//!
//! Not counted: the batch that is decoded ahead, and a response in the invoker until it is parsed.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// Memory that one stage's results hold in the coordinator's pool.
#[derive(Debug)]
pub(super) struct ResultMemory {
    reservation: MemoryReservation,
    bytes_max: usize,
}

impl ResultMemory {
    pub(super) fn new(stage: u32, pool: &Arc<dyn MemoryPool>) -> Arc<Self> {
        let bytes_max = match pool.memory_limit() {
            MemoryLimit::Finite(bytes) => bytes,
            MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
        };
        let reservation = MemoryConsumer::new(format!("results of stage {stage}")).register(pool);
        Arc::new(Self { reservation, bytes_max })
    }

    /// Returns the size of the pool in bytes.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max as u64
    }

    /// Counts `bytes` until the share is dropped.
    ///
    /// # Errors
    /// The pool's own, which names the largest holders, if the stage's results alone would fill the pool.
    pub(super) fn hold(self: &Arc<Self>, bytes: usize) -> Result<ResultReservation> {
        if let Err(full) = self.reservation.try_grow(bytes) {
            if self.reservation.size().saturating_add(bytes) > self.bytes_max {
                return Err(full);
            }
            self.reservation.grow(bytes);
        }
        Ok(ResultReservation { held: Arc::clone(self), bytes })
    }
}

/// Bytes that are counted as long as this value lives.
#[derive(Debug)]
pub(super) struct ResultReservation {
    held: Arc<ResultMemory>,
    bytes: usize,
}

impl Drop for ResultReservation {
    fn drop(&mut self) {
        self.held.reservation.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::GreedyMemoryPool;

    use super::*;

    #[test]
    fn results_are_refused_only_above_the_whole_pool() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100));
        let operator = MemoryConsumer::new("an operator").register(&pool);
        operator.try_grow(90).expect("there is room");
        let held = ResultMemory::new(3, &pool);
        let first = held.hold(60).expect("the operator has to yield");
        assert_eq!(pool.reserved(), 150);
        assert!(operator.try_grow(1).is_err(), "now it is the operator's turn to spill");
        let error = held.hold(41).expect_err("more than the pool").to_string();
        assert!(error.contains("results of stage 3"), "{error}");
        drop(first);
        assert_eq!(pool.reserved(), 90);
        drop(held.hold(41).expect("the first is gone"));
        assert_eq!(pool.reserved(), 90);
    }
}
