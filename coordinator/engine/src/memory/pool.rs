//! The memory pool of a session: who may have how much of it, and who is to blame where it does not suffice.
//!
//! ```text
//!  0                       50 %           75 %          100 %
//!  ├── all, as they come ────┼── no sorts ──┼── no merges ──┤
//!  │                         │   and aggregates, unless they │
//!  │                         │   hold less than an even share│
//! ```
//!
//! DataFusion's greedy pool lets a sort take everything, after which a join beside it, which cannot spill, fails; its fair pool gives
//! each operator that could ever spill an even share, though most of them are small or over. Here operators that can do with less take
//! what they like of a part, and beyond it an even share among those who hold something. Who holds nothing yet gets what there is.
//!
//! An error is [`DataFusionError::ResourcesExhausted`], which makes operators that can spill do so. Where nobody does, the user
//! reads it: it names the operator, what it needs, and who holds most.

use std::collections::HashMap;
use std::fmt::{Display, Formatter};
use std::sync::{Mutex, MutexGuard};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use humansize::{BINARY, format_size};

/// Operators that can spill take what they come for, up to this share of the pool; alone all of it.
const SPILLABLE_PERCENT: usize = 50;

/// Merges of spilled runs open as many runs at once as they are given memory for, and are content with two.
const MERGE_PERCENT: usize = 75;
const MERGE: &str = "ExternalSorterMerge";

/// Those who hold most, named in an error.
const NAMED_MAX: usize = 3;

/// A pool of a fixed size.
#[derive(Debug)]
pub struct SharedPool {
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reserved: usize,
    /// The most that was reserved at once.
    peak: usize,
    refusals: u64,
    /// By the consumer's id.
    holders: HashMap<usize, Holder>,
}

#[derive(Debug)]
struct Holder {
    name: String,
    /// Whether it can do with less.
    is_bounded: bool,
    bytes: usize,
}

impl SharedPool {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default() }
    }

    /// The most that was reserved at once since the session began.
    pub fn peak_bytes(&self) -> usize {
        self.lock().peak
    }

    /// How often somebody was refused, and spilled or failed, since the session began.
    pub fn refusals(&self) -> u64 {
        self.lock().refusals
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Whether `consumer` may have `additional` more.
    fn allows(&self, state: &State, consumer: &MemoryConsumer, additional: usize) -> bool {
        let wanted = state.reserved.saturating_add(additional);
        if wanted > self.bytes_max {
            return false;
        }
        let Some(percent) = bound_percent(consumer) else { return true };
        let held = state.holders.get(&consumer.id()).map_or(0, |holder| holder.bytes);
        // Who holds nothing yet has nothing to spill: a refusal would be the end.
        if held == 0 || wanted <= self.bytes_max / 100 * percent {
            return true;
        }
        let busy = state.holders.values().filter(|holder| holder.is_bounded && holder.bytes > 0).count();
        held.saturating_add(additional) <= self.bytes_max / busy.max(1)
    }

    fn exhausted(&self, state: &State, reservation: &MemoryReservation, additional: usize) -> DataFusionError {
        let size = |bytes: usize| format_size(bytes, BINARY);
        let mut holders: Vec<&Holder> = state.holders.values().filter(|holder| holder.bytes > 0).collect();
        holders.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        let named = holders.iter().take(NAMED_MAX).map(|holder| format!("{} {}", holder.name, size(holder.bytes)));
        let held = match holders.len() {
            0 => String::new(),
            _ => format!("; most is held by {}", named.collect::<Vec<_>>().join(", ")),
        };
        let name = reservation.consumer().name();
        DataFusionError::ResourcesExhausted(format!(
            "{}{name} needs {} more than the {} that it holds, of {} allowed {} are free{held}",
            in_words(name).map_or_else(String::new, |words| format!("{words}: ")),
            size(additional),
            size(reservation.size()),
            size(self.bytes_max),
            size(self.bytes_max.saturating_sub(state.reserved)),
        ))
    }
}

impl State {
    fn grow(&mut self, reservation: &MemoryReservation, additional: usize) {
        self.reserved += additional;
        self.peak = self.peak.max(self.reserved);
        if let Some(holder) = self.holders.get_mut(&reservation.consumer().id()) {
            holder.bytes += additional;
        }
    }
}

/// Up to which share of the pool a consumer takes what it likes; None for all of it.
fn bound_percent(consumer: &MemoryConsumer) -> Option<usize> {
    match consumer {
        consumer if consumer.can_spill() => Some(SPILLABLE_PERCENT),
        consumer if consumer.name().starts_with(MERGE) => Some(MERGE_PERCENT),
        _ => None,
    }
}

