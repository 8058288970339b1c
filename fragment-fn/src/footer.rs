//! Reading Parquet footers: each at most once an environment, in one request with everything that lies near it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

/// How much of a file's end to read for a footer of unknown length. A footer with its page index is mostly far smaller, and what
/// it overshoots is kept by the pinned store; 256 KiB is within the first millisecond of an S3 body at 75 MiB/s.
pub const FOOTER_GUESS_BYTES: usize = 256 << 10;

/// Opens the data files of one attempt over a pinned store. Lanes that open the same file wait for one footer read.
///
/// Errors keep their cause, so that [`crate::classify`] finds it.
#[derive(Debug)]
pub struct FooterOnce {
    store: Arc<dyn ObjectStore>,
    footers: Footers,
    reading: Mutex<HashMap<Path, Arc<tokio::sync::Mutex<()>>>>,
}

/// The environment's footer cache.
#[derive(Clone)]
struct Footers(Arc<FileMetadataCache>);

impl std::fmt::Debug for Footers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Footers")
    }
}

impl FooterOnce {
    pub fn new(store: Arc<dyn ObjectStore>, footers: Arc<FileMetadataCache>) -> Self {
        Self { store, footers: Footers(footers), reading: Mutex::default() }
    }
}

impl ParquetFileReaderFactory for FooterOnce {
    fn create_reader(
        &self,
        _partition_index: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        _metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let mut reading = self.reading.lock().expect("no holder panics");
        let turn = Arc::clone(reading.entry(file.object_meta.location.clone()).or_default());
        Ok(Box::new(Reader {
            store: Arc::clone(&self.store),
            footers: self.footers.clone(),
            turn,
            footer_bytes: file.metadata_size_hint,
            object: file.object_meta,
        }))
    }
}

struct Reader {
    store: Arc<dyn ObjectStore>,
    footers: Footers,
    turn: Arc<tokio::sync::Mutex<()>>,
    footer_bytes: Option<usize>,
    object: ObjectMeta,
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { Ok(self.get_byte_ranges(vec![range]).await?.swap_remove(0)) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move { self.store.get_ranges(&self.object.location, &ranges).await.map_err(external) }.boxed()
    }

    /// Takes the page index along whatever was asked for: it lies next to the footer, and asking for it later would be
    /// another request for every reader of the file.
    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let _turn = self.turn.lock().await;
            // A small file is read whole with its footer.
            let is_small = self.object.size <= FOOTER_GUESS_BYTES as u64;
            let footer_bytes = self.footer_bytes.filter(|_| !is_small).unwrap_or(FOOTER_GUESS_BYTES);
            DFParquetMetadata::new(&self.store, &self.object)
                .with_file_metadata_cache(Some(Arc::clone(&self.footers.0)))
                .with_metadata_size_hint(Some(footer_bytes))
                .with_page_index_policy(Some(PageIndexPolicy::Optional))
                .fetch_metadata()
                .await
                .map_err(|error| external(error.context(format!("file `{}`", self.object.location))))
        }
        .boxed()
    }
}
