//! Local reads of files that never change by contract: each is read as it was planned, or not at all.
//!
//! Functions see to that for all of their inputs; this is for the coordinator's own reading of Iceberg's data files, of which
//! a manifest tells the size and nothing else that could be compared.

use std::sync::Arc;

use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::DefaultParquetFileReaderFactory;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use fragment_fn::PinnedStore;
use gust_protocol::ObjectRef;
use object_store::ObjectStore;

/// Opens each file over a store of its own, which serves that file of the planned size and nothing else.
#[derive(Debug)]
pub(super) struct AsPlanned {
    pub(super) store: Arc<dyn ObjectStore>,
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
        DefaultParquetFileReaderFactory::new(Arc::new(pinned)).create_reader(
            partition_index,
            file,
            metadata_size_hint,
            metrics,
        )
    }
}
