//! Memory of a process, divided among its queries and their operators.
//!
//! ```text
//!  process   0                                  50 %                          100 %
//!            ├── an even share for each query ────┼── for whoever comes first ──┤    where queries run side by side
//!
//!  query     0                       50 %           75 %          100 %              of what it may have
//!            ├── all, as they come ────┼── no sorts ──┼── no merges ──┤
//!            │                         │   and aggregates, unless they │
//!            │                         │   hold less than an even share│
//! ```
//!
//! If one query is expected, it may have everything. If several are, each is sure of its share. It may also have memory
//! that belongs to no share, so a query that takes all it may leaves the others running. Tables that sessions keep are
//! sure of nothing, and live in the memory that belongs to no share. The tables of one session may have an even part of
//! it: as many sessions as there are queries expected can keep tables.
//!
//! DataFusion's greedy pool lets a sort take everything. A join beside it cannot spill, and fails. Its fair pool gives
//! each operator that could ever spill an even share, though most of them are small or have ended.
//!
//! This pool lets operators that can do with less take memory freely up to a part of the pool: 50 % for sorts and
//! aggregates, 75 % for merges. Beyond it they get an even share among such operators that hold something. An operator
//! that holds nothing yet gets any memory that is free.
//!
//! Memory of what is read ahead is given back before an operator is refused: first the own query's, then that of others if
//! it makes room.
//!
//! An error is [`DataFusionError::ResourcesExhausted`], which makes operators that can spill do so. If none does, the
//! user reads it. It names the operator, its need, and the largest holders.

use std::collections::HashMap;
use std::fmt::{Display, Formatter};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use fragment_fn::ahead::{GivesBack, READ_AHEAD};
use humansize::{BINARY, format_size};

/// Share of the pool up to which operators that can spill take memory freely. An operator alone may take all of it.
const SPILLABLE_PERCENT: usize = 50;

/// Share of the pool up to which merges of spilled runs take memory freely. They open as many runs at once as they get
/// memory for, and are content with two.
const MERGE_PERCENT: usize = 75;
const MERGE: &str = "ExternalSorterMerge";

/// Number of the largest holders that an error names.
const NAMED_MAX: usize = 3;

/// Memory that the queries of a process share.
#[derive(Debug)]
pub struct ProcessMemory {
    bytes_max: usize,
    /// Queries that are expected at the same time; at least one.
    queries_max: usize,
    state: Mutex<State>,
}

/// Part of a query, or of the tables that a session keeps. A reservation keeps it alive.
#[derive(Debug)]
pub struct QueryPool {
    process: Arc<ProcessMemory>,
    id: u64,
    /// Bytes that it is sure of.
    share_bytes: usize,
    /// Bytes beyond them that it may have, as long as no other has them.
    unshared_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    reserved: usize,
    /// Most bytes that were reserved at once.
    peak: usize,
    refusals: u64,
    pools: HashMap<u64, PoolState>,
    next_id: u64,
}

#[derive(Debug, Default)]
struct PoolState {
    reserved: usize,
    share_bytes: usize,
    /// Holders by the consumer's id.
    holders: HashMap<usize, Holder>,
    /// Holder that gives memory back to others.
    giver: Option<Weak<dyn GivesBack>>,
}

/// Holder that may give back memory.
struct Giver {
    giver: Arc<dyn GivesBack>,
    is_own: bool,
}

/// Reason why an operator gets no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// There is no room. Memory that other queries give back makes some.
    Full,
    /// The operator or its query would have more than it may. Memory of other queries is not asked for.
    Bound,
}

#[derive(Debug)]
struct Holder {
    name: String,
    /// True for an operator that can do with less memory.
    can_do_with_less: bool,
    bytes: usize,
}