/// What DataFusion's names of consumers stand for.
fn in_words(consumer: &str) -> Option<&'static str> {
    const WORDS: [(&str, &str); 13] = [
        ("HashJoinInput", "the build side of a hash join"),
        ("NestedLoopJoinLoad", "the left side of a nested-loop join"),
        ("CrossJoinExec", "the left side of a cross join"),
        ("SMJStream", "a sort-merge join"),
        ("PiecewiseMergeJoin", "the buffered side of a range join"),
        ("ExternalSorter", "a sort"),
        ("TopK", "a sort with a limit"),
        ("PartitionedTopK", "a ranking with a limit"),
        ("RecursiveQuery", "a recursive query"),
        ("RepartitionExec", "rows between two operators"),
        ("table ", "the rows of a table"),
        ("results of stage", "results of functions"),
        ("SortPreservingMergeExec", "a merge of sorted rows"),
    ];
    let words = WORDS.iter().find(|(start, _)| consumer.starts_with(start)).map(|(_, words)| *words);
    words.or_else(|| consumer.contains("Aggregate").then_some("an aggregate"))
}

impl Display for SharedPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "shared({})", format_size(self.bytes_max, BINARY))
    }
}

impl MemoryPool for SharedPool {
    fn name(&self) -> &str {
        "shared"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        let is_bounded = bound_percent(consumer).is_some();
        let holder = Holder { name: consumer.name().to_owned(), is_bounded, bytes: 0 };
        self.lock().holders.insert(consumer.id(), holder);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.lock().holders.remove(&consumer.id());
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.lock().grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.lock();
        state.reserved -= shrink;
        if let Some(holder) = state.holders.get_mut(&reservation.consumer().id()) {
            holder.bytes -= shrink;
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let mut state = self.lock();
        if !self.allows(&state, reservation.consumer(), additional) {
            state.refusals += 1;
            return Err(self.exhausted(&state, reservation, additional));
        }
        state.grow(reservation, additional);
        Ok(())
    }

    fn reserved(&self) -> usize {
        self.lock().reserved
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pool(bytes_max: usize) -> Arc<dyn MemoryPool> {
        Arc::new(SharedPool::new(bytes_max))
    }

    fn spills(name: &str, pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
        MemoryConsumer::new(name).with_can_spill(true).register(pool)
    }

    #[test]
    fn who_spills_leaves_a_rest_to_who_cannot() {
        let pool = pool(1000);
        let sort = spills("ExternalSorter[0]", &pool);
        sort.try_grow(500).expect("its part");
        sort.try_grow(250).expect("alone it may have all");
        let aggregate = spills("FinalHashAggregateStream[0]", &pool);
        aggregate.try_grow(100).expect("it holds nothing yet");
        aggregate.try_grow(1).expect("less than an even share");
        aggregate.shrink(1);
        sort.try_grow(1).expect_err("more than an even share");
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&pool);
        join.try_grow(150).expect("the rest");
        join.try_grow(1).expect_err("nothing is left");
        drop(sort);
        let merge = MemoryConsumer::new("ExternalSorterMerge[0]").register(&pool);
        merge.try_grow(500).expect("its part");
        merge.try_grow(1).expect_err("some is left to others");
        drop(merge);
        join.try_grow(750).expect("what the sort had");
        assert_eq!(pool.reserved(), 1000);
        drop((join, aggregate));
        assert_eq!(pool.reserved(), 0);
        let pool = pool.downcast_ref::<SharedPool>().expect("it is one");
        assert_eq!((pool.peak_bytes(), pool.refusals()), (1000, 3));
    }

    #[test]
    fn an_error_names_who_needs_and_who_holds() {
        let pool = pool(4096);
        let sort = spills("ExternalSorter[1]", &pool);
        sort.try_grow(1024).expect("room");
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&pool);
        join.try_grow(2048).expect("room");
        let error = join.try_grow(2048).expect_err("full");
        assert!(matches!(error, DataFusionError::ResourcesExhausted(_)), "operators match on it");
        assert_eq!(
            error.strip_backtrace(),
            "Resources exhausted: the build side of a hash join: HashJoinInput[0] needs 2 KiB more than the 2 KiB that it \
             holds, of 4 KiB allowed 1 KiB are free; most is held by HashJoinInput[0] 2 KiB, ExternalSorter[1] 1 KiB"
        );
        let other = MemoryConsumer::new("something new").register(&pool);
        let error = other.try_grow(4096).expect_err("full").strip_backtrace();
        assert!(error.contains("exhausted: something new needs 4 KiB more than the 0 B"), "{error}");
    }
}
