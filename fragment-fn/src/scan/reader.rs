//! One data file as the Parquet reader asks for it: its footer, and ranges with checked pages.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use datafusion::common::Result;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use tokio::sync::OnceCell;

use crate::ahead::{AheadAccount, ScanAhead};
use crate::columns::{FileConstants, with_constants};
use crate::deletes::{FileDeletes, with_ordinals};
use crate::fault::FileFault;
use crate::footer::{ShippedFooter, kept, read_footer};
use crate::pages;
use crate::panics::catch_panic;
use crate::pinned::PinnedFile;

/// Data file that partitions read, and its footer once one of them has asked for it.
pub(crate) struct OpenFile {
    pub(crate) pinned: PinnedFile,
    footers: Arc<FileMetadataCache>,
    /// Length of footer and page index in bytes, where it is known.
    footer_bytes: Option<usize>,
    footer: OnceCell<Arc<ParquetMetaData>>,
    /// True if the footer came with the fragment. It has one unit's row groups.
    is_shipped: bool,
    /// Column chunks, once bytes were asked for.
    chunks: OnceLock<ColumnChunks>,
}

impl OpenFile {
    pub(crate) fn new(pinned: PinnedFile, planned: &PartitionedFile, footers: Arc<FileMetadataCache>) -> Self {
        let shipped = planned.extensions.get::<ShippedFooter>().map(|footer| Arc::clone(&footer.0));
        let (footer_bytes, is_shipped) = (planned.metadata_size_hint, shipped.is_some());
        let footer = OnceCell::new_with(shipped);
        Self { pinned, footers, footer_bytes, footer, is_shipped, chunks: OnceLock::new() }
    }

    /// Returns true if a reader of `planned` can share this file.
    pub(crate) fn serves(&self, planned: &PartitionedFile) -> bool {
        let is_footer = match planned.extensions.get::<ShippedFooter>() {
            Some(shipped) => self.footer.get().is_some_and(|footer| Arc::ptr_eq(footer, &shipped.0)),
            None => !self.is_shipped,
        };
        is_footer && *self.pinned.object() == planned.object_meta
    }

    /// Returns the footer, which is read once.
    ///
    /// # Errors
    /// Errors of [`read_footer`], with the file's name.
    pub(crate) async fn footer(&self) -> Result<Arc<ParquetMetaData>, ParquetError> {
        let read = || read_footer(&self.pinned, self.footer_bytes, self.footers.as_ref());
        let footer = self.footer.get_or_try_init(read).await;
        footer.cloned().map_err(|error| external(error.context(format!("file `{}`", self.pinned.location()))))
    }

    /// Returns the footer if no request is needed for it.
    pub(crate) fn known_footer(&self) -> Option<Arc<ParquetMetaData>> {
        self.footer.get().cloned().or_else(|| kept(self.pinned.object(), self.footers.as_ref()))
    }

    async fn chunks(&self) -> Result<&ColumnChunks, ParquetError> {
        if let Some(chunks) = self.chunks.get() {
            return Ok(chunks);
        }
        let footer = self.footer().await?;
        Ok(self.chunks.get_or_init(|| ColumnChunks::new(footer)))
    }

    fn fault(&self, reason: impl ToString) -> ParquetError {
        external(FileFault::corrupt(self.pinned.location(), reason))
    }
}

/// Reader of a data file for one partition.
///
/// Errors name the file and keep their cause, so that [`crate::classify()`] finds it. A range outside the file is refused
/// before it is asked for, and so are pages that claim more memory than they can need.
pub(crate) struct FileReader {
    file: Arc<OpenFile>,
    /// Values of the file's partition for columns that the file may lack.
    constants: Option<FileConstants>,
    /// Rows of the file by its manifest, where positions of deleted rows depend on them.
    rows: Option<u64>,
    account: Arc<AheadAccount>,
    /// Scan that is read ahead, and the file's number in it.
    ahead: Option<(Arc<ScanAhead>, u32)>,
}

