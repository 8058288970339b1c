//! Local reads: each file is read as it was planned, or not at all.
//!
//! Functions see to that for all of their inputs; this is for the coordinator's own reading. A manifest of Iceberg tells a data file's
//! size and nothing else that could be compared; a listing tells the etag as well.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::execution::cache::cache_manager::{CachedFileMetadataEntry, FileMetadataCache};
use datafusion::execution::cache::default_cache::DefaultCache;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use fragment_fn::{FooterOnce, PinnedStore};
use gust_protocol::ObjectRef;
use object_store::ObjectStore;
use object_store::path::Path;

/// Footers that one scan keeps for the partitions that share a file.
const FOOTERS_BYTES_MAX: usize = 32 << 20;

/// Opens each file over a store of its own, which serves that file of the planned size and nothing else.
pub(super) struct AsPlanned {
    store: Arc<dyn ObjectStore>,
    footers: Arc<FileMetadataCache>,
}

impl AsPlanned {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self::keeping(store, Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(FOOTERS_BYTES_MAX)))
    }

    /// With footers that were read, and will be read, by others as well.
    pub(super) fn keeping(store: Arc<dyn ObjectStore>, footers: Arc<FileMetadataCache>) -> Self {
        Self { store, footers }
    }
}

impl Debug for AsPlanned {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsPlanned").field("store", &self.store).finish_non_exhaustive()
    }
}

impl ParquetFileReaderFactory for AsPlanned {
    fn create_reader(
        &self,
        partition_index: usize,
        file: PartitionedFile,
        metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let meta = &file.object_meta;
        let object = ObjectRef {
            access: 0,
            path: meta.location.to_string(),
            size_bytes: meta.size,
            etag: meta.e_tag.clone(),
            footer_bytes: None,
        };
        let pinned = PinnedStore::new(Arc::clone(&self.store), [&object]).map_err(DataFusionError::from)?;
        let readers = FooterOnce::new(Arc::new(pinned), Arc::clone(&self.footers));
        readers.create_reader(partition_index, file, metadata_size_hint, metrics)
    }
}
