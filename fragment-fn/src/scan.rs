//! The one way to read a Parquet file, for functions and for the coordinator.
//!
//! ```text
//!  scan ─► attach ─► scan that DataFusion opens ─► FileReader ──► OpenFile ────► PinnedFile ─► store
//!                    columns matched               pages checked  footer once    as planned, no byte twice
//!                                                       └─ its ranges from ScanAhead, where the scan is read ahead
//! ```
//!
//! Non-goals: it lists nothing, and names no file in errors of expressions above the file (`file_errors` does).

mod reader;

use std::collections::BTreeMap;
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex};

use datafusion::common::{DataFusionError, Result, internal_err, plan_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::physical_expr_adapter::PhysicalExprAdapterFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use gust_protocol::ColumnMatching;
use object_store::ObjectStore;
use parquet::arrow::async_reader::AsyncFileReader;

use crate::adapted::Adapted;
use crate::ahead::{AheadAccount, OpenedFile, ScanAhead};
use crate::bridge::BRIDGE_BYTES_MAX;
use crate::by_name::NameMatching;
use crate::columns::FieldIdMatching;
use crate::deletes::{DeletesApplied, FileDeletes};
use crate::pace::Pace;
use crate::pinned::PinnedFile;
use crate::struct_nulls::HandingDown;

pub(crate) use reader::{FileReader, OpenFile};

/// Reader of one scan's Parquet files.
///
/// - A file is read as its `PartitionedFile` was planned: each GET carries the etag, if there is one, and an object of
///   another size in bytes is refused.
/// - All partitions that share a file read its footer once, by [`crate::read_footer`], and not at all where `footers` has
///   it. `metadata_size_hint` is the length of footer and page index in bytes, where it is known.
/// - A partition holds footer and end, mostly 256 KiB, of the file that it opened last: memory grows with partitions, not
///   with files. DataFusion opens a file's parts one after the other, so that the next part still finds them.
/// - [`crate::FileConstants`] among a file's extensions are the values of columns that the file lacks.
/// - A file with [`FileDeletes`] is opened only where they are applied.
///
/// Errors while reading are the store's or a [`crate::FileFault`] that names the file. [`crate::classify()`] finds either.
pub struct ScanReader {
    stores: Arc<[Arc<dyn ObjectStore>]>,
    footers: Arc<FileMetadataCache>,
    matching: ColumnMatching,
    /// Largest gap between ranges of one request.
    bridge_bytes: u64,
    /// None where nobody counts the store's refusals.
    pace: Option<Arc<Pace>>,
    account: Arc<AheadAccount>,
    /// None where nothing is read ahead.
    ahead: Option<Arc<ScanAhead>>,
    /// File that each partition opened last.
    open: Mutex<BTreeMap<usize, Arc<OpenFile>>>,
}

impl ScanReader {
    /// Makes a reader of files in `store`, which already counts and hedges. Scans that share `footers` share what it keeps.
    pub fn new(store: Arc<dyn ObjectStore>, footers: Arc<FileMetadataCache>, matching: ColumnMatching) -> Self {
        Self::of_stores(Arc::from([store]), footers, matching)
    }

    /// Makes a reader of files in several stores. [`InStore`] among a file's extensions says in which.
    pub fn of_stores(
        stores: Arc<[Arc<dyn ObjectStore>]>,
        footers: Arc<FileMetadataCache>,
        matching: ColumnMatching,
    ) -> Self {
        Self {
            stores,
            footers,
            matching,
            bridge_bytes: BRIDGE_BYTES_MAX,
            account: Arc::default(),
            pace: None,
            ahead: None,
            open: Mutex::default(),
        }
    }

    /// Makes the reader read ranges with one request where the gap between them has at most so many bytes.
    #[must_use]
    pub fn bridging(self, bridge_bytes: u64) -> Self {
        Self { bridge_bytes, ..self }
    }

    /// Makes reading ahead slow down when the store's client is asked to.
    #[must_use]
    pub fn paced(self, pace: Option<Arc<Pace>>) -> Self {
        Self { pace, ..self }
    }

    /// Makes the reader count its waits in `account`, and take bytes that `ahead` has read before.
    pub(crate) fn for_query(self, account: Arc<AheadAccount>, ahead: Option<Arc<ScanAhead>>) -> Self {
        Self { account, ahead, ..self }
    }

    pub(crate) fn stores(&self) -> &Arc<[Arc<dyn ObjectStore>]> {
        &self.stores
    }

    pub(crate) fn bridge_bytes(&self) -> u64 {
        self.bridge_bytes
    }

    pub(crate) fn pace(&self) -> Option<&Arc<Pace>> {
        self.pace.as_ref()
    }

    pub(crate) fn footers(&self) -> &Arc<FileMetadataCache> {
        &self.footers
    }

    /// Returns the way in which files' columns become the table's.
    pub(crate) fn column_matching(&self) -> Arc<dyn PhysicalExprAdapterFactory> {
        let matching: Arc<dyn PhysicalExprAdapterFactory> = match &self.matching {
            ColumnMatching::Name => Arc::new(NameMatching),
            ColumnMatching::FieldId(rules) => Arc::new(FieldIdMatching::new(rules.clone())),
        };
        Arc::new(Adapted::by(Arc::new(HandingDown(matching))))
    }

    /// Makes `scan` read through this reader, also after rules have spread its files over other partitions.
    ///
    /// # Errors
    /// A scan of files that are not Parquet, or that are in no store of this reader.
    pub fn attach(self, scan: FileScanConfig) -> Result<FileScanConfig> {
        let is_elsewhere = |file: &&PartitionedFile| usize::from(InStore::of(file).0) >= self.stores.len();
        if let Some(file) = scan.file_groups.iter().flat_map(FileGroup::iter).find(is_elsewhere) {
            return plan_err!("`{}` is in no store of the scan", file.object_meta.location);
        }
        let source = scan.file_source().downcast_ref::<ParquetSource>().cloned();
        let source = source.ok_or_else(|| DataFusionError::Plan("the scan is not of Parquet files".to_owned()))?;
        let matching = self.column_matching();
        let source = source.with_parquet_file_reader_factory(Arc::new(self));
        Ok(FileScanConfigBuilder::from(scan).with_source(Arc::new(source)).with_expr_adapter(Some(matching)).build())
    }

    fn open(&self, partition: usize, planned: &PartitionedFile) -> FileReader {
        let opened = self.ahead.as_ref().and_then(|scan| Some((Arc::clone(scan), scan.opened(partition, planned)?)));
        let (shared, ahead) = match opened {
            Some((scan, OpenedFile { file, number })) => (Some(file), Some((scan, number))),
            None => (None, None),
        };
        let mut open = self.open.lock().expect("no holder panics");
        let shared = shared.or_else(|| open.values().find(|file| file.serves(planned)).cloned());
        let new = || {
            let pinned = PinnedFile::new(InStore::of(planned).among(&self.stores), planned.object_meta.clone());
            OpenFile::new(pinned.bridging(self.bridge_bytes), planned, Arc::clone(&self.footers))
        };
        let file = shared.unwrap_or_else(|| Arc::new(new()));
        let left = open.insert(partition, Arc::clone(&file));
        drop((open, left));
        FileReader::new(file, planned, Arc::clone(&self.account), ahead)
    }
}

/// Position of a file's store among those of its [`ScanReader`], as an extension of its `PartitionedFile`. Without it, the file is in
/// the first. Files of several stores have other times of modification in each, by which caches tell them apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct InStore(pub u16);

impl InStore {
    pub(crate) fn of(file: &PartitionedFile) -> Self {
        file.extensions.get::<Self>().copied().unwrap_or_default()
    }

    /// Returns the store. [`ScanReader::attach`] has made sure that there is one.
    pub(crate) fn among(self, stores: &[Arc<dyn ObjectStore>]) -> Arc<dyn ObjectStore> {
        Arc::clone(&stores[usize::from(self.0)])
    }
}

/// Opens a file that belongs to no scan, such as one of deleted rows.
pub(crate) fn open_alone(pinned: PinnedFile, planned: &PartitionedFile, footers: Arc<FileMetadataCache>) -> FileReader {
    FileReader::new(Arc::new(OpenFile::new(pinned, planned, footers)), planned, Arc::default(), None)
}

impl Debug for ScanReader {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScanReader").field("stores", &self.stores).finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for ScanReader {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        if file.extensions.contains::<FileDeletes>() && !file.extensions.contains::<DeletesApplied>() {
            return internal_err!("`{}` would be read with its deleted rows", file.object_meta.location);
        }
        Ok(Box::new(self.open(partition, &file)))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::execution::cache::cache_manager::CachedFileMetadataEntry;
    use datafusion::execution::cache::default_cache::DefaultCache;
    use object_store::memory::InMemory;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt, PutPayload};
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::metering::{Counters, CountingStore};

    /// Makes a reader that keeps no footers between files, three files, and the counters of their store.
    async fn files() -> (ScanReader, Vec<PartitionedFile>, Arc<Counters>) {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let rows = RecordBatch::try_from_iter([("k", column)]).expect("one column");
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).expect("a writer");
        writer.write(&rows).expect("written");
        let bytes = writer.into_inner().expect("a file");
        let (store, counters) = (Arc::new(InMemory::new()), Arc::<Counters>::default());
        let mut files = Vec::new();
        for name in ["a", "b", "c"] {
            let path = Path::from(name);
            let put = store.put(&path, PutPayload::from(bytes.clone())).await.expect("put");
            let mut file = PartitionedFile::new(name, bytes.len() as u64);
            file.object_meta.e_tag = put.e_tag;
            files.push(file);
        }
        let counted = Arc::new(CountingStore::new(store, Arc::clone(&counters)));
        let footers = Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(0));
        (ScanReader::new(counted, footers, ColumnMatching::Name), files, counters)
    }

    fn reader(scan: &ScanReader, partition: usize, file: &PartitionedFile) -> Box<dyn AsyncFileReader + Send> {
        let metrics = ExecutionPlanMetricsSet::new();
        scan.create_reader(partition, file.clone(), None, &metrics).expect("a reader")
    }

    #[tokio::test]
    async fn partitions_of_one_file_read_its_footer_once() {
        let (scan, files, counters) = files().await;
        let size = files[0].object_meta.size;
        let mut first = reader(&scan, 0, &files[0].clone().with_range(0, 100));
        let mut second = reader(&scan, 1, &files[0].clone().with_range(100, size as i64));
        let (one, other) = futures::join!(first.get_metadata(None), second.get_metadata(None));
        assert!(Arc::ptr_eq(&one.expect("a footer"), &other.expect("a footer")));
        second.get_bytes(4..size).await.expect("what came with the footer");
        assert_eq!((counters.requests().get, counters.bytes_read()), (1, size));
        // A partition goes on with a file that another partition has left, too.
        drop((first, second));
        reader(&scan, 0, &files[0]).get_metadata(None).await.expect("a footer");
        assert_eq!(counters.requests().get, 1);
    }

    #[tokio::test]
    async fn a_partition_holds_only_its_last_file() {
        let (scan, files, counters) = files().await;
        for _ in 0..2 {
            for file in &files {
                reader(&scan, 0, file).get_metadata(None).await.expect("a footer");
            }
        }
        assert_eq!(counters.requests().get, 6);
        assert_eq!(scan.open.lock().expect("no holder panics").len(), 1);
    }

    #[tokio::test]
    async fn a_file_of_another_version_is_refused() {
        let (scan, files, _) = files().await;
        let mut planned = files[0].clone();
        planned.object_meta.e_tag = Some("other".to_owned());
        let mut other = reader(&scan, 1, &planned);
        reader(&scan, 0, &files[0]).get_metadata(None).await.expect("as planned");
        let error = other.get_metadata(None).await.expect_err("not what was planned");
        assert_eq!(crate::classify(&error.into()).kind, gust_protocol::FragmentErrorKind::FileChanged);
    }
}
