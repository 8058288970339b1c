//! Reading ahead of a scan, over a store that notes, holds and fails requests.

mod ends;
mod memory;
mod requests;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::execution::memory_pool::{MemoryPool, UnboundedMemoryPool};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr, execute_stream};
use futures::TryStreamExt;
use gust_protocol::ColumnMatching;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;

use super::*;
use crate::pace::Pace;
use crate::pinned::PinnedFile;
use crate::read_footer;
use store::GatedStore;

const FILES: usize = 4;
const GROUPS: usize = 4;
const GROUP_ROWS: usize = 20_000;
/// Requests of the whole scan: one a row group.
const UNITS: usize = FILES * GROUPS;
const STREAMS: usize = 2;
/// About the bytes of a row group of two columns.
const UNIT_BYTES: u64 = 2 * 8 * GROUP_ROWS as u64;
const BOUNDS: AheadBounds = AheadBounds { requests_max: 64, bytes_max: 64 << 20 };

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

/// Waits until something holds that needs no more than a moment of the processor. A busy machine has it late, but not as late as this.
async fn soon(holds: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Table {
    /// Writes the files. Their footers are read before if `knows_footers`.
    async fn new(bounds: AheadBounds, pool: Arc<dyn MemoryPool>, knows_footers: bool) -> Self {
        let store = Arc::new(GatedStore::new());
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
        soon(|| self.under_way() == requests).await;
        self.under_way()
    }

    /// Checks that nothing of a query is left a moment later.
    async fn is_clean(&self, what: &str) {
        let left = || (self.under_way(), self.budget.held(), self.pool.reserved());
        let none = (0, AheadBounds::OFF, 0);
        soon(|| left() == none).await;
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