/// Column chunks of a file in the order of their places.
struct ColumnChunks {
    footer: Arc<ParquetMetaData>,
    places: Vec<ChunkPlace>,
}

struct ChunkPlace {
    bytes: Range<u64>,
    row_group: usize,
    column: usize,
}

impl ColumnChunks {
    fn new(footer: Arc<ParquetMetaData>) -> Self {
        let groups = footer.row_groups().iter().enumerate();
        let mut places: Vec<_> = groups
            .flat_map(|(row_group, group)| {
                group.columns().iter().enumerate().map(move |(column, chunk)| {
                    let (start, bytes) = chunk.byte_range();
                    ChunkPlace { bytes: start..start + bytes, row_group, column }
                })
            })
            .collect();
        places.sort_by_key(|place| (place.bytes.start, place.bytes.end));
        Self { footer, places }
    }

    /// Checks the pages of a range that lies in a column chunk.
    fn check(&self, range: &Range<u64>, bytes: &Bytes) -> Result<(), String> {
        let after = self.places.partition_point(|place| place.bytes.start <= range.start);
        let mut before = self.places[..after].iter().rev();
        let Some(place) = before.find(|place| range.end <= place.bytes.end) else { return Ok(()) };
        pages::check(self.footer.row_group(place.row_group).column(place.column), bytes)
    }
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl FileReader {
    /// Makes a reader of `file`. `planned` has the facts that the scan knows about it.
    pub(super) fn new(
        file: Arc<OpenFile>,
        planned: &PartitionedFile,
        account: Arc<AheadAccount>,
        ahead: Option<(Arc<ScanAhead>, u32)>,
    ) -> Self {
        let deletes = planned.extensions.get::<FileDeletes>().filter(|deletes| deletes.has_positions());
        let rows = deletes.map(|deletes| deletes.unit().rows);
        Self { file, constants: planned.extensions.get::<FileConstants>().cloned(), rows, account, ahead }
    }

    async fn footer(&self) -> Result<Arc<ParquetMetaData>, ParquetError> {
        let reading = self.account.waited(self.file.footer());
        let Some((scan, number)) = &self.ahead else { return reading.await };
        let footer = scan.waited(reading).await?;
        scan.footer_came(*number, &footer);
        Ok(footer)
    }

    async fn ranges(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Bytes>, ParquetError> {
        let size = self.file.pinned.object().size;
        if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > size) {
            return Err(self.file.fault(format!("bytes {range:?} are not within its {size}")));
        }
        let chunks = self.file.chunks().await?;
        let bytes = self.read(&ranges).await.map_err(external)?;
        for (range, bytes) in ranges.iter().zip(&bytes) {
            catch_panic(|| chunks.check(range, bytes)).and_then(|checked| checked).map_err(|e| self.file.fault(e))?;
        }
        Ok(bytes)
    }

    async fn read(&self, ranges: &[Range<u64>]) -> object_store::Result<Vec<Bytes>> {
        if let Some((scan, number)) = &self.ahead {
            return scan.take(*number, &self.file, ranges).await;
        }
        let read = self.account.waited(self.file.pinned.ranges(ranges)).await?;
        self.account.note_gaps(read.gap_bytes);
        Ok(read.bytes)
    }
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        async move { Ok(self.ranges(vec![range]).await?.swap_remove(0)) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        self.ranges(ranges).boxed()
    }

    /// Reads the page index, too, whatever the options ask for. It lies next to the footer, and a later read of it would be
    /// another request for every reader of the file.
    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let footer = self.footer().await?;
            let rows = footer.row_groups().iter().map(|group| group.num_rows()).sum::<i64>();
            if let Some(planned) = self.rows.filter(|planned| i64::try_from(*planned) != Ok(rows)) {
                return Err(self.file.fault(format!(
                    "it has {rows} rows, its manifest says {planned}, so that positions of deleted rows mean nothing"
                )));
            }
            let footer = if self.rows.is_some() { with_ordinals(footer)? } else { footer };
            Ok(match &self.constants {
                Some(constants) => with_constants(footer, constants),
                None => footer,
            })
        }
        .boxed()
    }
}
