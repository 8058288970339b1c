//! Requests that are sent ahead: which, how many at a time, and each once.

use std::fmt::{Display, Formatter};
use std::sync::Mutex;

use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, binary, col, lit};
use datafusion::physical_plan::metrics::{Metric, MetricValue, PruningMetrics};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn all_of_a_scan_is_under_way_before_anybody_reads() {
    let table = Table::unbounded().await;
    let reading = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS);
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    assert_eq!((table.requests(), table.repeated()), (UNITS, BTreeMap::new()));
    let usage = table.account.usage();
    assert_eq!((usage.requests, usage.missed_bytes, usage.bytes), (UNITS as u64, 0, usage.taken_bytes));
    table.is_clean("after the rows").await;
}

/// Files that were opened, and row groups that were pruned by the opener itself and ahead of it.
#[derive(Debug, PartialEq, Eq)]
struct Pruning {
    opened: usize,
    by_opener: usize,
    ahead: usize,
}

/// Reads what a plan's metrics say of its pruning.
fn pruning(plan: &dyn ExecutionPlan) -> Pruning {
    let count = |of: &str, count: fn(&PruningMetrics) -> usize| -> usize {
        let counted = |metric: &Arc<Metric>| match metric.value() {
            MetricValue::PruningMetrics { name, pruning_metrics } if name == of => count(pruning_metrics),
            _ => 0,
        };
        plan.metrics().expect("metrics").iter().map(counted).sum()
    };
    let opened = count("files_ranges_pruned_statistics", PruningMetrics::matched);
    let ahead = plan.metrics().expect("metrics").sum_by_name("row_groups_pruned_ahead");
    let ahead = ahead.map(|ahead| ahead.as_usize()).unwrap_or_default();
    Pruning { opened, by_opener: count("row_groups_pruned_statistics", PruningMetrics::pruned), ahead }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_pruned_once() {
    let from_group = |schema: &SchemaRef, group: usize| {
        let least = lit((group * GROUP_ROWS) as i64);
        binary(col("a", schema).expect("a column"), Operator::GtEq, least, schema).expect("a comparison")
    };
    let join =
        |schema: &SchemaRef| DynamicFilterPhysicalExpr::new(vec![col("a", schema).expect("a column")], lit(true));
    let complete = |schema: &SchemaRef, group: usize| {
        let filter = join(schema);
        filter.update(from_group(schema, group)).expect("updated");
        filter.mark_complete();
        Arc::new(filter) as Arc<dyn PhysicalExpr>
    };
    let changing = |schema: &SchemaRef, group: usize| {
        let filter = join(schema);
        filter.update(from_group(schema, group)).expect("updated");
        Arc::new(filter) as Arc<dyn PhysicalExpr>
    };
    type Filter<'a> = &'a dyn Fn(&SchemaRef, usize) -> Arc<dyn PhysicalExpr>;
    for (what, filter, limit, is_once) in [
        ("a static filter", &from_group as Filter<'_>, None, true),
        ("a complete filter", &complete, None, true),
        ("a filter that changes", &changing, None, false),
        ("a limit", &from_group, Some(UNITS * GROUP_ROWS), false),
    ] {
        let table = Table::unbounded().await;
        table.open();
        // Six of the sixteen row groups, and none of the first two files.
        let filter = filter(&table.schema, UNITS - 6);
        let attached = table.attached_to(table.plan_pruned_by(Some(filter), limit));
        let plan = Arc::clone(&attached.plan);
        let rows = collected(attached.start()).await.expect("rows");
        assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 6 * GROUP_ROWS, "{what}");
        assert_eq!((table.requests(), table.repeated()), (6, BTreeMap::new()), "{what}");
        let expected = match is_once {
            true => Pruning { opened: 2, by_opener: 0, ahead: UNITS - 6 },
            false => Pruning { opened: FILES, by_opener: UNITS - 6, ahead: 0 },
        };
        assert_eq!(pruning(plan.as_ref()), expected, "{what}");
        let usage = table.account.usage();
        assert_eq!((usage.missed_bytes, usage.unused_bytes()), (0, 0), "{what}: {usage:?}");
        drop(plan);
        table.is_clean(what).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn footers_that_nobody_knows_are_read_side_by_side_and_once() {
    let table = Table::new(BOUNDS, Arc::new(UnboundedMemoryPool::default()), false).await;
    let reading = table.read(None);
    assert_eq!(table.settled(FILES).await, FILES, "the ends of all files");
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    assert_eq!(table.repeated(), BTreeMap::new());
    let usage = table.account.usage();
    assert_eq!(usage.missed_bytes, 0, "{usage:?}");
    table.is_clean("after the rows").await;
}

/// Unbounded pool that makes a call before it reserves memory for the first time.
struct CallingPool {
    inner: UnboundedMemoryPool,
    call: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for CallingPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallingPool")
    }
}

impl Display for CallingPool {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("calling")
    }
}

impl MemoryPool for CallingPool {
    fn name(&self) -> &str {
        "calling"
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.inner.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.inner.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let call = self.call.lock().expect("no holder panics").take();
        if let Some(call) = call {
            call();
        }
        self.inner.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.inner.reserved()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_opened_while_its_footer_is_sent_holds_nothing() {
    let pool = Arc::new(CallingPool { inner: UnboundedMemoryPool::default(), call: Mutex::default() });
    let table = Table::new(BOUNDS, Arc::clone(&pool) as _, false).await;
    let attached = table.attached(None);
    let scan = attached.ahead.query.scans().pop().expect("one scan");
    let opening = Arc::clone(&scan);
    let open = move || drop(opening.opened(0, &opening.spec.files[0]).expect("a file of the scan"));
    *pool.call.lock().expect("no holder panics") = Some(Box::new(open));
    attached.ahead.start();
    let (opened, held): (Vec<u32>, Vec<u32>) = {
        let state = scan.lock();
        (state.opened.iter().copied().collect(), state.ahead.keys().copied().collect())
    };
    assert_eq!((opened, held), (vec![0], (1..FILES as u32).collect()), "files that were opened, and that are held");
    drop(scan);
    table.open();
    assert_eq!(sums(&collected(attached.start()).await.expect("rows")), expected());
    assert_eq!(table.repeated(), BTreeMap::new());
    table.is_clean("after the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_for_fewer_requests_gets_half() {
    let bounds = AheadBounds { requests_max: UNITS as u32, ..BOUNDS };
    let table = Table::new(bounds, Arc::new(UnboundedMemoryPool::default()), true).await;
    // Earlier refusals were another query's.
    table.pace.note_slow_down();
    let attached = table.attached(None);
    table.pace.note_slow_down();
    let reading = attached.start();
    assert_eq!(table.settled(UNITS / 2).await, UNITS / 2);
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    assert_eq!((table.requests(), table.repeated()), (UNITS, BTreeMap::new()));
    table.is_clean("after the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_under_way_than_fills_the_pipe() {
    let table = Table::unbounded().await;
    let reading = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS, "the pipe is not known yet");
    table.open();
    collected(reading).await.expect("rows");
    table.is_clean("after the first").await;

    let table = Table::unbounded().await;
    table.pace.note_first_byte(Duration::from_millis(1));
    let mut receiving = table.pace.receive();
    tokio::time::sleep(Duration::from_millis(50)).await;
    receiving.came(1 << 20);
    drop(receiving);
    // At most 20 MB/s for 4 ms: less than a row group.
    assert!(table.pace.depth_bytes().is_some_and(|bytes| bytes < 100_000), "{:?}", table.pace.depth_bytes());
    let reading = table.read(None);
    assert_eq!(table.settled(8).await, 8, "the least");
    table.store.gate.add_permits(3);
    soon(|| table.requests() == 11).await;
    assert_eq!((table.requests(), table.under_way()), (11, 8), "another for each that has come, though nobody reads");
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    assert_eq!((table.requests(), table.repeated()), (UNITS, BTreeMap::new()));
    table.is_clean("after the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_reads_a_row_group_a_stream() {
    let table = Table::unbounded().await;
    let reading = table.read(Some(10));
    assert_eq!(table.settled(STREAMS).await, STREAMS);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(table.under_way(), STREAMS);
    table.open();
    let rows = collected(reading).await.expect("rows");
    assert!(rows.iter().map(RecordBatch::num_rows).sum::<usize>() >= 10);
    assert!(table.requests() <= 2 * STREAMS, "{} requests", table.requests());
    table.is_clean("after the rows").await;
}
