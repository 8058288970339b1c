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
    fn share_bytes(&self) -> usize {
        if self.queries_max == 1 { 0 } else { self.bytes_max / 2 / self.queries_max }
    }

    /// Returns the bytes that belong to no query's share.
    fn unshared_bytes(&self) -> usize {
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
mod tests {
    use super::*;

    fn pool(bytes_max: usize) -> Arc<dyn MemoryPool> {
        ProcessMemory::new(bytes_max, 1).for_query()
    }

    fn spillable(name: &str, pool: &Arc<dyn MemoryPool>) -> MemoryReservation {
        MemoryConsumer::new(name).with_can_spill(true).register(pool)
    }

    #[test]
    fn operators_that_spill_leave_memory_for_those_that_cannot() {
        let pool = pool(1000);
        let sort = spillable("ExternalSorter[0]", &pool);
        sort.try_grow(500).expect("its part");
        sort.try_grow(250).expect("alone it may have all");
        let aggregate = spillable("FinalHashAggregateStream[0]", &pool);
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
        let process = pool.downcast_ref::<QueryPool>().expect("it is one").process();
        assert_eq!((process.peak_bytes(), process.refusals()), (1000, 3));
    }

    #[test]
    fn an_operator_that_reads_back_what_it_has_spilled_is_a_merge() {
        let pool = pool(1000);
        let [one, other] =
            ["FinalHashAggregateStream[0]", "FinalHashAggregateStream[1]"].map(|name| spillable(name, &pool));
        one.try_grow(300).expect("its part");
        other.try_grow(200).expect("its part");
        one.try_grow(300).expect_err("more than an even share");
        let read_back = one.new_empty();
        read_back.try_grow(250).expect("a merge's part");
        read_back.try_grow(1).expect_err("some is left to others");
        other.try_grow(50).expect("less than an even share");
    }

    #[test]
    fn each_query_is_sure_of_a_share() {
        let process = ProcessMemory::new(1000, 5);
        let pools: Vec<Arc<dyn MemoryPool>> = (0..5).map(|_| process.for_query() as _).collect();
        let joins: Vec<_> = pools.iter().map(|pool| MemoryConsumer::new("HashJoinInput[0]").register(pool)).collect();
        joins[0].try_grow(600).expect("its share of 100, and all of the common half");
        joins[0].try_grow(1).expect_err("the rest is others' shares");
        for join in &joins[1..] {
            join.try_grow(100).expect("its share");
            let error = join.try_grow(1).expect_err("the common half is taken").strip_backtrace();
            assert!(
                error.contains("0 B are free; most is held by HashJoinInput[0] 100 B; other queries and tables hold"),
                "{error}"
            );
        }
        let tables: Arc<dyn MemoryPool> = process.for_tables();
        let table = MemoryConsumer::new("table t").register(&tables);
        table.try_grow(1).expect_err("it is sure of nothing");
        drop(joins);
        drop(pools);
        table.try_grow(100).expect("an even part of the common half");
        table.try_grow(1).expect_err("the rest is other sessions'");
        assert!(matches!(tables.memory_limit(), MemoryLimit::Finite(100)));
        let others: Vec<MemoryReservation> = (0..5)
            .map(|_| MemoryConsumer::new("table u").register(&(process.for_tables() as Arc<dyn MemoryPool>)))
            .collect();
        let (last, others) = others.split_last().expect("five");
        for other in others {
            other.try_grow(100).expect("their part");
        }
        last.try_grow(1).expect_err("shares of queries are kept free");
        let pool: Arc<dyn MemoryPool> = process.for_query();
        assert!(matches!(pool.memory_limit(), MemoryLimit::Finite(600)));
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&pool);
        join.try_grow(process.query_bytes_min()).expect("its share");
        join.try_grow(1).expect_err("tables have the rest");
        assert_eq!((process.query_bytes_min(), process.lock().reserved), (100, 600));
    }

    /// Holder of memory that it can do without.
    struct Shelf(Mutex<Vec<MemoryReservation>>);

    impl GivesBack for Shelf {
        fn give_back(&self, bytes: usize) -> usize {
            let mut held = self.0.lock().expect("no holder panics");
            let mut given = 0;
            while given < bytes
                && let Some(one) = held.pop()
            {
                given += one.free();
            }
            given
        }
    }

    /// Reads ahead 400 bytes, in pieces of 100, which the pool may ask for.
    fn shelf(pool: &Arc<dyn MemoryPool>) -> Arc<Shelf> {
        let ahead = MemoryConsumer::new(READ_AHEAD).register(pool);
        let held = (0..4).map(|_| {
            let one = ahead.new_empty();
            one.try_grow(100).expect("room");
            one
        });
        let shelf = Arc::new(Shelf(Mutex::new(held.collect())));
        let giver: Weak<Shelf> = Arc::downgrade(&shelf);
        pool.downcast_ref::<QueryPool>().expect("it is one").yields(giver);
        shelf
    }

    /// Makes four aggregates that hold 10 bytes each, so that an even share is small.
    fn aggregates(pool: &Arc<dyn MemoryPool>) -> Vec<MemoryReservation> {
        let one = |_| {
            let aggregate = spillable("FinalHashAggregateStream[0]", pool);
            aggregate.try_grow(10).expect("it holds nothing yet");
            aggregate
        };
        (0..4).map(one).collect()
    }

    #[test]
    fn memory_of_reading_ahead_is_given_back_before_an_operator_is_refused() {
        let process = ProcessMemory::new(1000, 1);
        let pools: Vec<Arc<dyn MemoryPool>> = (0..2).map(|_| process.for_query() as _).collect();
        let _shelves: Vec<Arc<Shelf>> = pools.iter().map(shelf).collect();
        let more = MemoryConsumer::new(READ_AHEAD).register(&pools[0]);
        more.try_grow(201).expect_err("reading ahead takes nothing from others");
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&pools[0]);
        join.try_grow(350).expect("its query gives back");
        assert_eq!((pools[0].reserved(), pools[1].reserved()), (350, 400));
        join.try_grow(400).expect("both give back");
        assert_eq!((pools[0].reserved(), pools[1].reserved()), (750, 0));
        join.try_grow(300).expect_err("no more is held by those who give");
        assert_eq!((join.size(), pools[1].reserved(), process.refusals()), (750, 0, 1));
    }

    #[test]
    fn other_queries_give_back_only_what_makes_room() {
        let process = ProcessMemory::new(1000, 1);
        let (own, other): (Arc<dyn MemoryPool>, Arc<dyn MemoryPool>) = (process.for_query(), process.for_query());
        let _shelf = shelf(&other);
        let sort = spillable("ExternalSorter[0]", &own);
        sort.try_grow(150).expect("it holds nothing yet");
        let _aggregates = aggregates(&own);
        sort.try_grow(200).expect_err("more than half of the 600 that the other leaves");
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&own);
        join.try_grow(811).expect_err("more than there is at all");
        assert_eq!((own.reserved(), other.reserved()), (190, 400));
        join.try_grow(810).expect("the other gives back");
        assert_eq!((own.reserved(), other.reserved()), (1000, 0));
    }

    #[test]
    fn memory_is_given_back_until_a_part_of_it_suffices() {
        let pool = pool(1000);
        let _shelf = shelf(&pool);
        let sort = spillable("ExternalSorter[0]", &pool);
        sort.try_grow(150).expect("it holds nothing yet");
        let _aggregates = aggregates(&pool);
        assert_eq!(pool.reserved(), 590);
        sort.try_grow(100).expect("200 are given back, so that half of the memory suffices");
        assert_eq!(pool.reserved(), 490);
        sort.try_grow(500).expect_err("more than half, though all is given back");
        assert_eq!(pool.reserved(), 290);
    }

    #[test]
    fn a_query_alone_may_have_all() {
        let process = ProcessMemory::new(1000, 1);
        let (pool, tables): (Arc<dyn MemoryPool>, Arc<dyn MemoryPool>) = (process.for_query(), process.for_tables());
        let table = MemoryConsumer::new("table t").register(&tables);
        table.try_grow(300).expect("room");
        let join = MemoryConsumer::new("HashJoinInput[0]").register(&pool);
        join.try_grow(700).expect("all that is left");
        table.try_grow(1).expect_err("full");
        assert_eq!((pool.reserved(), tables.reserved(), process.peak_bytes()), (700, 300, 1000));
        assert_eq!(process.query_bytes_min(), 1000);
    }

    #[test]
    fn an_error_names_the_operator_and_the_largest_holders() {
        let pool = pool(4096);
        let sort = spillable("ExternalSorter[1]", &pool);
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