impl ProcessMemory {
    /// Makes the memory of a process. `queries_max` queries are expected at the same time, at least one.
    pub fn new(bytes_max: usize, queries_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, queries_max: queries_max.max(1), state: Mutex::default() })
    }

    /// Returns the most bytes that were reserved at once since the process began.
    pub fn peak_bytes(&self) -> usize {
        self.lock().peak
    }

    /// Returns the bytes that queries and tables hold now.
    pub fn reserved_bytes(&self) -> usize {
        self.lock().reserved
    }

    /// Returns the number of refusals since the process began. After a refusal an operator spills or fails.
    pub fn refusals(&self) -> u64 {
        self.lock().refusals
    }

    /// Makes the pool of one query.
    pub fn for_query(self: &Arc<Self>) -> Arc<QueryPool> {
        self.pool(self.share_bytes(), self.unshared_bytes())
    }

    /// Makes the pool of one session's tables, which outlive their queries.
    pub fn for_tables(self: &Arc<Self>) -> Arc<QueryPool> {
        self.pool(0, self.unshared_bytes() / self.queries_max)
    }

    /// Returns the bytes that a query surely has, whatever other queries hold. A query that is expected alone has all that
    /// tables leave; the answer then is the whole.
    pub fn query_bytes_min(&self) -> usize {
        if self.queries_max == 1 { self.bytes_max } else { self.share_bytes() }
    }

    fn pool(self: &Arc<Self>, share_bytes: usize, unshared_bytes: usize) -> Arc<QueryPool> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.pools.insert(id, PoolState { share_bytes, ..PoolState::default() });
        Arc::new(QueryPool { process: Arc::clone(self), id, share_bytes, unshared_bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Returns an even part of half of the memory; zero if one query is expected.
    pub fn share_bytes(&self) -> usize {
        if self.queries_max == 1 { 0 } else { self.bytes_max / 2 / self.queries_max }
    }

    /// Returns the bytes that belong to no query's share.
    pub fn unshared_bytes(&self) -> usize {
        self.bytes_max - self.share_bytes() * self.queries_max
    }
}

impl QueryPool {
    /// Returns the memory that this pool is a part of.
    pub fn process(&self) -> &ProcessMemory {
        &self.process
    }

    /// Makes `giver` give back memory before an operator is refused. A later giver takes its place.
    pub fn yields(&self, giver: Weak<dyn GivesBack>) {
        if let Some(own) = self.process.lock().pools.get_mut(&self.id) {
            own.giver = Some(giver);
        }
    }

    /// Lists the holders that may give back memory, the pool's own first.
    fn givers(&self) -> Vec<Giver> {
        let state = self.process.lock();
        let giver = |(id, pool): (&u64, &PoolState)| {
            let giver = pool.giver.as_ref()?.upgrade()?;
            Some(Giver { giver, is_own: *id == self.id })
        };
        let mut givers: Vec<Giver> = state.pools.iter().filter_map(giver).collect();
        givers.sort_by_key(|giver| !giver.is_own);
        givers
    }

    /// Grows a reservation, if it may.
    fn grow_within(&self, reservation: &MemoryReservation, additional: usize) -> Result<(), Refusal> {
        let mut state = self.process.lock();
        self.allows(&state, reservation, additional)?;
        state.grow(self.id, reservation, additional);
        Ok(())
    }

    /// Grows a reservation that was refused, after others have given back what they can do without.
    fn grows_after_gifts(&self, reservation: &MemoryReservation, additional: usize, refusal: Refusal) -> bool {
        // A giver's own appetite takes nothing from others, and may hold its locks.
        if reservation.consumer().name() == READ_AHEAD {
            return false;
        }
        // No lock is held: a giver shrinks its reservations.
        let mut refusal = refusal;
        for Giver { giver, is_own } in self.givers() {
            // An operator's part of the memory rises by less than what is given back.
            while (is_own || refusal == Refusal::Full) && giver.give_back(additional) > 0 {
                match self.grow_within(reservation, additional) {
                    Ok(()) => return true,
                    Err(why) => refusal = why,
                }
            }
        }
        false
    }

    /// Returns the most bytes that the pool may ever have.
    fn bytes_max(&self) -> usize {
        self.share_bytes + self.unshared_bytes
    }

    /// Returns the most bytes that the pool may have now, beside all others.
    fn room(&self, state: &State) -> usize {
        let others = || state.pools.iter().filter(|(id, _)| **id != self.id).map(|(_, other)| other);
        let beyond: usize = others().map(|other| other.reserved.saturating_sub(other.share_bytes)).sum();
        let reserved: usize = others().map(|other| other.reserved).sum();
        let free = self.process.unshared_bytes().saturating_sub(beyond);
        let may = self.share_bytes + free.min(self.unshared_bytes);
        may.min(self.process.bytes_max.saturating_sub(reserved))
    }

    /// Checks that a reservation may have `additional` more bytes.
    fn allows(&self, state: &State, reservation: &MemoryReservation, additional: usize) -> Result<(), Refusal> {
        let consumer = reservation.consumer();
        let (room, Some(own)) = (self.room(state), state.pools.get(&self.id)) else { return Err(Refusal::Bound) };
        let wanted = own.reserved.saturating_add(additional);
        if wanted > room {
            return Err(if wanted > self.bytes_max() { Refusal::Bound } else { Refusal::Full });
        }
        let Some(percent) = bound_percent(consumer) else { return Ok(()) };
        let held = own.holders.get(&consumer.id()).map_or(0, |holder| holder.bytes);
        // DataFusion 55.2's aggregate reads back what it has spilled on a second reservation, and cannot spill then. It is a merge.
        let percent = if held > reservation.size() { percent.max(MERGE_PERCENT) } else { percent };
        // A consumer that holds nothing yet has nothing to spill, and a refusal would end its query.
        if held == 0 || wanted <= room / 100 * percent {
            return Ok(());
        }
        let busy = own.holders.values().filter(|holder| holder.can_do_with_less && holder.bytes > 0).count();
        if held.saturating_add(additional) <= room / busy.max(1) { Ok(()) } else { Err(Refusal::Bound) }
    }

    fn exhausted(&self, state: &State, reservation: &MemoryReservation, additional: usize) -> DataFusionError {
        let size = |bytes: usize| format_size(bytes, BINARY);
        let own = state.pools.get(&self.id);
        let mut holders: Vec<&Holder> =
            own.iter().flat_map(|own| own.holders.values()).filter(|holder| holder.bytes > 0).collect();
        holders.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        let named = holders.iter().take(NAMED_MAX).map(|holder| format!("{} {}", holder.name, size(holder.bytes)));
        let held = match holders.len() {
            0 => String::new(),
            _ => format!("; most is held by {}", named.collect::<Vec<_>>().join(", ")),
        };
        let name = reservation.consumer().name();
        let reserved = own.map_or(0, |own| own.reserved);
        let elsewhere = match state.reserved - reserved {
            0 => String::new(),
            bytes => format!("; other queries and tables hold {}", size(bytes)),
        };
        DataFusionError::ResourcesExhausted(format!(
            "{}{name} needs {} more than the {} that it holds, of {} allowed {} are free{held}{elsewhere}",
            in_words(name).map_or_else(String::new, |words| format!("{words}: ")),
            size(additional),
            size(reservation.size()),
            size(self.bytes_max()),
            size(self.room(state).saturating_sub(reserved)),
        ))
    }
}

impl State {
    fn grow(&mut self, pool: u64, reservation: &MemoryReservation, additional: usize) {
        self.reserved += additional;
        self.peak = self.peak.max(self.reserved);
        let Some(own) = self.pools.get_mut(&pool) else { return };
        own.reserved += additional;
        if let Some(holder) = own.holders.get_mut(&reservation.consumer().id()) {
            holder.bytes += additional;
        }
    }
}

/// Returns the share of the pool up to which a consumer takes memory freely; None for all of it.
fn bound_percent(consumer: &MemoryConsumer) -> Option<usize> {
    match consumer {
        consumer if consumer.can_spill() => Some(SPILLABLE_PERCENT),
        consumer if consumer.name().starts_with(MERGE) => Some(MERGE_PERCENT),
        _ => None,
    }
}

/// Returns the words for DataFusion's name of a consumer.
fn in_words(consumer: &str) -> Option<&'static str> {
    const WORDS: [(&str, &str); 14] = [
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
        (READ_AHEAD, "data that is read ahead"),
        ("SortPreservingMergeExec", "a merge of sorted rows"),
    ];
    let words = WORDS.iter().find(|(start, _)| consumer.starts_with(start)).map(|(_, words)| *words);
    words.or_else(|| consumer.contains("Aggregate").then_some("an aggregate"))
}

