//! Reading ahead of a scan, over a store that notes, holds and fails requests.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool, MemoryReservation, UnboundedMemoryPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{DynamicFilterPhysicalExpr, binary, col, lit};
use datafusion::physical_plan::metrics::{Metric, MetricValue, PruningMetrics};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr, execute_stream};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gust_protocol::ColumnMatching;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use tokio::sync::Semaphore;

use super::*;
use crate::pace::Pace;
use crate::pinned::PinnedFile;
use crate::read_footer;

const FILES: usize = 4;
const GROUPS: usize = 4;
const GROUP_ROWS: usize = 20_000;
/// Requests of the whole scan: one a row group.
const UNITS: usize = FILES * GROUPS;
const STREAMS: usize = 2;
/// About the bytes of a row group of two columns.
const UNIT_BYTES: u64 = 2 * 8 * GROUP_ROWS as u64;
const BOUNDS: AheadBounds = AheadBounds { requests_max: 64, bytes_max: 64 << 20 };

/// Store that notes GETs and lets them through one by one.
#[derive(Debug)]
struct GatedStore {
    inner: InMemory,
    gets: Mutex<Vec<(Path, Range<u64>)>>,
    under_way: Arc<AtomicUsize>,
    gate: Semaphore,
    /// Number of GETs that fail next.
    failing: AtomicUsize,
}

/// GET that ends when it is answered or dropped.
struct UnderWay(Arc<AtomicUsize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Display for GatedStore {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("gated")
    }
}

#[async_trait]
impl ObjectStore for GatedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &options.range {
            self.gets.lock().expect("no holder panics").push((location.clone(), range.clone()));
        }
        let fails = self.failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        self.under_way.fetch_add(1, SeqCst);
        let _under_way = UnderWay(Arc::clone(&self.under_way));
        self.gate.acquire().await.expect("it is never closed").forget();
        if fails {
            return Err(object_store::Error::Generic { store: "gated", source: "asked to fail".into() });
        }
        self.inner.get_opts(location, options).await
    }

    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        unreachable!("only read")
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        unreachable!("only read")
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        unreachable!("only read")
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> object_store::Result<ListResult> {
        unreachable!("only read")
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> object_store::Result<()> {
        unreachable!("only read")
    }
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

/// Table of [`FILES`] files, and what reads it.
struct Table {
    store: Arc<GatedStore>,
    footers: Arc<FileMetadataCache>,
    files: Vec<PartitionedFile>,
    schema: SchemaRef,
    budget: ReadBudget,
    pool: Arc<dyn MemoryPool>,
    pace: Arc<Pace>,
    account: Arc<AheadAccount>,
}

/// Stream with what reads ahead for it.
struct Reading {
    rows: SendableRecordBatchStream,
    ahead: ReadAhead,
}

/// Plan whose scans are attached to what reads ahead for it.
struct Attached {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    ahead: ReadAhead,
}

impl Attached {
    /// Begins to read, first ahead.
    fn start(self) -> Reading {
        self.ahead.start();
        Reading { rows: execute_stream(self.plan, self.context).expect("a stream"), ahead: self.ahead }
    }
}

fn group(number: usize) -> RecordBatch {
    let first = (number * GROUP_ROWS) as i64;
    let column = |factor: i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values((first..first + GROUP_ROWS as i64).map(|row| row * factor)))
    };
    RecordBatch::try_from_iter([("a", column(1)), ("b", column(3))]).expect("two columns")
}

fn file(number: usize) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_compression(Compression::UNCOMPRESSED)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), group(0).schema(), Some(properties)).expect("a writer");
    for of in 0..GROUPS {
        writer.write(&group(number * GROUPS + of)).expect("written");
    }
    writer.into_inner().expect("a file")
}

