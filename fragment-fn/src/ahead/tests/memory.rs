//! Memory and the budget: what is held ahead, given back and shared.

use datafusion::execution::memory_pool::GreedyMemoryPool;
use futures::StreamExt;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn memory_for_one_row_group_is_enough() {
    for bytes in [UNIT_BYTES + UNIT_BYTES / 2, UNIT_BYTES / 2, 1] {
        let table = Table::new(BOUNDS, Arc::new(GreedyMemoryPool::new(bytes as usize)), true).await;
        table.open();
        assert_eq!(sums(&collected(table.read(None)).await.expect("rows")), expected(), "with {bytes} bytes");
        assert_eq!(table.repeated(), BTreeMap::new());
        table.is_clean("after the rows").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_given_back_and_read_on_demand() {
    let table = Table::unbounded().await;
    let reading = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS);
    let (held, before) = (table.pool.reserved(), Instant::now());
    let giver = reading.ahead.giver().upgrade().expect("it reads");
    assert!(giver.give_back(UNIT_BYTES as usize) >= UNIT_BYTES as usize);
    let left = table.pool.reserved();
    assert!(left < held && left > 0, "{left} of {held}");
    giver.give_back(usize::MAX);
    assert_eq!(table.pool.reserved(), 0);
    drop(giver);
    let later = |after: Duration| reading.ahead.query.memory_backoff().bound(before + after);
    assert!(later(Duration::ZERO) < BOUNDS.bytes_max);
    assert_eq!(later(Duration::from_secs(60)), BOUNDS.bytes_max, "it grows back");
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    let usage = table.account.usage();
    assert!(usage.aborted_bytes >= UNIT_BYTES && usage.peak_bytes >= held as u64, "{usage:?}");
    assert_eq!(usage.unused_bytes(), 0, "nothing had come: {usage:?}");
    table.is_clean("after the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_has_nothing_to_give_back_reads_on() {
    let table = Table::unbounded().await;
    let attached = table.attached(None);
    let giver = attached.ahead.giver().upgrade().expect("it reads");
    assert_eq!(giver.give_back(usize::MAX), 0);
    assert_eq!(attached.ahead.query.memory_backoff().bound(Instant::now()), BOUNDS.bytes_max);
    drop(giver);
    let reading = attached.start();
    assert_eq!(table.settled(UNITS).await, UNITS);
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    table.is_clean("after the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_queries_share_the_budget() {
    let bounds = AheadBounds { requests_max: 8, bytes_max: 64 << 20 };
    let table = Table::new(bounds, Arc::new(UnboundedMemoryPool::default()), true).await;
    let first = table.read(None);
    assert_eq!(table.settled(8).await, 8);
    let second = table.read(None);
    // Its lanes would send as many requests without reading ahead.
    assert_eq!(table.settled(12).await, 12);
    table.open();
    let (first, second) = futures::join!(collected(first), collected(second));
    for rows in [first, second] {
        assert_eq!(sums(&rows.expect("rows")), expected());
    }
    assert_eq!(table.requests(), 2 * UNITS, "each reads its own, once");
    table.is_clean("after both").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_that_read_nothing_take_no_part_of_the_budget() {
    let bounds = AheadBounds { requests_max: UNITS as u32, bytes_max: (UNITS as u64 + 1) * UNIT_BYTES };
    let table = Table::new(bounds, Arc::new(UnboundedMemoryPool::default()), true).await;
    let _without_scans = table.budget.query(BOUNDS, &table.pool, Arc::clone(&table.account));
    let Reading { rows, ahead: _with_rows_that_nobody_wants } = table.read(None);
    drop(rows);
    table.is_clean("no stream is left").await;
    let reading = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS);
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    table.is_clean("after the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_group_in_a_decoder_leaves_less_to_read_ahead() {
    // Row groups have pages' headers as well.
    let units = |bytes: u64| bytes as f64 / UNIT_BYTES as f64;
    for (bytes_max, ahead_max) in [(BOUNDS.bytes_max, f64::MAX), (9 * UNIT_BYTES / 2, 2.1)] {
        let pool = Arc::new(UnboundedMemoryPool::default());
        let table = Table::new(AheadBounds { bytes_max, ..BOUNDS }, pool, true).await;
        table.open();
        let Reading { mut rows, ahead: reading } = table.read(None);
        let first = rows.next().await.expect("a batch").expect("rows");
        let ahead = || table.pool.reserved() as u64;
        let in_decoders = || units(table.budget.held().bytes_max.saturating_sub(ahead()));
        // Each stream soon waits in a row group until somebody wants more batches.
        let all_wait = || table.under_way() == 0 && (in_decoders() - STREAMS as f64).abs() < 0.1;
        soon(all_wait).await;
        assert!(all_wait(), "{} row groups in decoders", in_decoders());
        let ahead = units(ahead());
        assert!(ahead > 0.0 && ahead <= ahead_max, "{ahead} row groups ahead");
        let mut all = collected(Reading { rows, ahead: reading }).await.expect("rows");
        all.push(first);
        assert_eq!(sums(&all), expected());
        table.is_clean("after the rows").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_budget_holds_nobody_up() {
    for bytes_max in [1, 64 << 10, UNIT_BYTES + UNIT_BYTES / 2] {
        for requests_max in [1, 2] {
            let pool = Arc::new(UnboundedMemoryPool::default());
            let table = Table::new(AheadBounds { requests_max, bytes_max }, pool, true).await;
            table.open();
            let readings = futures::future::join_all((0..3).map(|_| collected(table.read(None)))).await;
            for rows in readings {
                assert_eq!(sums(&rows.expect("rows")), expected());
            }
            assert_eq!(table.requests(), 3 * UNITS);
            table.is_clean("after all").await;
        }
    }
}