impl Display for QueryPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "shared({})", format_size(self.bytes_max(), BINARY))
    }
}

impl Drop for QueryPool {
    fn drop(&mut self) {
        self.process.lock().pools.remove(&self.id);
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "shared"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        let can_do_with_less = bound_percent(consumer).is_some();
        let holder = Holder { name: consumer.name().to_owned(), can_do_with_less, bytes: 0 };
        if let Some(own) = self.process.lock().pools.get_mut(&self.id) {
            own.holders.insert(consumer.id(), holder);
        }
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        if let Some(own) = self.process.lock().pools.get_mut(&self.id) {
            own.holders.remove(&consumer.id());
        }
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.process.lock().grow(self.id, reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        let mut state = self.process.lock();
        state.reserved -= shrink;
        let Some(own) = state.pools.get_mut(&self.id) else { return };
        own.reserved -= shrink;
        if let Some(holder) = own.holders.get_mut(&reservation.consumer().id()) {
            holder.bytes -= shrink;
        }
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let Err(refusal) = self.grow_within(reservation, additional) else { return Ok(()) };
        if self.grows_after_gifts(reservation, additional, refusal) {
            return Ok(());
        }
        let mut state = self.process.lock();
        if reservation.consumer().name() != READ_AHEAD {
            state.refusals += 1;
        }
        Err(self.exhausted(&state, reservation, additional))
    }

    fn reserved(&self) -> usize {
        self.process.lock().pools.get(&self.id).map_or(0, |own| own.reserved)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes_max())
    }
}

#[cfg(test)]
mod tests;