impl Table {
    /// Writes the files. Their footers are read before if `knows_footers`.
    async fn new(bounds: AheadBounds, pool: Arc<dyn MemoryPool>, knows_footers: bool) -> Self {
        let store = Arc::new(GatedStore {
            inner: InMemory::new(),
            gets: Mutex::default(),
            under_way: Arc::default(),
            gate: Semaphore::new(0),
            failing: AtomicUsize::new(0),
        });
        let footers: Arc<FileMetadataCache> = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(16 << 20));
        let mut files = Vec::new();
        for number in 0..FILES {
            let (path, bytes) = (Path::from(format!("t/{number}")), file(number));
            let mut planned = PartitionedFile::new(path.to_string(), bytes.len() as u64);
            planned.object_meta.e_tag = store.put(&path, bytes.into()).await.expect("put").e_tag;
            if knows_footers {
                store.gate.add_permits(4);
                let pinned = PinnedFile::new(Arc::clone(&store) as _, planned.object_meta.clone());
                read_footer(&pinned, None, footers.as_ref()).await.expect("a footer");
            }
            files.push(planned);
        }
        let left = store.gate.available_permits();
        store.gate.forget_permits(left);
        store.gets.lock().expect("no holder panics").clear();
        let (budget, pace, account) = (ReadBudget::new(bounds), Arc::default(), Arc::default());
        Self { store, footers, files, schema: group(0).schema(), budget, pool, pace, account }
    }

    async fn unbounded() -> Self {
        Self::new(BOUNDS, Arc::new(UnboundedMemoryPool::default()), true).await
    }

    fn plan(&self, limit: Option<usize>) -> Arc<dyn ExecutionPlan> {
        self.plan_pruned_by(None, limit)
    }

    /// Makes a scan of which row groups may be left out.
    fn plan_pruned_by(&self, filter: Option<Arc<dyn PhysicalExpr>>, limit: Option<usize>) -> Arc<dyn ExecutionPlan> {
        let url = ObjectStoreUrl::parse("s3://bucket").expect("a URL");
        let (first, second) = self.files.split_at(FILES / STREAMS);
        let groups = [first, second].map(|files| FileGroup::new(files.to_vec()));
        let source = ParquetSource::new(Arc::clone(&self.schema));
        let source = Arc::new(filter.into_iter().fold(source, |source, filter| source.with_predicate(filter)));
        let scan = FileScanConfigBuilder::new(url, source).with_file_groups(groups.to_vec()).with_limit(limit).build();
        DataSourceExec::from_data_source(scan)
    }

    /// Begins to read all columns.
    fn read(&self, limit: Option<usize>) -> Reading {
        self.attached(limit).start()
    }

    /// Prepares to read all columns. Nothing is read before the start.
    fn attached(&self, limit: Option<usize>) -> Attached {
        self.attached_to(self.plan(limit))
    }

    fn attached_to(&self, plan: Arc<dyn ExecutionPlan>) -> Attached {
        let context = TaskContext::default();
        context.runtime_env().register_object_store(
            ObjectStoreUrl::parse("s3://bucket").expect("a URL").as_ref(),
            Arc::new(InMemory::new()),
        );
        let ahead = self.budget.query(BOUNDS, &self.pool, Arc::clone(&self.account));
        let late = LateColumns::NEVER;
        let attached = attach(plan, &ConfigOptions::new(), &self.account, Some(&ahead), late, &mut |_, _| {
            let store: Arc<dyn ObjectStore> = Arc::clone(&self.store) as _;
            let reader = ScanReader::new(store, Arc::clone(&self.footers), ColumnMatching::Name);
            Ok(Some(reader.paced(Some(Arc::clone(&self.pace)))))
        });
        Attached { plan: attached.expect("attached"), context: Arc::new(context), ahead }
    }

    /// Lets all requests through from now on.
    fn open(&self) {
        self.store.gate.add_permits(10_000);
    }

    fn under_way(&self) -> usize {
        self.store.under_way.load(SeqCst)
    }

    /// Waits until so many requests are under way. Returns the number at which it stays otherwise.
    async fn settled(&self, requests: usize) -> usize {
        for _ in 0..200 {
            if self.under_way() == requests {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.under_way()
    }

    /// Checks that nothing of a query is left, after 100 ms at most.
    async fn is_clean(&self, what: &str) {
        let left = || (self.under_way(), self.budget.held(), self.pool.reserved());
        let none = (0, AheadBounds::OFF, 0);
        for _ in 0..10 {
            if left() == none {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(left(), none, "{what}");
    }

    /// Returns how often each range was asked for, if more than once.
    fn repeated(&self) -> BTreeMap<(String, u64), usize> {
        let mut counts = BTreeMap::new();
        for (path, range) in self.store.gets.lock().expect("no holder panics").iter() {
            *counts.entry((path.to_string(), range.start)).or_insert(0) += 1;
        }
        counts.retain(|_, count| *count > 1);
        counts
    }

    fn requests(&self) -> usize {
        self.store.gets.lock().expect("no holder panics").len()
    }
}

/// Returns the sums of both columns.
fn sums(batches: &[RecordBatch]) -> (i64, i64) {
    let sum = |column: usize| -> i64 {
        let values = batches.iter().flat_map(|batch| batch.column(column).as_primitive::<Int64Type>().values().iter());
        values.sum()
    };
    (sum(0), sum(1))
}

fn expected() -> (i64, i64) {
    let rows = (UNITS * GROUP_ROWS) as i64;
    let sum = rows * (rows - 1) / 2;
    (sum, 3 * sum)
}

async fn collected(reading: Reading) -> Result<Vec<RecordBatch>> {
    let Reading { rows, ahead } = reading;
    let rows = rows.try_collect().await;
    drop(ahead);
    rows
}

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
    for _ in 0..200 {
        if table.requests() == 11 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((table.requests(), table.under_way()), (11, 8), "another for each that has come, though nobody reads");
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    assert_eq!((table.requests(), table.repeated()), (UNITS, BTreeMap::new()));
    table.is_clean("after the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_leaves_nothing() {
    for let_through in 0..=UNITS {
        let table = Table::unbounded().await;
        let Reading { mut rows, ahead } = table.read(None);
        table.store.gate.add_permits(let_through);
        // The stream waits, or has rows.
        let _ = tokio::time::timeout(Duration::from_millis(5), rows.next()).await;
        let query = Arc::downgrade(&ahead.query);
        drop((rows, ahead));
        table.is_clean(&format!("after {let_through} answers")).await;
        for _ in 0..10 {
            if query.strong_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(query.strong_count(), 0, "after {let_through} answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_whose_streams_have_ended_lets_go() {
    let table = Table::unbounded().await;
    let Reading { rows, ahead } = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS);
    drop(rows);
    table.is_clean("the plan is not over").await;
    drop(ahead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_ahead_fails_no_reader() {
    let table = Table::unbounded().await;
    table.store.failing.store(UNITS, SeqCst);
    let reading = table.read(None);
    assert_eq!(table.settled(UNITS).await, UNITS);
    table.open();
    assert_eq!(sums(&collected(reading).await.expect("rows")), expected());
    let again: Vec<usize> = table.repeated().into_values().collect();
    assert_eq!(again, vec![2; UNITS], "one request more for each that failed");
    table.is_clean("after the rows").await;
    // A read that fails for its reader, too, is the reader's error.
    table.store.failing.store(1_000, SeqCst);
    collected(table.read(None)).await.expect_err("no request succeeds");
    table.is_clean("after an error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_fails_only_who_reads_it() {
    let table = Table::unbounded().await;
    let last = &table.files[FILES - 1].object_meta.location;
    table.store.put(last, file(0).into()).await.expect("overwritten");
    table.open();
    let error = collected(table.read(None)).await.expect_err("it is not what was planned");
    assert_eq!(crate::classify(&error).kind, gust_protocol::FragmentErrorKind::FileChanged, "{error}");
    let Reading { mut rows, ahead } = table.read(None);
    rows.next().await.expect("a batch").expect("of an other file");
    drop((rows, ahead));
    table.is_clean("after a part of the rows").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_after_its_footer_fails_only_who_reads_it() {
    for reads_all in [true, false] {
        let table = Table::new(BOUNDS, Arc::new(UnboundedMemoryPool::default()), false).await;
        let Reading { mut rows, ahead } = table.read(None);
        assert_eq!(table.settled(FILES).await, FILES, "the ends of all files");
        table.store.gate.add_permits(FILES);
        assert_eq!(table.settled(UNITS).await, UNITS, "rows of all files");
        let last = &table.files[FILES - 1].object_meta.location;
        table.store.put(last, file(0).into()).await.expect("overwritten");
        table.open();
        if reads_all {
            let error = collected(Reading { rows, ahead }).await.expect_err("it is not what its footer says");
            assert_eq!(crate::classify(&error).kind, gust_protocol::FragmentErrorKind::FileChanged, "{error}");
        } else {
            rows.next().await.expect("a batch").expect("of an other file");
            drop((rows, ahead));
        }
        table.is_clean("after the rows").await;
    }
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
        for _ in 0..200 {
            if all_wait() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
