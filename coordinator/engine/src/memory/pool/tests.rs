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
