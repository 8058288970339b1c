//! The data files of one attempt, as the Parquet reader opens them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use super::read_footer;
use crate::columns::{FileConstants, with_constants};
use crate::contained::contained;
use crate::fault::FileFault;
use crate::pages;

/// Opens the data files of one attempt over a pinned store. Lanes that open the same file wait for one footer read.
///
/// Errors name the file and keep their cause, so that [`crate::classify`] finds it. No range outside a file is asked for, and
/// pages that claim more memory than they can need are refused.
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
            constants: file.extensions.get::<FileConstants>().cloned(),
            object: file.object_meta,
            chunks: None,
        }))
    }
}

struct Reader {
    store: Arc<dyn ObjectStore>,
    footers: Footers,
    turn: Arc<tokio::sync::Mutex<()>>,
    footer_bytes: Option<usize>,
    /// Of a file that may lack columns which its partition knows.
    constants: Option<FileConstants>,
    object: ObjectMeta,
    /// Known once bytes were asked for.
    chunks: Option<Chunks>,
}

/// A file's column chunks in the order in which they lie.
struct Chunks {
    footer: Arc<ParquetMetaData>,
    /// First byte, end, row group, column.
    places: Vec<(u64, u64, usize, usize)>,
}

impl Chunks {
    fn new(footer: Arc<ParquetMetaData>) -> Self {
        let groups = footer.row_groups().iter().enumerate();
        let mut places: Vec<_> = groups
            .flat_map(|(group, row_group)| {
                row_group.columns().iter().enumerate().map(move |(column, chunk)| {
                    let (start, bytes) = chunk.byte_range();
                    (start, start + bytes, group, column)
                })
            })
            .collect();
        places.sort_unstable();
        Self { footer, places }
    }

    /// Looks at the pages of a range, if it lies in a column chunk.
    fn check(&self, range: &Range<u64>, bytes: &Bytes) -> Result<(), String> {
        let after = self.places.partition_point(|(start, ..)| *start <= range.start);
        let mut before = self.places[..after].iter().rev();
        let Some((.., group, column)) = before.find(|(_, end, ..)| range.end <= *end) else { return Ok(()) };
        pages::check(self.footer.row_group(*group).column(*column), bytes)
    }
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl Reader {
    fn fault(&self, reason: impl ToString) -> ParquetError {
        external(FileFault::corrupt(&self.object.location, reason))
    }

    async fn footer(&self) -> Result<Arc<ParquetMetaData>, ParquetError> {
        let _turn = self.turn.lock().await;
        let footer = read_footer(&self.store, &self.object, self.footer_bytes, self.footers.0.as_ref()).await;
        footer.map_err(|error| external(error.context(format!("file `{}`", self.object.location))))
    }

    async fn ranges(&mut self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ParquetError> {
        if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > self.object.size) {
            return Err(self.fault(format!("bytes {range:?} are not within its {}", self.object.size)));
        }
        if self.chunks.is_none() {
            // Mostly from the cache.
            self.chunks = Some(Chunks::new(self.footer().await?));
        }
        let bytes = self.store.get_ranges(&self.object.location, &ranges).await.map_err(external)?;
        if let Some(chunks) = &self.chunks {
            for (range, bytes) in ranges.iter().zip(&bytes) {
                contained(|| chunks.check(range, bytes)).and_then(|checked| checked).map_err(|e| self.fault(e))?;
            }
        }
        Ok(bytes)
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { Ok(self.ranges(vec![range]).await?.swap_remove(0)) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.ranges(ranges).boxed()
    }

    /// Takes the page index along whatever was asked for: it lies next to the footer, and asking for it later would be
    /// another request for every reader of the file.
    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let footer = self.footer().await?;
            Ok(match &self.constants {
                Some(constants) => with_constants(footer, constants),
                None => footer,
            })
        }
        .boxed()
    }
}
